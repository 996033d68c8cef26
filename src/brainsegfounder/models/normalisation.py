"""Instance normalisation with what follows it, in as few passes over memory as a CPU allows.

Results replace their input where no gradient is wanted, and for the backward pass only the input of
a normalisation is kept: what was computed from it is computed again when it is needed.
"""

# Shape letters in this file: B cases, C channels, I J K axes of a feature map, N slabs, S voxels of
# a slab. On a CPU maps are in channels-last layout.

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from brainsegfounder.models.maps import empty_map
from brainsegfounder.models.slabs import Slabs, channels_last, runs_on_plain_cpu

NEGATIVE_SLOPE = 0.01
EPSILON = 1e-5


def normalise_and_activate(x_BCIJK: Tensor, *, overwrite: bool) -> Tensor:
    """Instance normalisation, then a leaky ReLU.

    Args:
        x_BCIJK: Feature map.
        overwrite: Whether the result may take the place of the input where no gradient is wanted.
    """
    if not runs_on_plain_cpu(x_BCIJK):
        y_BCIJK = functional.instance_norm(x_BCIJK, eps=EPSILON)
        return functional.leaky_relu(y_BCIJK, NEGATIVE_SLOPE, inplace=True)
    x_BCIJK = channels_last(x_BCIJK)
    if torch.is_grad_enabled() and x_BCIJK.requires_grad:
        out: Tensor = _NormaliseAndActivate.apply(x_BCIJK)  # type: ignore[no-untyped-call]
        return out
    slabs = Slabs(x_BCIJK)
    out_BCIJK = x_BCIJK if overwrite else empty_map(x_BCIJK.shape, x_BCIJK.dtype)
    return _activate(x_BCIJK, moments_of(x_BCIJK, slabs), slabs, out_BCIJK)


def normalise_add_and_activate(
    x_BCIJK: Tensor,
    shortcut_BCIJK: Tensor,
    *,
    normalise_shortcut: bool,
    shortcut_is_forgotten: bool = False,
) -> Tensor:
    """Normalise, add a shortcut that is normalised too or as it is, then a leaky ReLU.

    Args:
        x_BCIJK: Feature map; where no gradient is wanted, the result takes its place.
        shortcut_BCIJK: Feature map of the same shape.
        normalise_shortcut: Whether to normalise it too.
        shortcut_is_forgotten: Whether autograd computes the shortcut again (see `recompute`), so
            that its gradient may take the place of what comes.
    """
    if not runs_on_plain_cpu(x_BCIJK):
        y_BCIJK = functional.instance_norm(x_BCIJK, eps=EPSILON)
        if normalise_shortcut:
            shortcut_BCIJK = functional.instance_norm(shortcut_BCIJK, eps=EPSILON)
        return functional.leaky_relu(y_BCIJK + shortcut_BCIJK, NEGATIVE_SLOPE, inplace=True)
    x_BCIJK, shortcut_BCIJK = channels_last(x_BCIJK), channels_last(shortcut_BCIJK)
    if torch.is_grad_enabled() and (x_BCIJK.requires_grad or shortcut_BCIJK.requires_grad):
        out: Tensor = _NormaliseAddAndActivate.apply(  # type: ignore[no-untyped-call]
            x_BCIJK, shortcut_BCIJK, normalise_shortcut, shortcut_is_forgotten
        )
        return out
    slabs = Slabs(x_BCIJK)
    other = moments_of(shortcut_BCIJK, slabs) if normalise_shortcut else None
    moments = moments_of(x_BCIJK, slabs)
    return _join(x_BCIJK, shortcut_BCIJK, moments, other, slabs, out_BCIJK=x_BCIJK)


class Moments(NamedTuple):
    """Mean and inverse spread of each channel of each case, shape (B, C)."""

    mean_BC: Tensor  # noqa: N815 (shape letters)
    inverse_BC: Tensor  # noqa: N815


def moments_of(x_BCIJK: Tensor, slabs: Slabs) -> Moments:
    """Mean and spread over the voxels.

    Each slab's spread is taken around its own mean; Chan's formula adds what is between the means.
    """
    sums_BNC = slabs.sums(len(x_BCIJK))
    squares_BNC = torch.empty_like(sums_BNC)
    for case, number, scratch_SC, (x_SC,) in slabs.walk(x_BCIJK):
        sum_C = torch.sum(x_SC, 0, out=sums_BNC[case, number])
        torch.sub(x_SC, sum_C / len(x_SC), out=scratch_SC)
        torch.sum(scratch_SC.square_(), 0, out=squares_BNC[case, number])
    lengths_N1 = slabs.lengths_N.double().unsqueeze(1)
    mean_BC = sums_BNC.double().sum(1) / slabs.num_voxels
    gaps_BNC = sums_BNC.double() / lengths_N1 - mean_BC.unsqueeze(1)
    squares_BC = (squares_BNC + lengths_N1 * gaps_BNC.square()).sum(1)
    inverse_BC = (squares_BC / slabs.num_voxels + EPSILON).rsqrt()
    return Moments(mean_BC.to(x_BCIJK.dtype), inverse_BC.to(x_BCIJK.dtype))


