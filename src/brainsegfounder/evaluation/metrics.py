"""Two masks to numbers, by a convention: overlap, surfaces, volumes, lesions, probabilities.

`score_case` takes label volumes and regions, brings the prediction to the reference's axes, cuts
out the box that holds all labels, and scores every region by a `Convention`. All of it is numpy and
scipy. The parts are in `overlap`, `surfaces`, `lesions`, `lesion_wise` and `calibration`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.errors import LabelError
from brainsegfounder.evaluation.calibration import ProbabilityScore, score_probabilities
from brainsegfounder.evaluation.conventions import PLAIN, Convention
from brainsegfounder.evaluation.grids import on_grid_of
from brainsegfounder.evaluation.lesion_wise import LesionWise, score_lesions
from brainsegfounder.evaluation.lesions import (
    Matches,
    find_lesions,
    match_by_overlap,
    match_one_to_one,
)
from brainsegfounder.evaluation.overlap import count_overlap
from brainsegfounder.evaluation.score_files import write_metrics
from brainsegfounder.evaluation.scores import Empty, RegionScore, RegionSummary, summarise
from brainsegfounder.evaluation.surfaces import (
    SurfacePair,
    distances,
    surface_elements,
    surface_pair,
    surface_voxels,
)
from brainsegfounder.volumes.volume import Grid, Volume

__all__ = [
    "RULES",
    "TOLERANCES_MM",
    "RegionScore",
    "RegionSummary",
    "Regions",
    "dice",
    "hd95_mm",
    "on_grid_of",
    "score_case",
    "summarise",
    "write_metrics",
]

logger = logging.getLogger(__name__)

Mask = NDArray[Any]
Bool = NDArray[np.bool_]
Regions = Mapping[str, Sequence[int]]

RULES = PLAIN.rules
TOLERANCES_MM = (1.0, 2.0)


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
    return count_overlap(*_binary_pair(prediction, reference)).dice


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
    box = _box_of(predicted | expected)
    one, other = (surface_voxels(mask[box], spacing_mm) for mask in (predicted, expected))
    there, back = distances(one, other).mm, distances(other, one).mm
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def score_case(
    case: str,
    prediction: Volume,
    reference: Volume,
    regions: Regions,
    *,
    convention: Convention = PLAIN,
    tolerances_mm: Sequence[float] = TOLERANCES_MM,
    probabilities: Mapping[str, Volume] | None = None,
) -> list[RegionScore]:
    """Score every region of one case on the reference's grid.

    Args:
        case: Name of the case.
        prediction: Labels, shape (1, I, J, K); its axes may be permuted or flipped against the
            reference's as long as it is the same physical grid.
        reference: Labels, shape (1, I, J, K).
        regions: For each region the label values that make it up.
        convention: By which rules.
        tolerances_mm: Of the surface Dice.
        probabilities: For each region its probabilities, on the same physical grid.

    Returns:
        One score per region, in the order of `regions`.

    Raises:
        LabelError: Not labels, two grids that are not the same, or probabilities that are none.
    """
    predicted, expected = _labels(on_grid_of(reference, prediction)), _labels(reference)
    box = _box_of((predicted != 0) | (expected != 0))
    inside = [np.ascontiguousarray(labels[box]) for labels in (predicted, expected)]
    _warn_of_unnamed(reference.source, inside[1], regions)
    rules = _Rules(convention, reference.grid, tuple(tolerances_mm))
    scores = []
    for region, values in regions.items():
        masks = [np.isin(labels, list(values)) for labels in inside]
        soft = None
        if probabilities is not None:
            volume = on_grid_of(reference, probabilities[region])
            soft = score_probabilities(_checked(volume), np.isin(expected, list(values)))
        scores.append(rules.score(case, region, masks[0], masks[1], soft))
    return scores


@dataclass(frozen=True, slots=True)
class _Rules:
    """A convention at work on one grid."""

    convention: Convention
    grid: Grid
    tolerances_mm: tuple[float, ...]

    def score(
        self, case: str, region: str, predicted: Bool, expected: Bool, soft: ProbabilityScore | None
    ) -> RegionScore:
        """Score two masks, cut out of the grid; whatever they have must be in the box."""
        box = _box_of(predicted | expected)
        predicted, expected = (np.ascontiguousarray(mask[box]) for mask in (predicted, expected))
        overlap = count_overlap(predicted, expected, int(np.prod(self.grid.shape_vox)))
        empty = _empty(overlap.predicted == 0, overlap.reference == 0)
        pair = self._surfaces(predicted, expected) if empty == "none" else None
        whole_hd95_mm = self._whole_hd95_mm(predicted, expected, pair, empty)
        by_lesion, matches = self._lesions(predicted, expected, pair)
        voxel_ml = self.grid.voxel_volume_ml
        volume_ml, reference_ml = overlap.predicted * voxel_ml, overlap.reference * voxel_ml
        difference_vox = overlap.predicted - overlap.reference
        score, score_mm = overlap.dice, whole_hd95_mm
        if by_lesion is not None:
            score, score_mm = by_lesion.dice, by_lesion.hd95_mm
        if self.convention.soft_dice:
            score = float("nan") if soft is None or soft.soft_dice is None else soft.soft_dice
        return RegionScore(
            case=case,
            region=region,
            dice=score,
            hd95_mm=score_mm,
            volume_ml=volume_ml,
            reference_volume_ml=reference_ml,
            volume_difference_ml=volume_ml - reference_ml,
            empty=empty,
            volume_difference_vox=abs(difference_vox),
            lesion_count_difference=abs(matches.num_predicted - matches.num_reference),
            lesion_f1=matches.f1,
            absolute_volume_error_ml=abs(volume_ml - reference_ml),
            relative_volume_error=_relative(difference_vox, overlap.reference),
            iou=overlap.iou,
            sensitivity=overlap.sensitivity,
            specificity=overlap.specificity,
            precision=overlap.precision,
            nsd={f"nsd_{mm:g}mm": self._nsd(pair, mm, empty) for mm in self.tolerances_mm},
            mean_surface_distance_mm=self._by_rule(
                None if pair is None else pair.mean_distance_mm, empty
            ),
            whole_dice=overlap.dice,
            whole_hd95_mm=whole_hd95_mm,
            num_lesions=matches.num_predicted,
            num_reference_lesions=matches.num_reference,
            num_found=matches.num_found,
            num_missed=matches.num_missed,
            num_false=matches.num_false,
            detection=matches.by_size(voxel_ml),
            average_precision=None if soft is None else soft.average_precision,
            brier=None if soft is None else soft.brier,
            ece=None if soft is None else soft.ece,
            reliability=() if soft is None else soft.reliability,
        )

    def _surfaces(self, predicted: Bool, expected: Bool) -> SurfacePair:
        one, other = (
            surface_elements(mask, self.grid.spacing_mm) for mask in (predicted, expected)
        )
        return surface_pair(one, other)

    def _whole_hd95_mm(
        self, predicted: Bool, expected: Bool, pair: SurfacePair | None, empty: Empty
    ) -> float:
        if pair is None:
            return self._by_rule(None, empty)
        if self.convention.surface == "elements":
            return pair.hd95_mm
        return hd95_mm(predicted, expected, self.grid.spacing_mm, self.grid.diagonal_mm)

    def _lesions(
        self, predicted: Bool, expected: Bool, pair: SurfacePair | None
    ) -> tuple[LesionWise | None, Matches]:
        rules = self.convention
        if rules.matching == "dilated":
            found = score_lesions(
                predicted,
                expected,
                pair,
                dilation_vox=rules.dilation_vox,
                voxel_mm3=float(np.prod(self.grid.spacing_mm)),
                min_lesion_mm3=rules.min_lesion_mm3,
            )
            return found, found.matches
        one, other = (find_lesions(mask, rules.connectivity) for mask in (predicted, expected))
        if rules.matching == "one-to-one":
            return None, match_one_to_one(one, other, rules.min_iou)
        return None, match_by_overlap(one, other)

    def _by_rule(self, distance_mm: float | None, empty: Empty) -> float:
        """A distance, or what it is where a mask is empty."""
        if distance_mm is not None:
            return distance_mm
        if empty == "both":
            return 0.0
        penalty_mm = self.convention.one_empty_hd95_mm
        return self.grid.diagonal_mm if penalty_mm is None else penalty_mm

    def _nsd(self, pair: SurfacePair | None, tolerance_mm: float, empty: Empty) -> float:
        if pair is None:
            return 1.0 if empty == "both" else 0.0
        return pair.dice(tolerance_mm)


def _binary_pair(prediction: Mask, reference: Mask) -> tuple[Bool, Bool]:
    if prediction.shape != reference.shape:
        raise LabelError(
            f"a prediction of shape {prediction.shape} and a reference of shape "
            f"{reference.shape}; expected one shape. Bring both to one grid first."
        )
    return np.asarray(prediction > 0.5), np.asarray(reference > 0.5)


def _box_of(mask: Bool) -> tuple[slice, ...]:
    """The smallest box that holds a mask; one voxel where it is empty."""
    rows, columns = np.any(mask, axis=2), np.any(mask, axis=0)
    along = (np.any(rows, axis=1), np.any(rows, axis=0), np.any(columns, axis=0))
    hits = [np.flatnonzero(axis) for axis in along]
    return tuple(slice(h[0], h[-1] + 1) if len(h) else slice(0, 1) for h in hits)


def _labels(volume: Volume) -> NDArray[Any]:
    voxels = volume.voxels
    if voxels.shape[0] != 1 or voxels.dtype.kind not in "iub":
        raise LabelError(
            f"{volume.source}: {voxels.shape[0]} channels of {voxels.dtype}; expected one channel "
            "of whole-number labels. Turn probabilities into labels first."
        )
    return np.asarray(voxels[0])


def _checked(volume: Volume) -> NDArray[np.floating]:
    low, high = float(volume.voxels.min(initial=0)), float(volume.voxels.max(initial=0))
    if low < 0 or high > 1:
        raise LabelError(
            f"{volume.source}: values from {low:.4g} to {high:.4g}; expected probabilities from 0 "
            "to 1. Apply the sigmoid or softmax first."
        )
    return np.asarray(volume.voxels[0])


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


def _relative(difference_vox: int, reference_vox: int) -> float | None:
    if reference_vox:
        return difference_vox / reference_vox
    return None if difference_vox else 0.0
