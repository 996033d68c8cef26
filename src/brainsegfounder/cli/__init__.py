"""The command line: one thin function a verb, which imports its workflow only when it runs."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from brainsegfounder import __version__
from brainsegfounder.cli.auditing import audit
from brainsegfounder.cli.comparing import compare
from brainsegfounder.cli.endings import end_with_refused
from brainsegfounder.cli.evaluation import evaluate
from brainsegfounder.cli.experiments import contrasts, crossval, fewshot, scales, tables
from brainsegfounder.cli.exporting import export
from brainsegfounder.cli.launching import launchable
from brainsegfounder.cli.options import (
    Data,
    Fold,
    Inputs,
    Json,
    Layout,
    MayChange,
    Out,
    Overrides,
    RecipeName,
    RecipeOption,
    Resume,
    Start,
)
from brainsegfounder.cli.prediction import predict, replay
from brainsegfounder.errors import BrainSegFounderError, Interrupted

if TYPE_CHECKING:
    from brainsegfounder.workflows.plan import Plan

NOTICE = "Research use only. Not a medical device."
# Libraries that tell of every step.
NOISY = (
    "highdicom", "matplotlib", "nibabel", "nncf", "numexpr", "onnx_ir", "onnxscript", "torch.onnx",
)  # fmt: skip

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=f"A 3-D foundation model for brain MRI: pretrain, fine-tune, predict, evaluate. {NOTICE}",
)
recipe_app = typer.Typer(no_args_is_help=True, help="Look at recipes, the settings of every run.")
app.add_typer(recipe_app, name="recipe")


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"brainsegfounder {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    _: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_tell_version, help="Print the version and end."
        ),
    ] = False,
) -> None: ...


@app.command()
def demo(out: Out) -> None:
    """Run the whole method on an embedded cohort, in about five minutes on two CPU cores."""
    from brainsegfounder.workflows.demo import run_demo

    typer.echo(run_demo(out))


@app.command()
def prepare(
    inputs: Inputs,
    out: Annotated[Path, typer.Option("--out", help="The store to make or bring up to date.")],
    recipe: RecipeOption = None,
    layout: Layout = "auto",
    overrides: Overrides = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=0, help="Processes; all cores without; 0: none.")
    ] = None,
    array_format: Annotated[
        str, typer.Option("--format", help="blosc2, or npy where that is a burden.")
    ] = "blosc2",
    dtype: Annotated[
        str, typer.Option("--dtype", help="Of intensities: float16, or int16 with a scale.")
    ] = "float16",
    participants: Annotated[
        Path | None, typer.Option("--participants", help="A participants.tsv, for the page.")
    ] = None,
    pseudonyms: Annotated[
        Path | None,
        typer.Option(
            "--pseudonyms",
            metavar="FILE.csv",
            help="Name subjects by pseudonyms; this private table, made or extended, says who is "
            "who.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring scans to one grid and one intensity scale, into a store for training."""
    from brainsegfounder.recipes import load_reading, load_recipe
    from brainsegfounder.workflows.prepare import run_prepare

    settings = load_recipe(recipe, overrides or []) if recipe else None
    reading = None if recipe else load_reading(overrides or [])
    if array_format not in ("blosc2", "npy"):
        raise typer.BadParameter(f"--format {array_format}: expected blosc2 or npy")
    if dtype not in ("float16", "int16"):
        raise typer.BadParameter(f"--dtype {dtype}: expected float16 or int16")
    done = run_prepare(
        inputs,
        out,
        settings,
        layout,
        jobs=(os.cpu_count() or 1) if jobs is None else jobs,
        array_format="npy" if array_format == "npy" else "blosc2",
        dtype="int16" if dtype == "int16" else "float16",
        participants=participants,
        reading=reading,
        pseudonyms=pseudonyms,
    )
    if as_json:
        typer.echo(json.dumps(done.record(), indent=1))
    else:
        typer.echo(
            f"{len(done.cases)} cases prepared ({len(done.reused)} of them were there already), "
            f"{len(done.excluded)} excluded by the recipe, {len(done.refused)} refused"
            f"{f', {len(done.noticed)} remarks on the input' if done.noticed else ''}: "
            f"{out / 'report.html'}"
        )
    if done.no_longer_found:
        names = ", ".join(done.no_longer_found[:5])
        typer.echo(
            f"{len(done.no_longer_found)} cases of the store are not in the input and are listed "
            f"no more ({names}); their files are kept in {out / 'cases'}",
            err=True,
        )
    end_with_refused({case: str(problem) for case, problem in done.refused.items()})


