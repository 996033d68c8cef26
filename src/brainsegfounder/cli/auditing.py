"""The verb `audit`; it imports its workflow only when it runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from brainsegfounder.cli.endings import end_with_refused
from brainsegfounder.cli.options import Json, Layout, Out, Overrides


def audit(
    parts: Annotated[
        list[str],
        typer.Argument(help="Folders of scans, stores, runs, models: NAME=PATH, or a path."),
    ],
    out: Out,
    aliases: Annotated[
        Path | None, typer.Option("--aliases", help="A table: one person's names in each row.")
    ] = None,
    layout: Layout = "auto",
    overrides: Overrides = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=0, help="Processes; all cores without; 0: none.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find leaks: people or scans that stand in several parts, or under several names."""
    from brainsegfounder.recipes import load_reading
    from brainsegfounder.workflows.audit import parse_part, run_audit

    done = run_audit(
        [parse_part(part) for part in parts],
        out,
        aliases=aliases,
        layout=layout,
        jobs=(os.cpu_count() or 1) if jobs is None else jobs,
        reading=load_reading(overrides or []),
    )
    if as_json:
        typer.echo(json.dumps(done.record(), indent=1))
    else:
        for line in done.lines():
            typer.echo(line)
        typer.echo(f"written: {out / 'report.html'}")
    end_with_refused({scan: str(problem) for scan, problem in done.refused.items()})
    if not done.is_clean:
        raise typer.Exit(3)
