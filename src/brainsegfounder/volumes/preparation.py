"""One preparation for training and inference, every geometric step undoable.

    contrasts of one case  ->  RAS  ->  crop to the foreground  ->  the recipe's spacing
                           ->  z-score inside the brain

`Prepared.source_grid` is the way back: whatever is computed on the prepared grid is carried to
the file's own grid by one resampling, which is exact where no voxel was interpolated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.errors import ContrastError, LabelError, VolumeError
from brainsegfounder.settings import PreparationSettings, ReadingSettings
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.geometry import (
    foreground_box,
    resample_labels_to,
    resample_to,
    same_grid,
    spaced_grid,
    to_ras,
)
from brainsegfounder.volumes.intensity import fingerprint, foreground, zscore_inside
from brainsegfounder.volumes.nifti import read_labels, read_nifti
from brainsegfounder.volumes.volume import Grid, Triple, Volume, crop

MIN_EXTENT_MM = 32.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A case ready for a network, and the way back.

    Attributes:
        image: Standardised intensities, shape (C, I, J, K), contrasts in the order asked for.
        labels: Label values of the data set, shape (1, I, J, K), or None.
        reference: The same as they were read, on the file's own grid, or None.
        brain: Where the intensities were standardised, shape (I, J, K).
        source_grid: The grid of the file, on which results are returned.
        fingerprints: Of each contrast as it was read; see `intensity.fingerprint`.
        findings: What was noticed about the files.
        steps: What was done to the case, ready for JSON.
        masks: Masks carried along on the prepared grid (deface, anatomy), shape (I, J, K).
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


def read_contrasts(paths: Mapping[str, Path], contrasts: Sequence[str], case: str) -> Volume:
    """Read the contrasts of one case, in the order asked for, onto one grid.

    Args:
        paths: A file for each contrast; more than asked for is fine.
        contrasts: Names in the order of the channels.
        case: The case's name, for messages.

    Returns:
        Intensities of shape (C, I, J, K) in the axis order of the first contrast's file.

    Raises:
        ContrastError: A contrast is absent.
        VolumeError: A file is unreadable, or the shapes or positions differ.
    """
    missing = [name for name in contrasts if name not in paths]
    if missing:
        raise ContrastError(
            f"{case}: no {', '.join(missing)} found; expected {', '.join(contrasts)}, and there "
            f"is {', '.join(paths) or 'nothing'}. Add the file, or use a model trained without it."
        )
    volumes = [read_nifti(paths[name]) for name in contrasts]
    for name, volume in zip(contrasts[1:], volumes[1:], strict=True):
        _check_grid(volume, volumes[0], name, contrasts[0])
    joined = np.concatenate([volume.voxels for volume in volumes])
    return Volume(joined, volumes[0].affine, case)


def prepare(image: Volume, settings: PreparationSettings, labels: Volume | None = None) -> Prepared:
    """Bring a case to the grid and intensities that networks are trained and run on.

    Args:
        image: All contrasts of a case, shape (C, I, J, K), any axis order.
        settings: Spacing in mm, margin, normalisation.
        labels: Its mask on the same grid, shape (1, I, J, K), or None.

    Raises:
        VolumeError: The volume has no contrast, or is thinner than 32 mm.
        LabelError: The mask is not on the image's grid.
    """
    _check_extent(image)
    if labels is not None:
        _check_labels(labels, image)
        labels = replace(labels, affine=image.affine)
    source_grid, reference = image.grid, labels
    image, labels = to_ras(image), None if labels is None else to_ras(labels)
    fingerprints = tuple(fingerprint(channel) for channel in image.voxels)
    tissue = replace(image, voxels=foreground(image.voxels, image.source)[None])
    box = _margin_box(tissue, settings.margin_mm)
    image, tissue = crop(image, *box), crop(tissue, *box)
    labels = None if labels is None else crop(labels, *box)
    grid = _target_grid(image.grid, settings)
    brain = resample_to(tissue, grid).voxels[0] > 0.5
    resampled = resample_to(image, grid)
    standardised = zscore_inside(resampled.voxels, brain, image.source)
    return Prepared(
        image=replace(resampled, voxels=standardised),
        labels=None if labels is None else resample_labels_to(labels, grid),
        reference=reference,
        brain=brain,
        source_grid=source_grid,
        fingerprints=fingerprints,
    )


def prepare_case(
    case: str,
    paths: Mapping[str, Path],
    contrasts: Sequence[str],
    settings: PreparationSettings,
    *,
    label: Path | None = None,
    masks: Mapping[str, Path] | None = None,
    reading: ReadingSettings | None = None,
) -> Prepared:
    """Read and prepare one case; see `read_contrasts` and `prepare`.

    Args:
        case: Its name, for messages.
        paths: A file for each contrast.
        contrasts: In the order of the channels.
        settings: Of the preparation.
        label: Its mask of labels.
        masks: Files of other masks: brain, deface, anatomy.
        reading: What is allowed of the files.
    """
    del masks, reading
    image = read_contrasts(paths, contrasts, case)
    labels = None if label is None else read_labels(label)
    return prepare(image, settings, labels)


def undo(volume: Volume, source_grid: Grid) -> Volume:
    """Carry probabilities from the prepared grid back to the file's own grid.

    Args:
        volume: Values on the prepared grid, shape (C, I, J, K); 0 means background.
        source_grid: `Prepared.source_grid`.

    Returns:
        float32 of shape (C, *source_grid.shape_vox), 0 outside the prepared box.
    """
    return resample_to(volume, source_grid)


def undo_labels(volume: Volume, source_grid: Grid) -> Volume:
    """Carry labels from the prepared grid back to the file's own grid."""
    return resample_labels_to(volume, source_grid)


