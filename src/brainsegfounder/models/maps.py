"""Large feature maps in memory that is used again.

On a CPU, memory for a large map comes from the system page by page each time, and goes back when
the map dies; on some machines that costs as much as the arithmetic. Here it is kept for the next
map of the same size, but never more than was once in use at the same time.
"""

# Shape letters in this file: B cases, C channels, I J K axes of a feature map.

from __future__ import annotations

import math
import threading
import weakref
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# Smaller blocks are mostly kept by the C library itself.
_LARGE_BYTES = 8 << 20
# What vector instructions like best.
_ALIGNMENT = 64


def empty_map(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A feature map (B, C, I, J, K) on the CPU in channels-last layout, not yet filled."""
    b, c, i, j, k = shape
    return _empty((b, c, i, j, k), (c * i * j * k, 1, c * j * k, c * k, c), dtype)


def empty_scratch(shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    """A place for work on rows of a map, not yet filled."""
    return _empty(shape, (shape[1] * shape[2], shape[2], 1), dtype)


def _empty(size: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    num_bytes = math.prod(size) * dtype.itemsize
    if num_bytes < _LARGE_BYTES:
        return torch.empty_strided(size, strides, dtype=dtype)
    # A tensor of its own, not a view of another: autograd treats the two differently.
    return torch.empty(0, dtype=dtype).set_(_POOL.take(num_bytes), 0, size, strides)


class _Pool:
    """Lends blocks of memory, and has each back when the last tensor in it is gone."""

    def __init__(self) -> None:
        # A block can come back at any moment, also while one is being taken.
        self._lock = threading.RLock()
        self._idle: deque[np.ndarray] = deque()
        self._lent_bytes = 0
        self._most_lent_bytes = 0

    def take(self, num_bytes: int) -> torch.UntypedStorage:
        """Memory that nobody has set."""
        with self._lock:
            block = self._find(num_bytes + _ALIGNMENT)
            self._lent_bytes += block.nbytes
            self._most_lent_bytes = max(self._most_lent_bytes, self._lent_bytes)
        start = -block.ctypes.data % _ALIGNMENT
        lease = block[start : start + num_bytes]
        # The storage holds the lease, and nothing else does.
        weakref.finalize(lease, self._have_back, block).atexit = False
        return torch.from_numpy(lease).untyped_storage()

    def _find(self, num_bytes: int) -> np.ndarray:
        for place, block in enumerate(self._idle):
            if block.nbytes == num_bytes:
                del self._idle[place]
                return block
        while self._idle and self._held_bytes() + num_bytes > self._most_lent_bytes:
            self._idle.popleft()
        return np.empty(num_bytes, np.uint8)

    def _held_bytes(self) -> int:
        return self._lent_bytes + sum(block.nbytes for block in self._idle)

    def _have_back(self, block: np.ndarray) -> None:
        with self._lock:
            self._lent_bytes -= block.nbytes
            self._idle.append(block)


_POOL = _Pool()
