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

import os
import shlex
from collections.abc import Mapping
from typing import Any

from brainsegfounder.errors import UsageError
from brainsegfounder.recipes import load_recipe
from brainsegfounder.settings import Recipe
from brainsegfounder.workflows.order import Order, Resources
from brainsegfounder.workflows.slurm import slurm_script, submit, submit_folds

HOW = ("local", "torchrun", "slurm")


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
        order.write_recipe()
        os.execv(words[0], words)  # noqa: S606
    if folds is not None:
        if dry_run:
            raise UsageError(
                "--folds: submitit writes the array's script only when it submits it; expected no "
                "--dry-run."
            )
        wanted = _fold_numbers(folds, order.recipe)
        return f"submitted: {', '.join(submit_folds(order, wanted, resources))}"
    if dry_run:
        return slurm_script(order, resources)
    job = submit(order, resources)
    return f"submitted job {job}: {order.folder / f'slurm-{job}.out'}"


def torchrun_words(order: Order, resources: Resources) -> list[str]:
    """The command that runs several processes on this machine, once its recipe is written.

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
    order.check()
    return [*resources.torchrun(), *order.words(order.saved_recipe, resume=order.resume)]


def _order(verb: str, values: Mapping[str, Any]) -> Order:
    if values.get("plan"):
        raise UsageError("--plan: trains nothing; expected no --launch.")
    if values["data"] is None or values["out"] is None:
        raise UsageError(f"{verb}: expected --data and --out.")
    names = ("data", "out", "start", "fold", "resume", "participants", "tensorboard")
    return Order(
        "pretrain" if verb == "pretrain" else "finetune",
        load_recipe(values["recipe"], values["overrides"] or []),
        may_change=tuple(values["may_change"] or ()),
        **{name: values[name] for name in names if name in values},
    )


def _fold_numbers(text: str, recipe: Recipe) -> list[int]:
    if text == "all":
        return list(range(recipe.split.folds))
    words = text.split(",")
    if not all(word.isdecimal() for word in words):
        raise UsageError(f"--folds {text}: expected all, or numbers such as 0,2,4.")
    return [int(word) for word in words]
