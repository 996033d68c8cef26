"""Convolutions along the path that is fastest on a CPU; elsewhere as they are.

Maps are in channels-last layout. Large ones are convolved some rows at a time with half the
products, and results go to memory that is used again; a convolution of single voxels is one matrix
product; so is one of few voxels and many channels, where PyTorch is slow. Doubling a map by a
transposed convolution and convolving the result is one transposed convolution with a larger kernel,
for 8 instead of 27 products a voxel.
"""

# Shape letters in this file: B cases, C channels, M channels between two layers, F channels out,
# I J K axes of a feature map or kernel, R rows along I, V voxels, S voxels of a slab.

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from brainsegfounder.models import winograd
from brainsegfounder.models.maps import empty_map
from brainsegfounder.models.slabs import (
    Slabs,
    as_voxels,
    channels_last,
    row_parts,
    rows_of,
    runs_on_plain_cpu,
    with_neighbours,
)

# PyTorch convolves a single float32 case with C * I * J up to this number by a loop that is about
# ten times slower than oneDNN (`use_mkldnn` in ATen/native/Convolution.cpp).
_SMALL_FOR_PYTORCH = 20480
# Up to this number of voxels a convolution is fastest as one matrix product.
_FEW_VOXELS = 512
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
    x_BCIJK = channels_last(x_BCIJK)
    if weight_FCIJK.shape[2:].numel() == 1:
        y_BFIJK: Tensor = _ConvolveVoxels.apply(  # type: ignore[no-untyped-call]
            x_BCIJK, weight_FCIJK.flatten(1)
        )
    elif winograd.pays(x_BCIJK.shape, len(weight_FCIJK)):
        y_BFIJK = _ConvolveRows.apply(x_BCIJK, weight_FCIJK)  # type: ignore[no-untyped-call]
    elif len(x_BCIJK) * x_BCIJK[0, 0].numel() <= _FEW_VOXELS:
        y_BFIJK = _convolve_few(x_BCIJK, weight_FCIJK)
    elif _is_slow_in_pytorch(x_BCIJK):
        padding = weight_FCIJK.shape[-1] // 2
        y_BFIJK = functional.conv3d(x_BCIJK.to_mkldnn(), weight_FCIJK, padding=padding)
        y_BFIJK = channels_last(y_BFIJK.to_dense())
    else:
        return functional.conv3d(
            x_BCIJK, channels_last(weight_FCIJK), layer.bias, padding=layer.padding
        )
    return y_BFIJK if layer.bias is None else y_BFIJK.add_(layer.bias.view(-1, 1, 1, 1))


def _is_slow_in_pytorch(x_BCIJK: Tensor) -> bool:
    is_small = len(x_BCIJK) == 1 and x_BCIJK[..., 0].numel() <= _SMALL_FOR_PYTORCH
    return is_small and x_BCIJK.dtype == torch.float32


