"""`pretrain --plan`: what a run will take, from three real steps here and a model of GPUs."""

from __future__ import annotations

import itertools
import math
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
from brainsegfounder.settings import PretrainSettings, Recipe, StageSettings
from brainsegfounder.training.checkpoint import NUM_AT_ONCE
from brainsegfounder.workflows.model_folder import build_network
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
from brainsegfounder.workflows.plan_here import NUM_TIMED, Here, measure
from brainsegfounder.workflows.pretrain import crop_sampling
from brainsegfounder.workflows.stage import require, split_of

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
        reads_store: Whether there is one.
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
    reads_store: bool
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
    here = measure(
        network,
        settings,
        ask(settings.objective).loss,
        recipe.seed + 1,
        source.batches,
        source.name,
        model.cost.peak_bytes / GIB,
        prices.hour_here,
    )
    return Plan(
        recipe=recipe.name,
        num_parameters=model.cost.num_parameters,
        steps=settings.steps,
        subjects=source.subjects,
        cases_per_step=one_process,
        samples=settings.steps * one_process,
        checkpoints_gib=checkpoints_gib(network, settings),
        store_gib=source.store_gib,
        reads_store=data is not None,
        here=here,
        gpus=tuple(needs(model, settings, n, cases_per_step, prices.gpu_hour) for n in gpus),
        assumptions=tuple(_assumptions(settings, model, gpus, source.subjects)),
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
        cpu, count = torch.device("cpu"), subjects or 0
        noise = (blank_batch(recipe, settings, cpu, number) for number in itertools.count())
        return _Source("noise", count, count * _largest_case_gib(recipe), noise)
    store = open_store(data)
    check_store(store, recipe)
    train = split_of(store, recipe, fold).train
    cases = [case for case in store.cases if case.subject in set(train)]
    dataset = PatchDataset(
        store, cases, recipe.data.contrasts, crop_sampling(settings), recipe.seed
    )
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


def checkpoints_gib(network: nn.Module, settings: StageSettings) -> float:
    """Checkpoints that are kept, the one being written, and the best model."""
    learnt: int = sum(p.numel() * p.element_size() for p in network.parameters())
    state = network.state_dict().values()
    whole: int = sum(tensor.numel() * tensor.element_size() for tensor in state)
    average = learnt if settings.optimizer.ema_decay is not None else 0
    return ((NUM_AT_ONCE) * (whole + 2 * learnt + average) + whole) / GIB


def _store_gib(store: Store) -> float:
    sizes = [file.num_bytes for case in store.cases for file in case.files.values()]
    return sum(sizes) / GIB


def _largest_case_gib(recipe: Recipe) -> float:
    """A case that fills the field of view, in float16, not compressed."""
    spacing_mm = recipe.preparation.spacing_mm or (1.0, 1.0, 1.0)
    sides = [mm / step for mm, step in zip(HEAD_MM, spacing_mm, strict=True)]
    num_voxels = math.prod(recipe.preparation.resize_vox or sides)
    return 2 * len(recipe.data.contrasts) * num_voxels / GIB


def _assumptions(
    settings: PretrainSettings, model: StepModel, gpus: Sequence[int], subjects: int
) -> list[str]:
    cases = largest_batch(settings, gpus)
    samples = cases * settings.steps
    return [
        f"a step has {cases} cases of {settings.crops_per_case} crops: batch_size "
        f"{settings.batch_size} x accumulation {settings.optimizer.accumulation} on "
        f"{max(gpus)} GPUs; fewer GPUs add up more batches; {samples:,} cases in all, "
        f"{samples / subjects:,.1f} times {subjects:,} subjects",
        *assumptions(model, settings.batch_size * settings.crops_per_case),
    ]
