"""Two masks to numbers: overlap, surface distance and volumes, with the empty cases spelled out.

Every function takes whole masks of one case; `score_case` takes label volumes and regions, and
brings the prediction to the reference's axes first. All of it is numpy and scipy.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from brainsegfounder.errors import LabelError
from brainsegfounder.files import write_text
from brainsegfounder.volumes.geometry import same_grid
from brainsegfounder.volumes.volume import Affine, Volume

logger = logging.getLogger(__name__)

Mask = NDArray[Any]
Regions = Mapping[str, Sequence[int]]
Empty = Literal["none", "prediction", "reference", "both"]

FORMAT_VERSION = 1
RULES: dict[str, str] = {
    "convention": "plain: each region of each case is scored once, as one whole mask.",
    "dice": "Dice = 2|P∩R| / (|P|+|R|) on binary masks, never on probabilities. "
    "Both masks empty: 1. Exactly one empty: 0.",
    "hd95_mm": "95th percentile of the distances from each surface voxel of one mask to the "
    "nearest surface voxel of the other, in millimetres; the larger of the two directions. "
    "Surface = mask minus its erosion with face connectivity; the border of the image counts as "
    "surface. Both masks empty: 0. Exactly one empty: the diagonal of the field of view.",
    "volume": "Volumes are voxel counts times the voxel volume, in millilitres. "
    "The difference is prediction minus reference.",
    "empty": "No case is left out: empty masks count by the rules above, and the column 'empty' "
    "says which mask was empty.",
    "grid": "Scored on the reference's own grid. A prediction whose axes are permuted or flipped "
    "is turned by whole voxels; nothing is interpolated.",
    "aggregate": "Mean, median and sample standard deviation (n-1) over all cases of a region.",
}


@dataclass(frozen=True, slots=True)
class RegionScore:
    """What one region of one case scored.

    Attributes:
        case: Name of the case.
        region: Name of the region.
        dice: Overlap, 0 to 1.
        hd95_mm: 95 % surface distance.
        volume_ml: Volume of the prediction.
        reference_volume_ml: Volume of the reference.
        volume_difference_ml: Prediction minus reference.
        empty: Which of the two masks had no voxel.
    """

    case: str
    region: str
    dice: float
    hd95_mm: float
    volume_ml: float
    reference_volume_ml: float
    volume_difference_ml: float
    empty: Empty


@dataclass(frozen=True, slots=True)
class RegionSummary:
    """One region over all cases; `dice_sd` is None for a single case."""

    num_cases: int
    dice_mean: float
    dice_sd: float | None
    dice_median: float
    hd95_mm_mean: float
    hd95_mm_median: float
    volume_difference_ml_mean: float


def dice(prediction: Mask, reference: Mask) -> float:
    """Overlap of two masks, 2|P∩R| / (|P|+|R|).

    Args:
        prediction: Any shape; a voxel belongs to the mask where the value is over 0.5.
        reference: The same shape.

    Returns:
        0 to 1; 1 where both are empty, 0 where exactly one is.

    Raises:
        LabelError: The shapes differ.
    """
    predicted, expected = _binary_pair(prediction, reference)
    total = np.count_nonzero(predicted) + np.count_nonzero(expected)
    if total == 0:
        return 1.0
    return float(2.0 * np.count_nonzero(predicted & expected) / total)


def hd95_mm(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float], diagonal_mm: float
) -> float:
    """95th percentile of the distances between two surfaces; the larger of both directions.

    The same number as MONAI's `compute_hausdorff_distance(percentile=95, spacing=...)`, which
    leaves empty masks undefined. Distances run along the voxel axes (shear is ignored).

    Args:
        prediction: Shape (I, J, K); a voxel belongs to the mask where the value is over 0.5.
        reference: The same shape.
        spacing_mm: Distance between voxel centres along each axis.
        diagonal_mm: What exactly one empty mask costs: the diagonal of the field of view
            (373.1287 on the BraTS grid).

    Returns:
        Millimetres; 0 where both are empty.

    Raises:
        LabelError: The shapes differ.
    """
    predicted, expected = _binary_pair(prediction, reference)
    if not predicted.any() or not expected.any():
        return float(diagonal_mm) if predicted.any() or expected.any() else 0.0
    # Outside the box around both masks there is background only, so no surface is lost.
    box = ndimage.find_objects((predicted | expected).astype(np.uint8))[0]
    surfaces_mm = [_surface_mm(mask[box], spacing_mm) for mask in (predicted, expected)]
    # A tree of surface points beats a distance transform unless the masks are noise: one far
    # false positive makes the box as large as the image.
    trees = [KDTree(surface, leafsize=32) for surface in surfaces_mm]
    there = trees[1].query(surfaces_mm[0])[0]
    back = trees[0].query(surfaces_mm[1])[0]
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def score_case(
    case: str, prediction: Volume, reference: Volume, regions: Regions
) -> list[RegionScore]:
    """Score every region of one case on the reference's grid.

    Args:
        case: Name of the case.
        prediction: Labels, shape (1, I, J, K); its axes may be permuted or flipped against the
            reference's as long as it is the same physical grid.
        reference: Labels, shape (1, I, J, K).
        regions: For each region the label values that make it up.

    Returns:
        One score per region, in the order of `regions`.

    Raises:
        LabelError: Not labels, or two grids that are not the same.
    """
    predicted, expected = _labels(on_grid_of(reference, prediction)), _labels(reference)
    _warn_of_unnamed(reference.source, expected, regions)
    voxel_ml, diagonal_mm = reference.grid.voxel_volume_ml, reference.grid.diagonal_mm
    scores = []
    for region, values in regions.items():
        p, r = np.isin(predicted, list(values)), np.isin(expected, list(values))
        volume_ml, reference_ml = (float(np.count_nonzero(mask)) * voxel_ml for mask in (p, r))
        score = RegionScore(
            case=case,
            region=region,
            dice=dice(p, r),
            hd95_mm=hd95_mm(p, r, reference.spacing_mm, diagonal_mm),
            volume_ml=volume_ml,
            reference_volume_ml=reference_ml,
            volume_difference_ml=volume_ml - reference_ml,
            empty=_empty(volume_ml == 0, reference_ml == 0),
        )
        scores.append(score)
    return scores


def on_grid_of(reference: Volume, volume: Volume) -> Volume:
    """The volume on the reference's grid, moving whole voxels only.

    Args:
        reference: Where the result must be.
        volume: The same physical grid, perhaps in another axis order or with axes flipped.

    Returns:
        The volume itself where the grids agree within half a voxel, otherwise a turned copy with
        the reference's affine.

    Raises:
        LabelError: The two are different grids; the message names both.
    """
    if same_grid(reference.grid, volume.grid):
        return volume
    turned = _turned(volume, np.linalg.inv(reference.affine) @ volume.affine)
    if turned is None or not same_grid(reference.grid, turned.grid):
        raise LabelError(_grid_message(reference, volume))
    return replace(turned, affine=reference.affine)


def summarise(scores: Sequence[RegionScore]) -> dict[str, RegionSummary]:
    """Sum up the scores of each region over its cases, in order of first appearance."""
    by_region: dict[str, list[RegionScore]] = {}
    for score in scores:
        by_region.setdefault(score.region, []).append(score)
    return {region: _summary(members) for region, members in by_region.items()}


def write_metrics(
    folder: Path,
    scores: Sequence[RegionScore],
    rules: Mapping[str, str],
    extra: Mapping[str, Any],
) -> None:
    """Write `metrics.csv` (rounded, one row per case and region) and `metrics.json` (exact).

    Args:
        folder: Made where it does not exist; files of these names are replaced.
        scores: What to write; the order is kept.
        rules: Sentences that say how the numbers came about, usually `RULES`.
        extra: Further top-level entries of the JSON file, such as recipe and data.

    Raises:
        RunError: A file cannot be written.
    """
    content: dict[str, Any] = {
        **extra,
        "convention": "plain",
        "version": FORMAT_VERSION,
        "rules": dict(rules),
        "cases": [asdict(score) for score in scores],
        "aggregate": {region: asdict(row) for region, row in summarise(scores).items()},
    }
    write_text(folder / "metrics.csv", _csv(scores))
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(folder / "metrics.json", text + "\n")


def _binary_pair(prediction: Mask, reference: Mask) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    if prediction.shape != reference.shape:
        raise LabelError(
            f"a prediction of shape {prediction.shape} and a reference of shape "
            f"{reference.shape}; expected one shape. Bring both to one grid first."
        )
    return np.asarray(prediction > 0.5), np.asarray(reference > 0.5)


def _surface_mm(mask: NDArray[np.bool_], spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Positions of the mask's surface voxels, shape (num_points, 3)."""
    surface = mask & ~ndimage.binary_erosion(mask)
    return np.argwhere(surface).astype(np.float64) * np.asarray(spacing_mm, dtype=np.float64)


