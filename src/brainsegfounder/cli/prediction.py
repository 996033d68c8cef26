"""The verbs `predict` and `replay`; each imports its workflow only when it runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from brainsegfounder.cli.endings import end_with_refused
from brainsegfounder.cli.options import Json, Layout

if TYPE_CHECKING:
    from brainsegfounder.workflows.predict import Predicted

Scan = Path | None
GIVEN = "One case by its contrasts"
BESIDE = "Beside labels"
HOW = "How it is computed"


def predict(
    model: Annotated[Path, typer.Option("--model", help="A model folder or a run.")],
    out: Annotated[Path, typer.Option("--out", help="For the results; an older one goes on.")],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(help="Scans: a folder, a BIDS tree, DICOM (folder or zip), or files."),
    ] = None,
    t1w: Annotated[Scan, typer.Option("--t1w", rich_help_panel=GIVEN)] = None,
    t1ce: Annotated[Scan, typer.Option("--t1ce", rich_help_panel=GIVEN)] = None,
    t2w: Annotated[Scan, typer.Option("--t2w", rich_help_panel=GIVEN)] = None,
    flair: Annotated[Scan, typer.Option("--flair", rich_help_panel=GIVEN)] = None,
    name: Annotated[str, typer.Option("--name", help="Of that case.", rich_help_panel=GIVEN)] = "",
    layout: Layout = "auto",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="reading.FIELD=VALUE: what is allowed of the files."),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Of each region.", rich_help_panel=BESIDE)
    ] = False,
    maps: Annotated[
        bool,
        typer.Option(
            "--maps",
            help="How undecided each voxel is; and where members and views differ.",
            rich_help_panel=BESIDE,
        ),
    ] = False,
    every_grid: Annotated[
        bool,
        typer.Option(
            "--every-grid", help="Labels on the grid of every input.", rich_help_panel=BESIDE
        ),
    ] = False,
    locate: Annotated[
        bool,
        typer.Option(
            "--locate",
            help="Register to MNI152 and say where each lesion is.",
            rich_help_panel=BESIDE,
        ),
    ] = False,
    pages: Annotated[
        bool, typer.Option("--pages/--no-pages", help="Pages to read.", rich_help_panel=BESIDE)
    ] = True,
    viewer: Annotated[
        bool,
        typer.Option(
            "--viewer/--no-viewer",
            help="The scan itself in its page, face and all.",
            rich_help_panel=BESIDE,
        ),
    ] = True,
    review_below: Annotated[
        float,
        typer.Option(
            "--review-below",
            min=0,
            max=1,
            help="Flag scans whose expected Dice may be lower.",
            rich_help_panel=BESIDE,
        ),
    ] = 0.5,
    flips: Annotated[
        bool | None,
        typer.Option(
            "--flips/--no-flips",
            help="Average over mirrored views; else as the model says.",
            rich_help_panel=HOW,
        ),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            "--backend",
            help="torch; or openvino, onnxruntime, with an export as --model.",
            rich_help_panel=HOW,
        ),
    ] = "torch",
    max_memory: Annotated[
        str | None,
        typer.Option(
            "--max-memory", metavar="4GiB", help="Of the whole process.", rich_help_panel=HOW
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Segment scans; labels come back on each scan's own grid, in a BIDS derivative."""
    from brainsegfounder.recipes import load_reading
    from brainsegfounder.workflows.predict import run_predict
    from brainsegfounder.workflows.predict_output import PredictOptions

    scans = {"T1w": t1w, "T1ce": t1ce, "T2w": t2w, "FLAIR": flair}
    given = {contrast: path for contrast, path in scans.items() if path is not None}
    if bool(given) == bool(inputs):
        raise typer.BadParameter(
            "give either INPUTS (a folder, files) or one case by --t1w, --t1ce, --t2w, --flair"
        )
    done = run_predict(
        inputs or [],
        model,
        out,
        layout,
        load_reading(overrides or []),
        given=given,
        name=name,
        flips=flips,
        options=PredictOptions(
            probabilities=probabilities,
            maps=maps,
            every_grid=every_grid,
            locate=locate,
            pages=pages,
            viewer=viewer,
            review_below=review_below,
            backend=backend,
            max_memory_gib=None if max_memory is None else _gib(max_memory),
        ),
    )
    _tell(done, as_json=as_json)


def replay(
    provenance: Annotated[Path, typer.Argument(help="The provenance.json of a prediction.")],
    inputs: Annotated[
        list[Path], typer.Option("--inputs", help="Where its scans are; found by their hashes.")
    ],
    model: Annotated[Path, typer.Option("--model", help="The model that it was made with.")],
    as_json: Json = False,
) -> None:
    """Make a prediction again from its provenance, and compare hashes."""
    from brainsegfounder.workflows.replay import run_replay

    done = run_replay(provenance, inputs, model)
    if as_json:
        typer.echo(json.dumps(done.record(), indent=1))
    else:
        for line in done.lines():
            typer.echo(line)
    if not done.is_same:
        raise typer.Exit(1)


def _gib(text: str) -> float:
    """An amount of memory in GiB, from such as `4GiB`, `1500MiB` or `2.5`."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(Gi?B?|Mi?B?|)", text, re.IGNORECASE)
    if found is None or float(found[1]) <= 0:
        raise typer.BadParameter(f"--max-memory {text}: expected such as 4GiB or 1500MiB")
    return float(found[1]) / (1024 if found[2].upper().startswith("M") else 1)


def _tell(done: Predicted, *, as_json: bool) -> None:
    if as_json:
        typer.echo((done.out / "predictions.json").read_text(encoding="utf-8"))
    else:
        kept = f" ({len(done.kept)} of them were there already)" if done.kept else ""
        typer.echo(f"cases: {len(done.files)} segmented{kept}, {len(done.refused)} refused")
        for case, reasons in done.review.items():
            typer.echo(f"look at {case}: {'; '.join(reasons)}")
        page = done.out / "report.html"
        typer.echo(f"written: {page if page.is_file() else done.out}")
    end_with_refused(done.refused)
    return
