"""A training run that shall be started, and the processes it is given.

What is wrong with either is said before hours are spent in a queue.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from brainsegfounder.data.store import check_store, open_store
from brainsegfounder.errors import OutputExistsError, UsageError
from brainsegfounder.files import write_text
from brainsegfounder.recipes import dump_recipe
from brainsegfounder.runs import RECIPE_NAME
from brainsegfounder.settings import Recipe, StageSettings
from brainsegfounder.workflows.stage import require

Verb = Literal["pretrain", "finetune"]

# What a scheduler takes for a name, a time limit and an option; no blank, quote or newline.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,-]*")
TIME = re.compile(r"\d+|\d+:\d{2}|\d+:\d{2}:\d{2}|\d+-\d+(:\d{2}){0,2}")
OPTION = re.compile(r"--([a-z][a-z-]*)(?:=([A-Za-z0-9_.,:/@%+*=\[\]()&|!-]+))?")


@dataclass(frozen=True, slots=True)
class Resources:
    """What a run is given.

    Attributes:
        nodes: Machines.
        processes_per_node: Processes on each; with GPUs, one for each GPU.
        gpus_per_node: GPUs on each machine; 0 asks Slurm for none.
        cpus_per_process: Processor cores of each process; None: one, and one for each reader.
        partition: Where Slurm looks for machines; None: its default.
        time: Time limit as Slurm reads it, such as 12:00:00; None: its default.
        sbatch: More options, such as `--account=lab`.
        max_restarts: How often torchrun starts all processes again after one failed.
    """

    nodes: int = 1
    processes_per_node: int = 1
    gpus_per_node: int = 0
    cpus_per_process: int | None = None
    partition: str | None = None
    time: str | None = None
    sbatch: tuple[str, ...] = ()
    max_restarts: int = 0

    def check(self) -> None:
        """Refuse what a scheduler would read as something else.

        Raises:
            UsageError: A number is too small, or a name, time or option is not one.
        """
        for name in ("nodes", "processes_per_node"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')}: expected 1 or more.")
        _check("--partition", self.partition, NAME, "a name, such as gpu")
        _check("--time", self.time, TIME, "minutes, HH:MM:SS or DAYS-HH:MM:SS")
        for option in self.sbatch:
            _check("--sbatch", option, OPTION, "one option of sbatch, such as --account=lab")

    def cpus(self, settings: StageSettings) -> int:
        """Processor cores of each process."""
        return self.cpus_per_process or 1 + settings.num_workers

    def torchrun(self, meeting: Sequence[str] = ("--standalone",)) -> list[str]:
        """The launcher of the processes of one node, and how it finds those of the others."""
        counts = (
            f"--nproc-per-node={self.processes_per_node}",
            f"--max-restarts={self.max_restarts}",
        )
        return [sys.executable, "-m", "torch.distributed.run", *counts, *meeting]


@dataclass(frozen=True, slots=True)
class Order:
    """A run that shall be started.

    Attributes:
        verb: `pretrain` or `finetune`.
        recipe: Complete.
        data: The store.
        out: The run's folder; in an array, the folder of the runs, one `fold-N` each.
        start: Start weights, or None.
        fold: Held-out fold, or None.
        resume: Whether `out` may hold the same run, begun before.
        may_change: Fields of the recipe that may be other than `out` was started with.
        participants: A table of the subjects' age and sex for `pretrain`, or None.
        tensorboard: Whether `pretrain` writes for TensorBoard, too.
    """

    verb: Verb
    recipe: Recipe
    data: Path
    out: Path
    start: Path | None = None
    fold: int | None = None
    resume: bool = False
    may_change: tuple[str, ...] = ()
    participants: Path | None = None
    tensorboard: bool = False

    @property
    def folder(self) -> Path:
        """Where what belongs to the launch is kept."""
        out = self.out.resolve()
        return out.with_name(f"{out.name}.launch")

    @property
    def settings(self) -> StageSettings:
        """The verb's section of the recipe."""
        section = self.recipe.pretrain if self.verb == "pretrain" else self.recipe.finetune
        return require(section, self.recipe, self.verb)

    @property
    def saved_recipe(self) -> Path:
        """Where the recipe as it is now is kept for the run."""
        return self.folder / "recipe.yaml"

    def write_recipe(self) -> None:
        """Keep the recipe as it is now; a later change of its file changes nothing."""
        write_text(self.saved_recipe, dump_recipe(self.recipe))

    def check(self) -> None:
        """Find out now what would end the run at its start.

        Raises:
            OutputExistsError: `out` holds a run, and this is not to resume.
            UsageError: There are no such start weights.
            StoreError: The store does not fit the recipe.
        """
        if (self.out / RECIPE_NAME).is_file() and not self.resume:
            raise OutputExistsError(
                f"{self.out}: holds a run already; expected a new folder. Add --resume to go on "
                "with it, or choose another --out."
            )
        if self.start is not None and not self.start.is_dir():
            raise UsageError(
                f"--from {self.start}: no such folder; expected a run or a model folder."
            )
        check_store(open_store(self.data), self.recipe)

    def of_fold(self, fold: int) -> Order:
        """The same for one fold, from the same fold's start weights where there are such."""
        start = self.start
        if start is not None and (start / f"fold-{fold}").is_dir():
            start = start / f"fold-{fold}"
        return replace(self, out=self.out / f"fold-{fold}", start=start, fold=fold)

    def words(self, recipe: Path, *, resume: bool) -> list[str]:
        """The verb as a Python module's command line, all paths complete."""
        words = ["-m", "brainsegfounder", self.verb, str(recipe)]
        words += [f"--allow-config-change={field}" for field in self.may_change]
        words += ["--data", str(self.data.resolve()), "--out", str(self.out.resolve())]
        words += ["--from", str(self.start.resolve())] if self.start else []
        words += ["--fold", str(self.fold)] if self.fold is not None else []
        words += ["--participants", str(self.participants.resolve())] if self.participants else []
        words += ["--tensorboard"] if self.tensorboard else []
        return [*words, "--resume"] if resume else words


def _check(option: str, value: str | None, pattern: re.Pattern[str], expected: str) -> None:
    if value is not None and not pattern.fullmatch(value):
        raise UsageError(f"{option} {value!r}: expected {expected}.")
