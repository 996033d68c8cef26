"""A network that sees one window, over a volume of any size, in memory that does not grow with it.

Windows are taken in the order of their first plane, and planes that no further window reaches are
finished at once. So only a window's depth of planes is ever being added up, and what is finished
goes into one array, in place.

Shape letters: C contrasts, R output channels, I J K voxels of the volume, B windows at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Triple = tuple[int, int, int]
Blending = Literal["gaussian", "constant"]

# Standard deviation of the Gaussian weight, as a share of the window's side.
SIGMA = 0.125
LOWEST_WEIGHT = 1e-3


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Evenly spaced first voxels of the windows along one axis.

    The first window starts at 0, the last one ends at `size`, and neighbours share at least
    `overlap` of a window.
    """
    if size <= window:
        return [0]
    number = math.ceil((size - window) / max(1, int(window * (1 - overlap)))) + 1
    return [round(n * (size - window) / (number - 1)) for n in range(number)]


def plan_windows(
    size: Triple, window: Triple, overlap: float, inside: NDArray[np.bool_] | None = None
) -> list[Triple]:
    """First voxels of all windows over a volume, by their first plane.

    Args:
        size: Voxels along I, J, K.
        window: Sides of the window. Where the volume is smaller, the window stands around its
            middle and starts below 0.
        overlap: Smallest share of a window that a neighbour covers again.
        inside: Where there is anything to find, shape `size`: the windows stand evenly in the box
            around it, and one that holds none of it is left out. Everywhere without.
    """
    inside = inside if inside is not None and inside.any() else None
    extents = zip(_extents(size, inside), size, window, strict=True)
    lines = [_line(*extent, full, side, overlap) for extent, full, side in extents]
    starts = list(itertools.product(*lines))
    if inside is not None:
        starts = [start for start in starts if inside[_box(start, window, size)[0]].any()]
    return [(i, j, k) for i, j, k in starts]


def window_weight(window: Triple, blending: Blending) -> Tensor:
    """How much each voxel of a window counts, shape `window`, at most 1 and above 0."""
    if blending == "constant":
        return torch.ones(window)
    axes = []
    for side in window:
        place = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
        axes.append(torch.exp(-0.5 * (place / (SIGMA * side)) ** 2))
    weight = axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
    return (weight / weight.max()).clamp_min(LOWEST_WEIGHT)


def slide(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    *,
    window: Triple,
    blending: Blending,
    batch_size: int,
    overlap: float = 0.5,
    starts: Sequence[Triple] | None = None,
    finish: Callable[[Tensor], Tensor] | None = None,
    into: Callable[[tuple[int, ...]], Tensor] = torch.empty,
) -> Tensor:
    """Run a network over a volume, window by window, and blend what overlaps.

    Args:
        network: From (B, C, *window) to (B, R, *window).
        image: Shape (C, I, J, K), on the network's device; counts as 0 around it.
        window: Sides of the window.
        blending: Weight by place in the window.
        batch_size: Windows computed at once.
        overlap: Smallest share of a window that a neighbour covers again.
        starts: First voxels of the windows, from `plan_windows`; None is all, by `overlap`.
        finish: What becomes of blended planes (R, n, J, K), such as a sigmoid.
        into: Makes the result's array of a shape.

    Returns:
        Blended outputs as float32, shape (R, I, J, K), where `into` puts them; 0 where there is no
        window.
    """
    size: Triple = (image.shape[1], image.shape[2], image.shape[3])
    planned = sorted(plan_windows(size, window, overlap) if starts is None else starts)
    weight = window_weight(window, blending).to(image.device)
    result, planes = None, None
    for group in _grouped(planned, batch_size):
        outputs = network(torch.stack([_cut(image, start, window) for start in group])).float()
        if result is None or planes is None:
            result = into((outputs.shape[1], *size))
            planes = _Planes(outputs.shape[1], size, window[0], image.device)
        for start, output in zip(group, outputs, strict=True):
            planes.finish_before(start[0], result, finish)
            planes.add(start, output, weight)
    if result is None or planes is None:
        raise ValueError("a volume without a window; expected at least one")
    planes.finish_before(size[0], result, finish)
    return result