def _turned(volume: Volume, to_reference: Affine) -> Volume | None:
    """Permute and flip the voxel axes to run along the reference's; None where none fits.

    Seen from the reference's axes, so two oblique grids are compared with each other and never
    with the scanner's.
    """
    order = np.abs(to_reference[:3, :3]).argmax(axis=1)
    if len(set(order.tolist())) < 3:
        return None
    back = np.zeros((4, 4))
    back[3, 3] = 1.0
    voxels = volume.voxels.transpose(0, *(1 + order))
    for axis, old_axis in enumerate(order):
        flipped = to_reference[axis, old_axis] < 0
        back[old_axis, axis] = -1.0 if flipped else 1.0
        if flipped:
            back[old_axis, 3] = volume.shape_vox[old_axis] - 1
            voxels = np.flip(voxels, axis=axis + 1)
    return replace(volume, voxels=voxels, affine=volume.affine @ back)


def _labels(volume: Volume) -> NDArray[Any]:
    voxels = volume.voxels
    if voxels.shape[0] != 1 or voxels.dtype.kind not in "iub":
        raise LabelError(
            f"{volume.source}: {voxels.shape[0]} channels of {voxels.dtype}; expected one channel "
            "of whole-number labels. Turn probabilities into labels first."
        )
    return np.asarray(voxels[0])


