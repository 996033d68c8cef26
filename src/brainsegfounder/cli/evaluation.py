"""The verb `evaluate`; it imports its workflow only when it runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from brainsegfounder.cli.endings import end_with_refused
from brainsegfounder.cli.options import Json, Out, Overrides, RecipeOption


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="A folder of label files, or one file.")],
    references: Annotated[Path, typer.Argument(help="The same, matched by case name.")],
    out: Out,
    recipe: RecipeOption = None,
    overrides: Overrides = None,
    convention: Annotated[
        str, typer.Option("--convention", help="plain, brats-2023, ...: by which rules.")
    ] = "plain",
    tumour_type: Annotated[
        str | None, typer.Option("--tumour-type", help="brats-2023: glioma, metastasis, ...")
    ] = None,
    probabilities: Annotated[
        Path | None, typer.Option("--probabilities", help="A folder of *_probseg.nii.gz.")
    ] = None,
    tolerances: Annotated[
        list[float] | None,
        typer.Option("--tolerance-mm", min=0, help="Of the surface Dice (NSD); repeatable."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=0, help="Processes; all cores without; 0: none.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="Whose predictions: refuse what it has seen.")
    ] = None,
    folds: Annotated[
        Path | None,
        typer.Option("--folds", help="splits_final.json, a datalist or a table: adds the fold."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Score predictions against references, per case and region, by a stated convention."""
    from brainsegfounder.evaluation.conventions import convention as convention_of
    from brainsegfounder.evaluation.metrics import TOLERANCES_MM, summarise
    from brainsegfounder.recipes import load_reading, load_recipe
    from brainsegfounder.workflows.evaluate import run_evaluate

    rules = convention_of(convention, tumour_type)
    settings = load_recipe(recipe, overrides or []) if recipe else None
    done = run_evaluate(
        predictions,
        references,
        out,
        settings,
        rules=rules,
        reading=None if recipe else load_reading(overrides or []),
        probabilities=probabilities,
        tolerances_mm=tolerances or TOLERANCES_MM,
        jobs=(os.cpu_count() or 1) if jobs is None else jobs,
        run=run,
        folds=folds,
    )
    if as_json:
        typer.echo(json.dumps({"convention": rules.name, **done.record()}, indent=1))
    else:
        for region, row in summarise(done.scores).items():
            typer.echo(
                f"{region}: {rules.dice_name} {row.dice_mean:.3f}, "
                f"{rules.hd95_name} {row.hd95_mm_mean:.1f} mm over {row.num_cases} cases"
            )
        typer.echo(f"{done.summary()}, convention {rules.name}: {out / 'report.html'}")
        if done.without_fold:
            typer.echo(done.fold_note(), err=True)
        if rules.provisional:
            typer.echo(f"{rules.name} is provisional: {rules.source}", err=True)
    end_with_refused(done.refused)
