"""Walking over large feature maps in slabs that fit the cache of a CPU.

On a CPU a feature map of 96x96x96 voxels is far larger than the cache, and fetching fresh memory
for it costs more than the arithmetic of a pass. So what follows a convolution is done slab by slab.
"""

# Shape letters in this file: B cases, C channels, I J K axes of a feature map, V = I*J*K voxels,
# N slabs, S voxels of a slab, R rows
# along I. Maps are in channels-last layout, so that (B, V, C) is a view.

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

# A slab, its result and what is between them share a core's part of the cache.
SLAB_BYTES = 1 << 20
# Rows for a convolution: fewer at a time make it slow, more leave the cache.
ROWS_BYTES = 12 << 20
_ROWS_STEP = 4


def runs_on_plain_cpu(x: Tensor) -> bool:
    """Whether a tensor takes the paths for a CPU: float32 or float64, eager, no autocast."""
    is_plain = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    return x.device.type == "cpu" and is_plain and not torch.compiler.is_compiling()


def channels_last(x_BCIJK: Tensor) -> Tensor:
    """The same values with the channels of a voxel side by side in memory."""
    return x_BCIJK.contiguous(memory_format=torch.channels_last_3d)


def row_spans(x_BCIJK: Tensor) -> list[tuple[int, int]]:
    """First and last row along I, exclusive, of each part of a case that is convolved at once."""
    num_rows = x_BCIJK.shape[2]
    fitting = ROWS_BYTES / (x_BCIJK[0, :, 0].numel() * x_BCIJK.element_size())
    step = max(1, round(fitting / _ROWS_STEP)) * _ROWS_STEP
    return [(first, min(first + step, num_rows)) for first in range(0, num_rows, step)]


def row_parts(x_BCIJK: Tensor) -> Iterator[tuple[int, int, int]]:
    """Case, first and last row, exclusive, of each part of a map."""
    for case in range(len(x_BCIJK)):
        for first, last in row_spans(x_BCIJK):
            yield case, first, last


def rows_of(x_BCIJK: Tensor, case: int, first: int, last: int) -> Tensor:
    """Rows [first, last) of a case, a view of shape (1, C, R, J, K)."""
    return x_BCIJK[case : case + 1, :, first:last]


def with_neighbours(x_BCIJK: Tensor, case: int, first: int, last: int) -> Tensor:
    """Rows [first - 1, last + 1) of a case, zero outside the map; shape (1, C, R + 2, J, K)."""
    start, stop = max(first - 1, 0), min(last + 1, x_BCIJK.shape[2])
    rows_BCRJK = x_BCIJK[case : case + 1, :, start:stop]
    if stop - start == last - first + 2:
        return rows_BCRJK
    outside = (start - first + 1, last + 1 - stop)
    return channels_last(functional.pad(rows_BCRJK, (0, 0, 0, 0, *outside)))


class Slabs:
    """Walks over a channels-last map in slabs, with one scratch slab for what is between."""

    def __init__(self, x_BCIJK: Tensor) -> None:
        self.num_voxels = x_BCIJK[0, 0].numel()
        channels = x_BCIJK.shape[1]
        length = min(self.num_voxels, max(1, SLAB_BYTES // (channels * x_BCIJK.element_size())))
        self._scratch_SC = x_BCIJK.new_empty(length, channels)
        starts = range(0, self.num_voxels, length)
        self._spans = [slice(first, min(first + length, self.num_voxels)) for first in starts]
        self.lengths_N = x_BCIJK.new_tensor([s.stop - s.start for s in self._spans])

    def sums(self, num_cases: int) -> Tensor:
        """A place for the sums of each slab, shape (B, N, C)."""
        return self._scratch_SC.new_empty(num_cases, len(self._spans), self._scratch_SC.shape[1])

    def walk(self, *maps_BCIJK: Tensor) -> Iterator[tuple[int, int, Tensor, list[Tensor]]]:
        """Yield case, number of the slab, scratch, and the slab of each map; all (S, C)."""
        maps_BVC = [as_voxels(one) for one in maps_BCIJK]
        for case in range(len(maps_BVC[0])):
            for number, span in enumerate(self._spans):
                scratch_SC = self._scratch_SC[: span.stop - span.start]
                yield case, number, scratch_SC, [one[case, span] for one in maps_BVC]


def as_voxels(x_BCIJK: Tensor) -> Tensor:
    """A channels-last map as (B, V, C), without a copy."""
    return x_BCIJK.permute(0, 2, 3, 4, 1).view(len(x_BCIJK), -1, x_BCIJK.shape[1])