def _warn_of_unnamed(source: str, labels: NDArray[Any], regions: Regions) -> None:
    named = {0, *(value for values in regions.values() for value in values)}
    unnamed = sorted(int(value) for value in np.unique(labels) if int(value) not in named)
    if unnamed:
        logger.warning(
            "%s: label values %s are in no region and are not scored; regions use %s",
            source,
            unnamed,
            {region: list(values) for region, values in regions.items()},
        )


def _empty(prediction: bool, reference: bool) -> Empty:
    if prediction and reference:
        return "both"
    if prediction:
        return "prediction"
    return "reference" if reference else "none"


def _grid_message(reference: Volume, volume: Volume) -> str:
    def described(one: Volume) -> str:
        rows = "; ".join(" ".join(f"{x:.4g}" for x in row) for row in one.affine[:3])
        return f"{one.shape_vox} voxels with affine [{rows}]"

    return (
        f"{volume.source}: {described(volume)}, but the reference {reference.source} has "
        f"{described(reference)}; expected one physical grid (within half a voxel, axes may be "
        "turned). Write the prediction on the grid of its input image, or resample it to the "
        "reference with nearest neighbour."
    )


def _summary(scores: Sequence[RegionScore]) -> RegionSummary:
    dices = np.array([score.dice for score in scores])
    distances_mm = np.array([score.hd95_mm for score in scores])
    return RegionSummary(
        num_cases=len(scores),
        dice_mean=float(dices.mean()),
        dice_sd=float(dices.std(ddof=1)) if len(scores) > 1 else None,
        dice_median=float(np.median(dices)),
        hd95_mm_mean=float(distances_mm.mean()),
        hd95_mm_median=float(np.median(distances_mm)),
        volume_difference_ml_mean=float(np.mean([s.volume_difference_ml for s in scores])),
    )


def _csv(scores: Sequence[RegionScore]) -> str:
    columns = [field.name for field in fields(RegionScore)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for score in scores:
        writer.writerow([_rounded(getattr(score, column)) for column in columns])
    return buffer.getvalue()


def _rounded(value: str | float) -> str:
    """Four decimals: 0.1 µm, 0.1 µL, and more than a Dice can mean."""
    return value if isinstance(value, str) else f"{value:.4f}"