def _convolve_few(x_BCIJK: Tensor, weight_FCIJK: Tensor) -> Tensor:
    """Convolve few voxels as one matrix product; the kernel is not copied."""
    size = weight_FCIJK.shape[-1]
    b, i, j, k = len(x_BCIJK), *x_BCIJK.shape[2:]
    padded_BIJKC = functional.pad(x_BCIJK, (size // 2,) * 6).permute(0, 2, 3, 4, 1)
    for axis in (1, 2, 3):
        padded_BIJKC = padded_BIJKC.unfold(axis, size, 1)
    # The last three axes are those of the kernel now; channels go behind them.
    columns_VP = padded_BIJKC.permute(0, 1, 2, 3, 5, 6, 7, 4).reshape(b * i * j * k, -1)
    weight_FP = weight_FCIJK.permute(0, 2, 3, 4, 1).flatten(1)
    return (columns_VP @ weight_FP.t()).view(b, i, j, k, -1).permute(0, 4, 1, 2, 3)


class _ConvolveVoxels(torch.autograd.Function):
    """A 1x1x1 convolution with a matrix (F, C)."""

    @staticmethod
    def forward(ctx: FunctionCtx, x_BCIJK: Tensor, weight_FC: Tensor) -> Tensor:
        ctx.save_for_backward(x_BCIJK, weight_FC)
        return _mix_channels(x_BCIJK, weight_FC.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_BFIJK: Tensor) -> tuple[Tensor | None, Tensor]:
        x_BCIJK, weight_FC = ctx.saved_tensors  # type: ignore[attr-defined]
        grad_BFIJK = channels_last(grad_BFIJK)
        weight_grad_FC = torch.zeros_like(weight_FC)
        for _, _, _, (grad_SF, x_SC) in Slabs(x_BCIJK).walk(grad_BFIJK, x_BCIJK):
            weight_grad_FC.addmm_(grad_SF.t(), x_SC)
        wants_x = ctx.needs_input_grad[0]  # type: ignore[attr-defined]
        return _mix_channels(grad_BFIJK, weight_FC) if wants_x else None, weight_grad_FC


def _mix_channels(x_BCIJK: Tensor, weight_CF: Tensor) -> Tensor:
    """A matrix applied to the channels of each voxel."""
    y_BFIJK = empty_map((len(x_BCIJK), weight_CF.shape[1], *x_BCIJK.shape[2:]), x_BCIJK.dtype)
    torch.mm(as_voxels(x_BCIJK).flatten(0, 1), weight_CF, out=as_voxels(y_BFIJK).flatten(0, 1))
    return y_BFIJK


class _ConvolveRows(torch.autograd.Function):
    """A 3x3x3 convolution some rows at a time."""

    @staticmethod
    def forward(ctx: FunctionCtx, x_BCIJK: Tensor, weight_FCIJK: Tensor) -> Tensor:
        ctx.save_for_backward(x_BCIJK, weight_FCIJK)
        return _convolve_rows(x_BCIJK, weight_FCIJK)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_BFIJK: Tensor) -> tuple[Tensor | None, Tensor]:
        x_BCIJK, weight_FCIJK = ctx.saved_tensors  # type: ignore[attr-defined]
        grad_BFIJK = channels_last(grad_BFIJK)
        gradient = winograd.RowKernelGradient(weight_FCIJK)
        for part in row_parts(x_BCIJK):
            gradient.add(with_neighbours(x_BCIJK, *part), rows_of(grad_BFIJK, *part))
        wants_x = ctx.needs_input_grad[0]  # type: ignore[attr-defined]
        x_grad_BCIJK = _convolve_rows(grad_BFIJK, mirrored(weight_FCIJK)) if wants_x else None
        return x_grad_BCIJK, gradient.result()


def _convolve_rows(x_BCIJK: Tensor, weight_FCIJK: Tensor) -> Tensor:
    y_BFIJK = empty_map((len(x_BCIJK), len(weight_FCIJK), *x_BCIJK.shape[2:]), x_BCIJK.dtype)
    kernel = winograd.RowConvolution(weight_FCIJK)
    for part in row_parts(x_BCIJK):
        kernel.apply(with_neighbours(x_BCIJK, *part), rows_of(y_BFIJK, *part))
    return y_BFIJK


def mirrored(weight_FCIJK: Tensor) -> Tensor:
    """The kernel through which a gradient goes back, shape (C, F, I, J, K)."""
    return weight_FCIJK.flip(2, 3, 4).transpose(0, 1)


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
        add_rows = _add_doubled_voxels if kernel_CFIJK.shape[-1] == 2 else _add_doubled_rows
        for case, first, last in row_parts(y_BFIJK):
            coarse = (case, first // 2, last // 2)
            add_rows(rows_of(y_BFIJK, case, first, last), x_BCIJK, coarse, kernel_CFIJK)
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


def _add_doubled_rows(
    y_BFRJK: Tensor, x_BCIJK: Tensor, rows: tuple[int, int, int], kernel_CFIJK: Tensor
) -> None:
    """Add what rows of a coarse map give, with a kernel of 4x4x4."""
    # Rows come with a neighbour on either side, which gives two rows too many on either side.
    y_BFRJK += functional.conv_transpose3d(
        with_neighbours(x_BCIJK, *rows), kernel_CFIJK, stride=2, padding=(3, 1, 1)
    )


def _add_doubled_voxels(
    y_BFRJK: Tensor, x_BCIJK: Tensor, rows: tuple[int, int, int], kernel_CFIJK: Tensor
) -> None:
    """The same with a kernel of 2x2x2, where each voxel gives eight and no two meet."""
    case, first, last = rows
    x_RJKC = x_BCIJK[case, :, first:last].permute(1, 2, 3, 0)
    r, j, k, c = x_RJKC.shape
    kernel_CP = kernel_CFIJK.permute(0, 2, 3, 4, 1).reshape(c, -1)
    fine = (x_RJKC.reshape(-1, c) @ kernel_CP).view(r, j, k, 2, 2, 2, -1)
    y_RJKF = y_BFRJK[0].permute(1, 2, 3, 0)
    y_RJKF.view(r, 2, j, 2, k, 2, -1).add_(fine.permute(0, 3, 1, 4, 2, 5, 6))
