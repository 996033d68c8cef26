"""What a training step costs, found without computing it.

The step runs on the `meta` device, where tensors have shapes and no values. So it takes the paths
of a GPU, not those that are there for a CPU alone, and costs a few seconds whatever its size.
Counted are floating-point operations (two for a multiply-add; matrix products and convolutions
alone, as `torch.utils.flop_counter` does), bytes that operations read and write, and bytes that are
alive at once. Attention counts as a GPU's fused kernel does it (see `attention.attend`): scores are
not stored, and computed again in the backward pass.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True, slots=True)
class StepCost:
    """What one forward and one backward pass cost; the optimiser's step is not in it.

    Attributes:
        num_parameters: Numbers that are learnt.
        forward_flop: Floating-point operations of the forward pass.
        flop: Of both passes, with what is computed again under activation checkpointing.
        moved_bytes: What operations read and write, each on its own, in the precision counted in.
        peak_bytes: Most that is alive at once: weights, gradients, what is kept for the backward
            pass, and what is between; in the precision counted in.
    """

    num_parameters: int
    forward_flop: int
    flop: int
    moved_bytes: int
    peak_bytes: int


def count_step(network: nn.Module, loss: Callable[[], Tensor]) -> StepCost:
    """Count what a step costs.

    Args:
        network: On the device `meta`.
        loss: Makes the scalar to go back from, of inputs on `meta`.
    """
    memory = _Memory()
    for parameter in network.parameters():
        memory.note(parameter)
    with FlopCounterMode(display=False) as products, memory:
        total = loss()
        forward_flop = products.get_total_flops()
        total.backward()  # type: ignore[no-untyped-call]
    return StepCost(
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        forward_flop=forward_flop,
        flop=products.get_total_flops(),
        moved_bytes=memory.moved_bytes,
        peak_bytes=memory.peak_bytes,
    )


def count_forward(network: nn.Module, window: Tensor) -> int:
    """Most bytes that are alive at once in a forward pass without gradients, weights included.

    Args:
        network: On the device `meta`.
        window: Its input, on `meta`.
    """
    memory = _Memory()
    for parameter in network.parameters():
        memory.note(parameter)
    with torch.no_grad(), memory:
        network(window)
    return memory.peak_bytes


class _Memory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows which memory is alive, and what operations read and write."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moved_bytes = self.peak_bytes = self._alive_bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        read = list(_tensors((args, kwargs)))
        for tensor in read:
            self.note(tensor)
        written = list(_tensors(result))
        # A view, or what only looks at its input, moves nothing.
        makes_new = [self.note(tensor) for tensor in written]
        if any(makes_new) or func._schema.is_mutable:
            self.moved_bytes += sum(_num_bytes(tensor) for tensor in (*read, *written))
        return result

    def note(self, tensor: Tensor) -> bool:
        """Follow a tensor's memory until it is freed; say whether it was not known yet."""
        storage = tensor.untyped_storage()
        key, num_bytes = storage._cdata, storage.nbytes()
        if key in self._known:
            return False
        self._known.add(key)
        self._alive_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self._alive_bytes)
        weakref.finalize(storage, self._forget, key, num_bytes).atexit = False
        return True

    def _forget(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self._alive_bytes -= num_bytes


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_iter(tree) if isinstance(leaf, Tensor))


def _num_bytes(tensor: Tensor) -> int:
    """What lies in memory; a value that is repeated by a stride of 0 does so once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
