"""What a grid will take: runs, hours and disk, from three real steps of each kind of run."""

from __future__ import annotations

import itertools
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch

from brainsegfounder.data.loader import Batch
from brainsegfounder.inference.model_config import config_of
from brainsegfounder.settings import FinetuneSettings, PretrainSettings, Recipe, StageSettings
from brainsegfounder.training.loop import LossFunction
from brainsegfounder.workflows.experiments.cells import Cell, Grid
from brainsegfounder.workflows.finetune import loss_function
from brainsegfounder.workflows.model_folder import build_network, choose_device, place
from brainsegfounder.workflows.objectives import ask
from brainsegfounder.workflows.order import Verb
from brainsegfounder.workflows.plan import checkpoints_gib
from brainsegfounder.workflows.plan_gpus import blank_batch
from brainsegfounder.workflows.plan_here import time_steps
from brainsegfounder.workflows.plan_text import duration

NOT_INCLUDED = "validation, tests, starting up and waiting for data are not included"


@dataclass(frozen=True, slots=True)
class Kind:
    """Runs that take the same for a step.

    Attributes:
        verb: `pretrain` or `finetune`.
        what: Network, patch and batch, in words.
        num_runs: How many are left to make.
        steps: Of all of them, without those that are made.
        step_s: Seconds of a step, timed on this machine; None where it was not.
        gib: Disk of one run, at most.
    """

    verb: Verb
    what: str
    num_runs: int
    steps: int
    step_s: float | None
    gib: float


@dataclass(frozen=True, slots=True)
class GridPlan:
    """What a grid will take.

    Attributes:
        num_runs: Of the whole grid.
        num_finished: Of these, how many have nothing left to do.
        kinds: What is left, by what a step takes.
        jobs: Runs side by side.
    """

    num_runs: int
    num_finished: int
    kinds: tuple[Kind, ...]
    jobs: int

    @property
    def hours(self) -> float | None:
        """Of all steps that are left, with `jobs` runs side by side; None where not timed."""
        seconds = [kind.steps * (kind.step_s or 0.0) for kind in self.kinds]
        if any(kind.step_s is None for kind in self.kinds):
            return None
        return sum(seconds) / 3600 / min(self.jobs, max(1, sum(k.num_runs for k in self.kinds)))

    @property
    def gib(self) -> float:
        """Disk of all runs that are left, at most."""
        return sum(kind.num_runs * kind.gib for kind in self.kinds)

    def record(self) -> dict[str, Any]:
        """For machines."""
        return {**asdict(self), "hours": self.hours, "gib": self.gib}

    def lines(self) -> Iterator[str]:
        """For people."""
        there = f", {self.num_finished} of them finished" if self.num_finished else ""
        yield f"{self.num_runs} runs{there}"
        for kind in self.kinds:
            timed = "" if kind.step_s is None else f", {kind.step_s:.2f} s each"
            yield (
                f"  {kind.num_runs} x {kind.verb} ({kind.what}): {kind.steps:,} steps{timed}, "
                f"{kind.gib:.2f} GiB a run"
            )
        if self.hours is not None and self.kinds:
            beside = f" with {self.jobs} side by side" if self.jobs > 1 else ""
            yield f"about {duration(self.hours)}{beside}; {NOT_INCLUDED}"
        yield f"at most {self.gib:.1f} GiB of disk"


def plan_grid(grid: Grid, jobs: int, *, timed: bool = True) -> GridPlan:
    """Say what is left of a grid, and time a step of each kind of run.

    Args:
        grid: Which.
        jobs: Runs side by side; steps are timed with their share of the cores.
        timed: Whether to time them; three steps of each kind, on noise, after one to warm up.
    """
    kinds: dict[tuple[Any, ...], Kind] = {}
    for cell in grid.unfinished:
        key = _key(cell)
        kind = kinds.get(key) or _kind(cell, jobs, timed=timed)
        left = cell.steps - grid.steps_done(cell)
        kinds[key] = replace(kind, num_runs=kind.num_runs + 1, steps=kind.steps + left)
    return GridPlan(
        len(grid.cells), len(grid.cells) - len(grid.unfinished), tuple(kinds.values()), jobs
    )


def threads_of_a_run(jobs: int) -> int:
    """Threads of each of several runs side by side; fewer where OMP_NUM_THREADS says so."""
    return max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // jobs))


def _section(cell: Cell) -> StageSettings:
    section = cell.recipe.pretrain if cell.verb == "pretrain" else cell.recipe.finetune
    if section is None:
        raise ValueError(f"{cell.name} has no section for {cell.verb}")
    return section


def _key(cell: Cell) -> tuple[Any, ...]:
    """What the time of a step depends on."""
    section, recipe = _section(cell), cell.recipe
    ignored = {"steps", "validate_every", "checkpoint_every"}
    settings = section.model_dump_json(exclude=ignored)
    network = recipe.model.model_dump_json()
    return cell.verb, settings, network, len(recipe.data.contrasts), len(recipe.data.regions)


def _kind(cell: Cell, jobs: int, *, timed: bool) -> Kind:
    section, recipe = _section(cell), cell.recipe
    torch.manual_seed(recipe.seed)
    config = config_of(recipe, "segmentation" if cell.verb == "finetune" else "pretraining", {})
    network = build_network(config, recipe.model)
    gib = checkpoints_gib(network, section)
    step_s = None
    if timed:
        threads = torch.get_num_threads()
        torch.set_num_threads(threads_of_a_run(jobs))
        try:
            device = choose_device()
            steps = time_steps(
                place(network, device),
                section,
                _loss(recipe, section),
                recipe.seed + 1,
                _noise(recipe, section),
                device,
            )
        finally:
            torch.set_num_threads(threads)
        step_s = statistics.median(seconds for seconds, _ in steps)
    side = "x".join(map(str, section.patch_size_vox))
    told = f"{recipe.model.scale}, {len(recipe.data.contrasts)} contrasts, {side}"
    crops = section.batch_size * section.crops_per_case * section.optimizer.accumulation
    return Kind(cell.verb, f"{told}, batch {crops}", 0, 0, step_s, gib)


def _loss(recipe: Recipe, section: StageSettings) -> LossFunction:
    if isinstance(section, PretrainSettings):
        return ask(section.objective).loss
    return loss_function(recipe, cast(FinetuneSettings, section))


def _noise(recipe: Recipe, section: StageSettings) -> Iterator[Batch]:
    """Batches without a brain and, for fine-tuning, with one label everywhere."""
    cpu = torch.device("cpu")
    value = next(iter(recipe.data.labels.values()), 0)
    for number in itertools.count():
        batch = blank_batch(recipe, section, cpu, number)
        shape = (len(batch.image), 1, *section.patch_size_vox)
        yield replace(batch, labels=torch.full(shape, value, dtype=torch.int16))


def tell(plan: GridPlan, say: Callable[[str], None], cells: Sequence[Cell] = ()) -> None:
    """Say a plan, and the runs it is made of."""
    for line in plan.lines():
        say(line)
    for cell in cells:
        say(f"  {cell.verb} {cell.name}" + (f" after {cell.needs}" if cell.needs else ""))
