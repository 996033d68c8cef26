"""One preparation for training and inference, every geometric step undoable.

    contrasts of one session  ->  one grid  ->  RAS  ->  brain  ->  crop around it
        ->  the recipe's spacing (or the MNI152 lattice)  ->  N4  ->  z-score inside the brain

With `resize_vox` nothing is cropped, and the whole scan is averaged down to that many voxels.

`Prepared.source_grid` is the way back: whatever is computed on the prepared grid is carried to
the file's own grid by one resampling, which is exact where no voxel was interpolated.
`Prepared.input_grids` are the ways back to the file of each contrast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.errors import LabelError, Problem, VolumeError
from brainsegfounder.settings import AS_IT_IS, PreparationSettings, ReadingSettings
from brainsegfounder.volumes.bias import correct_bias
from brainsegfounder.volumes.brain import Brain, find_brain, is_stripped
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.geometry import (
    foreground_box,
    resample_labels_to,
    resample_to,
    resample_within,
    resize_by_area,
    resized_grid,
    same_grid,
    spaced_grid,
    to_ras,
)
from brainsegfounder.volumes.intensity import clip_spikes, zscore_inside
from brainsegfounder.volumes.label_values import Legal
from brainsegfounder.volumes.mirrored import mirrored
from brainsegfounder.volumes.nifti import read_labels
from brainsegfounder.volumes.quality import check_size, inspect, inspect_labels
from brainsegfounder.volumes.session import (
    InputGrid,
    Session,
    check_one_subject,
    mask_in_case,
    read_scan,
    read_session,
    session_of,
    to_case,
)
from brainsegfounder.volumes.template import (
    NAME,
    check_in_template,
    register_to_template,
    template_grid,
)
from brainsegfounder.volumes.volume import Grid, Triple, Volume, crop

MIN_EXTENT_MM = 32.0
BRAIN_MASK = "brain"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A case ready for a network, and the way back.

    Attributes:
        image: Standardised intensities, shape (C, I, J, K), contrasts in the order asked for.
        labels: Label values of the data set, shape (1, I, J, K), or None.
        reference: The same as they were read, on `source_grid`, or None.
        brain: Where the intensities were standardised, shape (I, J, K).
        source_grid: The grid of the first contrast's file, on which results are returned.
        fingerprints: Of each contrast as it was read; see `intensity.fingerprint`.
        findings: What was noticed about the files.
        steps: What was done to the case, ready for JSON.
        masks: Masks carried along on the prepared grid (deface, anatomy), shape (I, J, K).
        input_grids: The way back to each contrast's file, in the order of the channels.
    """

    image: Volume
    labels: Volume | None
    reference: Volume | None
    brain: NDArray[np.bool_]
    source_grid: Grid
    fingerprints: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    steps: dict[str, Any] = field(default_factory=dict)
    masks: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    input_grids: tuple[InputGrid, ...] = ()


def prepare(
    image: Volume,
    settings: PreparationSettings,
    labels: Volume | None = None,
    *,
    masks: Mapping[str, Volume] | None = None,
    contrasts: Sequence[str] = (),
) -> Prepared:
    """Bring a case to the grid and intensities that networks are trained and run on.

    Args:
        image: All contrasts of a case, shape (C, I, J, K), any axis order.
        settings: Of the preparation.
        labels: Its mask on the same grid, shape (1, I, J, K), or None.
        masks: Other masks in the same millimetres, shape (1, I, J, K): `brain` says where the
            brain is, the others (deface, anatomy) are carried along.
        contrasts: Names of the channels; brain extraction looks for a T1w.

    Raises:
        VolumeError: The volume has no contrast, is thinner than 32 mm, or its brain is not found.
        LabelError: The mask is not on the image's grid.
    """
    return _prepare(session_of(image, contrasts), settings, labels, masks or {}, AS_IT_IS)


