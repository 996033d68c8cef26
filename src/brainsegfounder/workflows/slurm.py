"""Slurm jobs of training verbs: the script, its submission, and arrays with a task for each fold.

A job is a script that anyone can read, beside the run's folder. It gets a warning (SIGUSR1) before
its time is up, upon which the run saves a checkpoint and puts the job back into the queue; started
again, it goes on. Arrays go through submitit.
"""

from __future__ import annotations

import math
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from brainsegfounder.errors import RunError, UsageError
from brainsegfounder.files import write_text
from brainsegfounder.workflows.array_task import Task
from brainsegfounder.workflows.order import OPTION, Order, Resources

# How long before its end a job is warned, and how long of that a run may take to save.
WARNING_S, SAVING_S = 120, 110
# How often a task of an array may run out of time; a run of weeks on hourly slots is no failure.
MAX_TIMEOUTS = 1000
# What would mean something else in a line for sbatch.
UNSAFE_IN_PATH = re.compile(r"[\x00-\x1f\x7f%\"'\\]")

SCRIPT = """\
#!/bin/bash
# Written by brainsegfounder. To go on with the run later: sbatch this file again.
{options}
set -u
# This script runs on the first node, so all others find that one by its name.
meet="$(hostname):$((20000 + SLURM_JOB_ID % 20000))"
# Processes that are started again must not read what those before them have left.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# torchrun passes Slurm's warning on, and gives the run time to save.
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 PET_SHUTDOWN_TIMEOUT={saving}
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-{threads}}}"
{command}
"""


def slurm_script(order: Order, resources: Resources, after: Sequence[str] = ()) -> str:
    """The job that runs an order; a job that Slurm starts again goes on where it stopped.

    Args:
        order: What is run.
        resources: Of the job.
        after: Numbers of jobs that must have succeeded before.

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
        "cpus-per-task": resources.cpus(order.settings) * resources.processes_per_node,
        "gpus-per-node": resources.gpus_per_node or None,
        "partition": resources.partition,
        "time": resources.time,
        "signal": f"USR1@{WARNING_S}",
        "dependency": f"afterok:{':'.join(after)}" if after else None,
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
    launcher, verb = resources.torchrun([]), order.words(order.saved_recipe, resume=True)
    parts = ["exec srun --kill-on-bad-exit=1", shlex.join(launcher)]
    command = " \\\n  ".join([*parts, *(f'"{word}"' for word in meeting), shlex.join(verb)])
    return SCRIPT.format(
        options="\n".join(f"#SBATCH {line}" for line in (*lines, *resources.sbatch)),
        saving=SAVING_S,
        threads=resources.cpus(order.settings),
        command=command,
    )


def submit(order: Order, resources: Resources, after: Sequence[str] = ()) -> str:
    """Write an order's job and give it to Slurm.

    Args:
        order: What is run; its start weights may be what a job of `after` makes.
        resources: Of the job.
        after: Numbers of jobs that must have succeeded before.

    Returns:
        The job's number.

    Raises:
        UsageError: A setting is wrong.
        OutputExistsError: `out` holds a run and the order is not to resume.
        StoreError: The store does not fit the recipe.
        RunError: Slurm is not here, or refused the job.
    """
    script = slurm_script(order, resources, after)
    (replace(order, start=None) if after else order).check()
    order.write_recipe()
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
        one.check()
    order.write_recipe()
    run, recipe = resources.torchrun(), order.saved_recipe
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


def _array_parameters(order: Order, resources: Resources) -> dict[str, Any]:
    options = (OPTION.fullmatch(option) for option in resources.sbatch)
    more = {match[1]: match[2] or True for match in options if match is not None}
    return {
        "job_name": f"brainsegfounder-{order.verb}",
        "partition": resources.partition,
        "time": _minutes(resources.time or ""),
        "nodes": 1,
        "ntasks_per_node": 1,
        "cpus_per_task": resources.cpus(order.settings) * resources.processes_per_node,
        "gpus_per_node": resources.gpus_per_node or None,
        "signal_delay_s": WARNING_S,
        "stderr_to_stdout": True,
        "setup": [
            f"export OMP_NUM_THREADS={resources.cpus(order.settings)}",
            f"export PET_SHUTDOWN_TIMEOUT={SAVING_S}",
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


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise UsageError(
            "--folds: needs submitit, which is not installed. "
            "Install it: pip install 'brainsegfounder[cluster]'"
        ) from None
    return submitit
