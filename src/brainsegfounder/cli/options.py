"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Inputs = Annotated[list[Path], typer.Argument(help="Folders, or files named CASE_CONTRAST.nii.gz.")]
Out = Annotated[Path, typer.Option("--out", help="A new folder for the results.")]
RecipeName = Annotated[str, typer.Argument(help="A shipped recipe's name, a YAML file, or a run.")]
RecipeOption = Annotated[str | None, typer.Option("--recipe", help="A recipe's name or file.")]
Data = Annotated[Path, typer.Option("--data", help="A store made by `prepare`.")]
Start = Annotated[
    Path | None, typer.Option("--from", help="A run or model folder whose encoder is the start.")
]
Fold = Annotated[int | None, typer.Option("--fold", help="Held-out fold, counted from 0.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="section.field=value over the recipe; repeatable.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]
MayChange = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-config-change",
        metavar="FIELD",
        help="section.field that may differ from the run that --resume goes on with; repeatable.",
    ),
]
Layout = Annotated[str, typer.Option("--layout", help="How the input is laid out.")]
Json = Annotated[bool, typer.Option("--json", help="Print for machines.")]
