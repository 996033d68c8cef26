"""nnU-Net's rule: how deep a U-Net is, and which axes each level halves, by patch and spacing.

Source: Isensee et al., nnU-Net (Nature Methods 18, 203-211, 2021), Supplementary Note 2, and the
planner of nnU-Net v2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# An integer for each axis.
Sides = tuple[int, ...]

# No side of a feature map is halved to fewer voxels than this.
SMALLEST_VOX = 4


@dataclass(frozen=True, slots=True)
class Levels:
    """The levels of a U-Net from the image down to its bottleneck.

    Attributes:
        strides: By how much each level divides each axis; the first divides none.
        kernels: Sides of the kernels of each level; 1 across slices much thicker than the rest.
    """

    strides: tuple[Sides, ...]
    kernels: tuple[Sides, ...]

    @property
    def divisor(self) -> Sides:
        """What the sides of a patch must be multiples of."""
        return tuple(math.prod(axis) for axis in zip(*self.strides, strict=True))


def levels_of(patch_size_vox: Sides, spacing_mm: Sequence[float]) -> Levels:
    """Levels for a patch.

    At each level the axes are halved whose voxels are less than twice as long as those of the
    finest axis that can still be halved; one axis alone only while it has 12 voxels. nnU-Net
    enlarges a patch that does not divide; here its odd sides are halved no further.

    Args:
        patch_size_vox: Sides of the patches.
        spacing_mm: Distance between voxel centres along each axis.
    """
    size_vox, step_mm = list(patch_size_vox), list(spacing_mm)
    strides: list[Sides] = [(1, 1, 1)]
    kernels: list[Sides] = []
    kernel: Sides = (1, 1, 1)
    while any(halved := _halved(size_vox, step_mm)):
        # Once an axis has kernels of three voxels, it keeps them.
        wide = [k == 3 or mm < 2 * min(step_mm) for k, mm in zip(kernel, step_mm, strict=True)]
        kernel = tuple(3 if is_wide else 1 for is_wide in wide)
        stride = tuple(2 if is_halved else 1 for is_halved in halved)
        kernels.append(kernel)
        strides.append(stride)
        size_vox = [n // s for n, s in zip(size_vox, stride, strict=True)]
        step_mm = [mm * s for mm, s in zip(step_mm, stride, strict=True)]
    return Levels(tuple(strides), (*kernels, (3, 3, 3)))


def _halved(size_vox: Sequence[int], step_mm: Sequence[float]) -> list[bool]:
    """Which axes the next level halves."""
    large = [n >= 2 * SMALLEST_VOX and n % 2 == 0 for n in size_vox]
    finest_mm = min((mm for mm, fits in zip(step_mm, large, strict=True) if fits), default=0.0)
    halved = [fits and mm < 2 * finest_mm for mm, fits in zip(step_mm, large, strict=True)]
    is_alone = sum(halved) == 1 and size_vox[halved.index(True)] < 3 * SMALLEST_VOX
    return [False] * 3 if is_alone else halved