def _activate(x_BCIJK: Tensor, moments: Moments, slabs: Slabs, out_BCIJK: Tensor) -> Tensor:
    scale_BC, offset_BC = as_line(moments)
    for case, _, _, (x_SC, out_SC) in slabs.walk(x_BCIJK, out_BCIJK):
        torch.addcmul(offset_BC[case], x_SC, scale_BC[case], out=out_SC)
        functional.leaky_relu(out_SC, NEGATIVE_SLOPE, inplace=True)
    return out_BCIJK


def _join(
    x_BCIJK: Tensor,
    shortcut_BCIJK: Tensor,
    moments: Moments,
    other: Moments | None,
    slabs: Slabs,
    out_BCIJK: Tensor,
) -> Tensor:
    scale_BC, offset_BC = as_line(moments)
    other_scale_BC, other_offset_BC = as_line(other) if other else (None, None)
    maps = (x_BCIJK, shortcut_BCIJK, out_BCIJK)
    for case, _, scratch_SC, (x_SC, shortcut_SC, out_SC) in slabs.walk(*maps):
        if other_scale_BC is not None and other_offset_BC is not None:
            shortcut_SC = torch.addcmul(
                other_offset_BC[case], shortcut_SC, other_scale_BC[case], out=scratch_SC
            )
        torch.addcmul(offset_BC[case], x_SC, scale_BC[case], out=out_SC)
        functional.leaky_relu(out_SC.add_(shortcut_SC), NEGATIVE_SLOPE, inplace=True)
    return out_BCIJK


def as_line(moments: Moments) -> tuple[Tensor, Tensor]:
    """Normalising as a scale and an offset."""
    return moments.inverse_BC, -moments.mean_BC * moments.inverse_BC


def before_activation(grad_SC: Tensor, signs_SC: Tensor, out: Tensor) -> Tensor:
    """The gradient before a leaky ReLU whose input, or output, had these signs."""
    result: Tensor = torch.ops.aten.leaky_relu_backward.grad_input(
        grad_SC, signs_SC, NEGATIVE_SLOPE, False, grad_input=out
    )
    return result


def before_normalising(
    grad_BCIJK: Tensor,
    grad_sums_BNC: Tensor,
    along_sums_BNC: Tensor,
    x_BCIJK: Tensor,
    moments: Moments,
    out_BCIJK: Tensor,
) -> None:
    """Turn the gradient of normalised values into that of the values.

    It loses its mean, and its projection on the normalised values, and is divided by the spread.

    Args:
        grad_BCIJK: Gradient of the normalised values.
        grad_sums_BNC: Its sums over the voxels of some parts.
        along_sums_BNC: The sums of its product with the normalised values.
        x_BCIJK: The values.
        moments: Of the values.
        out_BCIJK: Where to put the result; may be `grad_BCIJK`.
    """
    slabs = Slabs(x_BCIJK)
    mean_BC, inverse_BC = moments.mean_BC.double(), moments.inverse_BC.double()
    lost_BC = grad_sums_BNC.double().sum(1) / slabs.num_voxels
    along_BC = along_sums_BNC.double().sum(1) / slabs.num_voxels
    scale_BC = -along_BC * inverse_BC.square()
    offset_BC = (-lost_BC * inverse_BC - scale_BC * mean_BC).to(x_BCIJK.dtype)
    scale_BC = scale_BC.to(x_BCIJK.dtype)
    for case, _, scratch_SC, slab in slabs.walk(x_BCIJK, grad_BCIJK, out_BCIJK):
        x_SC, grad_SC, out_SC = slab
        torch.addcmul(offset_BC[case], x_SC, scale_BC[case], out=scratch_SC)
        torch.addcmul(scratch_SC, grad_SC, moments.inverse_BC[case], out=out_SC)


def _sums_along(grad_BCIJK: Tensor, x_BCIJK: Tensor, moments: Moments, slabs: Slabs) -> Tensor:
    """Sums over slabs of a gradient times the normalised values."""
    along_sums_BNC = slabs.sums(len(x_BCIJK))
    scale_BC, offset_BC = as_line(moments)
    for case, number, scratch_SC, (x_SC, grad_SC) in slabs.walk(x_BCIJK, grad_BCIJK):
        torch.addcmul(offset_BC[case], x_SC, scale_BC[case], out=scratch_SC)
        torch.sum(scratch_SC.mul_(grad_SC), 0, out=along_sums_BNC[case, number])
    return along_sums_BNC


