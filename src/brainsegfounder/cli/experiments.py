"""The verbs of experiments: grids of runs that can be killed and continued."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brainsegfounder.cli.options import Data, Out, Overrides, RecipeName

if TYPE_CHECKING:
    from brainsegfounder.settings import Recipe
    from brainsegfounder.workflows.experiments.arms import Arm, Stage1
    from brainsegfounder.workflows.experiments.experiment import Experiment

GRID = "The grid of runs"
Folder = Annotated[
    Path, typer.Option("--out", help="A folder for all runs; one to go on with, or a new one.")
]
Arms = Annotated[
    str,
    typer.Option(
        "--arms",
        help="scratch, stage1, stage2, stage1+2, weights:FOLDER or NAME=FOLDER, with commas; the "
        "others are compared with the first.",
    ),
]
Stage1Folder = Annotated[
    Path | None, typer.Option("--stage1", help="A run or model folder of stage 1.")
]
Stage1Recipe = Annotated[
    str | None, typer.Option("--stage1-recipe", help="Make stage 1 here, with this recipe, ...")
]
Stage1Data = Annotated[
    Path | None, typer.Option("--stage1-data", help="... on the store in this folder.")
]
Folds = Annotated[
    int | None, typer.Option("--folds", min=2, help="How many; without: as the recipe or data say.")
]
Only = Annotated[str | None, typer.Option("--only", help="Some of the folds: 0,2.")]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", min=1, help="Runs side by side; without: one for each GPU.", rich_help_panel=GRID
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Say runs, hours and disk; train nothing.", rich_help_panel=GRID
    ),
]
NoTiming = Annotated[
    bool,
    typer.Option("--no-timing", help="Plan without hours: time no steps.", rich_help_panel=GRID),
]
Launch = Annotated[
    str,
    typer.Option("--launch", help="local, or slurm: a job for each run.", rich_help_panel=GRID),
]
GpusPerNode = Annotated[
    int, typer.Option("--gpus-per-node", min=0, help="Of each job.", rich_help_panel=GRID)
]
Partition = Annotated[
    str | None, typer.Option("--partition", help="Slurm's.", rich_help_panel=GRID)
]
Time = Annotated[
    str | None, typer.Option("--time", help="Slurm's limit of a job.", rich_help_panel=GRID)
]
Sbatch = Annotated[
    list[str] | None,
    typer.Option("--sbatch", help="One more option of sbatch; repeatable.", rich_help_panel=GRID),
]
Json = Annotated[bool, typer.Option("--json", help="Print for machines.")]


def _how(
    jobs: Jobs = None,
    dry_run: DryRun = False,
    no_timing: NoTiming = False,
    launch: Launch = "local",
    gpus_per_node: GpusPerNode = 0,
    partition: Partition = None,
    time: Time = None,
    sbatch: Sbatch = None,
) -> Any:
    """How the runs of a grid are made."""
    from brainsegfounder.workflows.experiments.experiment import How
    from brainsegfounder.workflows.order import Resources

    if launch not in ("local", "slurm"):
        raise typer.BadParameter(f"--launch {launch}: expected local or slurm")
    resources = Resources(
        processes_per_node=gpus_per_node or 1,
        gpus_per_node=gpus_per_node,
        partition=partition,
        time=time,
        sbatch=tuple(sbatch or ()),
    )
    return How(jobs, dry_run, resources if launch == "slurm" else None, timed=not no_timing)


def _makes_a_grid(verb: Callable[..., Any]) -> Callable[..., None]:
    """Give a verb the options of `_how`, and say what became of its experiment."""
    ours = list(inspect.signature(_how, eval_str=True).parameters.values())
    own = inspect.signature(verb, eval_str=True).parameters
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    as_json = inspect.Parameter("as_json", keyword, default=False, annotation=Json)
    shown = [*(one for one in own.values() if one.name != "how"), *ours, as_json]

    @functools.wraps(verb)
    def command(**values: Any) -> None:
        is_json = values.pop("as_json")
        how = _how(**{one.name: values.pop(one.name) for one in ours})
        _tell(verb(**values, how=how), as_json=is_json)

    command.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in shown}
    return command


@_makes_a_grid
def crossval(
    recipe: RecipeName,
    data: Data,
    out: Folder,
    folds: Folds = None,
    only: Only = None,
    arms: Arms = "scratch",
    stage1: Stage1Folder = None,
    stage1_recipe: Stage1Recipe = None,
    stage1_data: Stage1Data = None,
    overrides: Overrides = None,
    *,
    how: Any,
) -> Any:
    """Cross-validate arms over all folds; tables, comparison, and each arm's fold ensemble."""
    from brainsegfounder.workflows.experiments.crossval import crossval_cells, show_crossval
    from brainsegfounder.workflows.experiments.experiment import run_experiment

    counted = [] if folds is None else [f"split.folds={folds}"]
    settings = _recipe(recipe, [*(overrides or []), *counted])
    begin = _stage1(stage1, stage1_recipe, stage1_data, overrides)
    wanted = _arms(arms, begin, settings)
    cells = crossval_cells(settings, data, wanted, begin, _fold_numbers(only))
    return run_experiment("crossval", out, cells, show_crossval, how)


