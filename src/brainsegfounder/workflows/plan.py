"""`pretrain --plan`: what a run will take, from three real steps here and a model of GPUs."""

from __future__ import annotations

import logging
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from brainsegfounder.data.loader import Batch, PatchDataset, batches
from brainsegfounder.data.store import Store, check_store, open_store
from brainsegfounder.errors import UsageError
from brainsegfounder.inference.model_config import config_of
from brainsegfounder.settings import PretrainSettings, Recipe
from brainsegfounder.training.checkpoint import NUM_KEPT
from brainsegfounder.training.loop import _autocast
from brainsegfounder.training.optim import make_optimizer
from brainsegfounder.volumes.header import available_memory_gib
from brainsegfounder.workflows.model_folder import build_network, choose_device, place
from brainsegfounder.workflows.objectives import ask
from brainsegfounder.workflows.plan_gpus import (
    GIB,
    GpuNeeds,
    StepModel,
    assumptions,
    blank_batch,
    largest_batch,
    model_step,
    needs,
)
from brainsegfounder.workflows.pretrain import _sampling
from brainsegfounder.workflows.stage import _split, device_name, require

log = logging.getLogger(__name__)

NUM_TIMED = 3
GPUS = (1, 8, 64)
NOT_INCLUDED = (
    "validation, pictures and probes",
    "start-up and reading the store's list",
    "saving checkpoints",
    "queues and failures",
)
# The paper's volumes: the field of view of MNI152 in millimetres.
HEAD_MM = (182.0, 218.0, 182.0)


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


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run of pretraining will take.

    Attributes:
        recipe: Its name.
        num_parameters: Numbers that are learnt.
        steps: Optimiser steps.
        subjects: Subjects it is trained on.
        cases_per_step: In one process, as the recipe says.
        samples: Cases drawn over all steps in one process.
        here: What this machine takes, or None where a step does not fit its memory.
        checkpoints_gib: Disk for the checkpoints there are at once, and the best model.
        store_gib: Disk of the store; by its size where there is one, else at most.
        gpus: What numbers of GPUs take, by the model.
        assumptions: Of the model, a sentence each.
        not_included: In neither.
    """

    recipe: str
    num_parameters: int
    steps: int
    subjects: int
    cases_per_step: int
    samples: int
    here: Here | None
    checkpoints_gib: float
    store_gib: float
    gpus: tuple[GpuNeeds, ...]
    assumptions: tuple[str, ...]
    not_included: tuple[str, ...] = NOT_INCLUDED

    def record(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Prices:
    """What an hour costs, in any currency; None: not known."""

    gpu_hour: float | None = None
    hour_here: float | None = None


@dataclass(frozen=True, slots=True)
class _Source:
    """Where crops come from: a store, or noise."""

    name: str
    subjects: int
    store_gib: float
    batches: Iterator[Batch]


def make_plan(
    recipe: Recipe,
    *,
    data: Path | None = None,
    subjects: int | None = None,
    fold: int | None = None,
    gpus: Sequence[int] = GPUS,
    utilisation: float | None = None,
    prices: Prices | None = None,
) -> Plan:
    """Time three steps after one that does not count, and model the run on GPUs.

    Args:
        recipe: With a `pretrain` section.
        data: A store; None: crops of noise, for which `subjects` must be given.
        subjects: How many there will be to train on, in place of those of the store.
        fold: Fold that is left out.
        gpus: Numbers of GPUs. A step has as many cases as if the largest of them each had the
            recipe's batch; fewer GPUs add up several batches for it.
        utilisation: Share of a GPU's largest rate; see `plan_gpus.model_step`.
        prices: For the costs.

    Raises:
        UsageError: Neither store nor number of subjects, or a number that is not possible.
    """
    settings = require(recipe.pretrain, recipe, "pretrain")
    _check(data, subjects, gpus, utilisation)
    prices = prices or Prices()
    source = _source(recipe, settings, data, subjects, fold)
    model = model_step(recipe, settings, utilisation)
    cases_per_step = largest_batch(settings, gpus)
    one_process = settings.batch_size * settings.optimizer.accumulation
    network = _build(recipe)
    return Plan(
        recipe=recipe.name,
        num_parameters=model.cost.num_parameters,
        steps=settings.steps,
        subjects=source.subjects,
        cases_per_step=one_process,
        samples=settings.steps * one_process,
        checkpoints_gib=_checkpoints_gib(network, settings),
        store_gib=source.store_gib,
        here=_measure(network, recipe, settings, source, model, prices.hour_here),
        gpus=tuple(needs(model, settings, n, cases_per_step, prices.gpu_hour) for n in gpus),
        assumptions=tuple(_assumptions(settings, model, gpus)),
    )


def _check(
    data: Path | None, subjects: int | None, gpus: Sequence[int], utilisation: float | None
) -> None:
    if data is None and subjects is None:
        raise UsageError(
            "--plan: neither --data nor --subjects; expected a store to read crops from, or how "
            "many subjects there will be (crops are then noise)."
        )
    if utilisation is not None and not 0 < utilisation <= 1:
        raise UsageError(f"--utilisation {utilisation}: expected a share above 0, at most 1.")
    if not gpus or min(gpus) < 1:
        raise UsageError(f"--gpus {list(gpus)}: expected numbers of GPUs from 1 on, such as 1,8,64")


def _source(
    recipe: Recipe,
    settings: PretrainSettings,
    data: Path | None,
    subjects: int | None,
    fold: int | None,
) -> _Source:
    if data is None:
        assert subjects is not None  # checked before
        noise = (blank_batch(recipe, settings, torch.device("cpu"), n) for n in range(sys.maxsize))
        return _Source("noise", subjects, subjects * _largest_case_gib(recipe), noise)
    store = open_store(data)
    check_store(store, recipe)
    train = _split(store, recipe, fold).train
    cases = [case for case in store.cases if case.subject in set(train)]
    dataset = PatchDataset(store, cases, recipe.data.contrasts, _sampling(settings), recipe.seed)
    made = batches(
        dataset,
        first_batch=0,
        num_batches=(1 + NUM_TIMED) * settings.optimizer.accumulation,
        batch_size=settings.batch_size,
        num_workers=settings.num_workers,
    )
    share = 1.0 if subjects is None else subjects / len(train)
    return _Source("store", subjects or len(train), share * _store_gib(store), made)


def _build(recipe: Recipe) -> nn.Module:
    torch.manual_seed(recipe.seed)
    return build_network(config_of(recipe, "pretraining", {}), recipe.model)


def _measure(
    network: nn.Module,
    recipe: Recipe,
    settings: PretrainSettings,
    source: _Source,
    model: StepModel,
    price_per_hour: float | None,
) -> Here | None:
    """Time steps on this machine, where they fit."""
    device = choose_device()
    if device.type == "cpu" and model.cost.peak_bytes / GIB > available_memory_gib():
        return None
    network = place(network, device)
    try:
        times = _time_steps(network, recipe, settings, source.batches, device)
    except torch.OutOfMemoryError:
        return None
    step_s = tuple(total for total, _ in times)
    hours = statistics.median(step_s) * settings.steps / 3600
    return Here(
        device=device_name(device),
        crops=source.name,
        step_s=step_s,
        wait_s=tuple(wait for _, wait in times),
        hours=hours,
        peak_memory_gib=_peak_gib(device),
        cost=None if price_per_hour is None else hours * price_per_hour,
    )


def _time_steps(
    network: nn.Module,
    recipe: Recipe,
    settings: PretrainSettings,
    source: Iterator[Batch],
    device: torch.device,
) -> list[tuple[float, float]]:
    """Seconds of each step and of its wait for data, without the first one."""
    optimizer = make_optimizer(network, settings.optimizer)
    found = []
    for number in range(1 + NUM_TIMED):
        began = time.perf_counter()
        wait_s = _step(network, recipe, settings, source, device, optimizer)
        found.append((time.perf_counter() - began, wait_s))
        log.info("step %d of %d: %.2f s", number + 1, 1 + NUM_TIMED, found[-1][0])
    return found[1:]


def _step(
    network: nn.Module,
    recipe: Recipe,
    settings: PretrainSettings,
    source: Iterator[Batch],
    device: torch.device,
    optimizer: torch.optim.Optimizer,
) -> float:
    """One optimiser step, as the training loop makes it; returns seconds waited for data."""
    network.train()
    loss, wait_s = ask(settings.objective).loss, 0.0
    optimizer.zero_grad(set_to_none=True)
    for _ in range(settings.optimizer.accumulation):
        began = time.perf_counter()
        batch = next(source).to(device)
        wait_s += time.perf_counter() - began
        with _autocast(settings.precision, device):
            parts = loss(network, batch, recipe.seed + 1).parts
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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def _checkpoints_gib(network: nn.Module, settings: PretrainSettings) -> float:
    """Checkpoints that are kept, the one being written, and the best model."""
    learnt = sum(p.numel() * p.element_size() for p in network.parameters())
    whole = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    average = learnt if settings.optimizer.ema_decay is not None else 0
    return ((NUM_KEPT + 1) * (whole + 2 * learnt + average) + whole) / GIB


def _store_gib(store: Store) -> float:
    sizes = [file.num_bytes for case in store.cases for file in case.files.values()]
    return sum(sizes) / GIB


def _largest_case_gib(recipe: Recipe) -> float:
    """A case that fills the field of view, in float16, not compressed."""
    spacing_mm = recipe.preparation.spacing_mm or (1.0, 1.0, 1.0)
    num_voxels = math.prod(mm / step for mm, step in zip(HEAD_MM, spacing_mm, strict=True))
    return 2 * len(recipe.data.contrasts) * num_voxels / GIB


def _assumptions(settings: PretrainSettings, model: StepModel, gpus: Sequence[int]) -> list[str]:
    cases = largest_batch(settings, gpus)
    return [
        f"a step has {cases} cases of {settings.crops_per_case} crops: batch_size "
        f"{settings.batch_size} x accumulation {settings.optimizer.accumulation} on "
        f"{max(gpus)} GPUs; fewer GPUs add up more batches",
        *assumptions(model, settings.batch_size * settings.crops_per_case),
    ]