@app.command()
@launchable
def pretrain(
    recipe: RecipeName,
    data: Annotated[Path | None, typer.Option("--data", help="A store made by `prepare`.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="A new folder for the results.")] = None,
    start: Start = None,
    fold: Fold = None,
    overrides: Overrides = None,
    resume: Resume = False,
    may_change: MayChange = None,
    participants: Annotated[
        Path | None,
        typer.Option("--participants", help="A table of age and sex, to probe features with."),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write for TensorBoard, too (extra: track).")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Train nothing; say what the run will take.")
    ] = False,
    subjects: Annotated[
        int | None, typer.Option("--subjects", min=1, help="--plan: how many there will be.")
    ] = None,
    gpus: Annotated[str, typer.Option("--gpus", help="--plan: numbers of GPUs.")] = "1,8,64",
    price_per_gpu_hour: Annotated[
        float | None, typer.Option("--price-per-gpu-hour", min=0, help="--plan: for the cost.")
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option("--price-per-hour", min=0, help="--plan: of this machine.")
    ] = None,
    utilisation: Annotated[
        float | None, typer.Option("--utilisation", help="--plan: used share of a GPU's rate.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Self-supervised training: stage 1, or stage 2 with --from."""
    from brainsegfounder.recipes import load_recipe
    from brainsegfounder.workflows.pretrain import run_pretrain

    settings = load_recipe(recipe, overrides or [])
    if plan:
        from brainsegfounder.workflows.plan import Prices, make_plan

        found = make_plan(
            settings,
            data=data,
            subjects=subjects,
            fold=fold,
            gpus=_counts(gpus, "--gpus"),
            utilisation=utilisation,
            prices=Prices(price_per_gpu_hour, price_per_hour),
        )
        _tell_plan(found, as_json=as_json)
        return
    if data is None or out is None:
        raise typer.BadParameter("pretrain needs --data and --out; only --plan does without")
    state = run_pretrain(
        settings,
        data,
        out,
        start=start,
        fold=fold,
        resume=resume,
        may_change=may_change or (),
        participants=participants,
        tensorboard=tensorboard,
    )
    if not _is_main():
        return
    best = "" if state.best_value is None else f", validation loss {state.best_value:.3f}"
    typer.echo(f"{state.step} steps, best at {state.best_step}{best}: {out}")


@app.command()
@launchable
def finetune(
    recipe: RecipeName,
    data: Data,
    out: Out,
    start: Start = None,
    fold: Fold = None,
    overrides: Overrides = None,
    resume: Resume = False,
    may_change: MayChange = None,
) -> None:
    """Supervised training of a segmentation model, tested on subjects it never saw."""
    from brainsegfounder.evaluation.metrics import summarise
    from brainsegfounder.recipes import load_recipe
    from brainsegfounder.workflows.finetune import run_finetune

    settings = load_recipe(recipe, overrides or [])
    state, scores = run_finetune(
        settings, data, out, start=start, fold=fold, resume=resume, may_change=may_change or ()
    )
    if not _is_main():
        return
    typer.echo(f"{state.step} steps, best at {state.best_step}: {out}")
    for region, row in summarise(scores).items():
        typer.echo(f"  {region}: Dice {row.dice_mean:.3f} over {row.num_cases} held-out cases")


app.command()(predict)
app.command()(replay)
app.command()(export)
app.command()(evaluate)
app.command()(compare)
app.command()(audit)
app.command()(crossval)
app.command()(fewshot)
app.command()(contrasts)
app.command()(scales)
app.command()(tables)


@app.command("convert-weights")
def convert_weights(
    file: Annotated[Path, typer.Argument(help="A .pt, .pth or .safetensors file.")],
    out: Annotated[Path, typer.Option("--out", help="The new model folder.")],
    merging: Annotated[
        str | None, typer.Option("--merging", help="legacy, complete or v2; known files know.")
    ] = None,
    contrasts: Annotated[
        str, typer.Option("--contrasts", help="One a channel, in order: T1w,FLAIR.")
    ] = "",
    recipe: RecipeOption = None,
    min_coverage: Annotated[
        float, typer.Option("--min-coverage", help="Least share of the encoder that is there.")
    ] = 0.95,
) -> None:
    """Turn published or foreign weights into a model folder, without running what is in them."""
    from brainsegfounder.recipes import load_recipe
    from brainsegfounder.workflows.convert import run_convert

    done = run_convert(
        file,
        out,
        merging=merging,
        contrasts=[name.strip() for name in contrasts.split(",") if name.strip()],
        recipe=load_recipe(recipe) if recipe else None,
        min_coverage=min_coverage,
    )
    for line in done.lines():
        typer.echo(line)
    typer.echo(f"written: {out}")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is installed, what is missing, and what to run next."""
    from dataclasses import asdict

    from brainsegfounder.workflows.doctor import examine, next_command

    findings = examine(Path.cwd())
    if as_json:
        record = {"findings": [asdict(f) for f in findings], "next": next_command(findings)}
        typer.echo(json.dumps(record, indent=1))
    else:
        for finding in findings:
            mark = "ok" if finding.ok else f"MISSING: {finding.remedy}"
            typer.echo(f"{finding.what:<14} {finding.found}  [{mark}]")
        typer.echo(f"Next: {next_command(findings)}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@recipe_app.command("list")
def recipe_list(as_json: Json = False) -> None:
    """Name and purpose of every shipped recipe."""
    from brainsegfounder.recipes import load_recipe, shipped_recipes

    found = {name: load_recipe(path).description for name, path in shipped_recipes().items()}
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for name, description in found.items():
        typer.echo(f"{name:<16} {description}")


@recipe_app.command("show")
def recipe_show(recipe: RecipeName, overrides: Overrides = None) -> None:
    """The complete recipe, every default written out."""
    from brainsegfounder.recipes import dump_recipe, load_recipe

    typer.echo(dump_recipe(load_recipe(recipe, overrides or [])), nl=False)


@recipe_app.command("check")
def recipe_check(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Say whether a recipe is valid; if not, which field, and what to do."""
    from brainsegfounder.recipes import load_recipe

    typer.echo(f"{load_recipe(recipe, overrides or []).name}: valid")


@recipe_app.command("explain")
def recipe_explain(
    field: Annotated[str | None, typer.Argument(help="A field or section; all without.")] = None,
) -> None:
    """What each field means."""
    from brainsegfounder.recipes import explain_fields

    for name, description in explain_fields(field):
        typer.echo(f"{name}\n    {description}")


def main() -> None:
    """Run the command line; every error of ours is one line and its own exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        app()
    except BrainSegFounderError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except Interrupted as stop:
        typer.echo(str(stop), err=True)
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away; nothing more can be told to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _tell_plan(plan: Plan, *, as_json: bool) -> None:
    from brainsegfounder.workflows.plan_text import plan_lines

    typer.echo(json.dumps(plan.record(), indent=1) if as_json else "\n".join(plan_lines(plan)))


def _counts(text: str, option: str) -> list[int]:
    """Whole numbers between commas."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise typer.BadParameter(f"{option} {text}: expected numbers from 1 on, such as 1,8,64")
    return [int(part) for part in parts]


def _is_main() -> bool:
    """Whether this is the one of several processes that talks to the user."""
    from brainsegfounder.distributed import world

    return world().is_main
