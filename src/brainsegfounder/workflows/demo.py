"""`demo`: the whole method on the embedded cohort, pretrained against from scratch."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from brainsegfounder.data.layouts import read_cases
from brainsegfounder.data.splits import split_subjects
from brainsegfounder.errors import TrainingError
from brainsegfounder.evaluation.figures import loss_curves
from brainsegfounder.evaluation.metrics import RULES, RegionScore
from brainsegfounder.evaluation.report import (
    GalleryCase,
    Picture,
    Report,
    Table,
    score_tables,
    write_report,
)
from brainsegfounder.files import check_new_folder
from brainsegfounder.recipes import load_recipe
from brainsegfounder.runs import Run
from brainsegfounder.volumes.nifti import read_labels, read_nifti
from brainsegfounder.volumes.phantom import write_cohort
from brainsegfounder.workflows.derivative_tables import finished_cases
from brainsegfounder.workflows.evaluate import run_evaluate
from brainsegfounder.workflows.finetune import run_finetune
from brainsegfounder.workflows.predict import run_predict
from brainsegfounder.workflows.prepare import run_prepare
from brainsegfounder.workflows.pretrain import run_pretrain
from brainsegfounder.workflows.reports import (
    FINETUNE_PARTS,
    PRETEXT_PARTS,
    Shown,
    comparison_table,
    dice_highlights,
    gallery,
)

log = logging.getLogger(__name__)

SEED = 2406
NUM_HEALTHY = 10
NUM_TUMOURS = 15
FOLD = 0
SPACING_MM = 3.0
DECIDING_REGION = "WT"
LOWEST_DICE = 0.5
CAVEAT = (
    "Drawn brains and minutes of training: the numbers show that the pipeline works, "
    "not how good the method is on patients."
)


def run_demo(out: Path) -> str:
    """Run the demo.

    Args:
        out: A new folder; gets `report.html`, `model/` and every intermediate result.

    Returns:
        A table of held-out Dice, pretrained and from scratch, to print.

    Raises:
        TrainingError: An arm's whole-lesion Dice on held-out cases is under 0.5.
        OutputExistsError: `out` has content.
    """
    check_new_folder(out)
    began_s = time.monotonic()
    _train(out)
    arms = {arm: _predict_and_score(out, arm) for arm in ("pretrained", "scratch")}
    shutil.copytree(out / "runs" / "finetune-pretrained" / "model", out / "model")
    minutes = (time.monotonic() - began_s) / 60
    table = comparison_table(arms)
    _write_demo_report(out, arms, table, minutes)
    _check_learned(table)
    return _as_text(table, out, minutes)


def _train(out: Path) -> None:
    """Draw the cohorts and run stage 1, stage 2 and both arms of fine-tuning."""
    stage1, target = load_recipe("demo-stage1"), load_recipe("demo-target")
    runs = out / "runs"
    log.info("[1/7] drawing %d healthy brains and %d with a tumour", NUM_HEALTHY, NUM_TUMOURS)
    write_cohort(
        out / "healthy",
        num_subjects=NUM_HEALTHY,
        seed=SEED,
        lesion="none",
        contrasts=stage1.data.contrasts,
        spacing_mm=SPACING_MM,
    )
    write_cohort(
        out / "tumours",
        num_subjects=NUM_TUMOURS,
        seed=SEED + 1,
        lesion="tumour",
        contrasts=target.data.contrasts,
        spacing_mm=SPACING_MM,
    )
    log.info("[2/7] preparing")
    run_prepare([out / "healthy"], out / "stores" / "healthy", stage1)
    run_prepare([out / "tumours"], out / "stores" / "tumours", target)
    log.info("[3/7] stage 1: pretraining on healthy brains")
    run_pretrain(stage1, out / "stores" / "healthy", runs / "stage1")
    log.info("[4/7] stage 2: pretraining on the target's training subjects")
    store = out / "stores" / "tumours"
    run_pretrain(target, store, runs / "stage2", start=runs / "stage1", fold=FOLD)
    log.info("[5/7] fine-tuning the pretrained encoder")
    run_finetune(target, store, runs / "finetune-pretrained", start=runs / "stage2", fold=FOLD)
    log.info("[6/7] fine-tuning from scratch")
    run_finetune(target, store, runs / "finetune-scratch", fold=FOLD)


def _predict_and_score(out: Path, arm: str) -> list[RegionScore]:
    """Predict the held-out scans as a user would, and score the files."""
    log.info("[7/7] predicting and scoring held-out cases: %s", arm)
    recipe = load_recipe("demo-target")
    cases = read_cases([out / "tumours"])
    split = split_subjects([case.subject for case in cases], recipe.split, FOLD)
    held_out = _link_held_out(out, split.test)
    predictions = out / "predictions" / arm
    run_predict([held_out], out / "runs" / f"finetune-{arm}", predictions)
    references = out / "held-out" / "derivatives"
    evaluated = run_evaluate(predictions, references, out / "evaluation" / arm, recipe)
    return evaluated.scores


def _link_held_out(out: Path, subjects: Sequence[str]) -> Path:
    """A BIDS tree of the held-out subjects alone."""
    target, source = out / "held-out", out / "tumours"
    if target.is_dir():
        return target
    shutil.copytree(
        source,
        target,
        ignore=lambda _, names: [
            name for name in names if name.startswith("sub-") and name.split("_")[0] not in subjects
        ],
    )
    return target


def _write_demo_report(
    out: Path, arms: Mapping[str, Sequence[RegionScore]], table: Table, minutes: float
) -> None:
    runs = {
        "stage 1": ("stage1", PRETEXT_PARTS),
        "stage 2": ("stage2", PRETEXT_PARTS),
        "fine-tuning, pretrained": ("finetune-pretrained", FINETUNE_PARTS),
        "fine-tuning, from scratch": ("finetune-scratch", FINETUNE_PARTS),
    }
    curves = []
    for title, (name, parts) in runs.items():
        records = Run(out / "runs" / name).records("train")
        curves.append(
            Picture(loss_curves(records, parts, title=title), f"Loss of {title}.", f"{title} loss")
        )
    report = Report(
        title="Demo: the whole method on an embedded cohort",
        subtitle="Prepare, stage 1, stage 2, fine-tune, predict, evaluate.",
        highlights=dice_highlights(arms["pretrained"]),
        warnings=[CAVEAT],
        run={
            "healthy brains (stage 1)": NUM_HEALTHY,
            "brains with a tumour": NUM_TUMOURS,
            "held out": table.rows[0][1],
            "time": f"{minutes:.1f} min",
        },
        curves=curves,
        tables=[table, *score_tables(arms["pretrained"])],
        gallery=_gallery(out, arms["pretrained"]),
        rules=RULES,
    )
    write_report(out / "report.html", report)


def _gallery(out: Path, scores: Sequence[RegionScore]) -> list[GalleryCase]:
    cases = {case.case: case for case in read_cases([out / "held-out"])}
    regions = {
        name: region.labels for name, region in load_recipe("demo-target").data.regions.items()
    }

    predicted = finished_cases(out / "predictions" / "pretrained")

    def show(name: str) -> Shown:
        case = cases[name]
        prediction = read_labels(predicted[name][0].labels)
        reference = None if case.label is None else read_labels(case.label)
        return Shown(read_nifti(case.contrasts["FLAIR"]), prediction, reference)

    return gallery(scores, show, regions)


def _check_learned(table: Table) -> None:
    row = next(row for row in table.rows if row[0] == DECIDING_REGION)
    for arm, value in zip(table.columns[2:], row[2:], strict=True):
        if not isinstance(value, float) or value < LOWEST_DICE:
            raise TrainingError(
                f"demo: {arm} reached Dice {value} of {DECIDING_REGION} on held-out cases; "
                f"expected at least {LOWEST_DICE}. Look at the loss curves in the report."
            )


def _as_text(table: Table, out: Path, minutes: float) -> str:
    lines = ["", f"Mean Dice of {table.rows[0][1]} held-out cases ({minutes:.1f} min):", ""]
    lines.append("".join(f"{column:>12}" for column in table.columns))
    for row in table.rows:
        lines.append(
            "".join(
                f"{cell:>12.3f}" if isinstance(cell, float) else f"{cell!s:>12}" for cell in row
            )
        )
    lines += [
        "",
        CAVEAT,
        f"Look:      {out / 'report.html'}",
        f"Use it:    brainsegfounder predict YOUR_SCANS --model {out / 'model'} --out results",
    ]
    return "\n".join(lines)
