"""The verb `compare`: its options, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from brainsegfounder.cli.options import Json, Out


def compare(
    runs_or_metrics: Annotated[
        list[str],
        typer.Argument(
            help="NAME=PATH, or PATH: metrics.csv or .json, an evaluation, a run, a folder of "
            "runs. The first is the baseline; the same NAME again adds folds or seeds. "
            "NAME@fold=0,seed=1,labels=50=PATH says what files do not."
        ),
    ],
    out: Out,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", help="A column to compare; repeatable, the primary one first."),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Name to compare with; else the first.")
    ] = None,
    margin: Annotated[
        list[str] | None,
        typer.Option(
            "--margin", help="Non-inferiority: a loss you accept, 0.01 or hd95_mm=2; repeatable."
        ),
    ] = None,
    participants: Annotated[
        Path | None,
        typer.Option("--participants", help="A table of site, sex and age, for subgroups."),
    ] = None,
    by_labels: Annotated[
        bool,
        typer.Option("--by-labels", help="Compare by number of labelled subjects of each run."),
    ] = False,
    unit: Annotated[
        str, typer.Option("--unit", help="What a case is, where it is no subject: fold, repeat.")
    ] = "subject",
    region_mean: Annotated[
        bool, typer.Option("--region-mean", help="Compare the mean over regions, too, and first.")
    ] = False,
    level: Annotated[float, typer.Option("--level", help="Of the intervals.")] = 0.95,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random resampling.")] = 0,
    scans: Annotated[
        Path | None, typer.Option("--scans", help="Folder of scans, to show the worst cases.")
    ] = None,
    references: Annotated[
        Path | None, typer.Option("--references", help="Folder of references, likewise.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare methods case by case: differences with intervals, tests, subgroups, pictures."""
    from brainsegfounder.workflows.compare import CompareOptions, run_compare

    options = CompareOptions(
        metrics=metric or (),
        margins=margin or (),
        baseline=baseline,
        level=level,
        participants=participants,
        by_labels=by_labels,
        unit=unit,
        region_mean=region_mean,
        seed=seed,
        scans=scans,
        references=references,
    )
    done = run_compare(runs_or_metrics, out, options)
    if as_json:
        typer.echo(json.dumps(done.record, indent=1, ensure_ascii=False, allow_nan=False))
        return
    for text in done.sentences:
        typer.echo(text)
    for text in done.warnings:
        typer.echo(f"note: {text}", err=True)
    typer.echo(f"written: {out / 'report.html'}")
