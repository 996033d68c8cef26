"""Attention with a learned bias, also fast where the fused kernel refuses one.

On CPU the fused kernel has no gradient for its mask; the generic path that replaces it keeps all
scores in memory several times over. Here the forward pass stays fused, and the backward pass
recomputes the scores in pieces that fit the cache.
"""

# Shape letters in this file: N windows, H heads, L queries, S keys, D channels of a head.

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

# Scores that the backward pass holds at once; a few MiB stay in a core's cache.
PIECE_BYTES = 4 << 20


def attend(
    q_NHLD: Tensor, k_NHSD: Tensor, v_NHSD: Tensor, bias_HLS: Tensor, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention with one bias for all windows.

    Args:
        q_NHLD: Queries.
        k_NHSD: Keys.
        v_NHSD: Values.
        bias_HLS: Added to the scores of every window.
        dropout: Rate on the attention weights.

    Returns:
        Shape (N, H, L, D).
    """
    bias_HLS = bias_HLS.to(q_NHLD.dtype)
    learns_bias = torch.is_grad_enabled() and bias_HLS.requires_grad
    if q_NHLD.device.type == "cpu" and learns_bias and dropout == 0.0:
        y_NHLD: Tensor = _Attention.apply(q_NHLD, k_NHSD, v_NHSD, bias_HLS)  # type: ignore[no-untyped-call]
        return y_NHLD
    if q_NHLD.device.type == "meta":
        return _attend_in_shape(q_NHLD, k_NHSD, v_NHSD, bias_HLS, dropout)
    return functional.scaled_dot_product_attention(
        q_NHLD, k_NHSD, v_NHSD, attn_mask=bias_HLS.unsqueeze(0), dropout_p=dropout
    )


def _attend_in_shape(
    q_NHLD: Tensor, k_NHSD: Tensor, v_NHSD: Tensor, bias_HLS: Tensor, dropout: float
) -> Tensor:
    """What a GPU's fused kernel makes of shapes; PyTorch would take the operation apart."""
    fused = torch.ops.aten._scaled_dot_product_efficient_attention
    bias_NHLS = bias_HLS.expand(len(q_NHLD), -1, -1, -1)
    y_NHLD: Tensor = fused(q_NHLD, k_NHSD, v_NHSD, bias_NHLS, True, dropout)[0]
    return y_NHLD


class _Attention(torch.autograd.Function):
    """Fused forward on CPU; see the module's docstring for the backward pass."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, q_NHLD: Tensor, k_NHSD: Tensor, v_NHSD: Tensor, bias_HLS: Tensor
    ) -> Tensor:
        y_NHLD, logsumexp_NHL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q_NHLD, k_NHSD, v_NHSD, attn_mask=bias_HLS.expand(len(q_NHLD), -1, -1, -1)
        )
        ctx.save_for_backward(q_NHLD, k_NHSD, v_NHSD, bias_HLS, y_NHLD, logsumexp_NHL)
        out: Tensor = y_NHLD
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_NHLD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q, k, v, bias_HLS, y, logsumexp_NHL = ctx.saved_tensors  # type: ignore[attr-defined]
        scale = 1.0 / math.sqrt(q.shape[-1])
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        exact = torch.promote_types(q.dtype, torch.float32)  # sums over windows in half go astray
        grad_bias_HLS = torch.zeros_like(bias_HLS, dtype=exact)
        size = max(1, PIECE_BYTES // (grad_bias_HLS.numel() * grad_bias_HLS.element_size()))
        for first in range(0, len(q), size):
            n = slice(first, first + size)
            # Each is used twice, and PyTorch would copy it for each product.
            keys, values, grad = (x[n].to(exact).contiguous() for x in (k, v, grad_NHLD))
            scaled_q = q[n].to(exact).contiguous() * scale
            # Of the softmax's gradient: every row of slopes loses its mean under the weights.
            mean_NHL1 = (grad * y[n]).sum(-1, keepdim=True)
            scores = torch.matmul(scaled_q, keys.transpose(-1, -2)).add_(bias_HLS)
            weights = scores.sub_(logsumexp_NHL[n].unsqueeze(-1)).exp_()
            grad_v[n] = torch.matmul(weights.transpose(-1, -2), grad)
            slopes = torch.matmul(grad, values.transpose(-1, -2)).sub_(mean_NHL1).mul_(weights)
            grad_q[n] = torch.matmul(slopes, keys).mul_(scale)
            grad_k[n] = torch.matmul(slopes.transpose(-1, -2), scaled_q)
            grad_bias_HLS += slopes.sum(0) if len(slopes) > 1 else slopes[0]
        return grad_q, grad_k, grad_v, grad_bias_HLS.to(bias_HLS.dtype)
