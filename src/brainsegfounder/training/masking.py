"""Masked reconstruction: which blocks or contrasts are hidden, and how what is restored is judged.

Sources: He et al., Masked autoencoders (arXiv 2111.06377); Xie et al., SimMIM (arXiv 2111.09886);
Wald et al., OpenMind (arXiv 2412.17041), for masks of anatomy in the loss. Intensities are those of
the preparation (mean 0, standard deviation 1 inside the brain), so errors are in that unit.

Shape letters: B crops, C contrasts, I J K voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from brainsegfounder.settings import MaskingSettings
from brainsegfounder.training.losses import Losses
from brainsegfounder.training.pretext import mean_where


def hide_blocks(
    crops: Tensor, settings: MaskingSettings, generators: Sequence[torch.Generator]
) -> Tensor:
    """Choose the blocks of each crop that are hidden, the same for all contrasts.

    Args:
        crops: Shape (B, C, I, J, K), sides multiples of `block_vox`.
        settings: Block side, and the range from which each crop's share of hidden blocks is drawn.
        generators: The only source of randomness, one for each crop.

    Returns:
        Where it is hidden, shape (B, 1, I, J, K), boolean.
    """
    grid = [side // settings.block_vox for side in crops.shape[2:]]
    num_blocks = grid[0] * grid[1] * grid[2]
    hidden = torch.zeros(len(crops), num_blocks, dtype=torch.bool)
    for row, generator in zip(hidden, generators, strict=True):
        span = settings.max_ratio - settings.min_ratio
        ratio = settings.min_ratio + span * float(torch.rand((), generator=generator))
        num_hidden = min(max(1, round(ratio * num_blocks)), max(1, num_blocks - 1))
        row[torch.randperm(num_blocks, generator=generator)[:num_hidden]] = True
    blocks = hidden.view(len(crops), 1, *grid).to(crops.device)
    for axis in (2, 3, 4):
        blocks = blocks.repeat_interleave(settings.block_vox, dim=axis)
    return blocks


def drop_contrasts(crops: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Choose the contrasts of each crop that are left out: at least one, and not all.

    Args:
        crops: Shape (B, C, I, J, K) with C of 2 or more.
        generators: The only source of randomness, one for each crop.

    Returns:
        Which are left out, shape (B, C, 1, 1, 1), boolean.
    """
    num_contrasts = crops.shape[1]
    dropped = torch.zeros(len(crops), num_contrasts, dtype=torch.bool)
    for row, generator in zip(dropped, generators, strict=True):
        num_dropped = 1 + int(torch.randint(num_contrasts - 1, (), generator=generator))
        row[torch.randperm(num_contrasts, generator=generator)[:num_dropped]] = True
    return dropped.view(*dropped.shape, 1, 1, 1).to(crops.device)


def restoration_losses(
    restored: Tensor,
    image: Tensor,
    hidden: Tensor,
    valid: Tensor | None,
    *,
    error: Literal["squared", "absolute"],
) -> Losses:
    """Judge a restored image where it was hidden; watch it where it was not.

    Args:
        restored: Shape (B, C, I, J, K), or a whole number of times coarser; then means of cubes are
            compared.
        image: Shape (B, C, I, J, K).
        hidden: Boolean, shape (B, 1, I, J, K) or (B, C, 1, 1, 1).
        valid: Where there is anatomy, shape (B, 1, I, J, K), boolean; None: everywhere. Only there
            is judged and watched.
        error: Of a voxel.

    Returns:
        masked: mean error of hidden voxels. Watched: visible, of the others.
    """
    stride = image.shape[2] // restored.shape[2]
    if valid is None:
        valid = torch.ones_like(image[:, :1], dtype=torch.bool)
    if stride > 1:
        image = functional.avg_pool3d(image, stride)
        hidden = _coarse(hidden, stride) if hidden.shape[2] > 1 else hidden
        valid = _coarse(valid, stride)
    difference = (restored - image).to(torch.promote_types(restored.dtype, torch.float32))
    voxels = difference.square() if error == "squared" else difference.abs()
    masked, visible = mean_where(voxels, hidden & valid), mean_where(voxels, ~hidden & valid)
    return Losses({"masked": masked}, {"visible": visible.detach()})


def _coarse(mask: Tensor, stride: int) -> Tensor:
    """Cubes all of whose voxels are in a mask."""
    return functional.avg_pool3d(mask.float(), stride) == 1
