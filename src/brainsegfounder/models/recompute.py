"""Keeping less for the backward pass: what is quickly computed again is not kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

Recipe = Callable[[], Tensor]


def forget(tensor: Tensor, recompute: Recipe) -> saved_tensors_hooks:
    """A context in which autograd keeps a way to compute a tensor, instead of the tensor.

    Not for code that runs under activation checkpointing, which forgets more by itself.

    Args:
        tensor: What the operations in the context would keep for the backward pass.
        recompute: Gives its values again; called in the backward pass, without gradients.
    """
    place, size = tensor.data_ptr(), tensor.numel()

    def pack(kept: Tensor) -> Tensor | Recipe:
        is_it = not kept.is_mkldnn and kept.data_ptr() == place and kept.numel() == size
        # It may be kept in another shape, such as a matrix of tokens.
        shape = kept.shape
        return (lambda: recompute().view(shape)) if is_it else kept

    def unpack(kept: Tensor | Recipe) -> Any:
        return kept if isinstance(kept, Tensor) else kept()

    return saved_tensors_hooks(pack, unpack)