@_makes_a_grid
def fewshot(
    recipe: RecipeName,
    data: Data,
    out: Folder,
    fractions: Annotated[
        str, typer.Option("--fractions", help="Of the labelled pool.")
    ] = "0.05,0.1,0.2,0.4,1",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Subsets of each size.")] = 5,
    fold: Annotated[
        int | None,
        typer.Option("--fold", help="Tests this fold; without: the recipe's test part, or fold 0."),
    ] = None,
    arms: Arms = "scratch,stage2",
    stage1: Stage1Folder = None,
    stage1_recipe: Stage1Recipe = None,
    stage1_data: Stage1Data = None,
    stage2_on: Annotated[
        str, typer.Option("--stage2-on", help="Images of the whole pool, or of labelled only.")
    ] = "pool",
    protocol: Annotated[
        str, typer.Option("--protocol", help="fixed: one test part; official: one each repeat.")
    ] = "fixed",
    overrides: Overrides = None,
    *,
    how: Any,
) -> Any:
    """Few-shot curves: arms on nested subsets of the labels, against one untouched test part."""
    from brainsegfounder.workflows.experiments.experiment import run_experiment
    from brainsegfounder.workflows.experiments.fewshot import (
        FewshotOptions,
        fewshot_cells,
        show_fewshot,
    )

    if stage2_on not in ("pool", "labelled"):
        raise typer.BadParameter(f"--stage2-on {stage2_on}: expected pool or labelled")
    if protocol not in ("fixed", "official"):
        raise typer.BadParameter(f"--protocol {protocol}: expected fixed or official")
    settings = _recipe(recipe, overrides)
    begin = _stage1(stage1, stage1_recipe, stage1_data, overrides)
    options = FewshotOptions(
        _numbers(fractions, "--fractions"),
        repeats,
        fold,
        "pool" if stage2_on == "pool" else "labelled",
        "fixed" if protocol == "fixed" else "official",
    )
    cells = fewshot_cells(settings, data, _arms(arms, begin, settings), begin, options)
    return run_experiment("fewshot", out, cells, show_fewshot, how)


@_makes_a_grid
def contrasts(
    recipe: RecipeName,
    data: Data,
    out: Folder,
    subsets: Annotated[
        str, typer.Option("--subsets", help="single: one at a time; all: every subset.")
    ] = "single",
    by: Annotated[
        str,
        typer.Option("--by", help="training: a model each; dropout: one model, tested with each."),
    ] = "training",
    copies: Annotated[
        bool, typer.Option("--copies", help="A single contrast fills four channels.")
    ] = False,
    only: Only = None,
    arms: Arms = "scratch",
    stage1: Stage1Folder = None,
    stage1_recipe: Stage1Recipe = None,
    stage1_data: Stage1Data = None,
    overrides: Overrides = None,
    *,
    how: Any,
) -> Any:
    """Which contrasts matter: one at a time, or every subset, beside all of them."""
    from functools import partial

    from brainsegfounder.workflows.experiments import contrasts as experiment
    from brainsegfounder.workflows.experiments.experiment import run_experiment

    if subsets not in ("single", "all"):
        raise typer.BadParameter(f"--subsets {subsets}: expected single or all")
    if by not in ("training", "dropout"):
        raise typer.BadParameter(f"--by {by}: expected training or dropout")
    settings = _recipe(recipe, overrides)
    begin = _stage1(stage1, stage1_recipe, stage1_data, overrides)
    wanted = _arms(arms, begin, settings)
    folds: list[int | None] = [*(_fold_numbers(only) or ())]
    folds = folds or [None if settings.split.test_subjects else 0]
    which = experiment.subsets_of(
        settings.data.contrasts, "single" if subsets == "single" else "all"
    )
    if by == "dropout":
        cells = experiment.dropout_cells(settings, data, wanted, begin, folds)
        show = partial(experiment.show_dropout, data=data, subsets=which)
        return run_experiment("contrasts", out, cells, show, how)
    cells = experiment.contrasts_cells(settings, data, wanted, begin, which, folds, copies=copies)
    return run_experiment("contrasts", out, cells, experiment.show_contrasts, how)