def prepare_case(
    case: str,
    paths: Mapping[str, Path],
    contrasts: Sequence[str],
    settings: PreparationSettings,
    *,
    label: Path | None = None,
    masks: Mapping[str, Path] | None = None,
    reading: ReadingSettings | None = None,
    volumes: Mapping[str, int] | None = None,
    legal: Legal | None = None,
) -> Prepared:
    """Read and prepare one case; see `session.read_session` and `prepare`.

    Args:
        case: Its name, for messages.
        paths: A file for each contrast.
        contrasts: In the order of the channels.
        settings: Of the preparation.
        label: Its mask of labels.
        masks: Files of other masks: brain, deface, anatomy.
        reading: What is allowed of the files.
        volumes: Which volume, from 0, a contrast is in a file that holds several.
        legal: The label values that may stand in the mask beside 0, or these by name; None
            allows any.

    Raises:
        DataError: See there.
    """
    masks, reading = masks or {}, reading or AS_IT_IS
    used = [paths[name] for name in contrasts if name in paths]
    check_one_subject(case, [*used, *([label] if label else []), *masks.values()])
    session = read_session(case, paths, contrasts, settings.registration, reading, volumes)
    check_size(session.image, reading)
    labels = None if label is None else to_case(read_labels(label, reading, legal), session)
    others = {name: read_scan(path, reading) for name, path in masks.items()}
    return _prepare(session, settings, labels, others, reading)


def undo(volume: Volume, source_grid: Grid | InputGrid) -> Volume:
    """Carry probabilities from the prepared grid back to a file's own grid.

    Args:
        volume: Values on the prepared grid, shape (C, I, J, K); 0 means background.
        source_grid: `Prepared.source_grid`, or one of `Prepared.input_grids`.

    Returns:
        float32 of shape (C, *source_grid.shape_vox), 0 outside the prepared box, with the file's
        affine bit for bit.
    """
    place, affine = _place(source_grid)
    return replace(resample_within(volume, place), affine=affine)


def undo_labels(volume: Volume, source_grid: Grid | InputGrid) -> Volume:
    """Carry labels from the prepared grid back to a file's own grid; see `undo`."""
    place, affine = _place(source_grid)
    return replace(resample_labels_to(volume, place), affine=affine)


def _place(source_grid: Grid | InputGrid) -> tuple[Grid, NDArray[np.float64]]:
    if isinstance(source_grid, InputGrid):
        return source_grid.in_case, source_grid.grid.affine.copy()
    return source_grid, source_grid.affine.copy()


def _prepare(
    session: Session,
    settings: PreparationSettings,
    labels: Volume | None,
    masks: Mapping[str, Volume],
    reading: ReadingSettings,
) -> Prepared:
    _check_extent(session.image, reading)
    if labels is not None:
        _check_labels(labels, session.image)
        labels = replace(labels, affine=session.image.affine)
    image, turned = to_ras(session.image), None if labels is None else to_ras(labels)
    carried = {name: to_ras(mask_in_case(mask, session)) for name, mask in masks.items()}
    given = carried.pop(BRAIN_MASK).voxels[0] if BRAIN_MASK in carried else None
    brain = find_brain(image, session.contrasts, settings.brain, given)
    noticed = [*session.findings, *(labels.findings if labels else ()), *brain.findings]
    noticed += _inspected(image, turned, brain.mask)
    clipped, spikes = clip_spikes(image.voxels, brain.mask)
    noticed += _spike_findings(image.source, spikes)
    tissue = Volume(brain.mask[None], image.affine, image.source)
    box = _kept_box(tissue, settings)
    image, tissue = crop(replace(image, voxels=clipped), *box), crop(tissue, *box)
    noticed += mirrored(image, tissue.voxels[0], session.contrasts)
    grid, placing, doubts = _target_grid(image, tissue, settings, brain.method != "foreground")
    inside = _carried(tissue, grid, settings).voxels[0] > 0.5
    standardised, left = _standardised(image, inside, grid, settings)
    steps = {**session.steps, **_steps(session.image, brain, spikes, settings)}
    return Prepared(
        image=standardised,
        labels=None if turned is None else resample_labels_to(crop(turned, *box), grid),
        reference=labels,
        brain=inside,
        source_grid=session.image.grid,
        fingerprints=session.fingerprints,
        findings=(*noticed, *doubts, *left),
        steps={**steps, "space": placing, "shape_vox": list(grid.shape_vox)},
        masks={name: resample_to(m, grid).voxels[0] > 0.5 for name, m in carried.items()},
        input_grids=session.input_grids,
    )


def _carried(volume: Volume, grid: Grid, settings: PreparationSettings) -> Volume:
    """Intensities on the prepared grid; averaged where the whole scan is resized."""
    if settings.resize_vox is not None:
        return resize_by_area(volume, settings.resize_vox)
    return resample_to(volume, grid)


