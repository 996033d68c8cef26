"""A network that sees one window, over a volume of any size.

Shape letters: C contrasts, R output channels, I J K voxels of the volume, B windows at once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Triple = tuple[int, int, int]

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


def window_weight(window: Triple, blending: Literal["gaussian", "constant"]) -> Tensor:
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
    overlap: float,
    blending: Literal["gaussian", "constant"],
    batch_size: int,
) -> Tensor:
    """Run a network over a volume, window by window, and blend what overlaps.

    Args:
        network: From (B, C, *window) to (B, R, *window).
        image: Shape (C, I, J, K), on the network's device; padded with 0 where smaller than the
            window.
        window: Sides of the window.
        overlap: Smallest share of a window that a neighbour covers again.
        blending: Weight by place in the window.
        batch_size: Windows computed at once.

    Returns:
        Blended outputs as float32, shape (R, I, J, K), on the image's device.
    """
    size = image.shape[1:]
    missing = [max(0, side - n) for side, n in zip(window, size, strict=True)]
    before = [n // 2 for n in missing]
    widths = [w for b, m in zip(before[::-1], missing[::-1], strict=True) for w in (b, m - b)]
    padded = functional.pad(image, widths)
    starts = itertools.product(
        *(window_starts(n, w, overlap) for n, w in zip(padded.shape[1:], window, strict=True))
    )
    weight = window_weight(window, blending).to(image.device)
    total: Tensor | None = None
    norm = torch.zeros(padded.shape[1:], device=image.device)
    for group in _grouped(list(starts), batch_size):
        boxes = [
            tuple(slice(a, a + w) for a, w in zip(start, window, strict=True)) for start in group
        ]
        outputs = network(torch.stack([padded[(slice(None), *box)] for box in boxes])).float()
        if total is None:
            total = torch.zeros((outputs.shape[1], *padded.shape[1:]), device=image.device)
        for box, output in zip(boxes, outputs, strict=True):
            total[(slice(None), *box)] += output * weight
            norm[box] += weight
    assert total is not None, "a volume has at least one window"  # noqa: S101
    total /= norm
    inner = tuple(slice(b, b + n) for b, n in zip(before, size, strict=True))
    return total[(slice(None), *inner)]


def _grouped(starts: list[tuple[int, ...]], size: int) -> list[list[tuple[int, ...]]]:
    return [starts[n : n + size] for n in range(0, len(starts), size)]
