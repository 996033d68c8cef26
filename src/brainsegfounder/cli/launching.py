"""Options that start a training verb on several processes, here or on a cluster."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

# Of training on several processes: where help shows its options.
PROCESSES = "Several processes"


def _processes(name: str, told: str, *, least: int | None = None) -> Any:
    return typer.Option(name, help=told, min=least, rich_help_panel=PROCESSES)


def _launched(
    verb: str,
    values: dict[str, Any],
    launch: Annotated[
        str,
        _processes("--launch", "local: as this process; torchrun: several here; slurm: a job."),
    ] = "local",
    nodes: Annotated[int, _processes("--nodes", "Machines (slurm).", least=1)] = 1,
    processes_per_node: Annotated[
        int | None,
        _processes("--processes-per-node", "Without: one, or one for each GPU.", least=1),
    ] = None,
    gpus_per_node: Annotated[
        int, _processes("--gpus-per-node", "GPUs to ask Slurm for.", least=0)
    ] = 0,
    cpus_per_process: Annotated[
        int | None,
        _processes("--cpus-per-process", "Without: one, and one for each reader.", least=1),
    ] = None,
    partition: Annotated[str | None, _processes("--partition", "Slurm's.")] = None,
    time: Annotated[str | None, _processes("--time", "Slurm's limit: 12:00:00.")] = None,
    sbatch: Annotated[
        list[str] | None, _processes("--sbatch", "One more option: --account=lab; repeatable.")
    ] = None,
    folds: Annotated[
        str | None, _processes("--folds", "all, or 0,2,4: a job array (slurm), a task for each.")
    ] = None,
    max_restarts: Annotated[
        int, _processes("--max-restarts", "Starts all anew after one failed.", least=0)
    ] = 0,
    dry_run: Annotated[bool, _processes("--dry-run", "Print what would be started.")] = False,
) -> bool:
    """Start a verb on several processes where that is asked for; whether it was."""
    from brainsegfounder.workflows.launch import launch_verb
    from brainsegfounder.workflows.order import Resources

    resources = Resources(
        nodes,
        processes_per_node or gpus_per_node or 1,
        gpus_per_node,
        cpus_per_process,
        partition,
        time,
        tuple(sbatch or ()),
        max_restarts,
    )
    told = launch_verb(launch, verb, values, resources, folds=folds, dry_run=dry_run)
    if told:
        typer.echo(told)
    return told is not None


def launchable(run_here: Callable[..., None]) -> Callable[..., None]:
    """Give a training verb the options of `_launched`."""
    ours = dict(list(inspect.signature(_launched, eval_str=True).parameters.items())[2:])

    @functools.wraps(run_here)
    def command(**values: Any) -> None:
        options = {name: values.pop(name) for name in ours}
        plain = {name: parameter.default for name, parameter in ours.items()}
        if options == plain or not _launched(run_here.__name__, values, **options):
            run_here(**values)

    own = inspect.signature(run_here, eval_str=True)
    command.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[*own.parameters.values(), *ours.values()]
    )
    hints = {name: parameter.annotation for name, parameter in ours.items()}
    command.__annotations__ = {**run_here.__annotations__, **hints}
    return command
