"""Make the runs of a grid: on this machine, several side by side, or as Slurm jobs.

Each run is a process of its own, the same verb that a user would call, which goes on where it
stopped. A run that fails leaves the others alone; those that need it wait for the next call.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from brainsegfounder.distributed import environment_of_a_run
from brainsegfounder.errors import RunError
from brainsegfounder.files import write_text
from brainsegfounder.runs import progress
from brainsegfounder.training.signals import Signals
from brainsegfounder.workflows.experiments.cells import Cell, Grid
from brainsegfounder.workflows.experiments.planning import threads_of_a_run
from brainsegfounder.workflows.order import Resources
from brainsegfounder.workflows.slurm import submit

log = logging.getLogger(__name__)

LOG_NAME = "output.log"
# Numbers of the jobs that Slurm was last given, by cell.
JOBS_NAME = "jobs.json"
LOOK_EVERY_S = 0.2
TELL_EVERY_S = 5.0
TAIL_BYTES = 8192


@dataclass(slots=True)
class Outcome:
    """What became of the runs of a grid.

    Attributes:
        finished: Names of cells that have nothing left to do.
        failed: Reason for each that ended with an error.
        waiting: Names of those that need one that failed.
    """

    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Working:
    """A run in work.

    Attributes:
        cell: Which.
        place: Which of the places side by side it has.
        process: Of the verb.
        output: What it says goes there.
    """

    cell: Cell
    place: int
    process: subprocess.Popen[bytes]
    output: IO[bytes]


def run_grid(grid: Grid, jobs: int, num_gpus: int = 0) -> Outcome:
    """Make all runs of a grid that are not finished.

    Args:
        grid: Which.
        jobs: How many side by side.
        num_gpus: GPUs of this machine; each of the runs side by side gets one of them.

    Returns:
        What became of each.

    Raises:
        Interrupted: A signal came; runs in work have saved a checkpoint.
    """
    outcome = Outcome([cell.name for cell in grid.cells if grid.is_finished(cell)])
    todo = grid.unfinished
    if not todo:
        return outcome
    total = sum(cell.steps for cell in grid.cells)
    with Signals() as signals, progress(total, f"{len(grid.cells)} runs", _done(grid)) as report:
        work = _Work(grid, todo, outcome, jobs, num_gpus)
        told_s = 0.0
        try:
            while work.go_on():
                time.sleep(LOOK_EVERY_S)
                if signals.received is not None:
                    work.end(signals.received)
                    told = f"with {_counted(outcome, grid)}; call again to go on"
                    raise signals.interrupted(told)
                if time.monotonic() - told_s > TELL_EVERY_S:
                    told_s = time.monotonic()
                    report(_done(grid), f"{_counted(outcome, grid)}; now {work.names}")
        finally:
            work.end(signal.SIGTERM)
        report(_done(grid), _counted(outcome, grid))
    return outcome


class _Work:
    """The runs in work, and those that are left."""

    def __init__(
        self, grid: Grid, todo: Sequence[Cell], outcome: Outcome, jobs: int, num_gpus: int
    ) -> None:
        self.grid, self.outcome, self.num_gpus = grid, outcome, num_gpus
        self.left = list(todo)
        self.places = list(range(jobs))
        self.threads = threads_of_a_run(jobs)
        self.working: list[_Working] = []

    @property
    def names(self) -> str:
        """The runs in work, in words."""
        return ", ".join(one.cell.name for one in self.working) or "none"

    def go_on(self) -> bool:
        """Start what can be started and take in what has ended; whether there is more to do."""
        for one in [one for one in self.working if one.process.poll() is not None]:
            self._take_in(one)
        self._give_up()
        for cell in [cell for cell in self.left if self._is_ready(cell)][: len(self.places)]:
            self.left.remove(cell)
            self.working.append(self._start(cell, self.places.pop(0)))
        return bool(self.working or self.left)

    def end(self, number: int) -> None:
        """Pass a signal on to what is in work, and wait until it has saved its checkpoint."""
        for one in self.working:
            with contextlib.suppress(ProcessLookupError):
                one.process.send_signal(number)
        for one in self.working:
            one.process.wait()
            one.output.close()
        self.working.clear()

    def _is_ready(self, cell: Cell) -> bool:
        return cell.needs is None or cell.needs in self.outcome.finished

    def _give_up(self) -> None:
        """Set aside what needs a run that failed, directly or through others."""
        lost = {*self.outcome.failed, *self.outcome.waiting}
        for cell in [cell for cell in self.left if cell.needs in lost]:
            self.left.remove(cell)
            self.outcome.waiting.append(cell.name)

    def _start(self, cell: Cell, place: int) -> _Working:
        order = self.grid.order(cell)
        order.write_recipe()
        words = [sys.executable, *order.words(order.saved_recipe, resume=True)]
        output = (order.folder / LOG_NAME).open("ab")
        gpu = place % self.num_gpus if self.num_gpus else None
        environment = environment_of_a_run(self.threads, gpu)
        log.info("%s: begins", cell.name)
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env=environment)
        return _Working(cell, place, process, output)

    def _take_in(self, one: _Working) -> None:
        self.working.remove(one)
        self.places.append(one.place)
        one.output.close()
        name, code = one.cell.name, one.process.returncode
        if code == 0 and self.grid.is_finished(one.cell):
            self.outcome.finished.append(name)
            log.info("%s: finished", name)
            return
        self.outcome.failed[name] = _why(Path(one.output.name), code)
        log.warning("%s: failed: %s", name, self.outcome.failed[name])


def submit_grid(grid: Grid, resources: Resources) -> dict[str, str]:
    """Give Slurm a job for each run that is not finished, each after the one it needs.

    Returns:
        The number of each cell's job.

    Raises:
        RunError: Slurm is not here, or refused a job; those before it are submitted.
    """
    jobs: dict[str, str] = {}
    for cell in grid.unfinished:
        after = [jobs[cell.needs]] if cell.needs in jobs else []
        try:
            jobs[cell.name] = submit(grid.order(cell), resources, after=after)
        except RunError as error:
            told = f" (submitted before it: {', '.join(jobs.values())})" if jobs else ""
            raise RunError(f"{cell.name}: {error}{told}") from error
        write_text(grid.folder / JOBS_NAME, json.dumps(jobs, indent=1) + "\n")
    return jobs


def check_no_job(grid: Grid) -> None:
    """Refuse to make runs that jobs of an earlier call still wait for or make.

    Raises:
        RunError: Slurm has such jobs.
    """
    path = grid.folder / JOBS_NAME
    if not path.is_file() or not grid.unfinished:
        return
    numbers = [str(number) for number in json.loads(path.read_text(encoding="utf-8")).values()]
    words = ["squeue", "--noheader", "--format=%i", f"--jobs={','.join(numbers)}"]
    try:
        # Of jobs that it has forgotten it says so and fails: these are done.
        there = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
    except FileNotFoundError:
        log.warning("squeue is not here, so nobody knows whether jobs of %s are left", path)
        return
    if there:
        raise RunError(
            f"{grid.folder}: {len(there)} of {len(numbers)} jobs of Slurm are still there "
            f"({', '.join(there[:3])}); expected none. Wait for them, or cancel them: scancel "
            f"{' '.join(there)}"
        )


def _done(grid: Grid) -> int:
    return sum(grid.steps_done(cell) for cell in grid.cells)


def _counted(outcome: Outcome, grid: Grid) -> str:
    failed = f", {len(outcome.failed)} failed" if outcome.failed else ""
    return f"{len(outcome.finished)} of {len(grid.cells)} runs finished{failed}"


def _why(output: Path, code: int) -> str:
    """The last error line of what a run said, or its last line."""
    with output.open("rb") as file:
        file.seek(max(0, output.stat().st_size - TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
    errors = [line for line in lines if line.startswith("error: ")]
    told = next(reversed([*filter(None, lines), *errors]), "it said nothing")
    return f"exit code {code}: {told.removeprefix('error: ')} (all of it: {output})"
