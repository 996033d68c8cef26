"""What a training step takes on this machine: three real ones, timed."""

from __future__ import annotations

import logging
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from brainsegfounder.data.loader import Batch
from brainsegfounder.settings import StageSettings
from brainsegfounder.training.loop import LossFunction, autocast
from brainsegfounder.training.losses import Losses
from brainsegfounder.training.optim import make_optimizer
from brainsegfounder.volumes.header import available_memory_gib
from brainsegfounder.workflows.model_folder import choose_device, place
from brainsegfounder.workflows.stage import device_name

log = logging.getLogger(__name__)

NUM_TIMED = 3
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Here:
    """What this machine takes, measured.

    Attributes:
        device: What computed, in words.
        crops: `store`, or `noise` where there is no store.
        step_s: Seconds of each timed step, data included.
        wait_s: Seconds of them that were spent waiting for data.
        hours: The median step times the recipe's steps, in one process.
        peak_memory_gib: Most that this process, or the allocator of its GPU, has held.
        cost: Hours times the price of this machine, or None without a price.
    """

    device: str
    crops: str
    step_s: tuple[float, ...]
    wait_s: tuple[float, ...]
    hours: float
    peak_memory_gib: float
    cost: float | None


def measure(
    network: nn.Module,
    settings: StageSettings,
    loss: LossFunction,
    seed: int,
    batches: Iterator[Batch],
    crops: str,
    least_memory_gib: float,
    price_per_hour: float | None,
) -> Here | None:
    """Time three steps on this machine, after one that does not count.

    Args:
        network: On the CPU, with random weights; it is trained.
        settings: The stage's section of the recipe.
        loss: Of its network and batches.
        seed: Of what is drawn for a crop.
        batches: Where crops come from.
        crops: That in a word.
        least_memory_gib: With less than this to spare, a CPU does not even try.
        price_per_hour: Of this machine.

    Returns:
        None where a step does not fit the memory.
    """
    device = choose_device()
    if device.type == "cpu" and least_memory_gib > available_memory_gib():
        return None
    network = place(network, device)
    try:
        times = time_steps(network, settings, loss, seed, batches, device)
    except torch.OutOfMemoryError:
        return None
    step_s = tuple(total for total, _ in times)
    hours = statistics.median(step_s) * settings.steps / 3600
    return Here(
        device=device_name(device),
        crops=crops,
        step_s=step_s,
        wait_s=tuple(wait for _, wait in times),
        hours=hours,
        peak_memory_gib=_peak_gib(device),
        cost=None if price_per_hour is None else hours * price_per_hour,
    )


def time_steps(
    network: nn.Module,
    settings: StageSettings,
    loss: LossFunction,
    seed: int,
    source: Iterator[Batch],
    device: torch.device,
) -> list[tuple[float, float]]:
    """Seconds of each step and of its wait for data, without the first one."""
    optimizer = make_optimizer(network, settings.optimizer)
    network.train()
    found = []
    for number in range(1 + NUM_TIMED):
        began = time.perf_counter()
        wait_s = _step(network, settings, partial(loss, network), seed, source, device, optimizer)
        found.append((time.perf_counter() - began, wait_s))
        log.info("step %d of %d: %.2f s", number + 1, 1 + NUM_TIMED, found[-1][0])
    return found[1:]


def _step(
    network: nn.Module,
    settings: StageSettings,
    loss: Callable[[Batch, int], Losses],
    seed: int,
    source: Iterator[Batch],
    device: torch.device,
    optimizer: torch.optim.Optimizer,
) -> float:
    """One optimiser step, as the training loop makes it; returns seconds waited for data."""
    wait_s = 0.0
    optimizer.zero_grad(set_to_none=True)
    for _ in range(settings.optimizer.accumulation):
        began = time.perf_counter()
        batch = next(source).to(device)
        wait_s += time.perf_counter() - began
        with autocast(settings.precision, device):
            parts = loss(batch, seed).parts
            total = torch.stack(list(parts.values())).sum() / settings.optimizer.accumulation
        total.backward()  # type: ignore[no-untyped-call]
    clip_norm = settings.optimizer.clip_norm or math.inf
    float(nn.utils.clip_grad_norm_(network.parameters(), clip_norm))
    optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return wait_s


def _peak_gib(device: torch.device) -> float:
    """Most that was held: by the process on a CPU, by the allocator on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    most: float = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB
    return most
