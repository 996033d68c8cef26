"""Start a training verb on several processes: here by torchrun, or on a cluster by Slurm.

Nothing of a run changes with how it is started: the recipe's `batch_size` is that of one process.
A Slurm job is a script that anyone can read, beside the run's folder; it gets a warning (SIGUSR1)
before its time is up, upon which the run saves a checkpoint and puts the job back into the queue.
Job arrays, one task a fold, go through submitit.

OUT.launch/
recipe.yaml        the complete recipe at the time of submission; the job reads this one
job.sh             what was submitted
slurm-JOB.out      what the job said
"""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from brainsegfounder.data.store import check_store, open_store
from brainsegfounder.errors import OutputExistsError, RunError, UsageError
from brainsegfounder.files import write_text
from brainsegfounder.recipes import dump_recipe, load_recipe
from brainsegfounder.settings import Recipe, StageSettings
from brainsegfounder.workflows.array_task import Task

Verb = Literal["pretrain", "finetune"]
HOW = ("local", "torchrun", "slurm")

# How long before its end a job is warned, and how long of that a run may take to save.
WARNING_S, SAVING_S = 120, 110
# How often a task of an array may run out of time; a run of weeks on hourly slots is no failure.
MAX_TIMEOUTS = 1000
# What a scheduler takes for a name, a time limit and an option; no blank, quote or newline.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,-]*")
TIME = re.compile(r"\d+|\d+:\d{2}|\d+:\d{2}:\d{2}|\d+-\d+(:\d{2}){0,2}")
OPTION = re.compile(r"--([a-z][a-z-]*)(?:=([A-Za-z0-9_.,:/@%+*=\[\]()&|!-]+))?")
# What would mean something else in a line for sbatch.
UNSAFE_IN_PATH = re.compile(r"[\x00-\x1f\x7f%\"'\\]")


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
    """

    verb: Verb
    recipe: Recipe
    data: Path
    out: Path
    start: Path | None = None
    fold: int | None = None
    resume: bool = False

    @property
    def folder(self) -> Path:
        """Where what belongs to the launch is kept."""
        out = self.out.resolve()
        return out.with_name(f"{out.name}.launch")

    @property
    def settings(self) -> StageSettings:
        """The verb's section of the recipe."""
        section = self.recipe.pretrain if self.verb == "pretrain" else self.recipe.finetune
        if section is None:
            raise UsageError(
                f"{self.recipe.name}: no `{self.verb}` section; expected one. Add it, or choose a "
                "recipe that has one: brainsegfounder recipe list"
            )
        return section

    def of_fold(self, fold: int) -> Order:
        """The same for one fold, from the same fold's start weights where there are such."""
        start = self.start
        if start is not None and (start / f"fold-{fold}").is_dir():
            start = start / f"fold-{fold}"
        out = self.out / f"fold-{fold}"
        return Order(self.verb, self.recipe, self.data, out, start, fold, self.resume)

    def words(self, recipe: Path, *, resume: bool) -> list[str]:
        """The verb as a Python module's command line, all paths complete."""
        words = ["-m", "brainsegfounder", self.verb, str(recipe)]
        words += ["--data", str(self.data.resolve()), "--out", str(self.out.resolve())]
        words += ["--from", str(self.start.resolve())] if self.start else []
        words += ["--fold", str(self.fold)] if self.fold is not None else []
        return [*words, "--resume"] if resume else words


def launch_verb(
    how: str,
    verb: str,
    values: Mapping[str, Any],
    resources: Resources,
    *,
    folds: str | None = None,
    dry_run: bool = False,
) -> str | None:
    """Start a training verb on several processes.

    With torchrun this process becomes torchrun, and nothing is returned.

    Args:
        how: `local`, `torchrun` or `slurm`.
        verb: `pretrain` or `finetune`.
        values: Of the verb's options, by the name of its parameter.
        resources: What it is given.
        folds: `all`, or numbers with commas: a job array with a task for each.
        dry_run: Only tell what would be started.

    Returns:
        What was submitted, or would be started; None where the verb shall run in this process.

    Raises:
        UsageError: An option is wrong, or does not go with another.
        RunError: Slurm is not here, or refused the job.
    """
    if how not in HOW:
        raise UsageError(f"--launch {how}: expected {', '.join(HOW[:-1])} or {HOW[-1]}.")
    order = _order(verb, values)
    if folds is not None and how != "slurm":
        raise UsageError("--folds: makes a job array; expected --launch slurm.")
    if how == "local":
        if (resources.nodes, resources.processes_per_node, dry_run) == (1, 1, False):
            return None
        raise UsageError(
            "--launch local: runs as one process, this one; expected no --nodes, "
            "--processes-per-node or --dry-run. Choose --launch torchrun or slurm."
        )
    if how == "torchrun":
        words = torchrun_words(order, resources)
        if dry_run:
            return shlex.join(words)
        os.execv(words[0], words)  # noqa: S606
    if folds is not None:
        wanted = _fold_numbers(folds, order.recipe)
        return f"submitted: {', '.join(submit_folds(order, wanted, resources))}"
    if dry_run:
        return slurm_script(order, resources)
    job = submit(order, resources)
    return f"submitted job {job}: {order.folder / f'slurm-{job}.out'}"


