"""The verb `export`; it imports its workflow only when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from brainsegfounder.cli.options import Json, Out


def export(
    model: Annotated[Path, typer.Argument(help="A run or model folder that can segment.")],
    to: Annotated[
        str, typer.Option("--to", help="safetensors, onnx, openvino, pt2 or monai-bundle.")
    ],
    out: Out,
    case: Annotated[
        Path | None,
        typer.Option(
            "--case",
            help="What to compare on: a folder with one case's scans, a store, or STORE/CASE; "
            "the embedded phantom without.",
        ),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise (onnx, openvino); needs --calibration.")
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="A store with cases that the model was trained on."),
    ] = None,
    num_windows: Annotated[
        int, typer.Option("--windows", min=1, help="How many windows int8 is calibrated on.")
    ] = 24,
    as_json: Json = False,
) -> None:
    """Write a model for other programs; it is compared with the model before it is called done."""
    from brainsegfounder.workflows.exporting.export import export_model

    done = export_model(
        model,
        to,
        out,
        case=case,
        calibration=calibration,
        num_windows=num_windows,
        int8=int8,
    )
    if as_json:
        typer.echo(json.dumps(done.record, indent=1))
    else:
        for line in done.lines():
            typer.echo(line)
        typer.echo(f"written: {out}")
