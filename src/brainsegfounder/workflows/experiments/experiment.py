"""An experiment from its cells to its page: plan, runs, results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from brainsegfounder.errors import RunError, UsageError
from brainsegfounder.files import held
from brainsegfounder.workflows.experiments.cells import Cell, Grid, open_grid
from brainsegfounder.workflows.experiments.planning import GridPlan, plan_grid, tell
from brainsegfounder.workflows.experiments.results import (
    Results,
    Scored,
    fresh_folder,
    gather_scores,
    write_results,
)
from brainsegfounder.workflows.experiments.running import (
    Outcome,
    check_no_job,
    run_grid,
    submit_grid,
)
from brainsegfounder.workflows.order import Resources

log = logging.getLogger(__name__)

Show = Callable[[Grid, Sequence[Scored], Path], Results]
"""Makes what an experiment shows of its scores; other files go into the folder."""


@dataclass(frozen=True, slots=True)
class How:
    """How the runs of an experiment are made.

    Attributes:
        jobs: Side by side on this machine; None: one, or one for each GPU.
        dry_run: Only say the plan.
        slurm: Resources of each job, where Slurm makes the runs; None: this machine.
        timed: Whether the plan times steps.
    """

    jobs: int | None = None
    dry_run: bool = False
    slurm: Resources | None = None
    timed: bool = True


@dataclass(frozen=True, slots=True)
class Experiment:
    """What became of an experiment.

    Attributes:
        plan: What was left when it began.
        outcome: Of its runs; None where nothing was run.
        page: What to read, where there are results.
        submitted: Numbers of Slurm's jobs by cell.
    """

    plan: GridPlan
    outcome: Outcome | None = None
    page: Path | None = None
    submitted: dict[str, str] | None = None

    @property
    def failed(self) -> dict[str, str]:
        """Reason for each run that failed."""
        return self.outcome.failed if self.outcome is not None else {}


def run_experiment(
    kind: str, folder: Path, cells: Sequence[Cell], show: Show, how: How
) -> Experiment:
    """Plan a grid, make its runs, and write what they show.

    Args:
        kind: Of experiment, such as `crossval`.
        folder: The grid; a new one, or one to go on with.
        cells: Its runs.
        show: Makes tables of their scores.
        how: How they are made.

    Raises:
        UsageError: The number of jobs is impossible.
        OutputExistsError: `folder` holds something else, or runs made otherwise.
        DataError: Scores of a run cannot be read.
        RunError: Another process, or jobs of Slurm, are at work on the grid.
        Interrupted: A signal came; runs in work have saved a checkpoint.
    """
    num_gpus = _num_gpus()
    jobs = how.jobs if how.jobs is not None else max(1, num_gpus)
    if jobs < 1:
        raise UsageError(f"--jobs {jobs}: expected 1 or more.")
    grid = Grid(folder, tuple(cells), kind) if how.dry_run else open_grid(folder, cells, kind)
    plan = plan_grid(grid, jobs, timed=how.timed and bool(grid.unfinished))
    tell(plan, log.info, grid.cells if how.dry_run else ())
    if how.dry_run:
        return Experiment(plan)
    with held(folder, alone=True, wait=False) as is_held:
        if not is_held:
            raise RunError(
                f"{folder}: another process makes the runs of this grid; expected to be alone. "
                "Wait until it has ended."
            )
        check_no_job(grid)
        if how.slurm is not None and grid.unfinished:
            return Experiment(plan, submitted=submit_grid(grid, how.slurm))
        outcome = run_grid(grid, jobs, num_gpus)
    if not outcome.finished:
        return Experiment(plan, outcome)
    found = gather_scores(grid)
    partial = fresh_folder(grid)
    page = write_results(grid, found, show(grid, found, partial), partial)
    return Experiment(plan, outcome, page)


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