def torchrun_words(order: Order, resources: Resources) -> list[str]:
    """The command that runs several processes on this machine; the recipe is written for it.

    Raises:
        UsageError: More than one node is asked for.
        OutputExistsError: `out` holds a run and the order is not to resume.
    """
    resources.check()
    if resources.nodes > 1:
        raise UsageError(
            f"--launch torchrun --nodes {resources.nodes}: torchrun starts processes on this "
            "machine only; expected --nodes 1. Use --launch slurm, or start torchrun on each node."
        )
    _check_order(order)
    recipe = _write_recipe(order)
    return [*_torchrun(resources, ["--standalone"]), *order.words(recipe, resume=order.resume)]


def slurm_script(order: Order, resources: Resources) -> str:
    """The job that runs an order; a job that Slurm starts again goes on where it stopped.

    Raises:
        UsageError: A setting cannot stand in such a script.
    """
    resources.check()
    folder = order.folder
    _check_folder(folder)
    options = {
        "job-name": f"brainsegfounder-{order.verb}",
        "nodes": resources.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": _cpus(order, resources) * resources.processes_per_node,
        "gpus-per-node": resources.gpus_per_node or None,
        "partition": resources.partition,
        "time": resources.time,
        "signal": f"USR1@{WARNING_S}",
        "requeue": "",
        "open-mode": "append",
        "output": f'"{folder}/slurm-%j.out"',
    }
    lines = [
        f"--{name}" + (f"={value}" if value != "" else "")
        for name, value in options.items()
        if value is not None
    ]
    meeting = ["--nnodes=$SLURM_JOB_NUM_NODES", "--rdzv-backend=c10d"]
    meeting += ["--rdzv-id=$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}", "--rdzv-endpoint=$meet"]
    launcher, verb = _torchrun(resources, []), order.words(folder / "recipe.yaml", resume=True)
    command = " \\\n  ".join(
        ["exec srun --kill-on-bad-exit=1", shlex.join(launcher), *(f'"{w}"' for w in meeting)]
        + [shlex.join(verb)]
    )
    return SCRIPT.format(
        options="\n".join(f"#SBATCH {line}" for line in (*lines, *resources.sbatch)),
        saving=SAVING_S,
        threads=_cpus(order, resources),
        command=command,
    )


def submit(order: Order, resources: Resources) -> str:
    """Write an order's job and give it to Slurm.

    Returns:
        The job's number.

    Raises:
        UsageError: A setting is wrong.
        OutputExistsError: `out` holds a run and the order is not to resume.
        StoreError: The store does not fit the recipe.
        RunError: Slurm is not here, or refused the job.
    """
    script = slurm_script(order, resources)
    _check_order(order)
    _write_recipe(order)
    path = order.folder / "job.sh"
    write_text(path, script)
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", str(path)], capture_output=True, text=True, check=True
        )
    except FileNotFoundError:
        raise RunError(
            "sbatch: not found; expected Slurm's commands on this machine. Submit from a login "
            f"node of the cluster: sbatch {shlex.quote(str(path))}"
        ) from None
    except subprocess.CalledProcessError as error:
        raise RunError(
            f"{path}: Slurm refused it: {error.stderr.strip()}. Change the options, and try again."
        ) from error
    return done.stdout.strip().partition(";")[0]


def submit_folds(order: Order, folds: Sequence[int], resources: Resources) -> list[str]:
    """Give Slurm one job array with a task for each fold.

    Args:
        order: For all folds; each run goes to `out/fold-N`, from `start/fold-N` where it exists.
        folds: Which.
        resources: Of each task, on one node.

    Returns:
        Numbers of the tasks, as Slurm writes them.

    Raises:
        UsageError: A fold does not exist or stands twice, submitit is missing, or an option is one
            that submitit sets itself.
        RunError: Slurm refused the array.
    """
    resources.check()
    _check_folder(order.folder)
    _check_folds(order, folds, resources)
    orders = [order.of_fold(fold) for fold in folds]
    for one in orders:
        _check_order(one)
    recipe = _write_recipe(order)
    run = _torchrun(resources, ["--standalone"])
    tasks = [Task((*run, *one.words(recipe, resume=True)), SAVING_S) for one in orders]
    submitit = _submitit()
    try:
        executor = submitit.SlurmExecutor(order.folder, max_num_timeout=MAX_TIMEOUTS)
        executor.update_parameters(**_array_parameters(order, resources))
        with executor.batch():
            jobs = [executor.submit(task) for task in tasks]
    except (submitit.core.utils.FailedSubmissionError, RuntimeError, OSError) as error:
        raise RunError(f"{order.folder}: Slurm refused the array: {error}") from error
    return [str(job.job_id) for job in jobs]


