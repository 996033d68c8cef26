"""Normalise, activate and convolve without ever holding the activated map.

On a CPU, large maps are taken some rows at a time: the rows and their two neighbours are activated
in a buffer that stays in the cache, and convolved from there. The backward pass does the same, so
that neither the activated map nor its gradient ever exists as a whole.
"""

# Shape letters in this file: B cases, C channels in, F channels out, I J K axes of a feature map,
# R rows along I, S voxels of some rows, N parts of a map.

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from brainsegfounder.models import winograd
from brainsegfounder.models.convolution import convolve, mirrored
from brainsegfounder.models.maps import empty_map
from brainsegfounder.models.normalisation import (
    NEGATIVE_SLOPE,
    Moments,
    as_line,
    before_activation,
    before_normalising,
    moments_of,
    normalise_and_activate,
)
from brainsegfounder.models.slabs import (
    Slabs,
    as_voxels,
    channels_last,
    row_parts,
    row_spans,
    rows_of,
    runs_on_plain_cpu,
    with_neighbours,
)


def activate_and_convolve(x_BCIJK: Tensor, layer: nn.Conv3d) -> Tensor:
    """Normalise, activate and convolve with a 3x3x3 kernel; the input may be overwritten."""
    is_plain = runs_on_plain_cpu(x_BCIJK) and layer.bias is None
    if not (is_plain and winograd.pays(x_BCIJK.shape, layer.out_channels)):
        return convolve(normalise_and_activate(x_BCIJK, overwrite=True), layer)
    out: Tensor = _ActivateAndConvolve.apply(  # type: ignore[no-untyped-call]
        channels_last(x_BCIJK), layer.weight
    )
    return out


class _Rows:
    """Gives some rows of a map, activated and with one more row on either side."""

    def __init__(self, x_BCIJK: Tensor, moments: Moments) -> None:
        self.x_BCIJK, self.line = x_BCIJK, as_line(moments)
        self.spans = row_spans(x_BCIJK)
        _, c, _, j, k = x_BCIJK.shape
        longest = self.spans[0][1] - self.spans[0][0]
        self._buffer_BCRJK = empty_map((1, c, longest + 2, j, k), x_BCIJK.dtype)

    def sums(self) -> Tensor:
        """A place for the sums of each part, shape (B, N, C)."""
        return self.x_BCIJK.new_empty(len(self.x_BCIJK), len(self.spans), self.x_BCIJK.shape[1])

    def number(self, case: int, first: int, _: int) -> tuple[int, int]:
        """Case and number within it of a part."""
        return case, first // self.spans[0][1]

    def activated(self, case: int, first: int, last: int) -> Tensor:
        """Rows [first - 1, last + 1), zero outside the map; shape (1, C, R + 2, J, K)."""
        rows_BCRJK = self._buffer_BCRJK[:, :, : last - first + 2]
        start, stop = max(first - 1, 0), min(last + 1, self.x_BCIJK.shape[2])
        inner_SC = _rows_as_voxels(rows_BCRJK, 0, start - first + 1, stop - first + 1)
        self._normalise(case, start, stop, inner_SC)
        functional.leaky_relu(inner_SC, NEGATIVE_SLOPE, inplace=True)
        if start == first:
            rows_BCRJK[:, :, 0].zero_()
        if stop == last:
            rows_BCRJK[:, :, -1].zero_()
        return rows_BCRJK

    def normalised(self, case: int, first: int, last: int) -> Tensor:
        """Rows [first, last) before the activation, shape (S, C)."""
        out_SC = _rows_as_voxels(self._buffer_BCRJK, 0, 0, last - first)
        self._normalise(case, first, last, out_SC)
        return out_SC

    def _normalise(self, case: int, first: int, last: int, out_SC: Tensor) -> None:
        scale_BC, offset_BC = self.line
        x_SC = _rows_as_voxels(self.x_BCIJK, case, first, last)
        torch.addcmul(offset_BC[case], x_SC, scale_BC[case], out=out_SC)


def _rows_as_voxels(x_BCIJK: Tensor, case: int, first: int, last: int) -> Tensor:
    """A view of some rows of a channels-last map, shape (S, C)."""
    return as_voxels(rows_of(x_BCIJK, case, first, last))[0]


class _ActivateAndConvolve(torch.autograd.Function):
    """Keeps its input and two numbers a channel."""

    @staticmethod
    def forward(ctx: FunctionCtx, x_BCIJK: Tensor, weight_FCIJK: Tensor) -> Tensor:
        b, _, i, j, k = x_BCIJK.shape
        moments = moments_of(x_BCIJK, Slabs(x_BCIJK))
        rows = _Rows(x_BCIJK, moments)
        out_BFIJK = empty_map((b, len(weight_FCIJK), i, j, k), x_BCIJK.dtype)
        kernel = winograd.RowConvolution(weight_FCIJK)
        for part in row_parts(x_BCIJK):
            kernel.apply(rows.activated(*part), rows_of(out_BFIJK, *part))
        ctx.save_for_backward(x_BCIJK, weight_FCIJK, *moments)
        return out_BFIJK

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_BFIJK: Tensor) -> tuple[Tensor, Tensor]:
        x_BCIJK, weight_FCIJK, *kept = ctx.saved_tensors  # type: ignore[attr-defined]
        grad_BFIJK, moments = channels_last(grad_BFIJK), Moments(*kept)
        rows, result_BCIJK = _Rows(x_BCIJK, moments), empty_map(x_BCIJK.shape, x_BCIJK.dtype)
        kernel = winograd.RowConvolution(mirrored(weight_FCIJK))
        gradient = winograd.RowKernelGradient(weight_FCIJK)
        grad_sums_BNC, along_sums_BNC = rows.sums(), rows.sums()
        for part in row_parts(x_BCIJK):
            gradient.add(rows.activated(*part), rows_of(grad_BFIJK, *part))
            kernel.apply(with_neighbours(grad_BFIJK, *part), rows_of(result_BCIJK, *part))
            result_SC = _rows_as_voxels(result_BCIJK, *part)
            normalised_SC = rows.normalised(*part)
            before_activation(result_SC, normalised_SC, out=result_SC)
            case, number = rows.number(*part)
            torch.sum(result_SC, 0, out=grad_sums_BNC[case, number])
            torch.sum(normalised_SC.mul_(result_SC), 0, out=along_sums_BNC[case, number])
        before_normalising(
            result_BCIJK, grad_sums_BNC, along_sums_BNC, x_BCIJK, moments, result_BCIJK
        )
        return result_BCIJK, gradient.result()
