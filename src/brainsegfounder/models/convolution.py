"""Convolutions along the path of PyTorch that is fastest on a CPU; elsewhere as they are.

Three things decide the speed of a 3-D convolution on a CPU: that oneDNN does it, that it gets its
maps in channels-last layout, and that work which cancels is not done. Doubling a map by a
transposed convolution and convolving the result is one transposed convolution with a larger kernel,
for 8 instead of 27 products a voxel.
"""

# Shape letters in this file: B cases, C channels, M channels between two layers, F channels out,
# I J K axes of a feature map or kernel, R rows along I.

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from brainsegfounder.models.slabs import (
    channels_last,
    row_spans,
    runs_on_plain_cpu,
    with_neighbours,
)

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
    """Whether `add_convolved_double` is faster for a coarse map than one layer after the other."""
    num_voxels = 8 * len(x_BCIJK) * x_BCIJK[0, 0].numel()
    is_worth_it = num_voxels >= _VOXELS_PER_CHANNEL_TO_JOIN * x_BCIJK.shape[1]
    return is_worth_it and runs_on_plain_cpu(x_BCIJK)


def add_convolved_double(
    y_BFIJK: Tensor, x_BCIJK: Tensor, doubling_CMIJK: Tensor, weight_FMIJK: Tensor
) -> Tensor:
    """Double each axis by a transposed convolution, convolve the result, and add it, in one step.

    Exact at the borders too: outside the fine map there is nothing that the coarse one would not
    have outside itself.

    Args:
        y_BFIJK: What to add to, in place; shape (B, F, 2I, 2J, 2K), channels last.
        x_BCIJK: Coarse feature map.
        doubling_CMIJK: Kernel of 2x2x2, applied at a stride of 2.
        weight_FMIJK: Kernel of 1x1x1 or 3x3x3, which keeps the size.
    """
    joined_CFIJK = functional.conv3d(
        doubling_CMIJK, weight_FMIJK, padding=weight_FMIJK.shape[-1] - 1
    )
    out: Tensor = _AddDouble.apply(  # type: ignore[no-untyped-call]
        y_BFIJK, channels_last(x_BCIJK), channels_last(joined_CFIJK)
    )
    return out


class _AddDouble(torch.autograd.Function):
    """Adds a transposed convolution of stride 2, some rows at a time; keeps the coarse map."""

    @staticmethod
    def forward(ctx: FunctionCtx, y_BFIJK: Tensor, x_BCIJK: Tensor, kernel_CFIJK: Tensor) -> Tensor:
        ctx.save_for_backward(x_BCIJK, kernel_CFIJK)
        ctx.mark_dirty(y_BFIJK)
        border = kernel_CFIJK.shape[-1] // 2 - 1
        # Rows come with a neighbour on either side, which gives two rows too many on either side.
        padding = (border + 2, border, border)
        for case in range(len(x_BCIJK)):
            for first, last in row_spans(y_BFIJK):
                rows = (case, first // 2, -(-last // 2))
                fine_BFRJK = functional.conv_transpose3d(
                    with_neighbours(x_BCIJK, *rows), kernel_CFIJK, stride=2, padding=padding
                )
                skipped = first - 2 * rows[1]
                fine_BFRJK = fine_BFRJK[:, :, skipped : skipped + last - first]
                y_BFIJK[case : case + 1, :, first:last].add_(fine_BFRJK)
        return y_BFIJK

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_BFIJK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_BCIJK, kernel_CFIJK = ctx.saved_tensors  # type: ignore[attr-defined]
        border = kernel_CFIJK.shape[-1] // 2 - 1
        grad_x_BCIJK, grad_kernel_CFIJK, _ = torch.ops.aten.convolution_backward(
            *(channels_last(grad_BFIJK), x_BCIJK, kernel_CFIJK, None, [2, 2, 2], [border] * 3),
            *([1, 1, 1], True, [0, 0, 0], 1, [True, True, False]),
        )
        return grad_BFIJK, grad_x_BCIJK, grad_kernel_CFIJK
