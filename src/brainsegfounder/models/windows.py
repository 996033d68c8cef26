"""Where the windows of a Swin transformer lie on a feature map, without rolling, padding or masks.

Swin pads a feature map to whole windows; every second block rolls it by a few tokens first, and
masks the pairs of tokens that came to lie in one window only by the roll. All of this is the same
as cutting each axis into stretches: with a shift of 3, an axis of 32 tokens is cut into

    3 | 7 | 7 | 7 | 7 | 1 (+ 3 of padding)

and attention stays within the boxes that the stretches of three axes span. Boxes of one kind, such
as 3x7x7, form a batch. No score is computed to be masked away, and no padding is carried along:
within a box all padding tokens are alike, so that one stands for all of them (see `Kind`).
"""

# Shape letters in this file: B cases, I J K axes of a feature map, L tokens of a box, P tokens of
# padding that belong to a box, T = window**3 tokens of a whole window.

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Triple = tuple[int, int, int]

WINDOW_SIZE = 7
SHIFT = WINDOW_SIZE // 2


@dataclass(frozen=True, slots=True)
class Stretch:
    """Equal pieces of one axis, side by side.

    Attributes:
        start: First token of the first piece.
        count: Number of pieces.
        length: Tokens of each piece.
        first: Place of a piece's first token in its window, not 0 where a shift cut the window.
        num_padding: Tokens of padding that end each piece.
    """

    start: int
    count: int
    length: int
    first: int
    num_padding: int


@dataclass(frozen=True, slots=True)
class Kind:
    """Boxes of one shape, and the rows of the bias table that their tokens need.

    Attributes:
        num_boxes: Boxes of this kind in the batch.
        num_tokens: Tokens of each box, L.
        bias_index: Row for each pair of query and key, shape (L * L,), int64.
        padding_index: Row for each pair of query and padding token, shape (L, P), int64. Padding
            tokens have equal keys and values, so that P of them weigh as much in the softmax as
            one whose bias is the log-sum-exp of theirs.
    """

    num_boxes: int
    num_tokens: int
    bias_index: Tensor
    padding_index: Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """How the tokens of a batch are grouped for attention.

    Attributes:
        order: Token that stands at each place when boxes are listed one by one, kind by kind;
            shape (B * I * J * K,), int64.
        place: The inverse permutation.
        kinds: The kinds of boxes, in the same sequence.
    """

    order: Tensor
    place: Tensor
    kinds: tuple[Kind, ...]


def relative_position_index() -> NDArray[np.int64]:
    """Number the offset between each pair of tokens of a whole window.

    Returns:
        Rows of the bias table, shape (T, T), each in [0, (2 * WINDOW_SIZE - 1)**3).
    """
    places_3T = np.indices((WINDOW_SIZE,) * 3).reshape(3, -1)
    offsets_3TT = places_3T[:, :, None] - places_3T[:, None, :] + WINDOW_SIZE - 1
    span = 2 * WINDOW_SIZE - 1
    index_TT: NDArray[np.int64] = offsets_3TT[0] * span**2 + offsets_3TT[1] * span + offsets_3TT[2]
    return index_TT


def cut_axis(num_tokens: int, shift: int) -> list[Stretch]:
    """Cut an axis into windows; one that fits in a single window is not shifted.

    Args:
        num_tokens: Length of the axis, 1 or more.
        shift: Tokens by which windows are moved, 0 or less than a window.

    Returns:
        Stretches that cover the axis once, in order. A window that a shift cut in two gives two.
    """
    if num_tokens <= WINDOW_SIZE:
        return [Stretch(0, count=1, length=num_tokens, first=0, num_padding=0)]
    padded = math.ceil(num_tokens / WINDOW_SIZE) * WINDOW_SIZE
    cuts = sorted({0, *range(shift, padded, WINDOW_SIZE), padded})
    pieces = []
    for start, stop in itertools.pairwise(cuts):
        first = WINDOW_SIZE - shift if start == 0 and shift else 0
        length = min(stop, num_tokens) - start
        if length > 0:
            pieces.append((start, (length, first, stop - start - length)))
    stretches = []
    for (length, first, num_padding), group in itertools.groupby(pieces, key=lambda p: p[1]):
        starts = [start for start, _ in group]
        stretches.append(Stretch(starts[0], len(starts), length, first, num_padding))
    return stretches


def make_layout(batch_size: int, grid: Triple, shift: int, device: torch.device) -> Layout:
    """Group the tokens of feature maps of shape (B, I, J, K, C) into windows.

    Args:
        batch_size: Number of cases, B.
        grid: Length of the axes I, J, K.
        shift: Tokens by which windows are moved.
        device: Where the index tensors shall be.
    """
    if torch.compiler.is_compiling():
        return _make_layout(batch_size, grid, shift, device)
    # Kept tensors may be used in training later, which those born in inference mode may not.
    with torch.inference_mode(mode=False):
        return _kept_layout(batch_size, grid, shift, device)


def _make_layout(batch_size: int, grid: Triple, shift: int, device: torch.device) -> Layout:
    axes = [cut_axis(n, shift) for n in grid]
    window = tuple(min(n, WINDOW_SIZE) for n in grid)
    tokens_BIJK = np.arange(batch_size * math.prod(grid)).reshape(batch_size, *grid)
    boxes = list(itertools.product(*axes))
    order = np.concatenate([_list_boxes(tokens_BIJK, box) for box in boxes])
    return Layout(
        order=torch.from_numpy(order).to(device),
        place=torch.from_numpy(np.argsort(order)).to(device),
        kinds=tuple(_make_kind(box, window, batch_size, device) for box in boxes),
    )


# 64 layouts serve eight sizes of patches with two shifts at four stages.
_kept_layout = functools.lru_cache(maxsize=64)(_make_layout)


def _list_boxes(tokens_BIJK: NDArray[np.int64], box: tuple[Stretch, ...]) -> NDArray[np.int64]:
    """Return the tokens of all boxes of one kind, box by box, flat."""
    spans = [slice(s.start, s.start + s.count * s.length) for s in box]
    counts_and_lengths = itertools.chain(*((s.count, s.length) for s in box))
    cut = tokens_BIJK[:, *spans].reshape(len(tokens_BIJK), *counts_and_lengths)
    return cut.transpose(0, 1, 3, 5, 2, 4, 6).reshape(-1)


def _make_kind(
    box: tuple[Stretch, ...], window: tuple[int, ...], batch_size: int, device: torch.device
) -> Kind:
    """Look up which rows of the bias table the tokens of a box use.

    A clipped window reads the first rows and columns of the whole window's index, as MONAI does;
    these are not its true offsets, yet published weights were trained that way.
    """
    places_IJK = np.arange(math.prod(window)).reshape(window)
    real = places_IJK[tuple(slice(s.first, s.first + s.length) for s in box)]
    whole = places_IJK[tuple(slice(s.first, s.first + s.length + s.num_padding) for s in box)]
    padding = np.setdiff1d(whole, real)
    index_TT = relative_position_index()
    rows_L1 = real.reshape(-1, 1)
    return Kind(
        num_boxes=batch_size * math.prod(s.count for s in box),
        num_tokens=real.size,
        bias_index=torch.from_numpy(index_TT[rows_L1, real.reshape(1, -1)].reshape(-1)).to(device),
        padding_index=torch.from_numpy(index_TT[rows_L1, padding.reshape(1, -1)]).to(device),
    )