def _order(verb: str, values: Mapping[str, Any]) -> Order:
    recipe = load_recipe(values["recipe"], values["overrides"] or [])
    places = {name: values[name] for name in ("data", "out", "start", "fold", "resume")}
    return Order("pretrain" if verb == "pretrain" else "finetune", recipe, **places)


def _fold_numbers(text: str, recipe: Recipe) -> list[int]:
    if text == "all":
        return list(range(recipe.split.folds))
    words = text.split(",")
    if not all(word.isdecimal() for word in words):
        raise UsageError(f"--folds {text}: expected all, or numbers such as 0,2,4.")
    return [int(word) for word in words]


def _array_parameters(order: Order, resources: Resources) -> dict[str, Any]:
    options = (OPTION.fullmatch(option) for option in resources.sbatch)
    more = {match[1]: match[2] or True for match in options if match is not None}
    return {
        "job_name": f"brainsegfounder-{order.verb}",
        "partition": resources.partition,
        "time": _minutes(resources.time or ""),
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": _cpus(order, resources) * resources.processes_per_node,
        "gpus_per_node": resources.gpus_per_node or None,
        "signal_delay_s": WARNING_S,
        "stderr_to_stdout": True,
        "setup": [
            f"export OMP_NUM_THREADS={_cpus(order, resources)} PET_SHUTDOWN_TIMEOUT={SAVING_S}"
        ],
        "additional_parameters": {**more, "requeue": True},
    }


def _minutes(time: str) -> int:
    """A time limit as Slurm writes it, in minutes, rounded up."""
    days, dash, rest = time.rpartition("-")
    numbers = [int(number) for number in rest.split(":")]
    if dash:  # days-hours[:minutes[:seconds]]
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    else:  # minutes, minutes:seconds or hours:minutes:seconds
        hours, minutes, seconds = {1: (0, *numbers, 0), 2: (0, *numbers)}.get(
            len(numbers), tuple(numbers)
        )
    return (int(days or 0) * 24 + hours) * 60 + minutes + math.ceil(seconds / 60)


def _torchrun(resources: Resources, meeting: Sequence[str]) -> list[str]:
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={resources.processes_per_node}",
        f"--max-restarts={resources.max_restarts}",
        *meeting,
    ]


def _cpus(order: Order, resources: Resources) -> int:
    return resources.cpus_per_process or 1 + order.settings.num_workers


def _check_order(order: Order) -> None:
    """Find out before hours in a queue what can be found out now."""
    if (order.out / "recipe.resolved.yaml").is_file() and not order.resume:
        raise OutputExistsError(
            f"{order.out}: holds a run already; expected a new folder. Add --resume to go on with "
            "it, or choose another --out."
        )
    if order.start is not None and not order.start.is_dir():
        raise UsageError(f"--from {order.start}: no such folder; expected a run or model folder.")
    check_store(open_store(order.data), order.recipe)


def _check_folder(folder: Path) -> None:
    if UNSAFE_IN_PATH.search(str(folder)):
        raise UsageError(
            f"{str(folder)!r}: has a quote, backslash, percent or control character, which Slurm "
            "would read as something else. Choose another --out."
        )


def _check_folds(order: Order, folds: Sequence[int], resources: Resources) -> None:
    num_folds = order.recipe.split.folds
    if resources.nodes > 1:
        raise UsageError(
            f"--folds with --nodes {resources.nodes}: a task of an array is on one node; expected "
            "--nodes 1. Submit folds of several nodes one by one, with --fold."
        )
    if order.fold is not None:
        raise UsageError("--fold and --folds: expected one of them.")
    if resources.time is None:
        raise UsageError("--folds: expected --time, the time limit of each task.")
    if not folds or len(set(folds)) < len(folds) or not all(0 <= n < num_folds for n in folds):
        raise UsageError(
            f"--folds {','.join(map(str, folds))}: expected different numbers from 0 to "
            f"{num_folds - 1}, as the recipe has {num_folds} folds."
        )


def _check(option: str, value: str | None, pattern: re.Pattern[str], expected: str) -> None:
    if value is not None and not pattern.fullmatch(value):
        raise UsageError(f"{option} {value!r}: expected {expected}.")


def _write_recipe(order: Order) -> Path:
    path = order.folder / "recipe.yaml"
    write_text(path, dump_recipe(order.recipe))
    return path


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise UsageError(
            "--folds: needs submitit, which is not installed. "
            "Install it: pip install 'brainsegfounder[cluster]'"
        ) from None
    return submitit


SCRIPT = """\
#!/bin/bash
# Written by brainsegfounder. To go on with the run later: sbatch this file again.
{options}
set -u
# This script runs on the first node, so all others find that one by its name.
meet="$(hostname):$((20000 + SLURM_JOB_ID % 20000))"
# torchrun passes Slurm's warning on, and gives the run time to save.
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 PET_SHUTDOWN_TIMEOUT={saving}
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-{threads}}}"
{command}
"""
