"""A volume, and cropping or padding it without losing where it was in the scanner.

Conventions of the whole package:
    Axes:   I, J, K are voxel axes. `to_ras` makes them point right, anterior, superior.
    Shapes: a volume is (C, I, J, K), channels first; a batch is (B, C, I, J, K).
    Units:  a length is in `_mm` or in `_vox`, and its name says which.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.errors import VolumeError
from brainsegfounder.volumes.findings import Finding

Triple = tuple[int, int, int]
Affine = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Grid:
    """Where voxels are: a shape and an affine, without intensities.

    Attributes:
        shape_vox: Number of voxels along I, J, K.
        affine: Maps a voxel index (i, j, k, 1) to RAS+ millimetres, shape (4, 4).
    """

    shape_vox: Triple
    affine: Affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along I, J, K."""
        i_mm, j_mm, k_mm = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i_mm), float(j_mm), float(k_mm)

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres (1 mL = 1000 mm³)."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def diagonal_mm(self) -> float:
        """Length of the diagonal of the field of view."""
        extent_mm = np.asarray(self.shape_vox) * np.asarray(self.spacing_mm)
        return float(np.linalg.norm(extent_mm))

    def corner_shift_vox(self, other: Grid) -> float:
        """Largest distance between equal-index corners of two grids, in voxels of this one.

        Zero for the same grid; a header that was rounded gives about 1e-6; half a voxel is the
        limit up to which this package calls two grids the same.
        """
        corners = np.array(
            [
                (i, j, k, 1)
                for i in (0, self.shape_vox[0] - 1)
                for j in (0, self.shape_vox[1] - 1)
                for k in (0, self.shape_vox[2] - 1)
            ],
            dtype=float,
        )
        shift_mm = (corners @ (self.affine - other.affine).T)[:, :3]
        return float(np.linalg.norm(shift_mm, axis=1).max() / min(self.spacing_mm))


@dataclass(frozen=True, slots=True)
class Volume:
    """Voxels and where they are; the two only ever change together.

    Attributes:
        voxels: Intensities (float32) or labels (integers), shape (C, I, J, K).
        affine: Maps a voxel index (i, j, k, 1) to RAS+ millimetres, shape (4, 4).
        source: The file it came from, for messages.
        findings: What was noticed about that file.
    """

    voxels: NDArray[Any]
    affine: Affine
    source: str = "<memory>"
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        if self.voxels.ndim != 4 or self.affine.shape != (4, 4):
            raise VolumeError(
                f"{self.source}: voxels of shape {self.voxels.shape} and an affine of shape "
                f"{self.affine.shape}; expected (C, I, J, K) and (4, 4)."
            )

    @property
    def shape_vox(self) -> Triple:
        """Number of voxels along I, J, K."""
        _, i, j, k = self.voxels.shape
        return i, j, k

    @property
    def grid(self) -> Grid:
        """The volume's shape and affine."""
        return Grid(self.shape_vox, self.affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along I, J, K."""
        return self.grid.spacing_mm


def crop(volume: Volume, start_vox: Triple, size_vox: Triple) -> Volume:
    """Cut a box out of a volume; each voxel kept stays at the same millimetres.

    Args:
        volume: Voxels of shape (C, I, J, K).
        start_vox: First voxel kept along I, J, K.
        size_vox: Number of voxels kept along I, J, K.

    Returns:
        A view, not a copy, of shape (C, *size_vox), with the origin moved to `start_vox`.

    Raises:
        VolumeError: The box reaches outside the volume.
    """
    spans = [(a, a + n) for a, n in zip(start_vox, size_vox, strict=True)]
    if any(a < 0 or b > n for (a, b), n in zip(spans, volume.shape_vox, strict=True)):
        raise VolumeError(
            f"{volume.source}: cannot crop {size_vox} voxels from {start_vox}: the volume has "
            f"{volume.shape_vox}. Pad it first, or lower `patch_size_vox` in the recipe."
        )
    box = (slice(None), *(slice(a, b) for a, b in spans))
    return replace(volume, voxels=volume.voxels[box], affine=shifted(volume.affine, start_vox))


def pad(volume: Volume, before_vox: Triple, after_vox: Triple) -> Volume:
    """Add zero voxels around a volume; each old voxel stays at the same millimetres.

    Args:
        volume: Voxels of shape (C, I, J, K).
        before_vox: Voxels added before the first one along I, J, K; not negative.
        after_vox: Voxels added after the last one along I, J, K; not negative.

    Returns:
        A new volume, its origin moved back by `before_vox`. `crop` is the inverse.
    """
    widths = [(0, 0), *zip(before_vox, after_vox, strict=True)]
    i, j, k = (-n for n in before_vox)
    return replace(
        volume, voxels=np.pad(volume.voxels, widths), affine=shifted(volume.affine, (i, j, k))
    )


def shifted(affine: Affine, start_vox: Triple) -> Affine:
    """The affine of a grid that begins at another voxel of this one."""
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ np.asarray(start_vox, dtype=float)
    return moved