@_makes_a_grid
def scales(
    recipe: RecipeName,
    data: Data,
    out: Folder,
    which: Annotated[
        str, typer.Option("--scales", help="With commas: nano, tiny, small, big, ...")
    ] = "tiny,small,big",
    folds: Folds = None,
    only: Only = None,
    arms: Arms = "scratch",
    stage1: Stage1Folder = None,
    stage1_recipe: Stage1Recipe = None,
    stage1_data: Stage1Data = None,
    published: Annotated[
        Path | None, typer.Option("--published", help="Points of the paper's Figure 4, as CSV.")
    ] = None,
    overrides: Overrides = None,
    *,
    how: Any,
) -> Any:
    """Sizes of the network side by side: pretraining curves, parameters, cross-validation."""
    from functools import partial

    from brainsegfounder.workflows.experiments.crossval import wanted_folds
    from brainsegfounder.workflows.experiments.experiment import run_experiment
    from brainsegfounder.workflows.experiments.scales import scales_cells, show_scales

    counted = [] if folds is None else [f"split.folds={folds}"]
    settings = _recipe(recipe, [*(overrides or []), *counted])
    begin = _stage1(stage1, stage1_recipe, stage1_data, overrides)
    names = [name.strip() for name in which.split(",") if name.strip()]
    tested = [] if settings.finetune is None else wanted_folds(settings, data, _fold_numbers(only))
    cells = scales_cells(settings, data, names, _arms(arms, begin, settings), begin, tested)
    show = partial(show_scales, published_csv=published)
    return run_experiment("scales", out, cells, show, how)


def tables(
    runs: Annotated[list[Path], typer.Option("--runs", help="A grid, or a folder of grids.")],
    out: Out,
    store: Annotated[
        list[Path] | None, typer.Option("--store", help="For Table 1 and Figure 3; repeatable.")
    ] = None,
    participants: Annotated[
        Path | None, typer.Option("--participants", help="For Table 7 and Figure 2.")
    ] = None,
    published: Annotated[
        Path | None, typer.Option("--published", help="Points of the paper's Figure 4, as CSV.")
    ] = None,
) -> None:
    """The paper's tables and figures, with our numbers beside the published ones."""
    from brainsegfounder.workflows.experiments.paper import run_tables

    page = run_tables(
        runs, out, stores=store or (), participants=participants, published_curves=published
    )
    typer.echo(f"written: {page}")


def _recipe(name: str, overrides: list[str] | None) -> Recipe:
    from brainsegfounder.recipes import load_recipe

    return load_recipe(name, overrides or [])


def _stage1(
    folder: Path | None, recipe: str | None, data: Path | None, overrides: list[str] | None
) -> Stage1:
    """Where stage 1 comes from; what is set of the network holds for it, too."""
    from brainsegfounder.recipes import load_recipe
    from brainsegfounder.workflows.experiments.arms import Stage1

    if (recipe is None) != (data is None):
        raise typer.BadParameter("--stage1-recipe and --stage1-data: expected both, or none")
    if folder is not None and recipe is not None:
        raise typer.BadParameter("--stage1 and --stage1-recipe: expected one of them")
    if folder is not None and not folder.is_dir():
        raise typer.BadParameter(f"--stage1 {folder}: no such folder")
    shared = [text for text in overrides or [] if text.startswith(("model.", "pretrain."))]
    return Stage1(folder, load_recipe(recipe, shared) if recipe else None, data)


def _arms(words: str, stage1: Stage1, recipe: Recipe) -> list[Arm]:
    from brainsegfounder.workflows.experiments.arms import parse_arms

    return parse_arms(words.split(","), stage1, recipe)


def _fold_numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise typer.BadParameter(f"--only {text}: expected numbers of folds, such as 0,2")
    return [int(part) for part in parts]


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise typer.BadParameter(f"{option} {text}: expected numbers with commas") from None


def _tell(done: Experiment, *, as_json: bool) -> None:
    """Say what became of an experiment; runs that failed end it with exit code 1."""
    record: dict[str, Any] = {
        "plan": done.plan.record(),
        "failed": done.failed,
        "submitted": done.submitted,
        "page": str(done.page) if done.page else None,
    }
    if as_json:
        typer.echo(json.dumps(record, indent=1))
    elif done.submitted:
        jobs = len(done.submitted)
        typer.echo(f"submitted {jobs} {'job' if jobs == 1 else 'jobs'}; call again when done")
    elif done.page:
        typer.echo(f"written: {done.page}")
    for name, why in done.failed.items():
        typer.echo(f"failed: {name}: {why}", err=True)
    if done.failed:
        raise typer.Exit(1)
