"""Convolutions along the path of PyTorch that is fastest on a CPU; elsewhere as they are.

Three things decide the speed of a 3-D convolution on a CPU: that oneDNN does it, that it gets its
maps in channels-last layout, and that work which cancels is not done. Doubling a map by a
transposed convolution and convolving the result is one transposed convolution with a larger kernel,
for 8 instead of 27 products a voxel.
"""

# Shape letters in this file: B cases, C channels, M channels between two layers, F channels out,
# I J K axes of a feature map or kernel.

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from brainsegfounder.models.slabs import channels_last, runs_on_plain_cpu

# PyTorch convolves a single float32 case with C * I * J up to this number by a loop that is about
# ten times slower than oneDNN (`use_mkldnn` in ATen/native/Convolution.cpp).
_SMALL_FOR_PYTORCH = 20480
# Joining two kernels costs about as much as this many voxels of the result for each channel in.
_VOXELS_PER_CHANNEL_TO_JOIN = 32


def make_convolution(in_channels: int, out_channels: int, size: int, *, bias: bool) -> nn.Conv3d:
    """A convolution that keeps the size, its kernel in channels-last layout in memory."""
    layer = nn.Conv3d(in_channels, out_channels, size, padding=size // 2, bias=bias)
    return cast(nn.Conv3d, layer.to(memory_format=torch.channels_last_3d))  # type: ignore[call-overload]


def convolve(x_BCIJK: Tensor, layer: nn.Conv3d, weight_FCIJK: Tensor | None = None) -> Tensor:
    """Apply a convolution that keeps the size.

    Args:
        x_BCIJK: Feature map.
        layer: Bias and padding, and the weight unless one is given.
        weight_FCIJK: In place of the layer's weight, such as a part of it.
    """
    weight_FCIJK = layer.weight if weight_FCIJK is None else weight_FCIJK
    if not runs_on_plain_cpu(x_BCIJK):
        return functional.conv3d(x_BCIJK, weight_FCIJK, layer.bias, padding=layer.padding)
    is_small = len(x_BCIJK) == 1 and x_BCIJK[..., 0].numel() <= _SMALL_FOR_PYTORCH
    if is_small and x_BCIJK.dtype == torch.float32:
        y_BCIJK = functional.conv3d(
            x_BCIJK.to_mkldnn(), weight_FCIJK, layer.bias, padding=layer.padding
        )
        return channels_last(y_BCIJK.to_dense())
    return functional.conv3d(
        channels_last(x_BCIJK), channels_last(weight_FCIJK), layer.bias, padding=layer.padding
    )


def pays_to_join(x_BCIJK: Tensor) -> bool:
    """Whether `convolve_doubled` is faster for a coarse map than one layer after the other."""
    num_voxels = 8 * len(x_BCIJK) * x_BCIJK[0, 0].numel()
    is_worth_it = num_voxels >= _VOXELS_PER_CHANNEL_TO_JOIN * x_BCIJK.shape[1]
    return is_worth_it and runs_on_plain_cpu(x_BCIJK)


def convolve_doubled(x_BCIJK: Tensor, doubling_CMIJK: Tensor, weight_FMIJK: Tensor) -> Tensor:
    """Double each axis by a transposed convolution, and convolve the result, in one step.

    Exact at the borders too: outside the fine map there is nothing that the coarse one would not
    have outside itself.

    Args:
        x_BCIJK: Coarse feature map.
        doubling_CMIJK: Kernel of 2x2x2, applied at a stride of 2.
        weight_FMIJK: Kernel of odd size n, which keeps the size.

    Returns:
        Shape (B, F, 2I, 2J, 2K).
    """
    size = weight_FMIJK.shape[-1]
    joined_CFIJK = functional.conv3d(doubling_CMIJK, weight_FMIJK, padding=size - 1)
    return functional.conv_transpose3d(
        channels_last(x_BCIJK), channels_last(joined_CFIJK), stride=2, padding=size // 2
    )