class _Planes:
    """The planes of a volume that are being added up: a window's depth of them.

    Args:
        num_channels: Of the outputs.
        size: Of the volume.
        depth: Sides of a window along I.
        device: Where windows are computed.
    """

    def __init__(self, num_channels: int, size: Triple, depth: int, device: torch.device) -> None:
        self._first, self._size = 0, size
        shape = (min(depth, size[0]), *size[1:])
        self._total = torch.zeros((num_channels, *shape), device=device)
        self._norm = torch.zeros(shape, device=device)

    def add(self, start: Triple, output: Tensor, weight: Tensor) -> None:
        """Add one window, shape (R, *window), none of whose planes is finished."""
        place, part = _box(start, tuple(weight.shape), self._size)
        rows = slice(place[0].start - self._first, place[0].stop - self._first)
        self._total[(slice(None), rows, *place[1:])] += output[(slice(None), *part)] * weight[part]
        self._norm[(rows, *place[1:])] += weight[part]

    def finish_before(
        self, plane: int, result: Tensor, finish: Callable[[Tensor], Tensor] | None
    ) -> None:
        """Write all planes before one into the result, and go on from there."""
        while self._first < min(plane, self._size[0]):
            number = min(plane, self._size[0]) - self._first
            number = min(number, len(self._norm))
            blended, norm = self._total[:, :number], self._norm[:number]
            blended /= norm.clamp_min(torch.finfo(norm.dtype).tiny)
            finished = blended if finish is None else finish(blended)
            finished.masked_fill_(norm == 0, 0)
            result[:, self._first : self._first + number] = finished
            self._first += number
            self._shift(number)

    def _shift(self, number: int) -> None:
        for planes in (self._total, self._norm):
            axis = planes.ndim - 3
            kept = planes.shape[axis] - number
            if kept:
                planes.narrow(axis, 0, kept).copy_(planes.narrow(axis, number, kept).clone())
            planes.narrow(axis, kept, number).zero_()


def _line(low: int, length: int, full: int, side: int, overlap: float) -> list[int]:
    """First voxels of windows along an axis of `full` voxels that cover `length` from `low` on."""
    if full < side:
        return [-((side - full) // 2)]
    spare = max(0, side - length) // 2
    starts = [low - spare + first for first in window_starts(length, side, overlap)]
    return [min(max(start, 0), full - side) for start in starts]


def _extents(size: Triple, inside: NDArray[np.bool_] | None) -> list[tuple[int, int]]:
    """First voxel and length of what windows must cover, along each axis."""
    if inside is None:
        return [(0, n) for n in size]
    extents = []
    for axis in range(3):
        hits = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        extents.append((int(hits[0]), int(hits[-1]) + 1 - int(hits[0])))
    return extents


def _box(
    start: Sequence[int], window: Sequence[int], size: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Which part of a volume a window covers, and which part of the window that is."""
    spans = [
        (max(first, 0), min(first + side, n), first)
        for first, side, n in zip(start, window, size, strict=True)
    ]
    place = tuple(slice(low, high) for low, high, _ in spans)
    return place, tuple(slice(low - first, high - first) for low, high, first in spans)


def _cut(image: Tensor, start: Triple, window: Triple) -> Tensor:
    """One window of an image, shape (C, *window), 0 beyond the image's faces."""
    place, part = _box(start, window, image.shape[1:])
    if all(b.stop - b.start == side for b, side in zip(part, window, strict=True)):
        return image[(slice(None), *place)]
    cut = image.new_zeros((len(image), *window))
    cut[(slice(None), *part)] = image[(slice(None), *place)]
    return cut


def _grouped(starts: list[Triple], size: int) -> list[list[Triple]]:
    return [starts[n : n + size] for n in range(0, len(starts), size)]
