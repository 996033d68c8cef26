"""One network on several processes: gradients averaged (DDP), or its blocks sharded (FSDP2).

Whatever the form, parameters have the names that they have on one process, and `whole_tensor` and
`placed_like` turn what a process holds into what a checkpoint holds, and back. So a run can go on
on any number of processes, sharded or not.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from brainsegfounder.distributed import is_joined, largest, num_processes
from brainsegfounder.errors import UsageError

Sharding = Literal["none", "blocks"]
# Class names of what is sharded by itself; the rest of a network is sharded as one.
BLOCKS = ("SwinBlock",)


@dataclass(frozen=True, slots=True)
class Spread:
    """A network as the processes of a run hold it.

    Attributes:
        model: Its parameters are trained; they are parts of the whole ones where it is sharded.
        forward: What a loss is given to call; gradients are brought together in its backward pass.
        original: The network as one process has it; the same as `model` where it is not sharded.
    """

    model: nn.Module
    forward: nn.Module
    original: nn.Module

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds only a part of the parameters."""
        return self.model is not self.original

    def collecting(self, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """A while in which gradients are added up, and brought together only if it is the last.

        Args:
            is_last: Whether a step follows on the backward pass within.
        """
        if self.is_sharded:
            self.model.set_requires_gradient_sync(is_last)  # type: ignore[operator]
        elif self.forward is not self.model and not is_last:
            return cast(
                contextlib.AbstractContextManager[None],
                self.forward.no_sync(),  # type: ignore[operator]
            )
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """The network with all its weights; to be entered by all processes.

        Between such times the whole copy of a sharded network is not on the device.
        """
        if not self.is_sharded:
            yield self.model
            return
        device = next(self.model.parameters()).device
        self.original.to(device).load_state_dict(
            {name: whole_tensor(value) for name, value in self.model.state_dict().items()}
        )
        self.original.train(self.model.training)
        try:
            yield self.original
        finally:
            self.original.to("cpu")


def spread(network: nn.Module, sharding: Sharding = "none") -> Spread:
    """Let the processes of a run hold a network; on one process it stays as it is.

    Args:
        network: On the device, the same on every process.
        sharding: `none`: every process holds all of it; `blocks`: each holds its part of every
            transformer block, and of the rest.

    Raises:
        UsageError: This PyTorch, or this network, cannot be sharded.
    """
    if not is_joined():
        return Spread(network, network, network)
    if sharding == "blocks":
        sharded = _shard(copy.deepcopy(network))
        return Spread(sharded, sharded, network.to("cpu"))
    return Spread(network, _average(network), network)


def whole_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor of which each process may hold a part; to be called by all processes."""
    if not hasattr(tensor, "full_tensor"):
        return tensor
    whole: Tensor = tensor.full_tensor()
    return whole


def placed_like(whole: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, held as another is: on its device, and only this process's part of it."""
    if not hasattr(like, "full_tensor"):
        return whole.to(like.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    held = cast(DTensor, like)
    return distribute_tensor(
        whole.to(like.device), held.device_mesh, held.placements, src_data_rank=None
    )


def clip_gradients(model: nn.Module, largest_norm: float) -> float:
    """Scale all gradients so that their norm is at most so much; their norm before."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), largest_norm)
    return float(whole_tensor(norm))


def is_finite(model: nn.Module) -> bool:
    """Whether every weight on every process is a finite number."""
    parts = (value.to_local() if hasattr(value, "to_local") else value for value in _state(model))
    return largest(int(not all(bool(part.isfinite().all()) for part in parts))) == 0


def _state(model: nn.Module) -> list[Tensor]:
    return list(model.state_dict().values())


def _average(network: nn.Module) -> nn.Module:
    device = next(network.parameters()).device
    # Sides of 1 have no order in memory, which PyTorch takes for a wrong one.
    warnings.filterwarnings("ignore", message="Grad strides do not match")
    with warnings.catch_warnings():
        # The new name of the setting would send the buffers, which never change, once.
        warnings.simplefilter("ignore", FutureWarning)
        return nn.parallel.DistributedDataParallel(
            network,
            device_ids=[device] if device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )


def _shard(network: nn.Module) -> nn.Module:
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
    except ImportError as error:
        raise UsageError(
            f"sharding blocks: this PyTorch ({torch.__version__}) has no FSDP2 ({error}); expected "
            "2.8 or newer. Set sharding to none, or install another PyTorch."
        ) from None
    for parameter in network.parameters():  # it shards only what lies in memory in plain order
        parameter.data = parameter.data.contiguous()
    device = next(network.parameters()).device
    mesh = init_device_mesh(device.type, (num_processes(),))
    try:
        for module in network.modules():
            if type(module).__name__ in BLOCKS:
                fully_shard(module, mesh=mesh)
        fully_shard(network, mesh=mesh)
    except (NotImplementedError, ValueError) as error:
        raise UsageError(
            f"sharding blocks: PyTorch {torch.__version__} cannot shard this network ({error}). "
            "Set sharding to none."
        ) from error
    return network