class _NormaliseAndActivate(torch.autograd.Function):
    """Keeps its input and two numbers a channel, not its output."""

    @staticmethod
    def forward(ctx: FunctionCtx, x_BCIJK: Tensor) -> Tensor:
        slabs = Slabs(x_BCIJK)
        moments = moments_of(x_BCIJK, slabs)
        ctx.save_for_backward(x_BCIJK, *moments)
        return _activate(x_BCIJK, moments, slabs, empty_map(x_BCIJK.shape, x_BCIJK.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_BCIJK: Tensor) -> Tensor:
        x_BCIJK, *kept = ctx.saved_tensors  # type: ignore[attr-defined]
        moments, slabs = Moments(*kept), Slabs(x_BCIJK)
        result_BCIJK = empty_map(x_BCIJK.shape, x_BCIJK.dtype)
        grad_sums_BNC, along_sums_BNC = slabs.sums(len(x_BCIJK)), slabs.sums(len(x_BCIJK))
        maps = (x_BCIJK, channels_last(grad_BCIJK), result_BCIJK)
        scale_BC, offset_BC = as_line(moments)
        for case, number, scratch_SC, (x_SC, grad_SC, result_SC) in slabs.walk(*maps):
            torch.addcmul(offset_BC[case], x_SC, scale_BC[case], out=scratch_SC)
            before_activation(grad_SC, scratch_SC, out=result_SC)
            torch.sum(result_SC, 0, out=grad_sums_BNC[case, number])
            torch.sum(scratch_SC.mul_(result_SC), 0, out=along_sums_BNC[case, number])
        before_normalising(
            result_BCIJK, grad_sums_BNC, along_sums_BNC, x_BCIJK, moments, result_BCIJK
        )
        return result_BCIJK


class _NormaliseAddAndActivate(torch.autograd.Function):
    """Keeps its inputs, and its output for the signs alone, which the next layer keeps anyway."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x_BCIJK: Tensor,
        shortcut_BCIJK: Tensor,
        normalise_shortcut: bool,
        shortcut_is_forgotten: bool,
    ) -> Tensor:
        slabs = Slabs(x_BCIJK)
        moments = moments_of(x_BCIJK, slabs)
        other = moments_of(shortcut_BCIJK, slabs) if normalise_shortcut else None
        out_BCIJK = empty_map(x_BCIJK.shape, x_BCIJK.dtype)
        _join(x_BCIJK, shortcut_BCIJK, moments, other, slabs, out_BCIJK)
        kept = (shortcut_BCIJK, *other) if other else ()
        ctx.save_for_backward(out_BCIJK, x_BCIJK, *moments, *kept)
        ctx.shortcut_is_forgotten = shortcut_is_forgotten  # type: ignore[attr-defined]
        return out_BCIJK

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_BCIJK: Tensor) -> tuple[Tensor, Tensor, None, None]:
        out_BCIJK, x_BCIJK, mean_BC, inverse_BC, *kept = ctx.saved_tensors  # type: ignore[attr-defined]
        slabs = Slabs(x_BCIJK)
        joined_BCIJK = empty_map(x_BCIJK.shape, x_BCIJK.dtype)
        grad_sums_BNC = slabs.sums(len(x_BCIJK))
        maps = (out_BCIJK, channels_last(grad_BCIJK), joined_BCIJK)
        for case, number, _, (out_SC, grad_SC, joined_SC) in slabs.walk(*maps):
            before_activation(grad_SC, out_SC, out=joined_SC)
            torch.sum(joined_SC, 0, out=grad_sums_BNC[case, number])
        shortcut_grad_BCIJK = _place_for_shortcut(ctx, joined_BCIJK, kept)
        if kept:
            parts = (kept[0], Moments(*kept[1:]))
            along_sums_BNC = _sums_along(joined_BCIJK, *parts, slabs)
            before_normalising(
                joined_BCIJK, grad_sums_BNC, along_sums_BNC, *parts, shortcut_grad_BCIJK
            )
        parts = (x_BCIJK, Moments(mean_BC, inverse_BC))
        along_sums_BNC = _sums_along(joined_BCIJK, *parts, slabs)
        before_normalising(joined_BCIJK, grad_sums_BNC, along_sums_BNC, *parts, joined_BCIJK)
        return joined_BCIJK, shortcut_grad_BCIJK, None, None


def _place_for_shortcut(ctx: FunctionCtx, joined_BCIJK: Tensor, kept: list[Tensor]) -> Tensor:
    """Where the gradient of the shortcut goes; where that is not normalised, it is there now."""
    if not kept:
        return joined_BCIJK.clone()
    if ctx.shortcut_is_forgotten:  # type: ignore[attr-defined]
        return kept[0]
    return empty_map(joined_BCIJK.shape, joined_BCIJK.dtype)