def _standardised(
    image: Volume, brain: NDArray[np.bool_], grid: Grid, settings: PreparationSettings
) -> tuple[Volume, tuple[Finding, ...]]:
    """Intensities on the prepared grid: resampled, corrected if asked for, standardised."""
    left: tuple[Finding, ...] = ()
    voxels = _carried(image, grid, settings).voxels
    if settings.bias_correction:
        voxels, left = correct_bias(voxels, brain, grid.spacing_mm, image.source)
    voxels = zscore_inside(voxels, brain, image.source)
    return Volume(voxels, grid.affine.copy(), image.source), left


def _steps(
    image: Volume, brain: Brain, spikes: Sequence[int], settings: PreparationSettings
) -> dict[str, Any]:
    volume_ml = float(brain.mask.sum()) * image.grid.voxel_volume_ml
    return {
        "brain": {
            "method": brain.method,
            "volume_ml": round(volume_ml, 1),
            "arrived_stripped": is_stripped(image),
        },
        "spikes_clipped": sum(spikes),
        "bias_correction": "N4" if settings.bias_correction else "none",
    }


def _inspected(
    image: Volume, labels: Volume | None, foreground: NDArray[np.bool_]
) -> tuple[Finding, ...]:
    """What a look at the voxels finds, all in RAS."""
    of_labels = inspect_labels(labels, foreground) if labels is not None else ()
    return (*inspect(image), *of_labels)


def _target_grid(
    image: Volume, tissue: Volume, settings: PreparationSettings, is_brain: bool
) -> tuple[Grid, dict[str, Any], tuple[Finding, ...]]:
    """The grid a case is brought to, how that is recorded, and doubts."""
    if settings.space == "mni":
        found = register_to_template(image, tissue, is_brain)
        dice, doubts = check_in_template(found, tissue, is_brain)
        grid = template_grid(found.matrix, tissue, settings.spacing_mm, settings.margin_mm)
        placing = {"name": "mni", "template": NAME, "dice": round(dice, 4), **found.record()}
        return grid, placing, doubts
    return _native_grid(image.grid, settings), {"name": "native"}, ()


def _native_grid(grid: Grid, settings: PreparationSettings) -> Grid:
    if settings.resize_vox is not None:
        return resized_grid(grid, settings.resize_vox)
    if settings.spacing_mm is None:
        return grid
    wanted = settings.spacing_mm
    # A spacing that is already right to a thousandth is left alone, so nothing is interpolated.
    if np.allclose(grid.spacing_mm, wanted, rtol=1e-3):
        return grid
    return spaced_grid(grid, wanted)


def _kept_box(tissue: Volume, settings: PreparationSettings) -> tuple[Triple, Triple]:
    """Start and size of what is kept: the tissue with a margin, or everything."""
    if settings.resize_vox is not None:
        return (0, 0, 0), tissue.shape_vox
    margins = [int(np.ceil(settings.margin_mm / mm)) for mm in tissue.spacing_mm]
    return foreground_box(tissue.voxels[0], (margins[0], margins[1], margins[2]))


def _spike_findings(case: str, counts: Sequence[int]) -> list[Finding]:
    return [
        Finding(
            "spike_clipped", case,
            f"contrast {number}: {count} voxels far beyond the brain's range; clipped to it.",
            "repair",
        )
        for number, count in enumerate(counts, start=1)
        if count
    ]  # fmt: skip


def _check_extent(image: Volume, reading: ReadingSettings) -> None:
    if reading.any_size:
        return
    extent_mm = np.asarray(image.shape_vox) * np.asarray(image.spacing_mm)
    if extent_mm.min() < MIN_EXTENT_MM:
        raise VolumeError(
            Problem(
                "too_thin", image.source,
                f"only {extent_mm.min():.0f} mm along one axis (shape {image.shape_vox})",
                f"at least {MIN_EXTENT_MM:.0f} mm of brain",
                "Give the whole scan, or set reading.any_size.",
            )
        )  # fmt: skip


def _check_labels(labels: Volume, image: Volume) -> None:
    if labels.shape_vox != image.shape_vox:
        raise LabelError(
            Problem(
                "label_shape", labels.source, f"a mask of shape {labels.shape_vox}",
                f"{image.shape_vox}, the shape of {image.source}",
                "Resample it with nearest neighbour.",
            )
        )  # fmt: skip
    if not same_grid(labels.grid, image.grid):
        shift = image.grid.corner_shift_vox(labels.grid)
        raise LabelError(
            Problem(
                "label_elsewhere", labels.source,
                f"the mask lies {shift:.1f} voxels away from {image.source}", "the image's grid",
                "Check the header of the mask.",
            )
        )  # fmt: skip