def _target_grid(grid: Grid, settings: PreparationSettings) -> Grid:
    if settings.spacing_mm is None:
        return grid
    wanted = settings.spacing_mm
    # A spacing that is already right to a thousandth is left alone, so nothing is interpolated.
    if np.allclose(grid.spacing_mm, wanted, rtol=1e-3):
        return grid
    return spaced_grid(grid, wanted)


def _margin_box(tissue: Volume, margin_mm: float) -> tuple[Triple, Triple]:
    margins = [int(np.ceil(margin_mm / mm)) for mm in tissue.spacing_mm]
    return foreground_box(tissue.voxels[0], (margins[0], margins[1], margins[2]))


def _check_extent(image: Volume) -> None:
    extent_mm = np.asarray(image.shape_vox) * np.asarray(image.spacing_mm)
    if extent_mm.min() < MIN_EXTENT_MM:
        raise VolumeError(
            f"{image.source}: only {extent_mm.min():.0f} mm along one axis (shape "
            f"{image.shape_vox}); expected at least {MIN_EXTENT_MM:.0f} mm of brain."
        )


def _check_grid(volume: Volume, first: Volume, name: str, first_name: str) -> None:
    if volume.shape_vox != first.shape_vox:
        raise VolumeError(
            f"{volume.source}: {name} has shape {volume.shape_vox}, but {first_name} has "
            f"{first.shape_vox} ({first.source}); expected one grid. Register and resample the "
            "contrasts to one of them first."
        )
    if not same_grid(volume.grid, first.grid):
        shift = first.grid.corner_shift_vox(volume.grid)
        raise VolumeError(
            f"{volume.source}: {name} lies {shift:.1f} voxels away from {first_name} "
            f"({first.source}); expected one grid. Register the contrasts first."
        )


def _check_labels(labels: Volume, image: Volume) -> None:
    if labels.shape_vox != image.shape_vox:
        raise LabelError(
            f"{labels.source}: a mask of shape {labels.shape_vox}; expected {image.shape_vox}, "
            f"the shape of {image.source}. Resample it with nearest neighbour."
        )
    if not same_grid(labels.grid, image.grid):
        shift = image.grid.corner_shift_vox(labels.grid)
        raise LabelError(
            f"{labels.source}: the mask lies {shift:.1f} voxels away from {image.source}; "
            "expected the image's grid. Check the header of the mask."
        )
