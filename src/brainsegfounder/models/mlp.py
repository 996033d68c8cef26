"""The MLP of a transformer block without its wide map ever being walked through as a whole.

Between its two linear layers an MLP is four times as wide. On a CPU that map, its GELU and the
gradients of both are far larger than the cache. So tokens are taken in slabs: a slab is widened,
activated and narrowed while it is in the cache. For the backward pass only the wide map is kept.
"""

# Shape letters in this file: V tokens, S tokens of a slab, C channels, F = 4 C channels inside.

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from brainsegfounder.models.maps import empty_scratch
from brainsegfounder.models.slabs import SLAB_BYTES

# Fewer tokens at a time make matrix products slow.
_LEAST_TOKENS = 256


def widen_and_narrow(
    x_VC: Tensor, widening_FC: Tensor, bias_F: Tensor, narrowing_CF: Tensor, bias_C: Tensor
) -> Tensor:
    """A linear layer, an exact GELU, a linear layer; in float32 or float64 on a CPU.

    Returns:
        Shape (V, C).
    """
    keeps = torch.is_grad_enabled()
    out: Tensor = _WidenAndNarrow.apply(  # type: ignore[no-untyped-call]
        x_VC, widening_FC, bias_F, narrowing_CF, bias_C, keeps
    )
    return out


class _WidenAndNarrow(torch.autograd.Function):
    """Keeps the wide map before its GELU."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x_VC: Tensor,
        widening_FC: Tensor,
        bias_F: Tensor,
        narrowing_CF: Tensor,
        bias_C: Tensor,
        keeps: bool,
    ) -> Tensor:
        num_wide = len(widening_FC)
        wide_VF = _empty(len(x_VC), num_wide, x_VC) if keeps else None
        y_VC = _empty(len(x_VC), len(narrowing_CF), x_VC)
        for span, inner_SF in _slabs(x_VC, num_wide):
            wide_SF = inner_SF if wide_VF is None else wide_VF[span]
            torch.addmm(bias_F, x_VC[span], widening_FC.t(), out=wide_SF)
            torch.ops.aten.gelu.out(wide_SF, out=inner_SF)
            torch.addmm(bias_C, inner_SF, narrowing_CF.t(), out=y_VC[span])
        if wide_VF is not None:
            ctx.save_for_backward(x_VC, wide_VF, widening_FC, narrowing_CF)
        return y_VC

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_VC: Tensor) -> tuple[Tensor | None, ...]:
        x_VC, wide_VF, widening_FC, narrowing_CF = ctx.saved_tensors  # type: ignore[attr-defined]
        grad_x_VC = _empty(len(x_VC), x_VC.shape[1], x_VC)
        grad_widening_FC = torch.zeros_like(widening_FC)
        grad_narrowing_CF = torch.zeros_like(narrowing_CF)
        grad_bias_F = widening_FC.new_zeros(len(widening_FC))
        slope_scratch_SF = None
        for span, inner_SF in _slabs(x_VC, len(widening_FC)):
            if slope_scratch_SF is None:
                slope_scratch_SF = torch.empty_like(inner_SF)
            slope_SF, wide_SF = slope_scratch_SF[: len(inner_SF)], wide_VF[span]
            torch.ops.aten.gelu.out(wide_SF, out=inner_SF)
            grad_narrowing_CF.addmm_(grad_VC[span].t(), inner_SF)
            torch.mm(grad_VC[span], narrowing_CF, out=slope_SF)
            torch.ops.aten.gelu_backward.grad_input(slope_SF, wide_SF, grad_input=slope_SF)
            grad_widening_FC.addmm_(slope_SF.t(), x_VC[span])
            grad_bias_F += slope_SF.sum(0)
            torch.mm(slope_SF, widening_FC, out=grad_x_VC[span])
        grad_bias_C = grad_VC.sum(0)
        return grad_x_VC, grad_widening_FC, grad_bias_F, grad_narrowing_CF, grad_bias_C, None


def _slabs(x_VC: Tensor, num_wide: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield some tokens after others, each with scratch of shape (S, F)."""
    fitting = SLAB_BYTES * torch.get_num_threads() // (num_wide * x_VC.element_size())
    length = min(len(x_VC), max(_LEAST_TOKENS, fitting))
    scratch_SF = x_VC.new_empty(length, num_wide)
    for first in range(0, len(x_VC), length):
        span = slice(first, min(first + length, len(x_VC)))
        yield span, scratch_SF[: span.stop - first]


def _empty(num_tokens: int, channels: int, like: Tensor) -> Tensor:
    return empty_scratch((1, num_tokens, channels), like.dtype)[0]
