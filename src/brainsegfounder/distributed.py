"""Several processes that train one model: who am I, and what do all of us have together?

The only reader of RANK, LOCAL_RANK and WORLD_SIZE, which torchrun and Slurm set. On one process
everything here does nothing. Gradients are averaged over the processes; so what a process minimises
must average to what one process would minimise with all their batches joined (`share`, `gather`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class World:
    """Which process this is.

    Attributes:
        rank: Its number among all, from 0.
        local_rank: Its number on its machine.
        size: How many there are.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0


def world() -> World:
    """This process among all, by what its launcher has set."""
    numbers = (os.environ.get(name, "") for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    rank, local_rank, size = (int(n) if n.isdigit() else 0 for n in numbers)
    return World(rank, local_rank, max(1, size))


def is_joined() -> bool:
    """Whether this process is one of several that have found each other."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def share(total: Tensor, count: Tensor) -> Tensor:
    """This process's share of a mean over all processes.

    The mean of the shares is the sum of all totals over the sum of all counts, whatever the counts.

    Args:
        total: Sum over this process's elements; carries gradients.
        count: How many elements these are; 0 everywhere gives 0.
    """
    if not is_joined():
        return total / count.clamp_min(1)
    everyone = count.detach().clone()
    dist.all_reduce(everyone)
    return total * dist.get_world_size() / everyone.clamp_min(1)


def gather(rows: Tensor) -> Tensor:
    """Rows of all processes, in the order of their ranks; gradients flow back to each.

    Args:
        rows: Shape (N, ...), of the same N on each process.

    Returns:
        Shape (N times processes, ...).
    """
    gathered: Tensor = _Gather.apply(rows) if is_joined() else rows  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        ctx.num_rows = len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous()
        dist.all_reduce(total)
        return total[rank() * ctx.num_rows :][: ctx.num_rows]


def rank() -> int:
    """This process's number among those it is joined with."""
    return dist.get_rank() if is_joined() else 0


def slurm_job() -> str | None:
    """The number of the Slurm job that this process belongs to, or None."""
    return os.environ.get("SLURM_JOB_ID") or None
