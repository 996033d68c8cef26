"""Whether two contrasts of a session show left and right on the same sides.

No picture of one brain says which side is left, but two of the same brain agree in their edges:
edges of tissue are at the same places whatever their contrast. If those of one scan agree better
with the other one's mirror image, one of the two was mirrored on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.volume import Volume

LOOK_MM = 3.0
# Edges of this width and wider, and what counts as even.
EDGE_MM, EVEN_MM = 2.0, 12.0
# The middle of the head is looked for this far to both sides of the brain's.
SHIFTS_MM = 10.0
# By how much the mirror image must agree better, in correlation.
CLEARLY = 0.01
RIM_VOX = 2
FEWEST_VOX = 100

T = TypeVar("T", bound=np.generic)


def mirrored(
    image: Volume, brain: NDArray[np.bool_], contrasts: Sequence[str]
) -> Iterator[Finding]:
    """A warning for each contrast that seems mirrored against the first one.

    Args:
        image: Contrasts of one session in RAS, shape (C, I, J, K).
        brain: Where to look, shape (I, J, K).
        contrasts: Their names; numbers stand in where they are not known.
    """
    if len(image.voxels) < 2 or not brain.any():
        return
    steps = [max(1, int(LOOK_MM / mm + 0.01)) for mm in image.spacing_mm]
    i, j, k = (slice(None, None, step) for step in steps)
    spacing_mm = np.multiply(image.spacing_mm, steps)
    inside = brain[i, j, k]
    first, *others = (_edges(channel[i, j, k], inside, spacing_mm) for channel in image.voxels)
    reach = int(SHIFTS_MM / spacing_mm[0])
    # Edges of the rim are those of the mask, whatever the contrast.
    inner = ndimage.binary_erosion(inside, iterations=RIM_VOX)
    for number, edges in enumerate(others, start=1):
        upright = _agreement(first, edges, inner)
        turned = max(_turned(first, edges, inner, reach))
        if turned > upright + CLEARLY:
            name = contrasts[number] if contrasts else f"contrast {number + 1}"
            message = (
                f"{name} seems to have left and right swapped against {_first(contrasts)} (edges "
                f"agree by {turned:.2f} mirrored, {upright:.2f} as they are); check both files."
            )
            yield Finding("sides_swapped", image.source, message, "warning")


def _first(contrasts: Sequence[str]) -> str:
    return next(islice(contrasts, 1), "the first contrast")


def _edges(
    channel: NDArray[np.float32], inside: NDArray[np.bool_], spacing_mm: NDArray[np.float64]
) -> NDArray[np.float32]:
    """How steep the intensities are at each voxel, against the surroundings; about 0 to 3."""
    filled = np.where(inside, channel, channel[inside].mean()).astype(np.float32)
    steep = ndimage.gaussian_gradient_magnitude(filled, EDGE_MM / spacing_mm)
    even = ndimage.gaussian_filter(steep, EVEN_MM / spacing_mm)
    edges: NDArray[np.float32] = steep / np.maximum(even, 1e-6 + 1e-3 * float(steep.max()))
    return edges


def _turned(
    first: NDArray[np.float32],
    edges: NDArray[np.float32],
    inner: NDArray[np.bool_],
    reach: int,
) -> Iterator[float]:
    """Agreement with the mirror image, for several places of the mirror about the middle."""
    hits = np.flatnonzero(inner.any(axis=(1, 2)))
    if not hits.size:
        return iter([0.0])
    # Mirroring the array puts voxel n at size - 1 - n; the shift brings the brain back to itself.
    middle = int(hits[0] + hits[-1]) - (len(inner) - 1)
    shifts = range(middle - reach, middle + reach + 1)
    return (
        _agreement(first, _moved(edges[::-1], shift), inner & _moved(inner[::-1], shift))
        for shift in shifts
    )


def _moved(values: NDArray[T], shift: int) -> NDArray[T]:
    """An array moved along its first axis, 0 where nothing comes from."""
    moved = np.zeros_like(values)
    size = len(values)
    if abs(shift) < size:
        moved[max(0, shift) : size + min(0, shift)] = values[max(0, -shift) : size - max(0, shift)]
    return moved


def _agreement(
    one: NDArray[np.float32], other: NDArray[np.float32], where: NDArray[np.bool_]
) -> float:
    """Correlation of two arrays somewhere; 0 where that is hardly anywhere."""
    if np.count_nonzero(where) < FEWEST_VOX:
        return 0.0
    a, b = one[where].astype(np.float64), other[where].astype(np.float64)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0
