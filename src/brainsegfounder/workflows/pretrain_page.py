"""The page of a pretraining run, while it trains and afterwards: does it learn?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from brainsegfounder.distributed import world
from brainsegfounder.evaluation.figures import loss_curves
from brainsegfounder.evaluation.report import Chapter, Highlight, Picture, Report, write_report
from brainsegfounder.settings import PretrainSettings, ThreeTaskFixedSettings, ThreeTaskSettings
from brainsegfounder.training.checkpoint import TrainingState
from brainsegfounder.training.pretext import num_rotations
from brainsegfounder.workflows.pretrain_page_features import feature_chapter, probe_highlights
from brainsegfounder.workflows.pretrain_page_film import film_chapter
from brainsegfounder.workflows.pretrain_probe import Probed
from brainsegfounder.workflows.reports import (
    case_warnings,
    course_notes,
    run_facts,
    transfer_notes,
)
from brainsegfounder.workflows.stage import Stage

RELOAD_S = 60
# Over so many steps the pace is told.
RECENT = 100
MUCH_WAITING = 0.2
COLLAPSED_RANK = 2.0
# Of a few brains the rank is low, however they look.
FEWEST_DIRECTIONS = 10

Rows = Sequence[Mapping[str, Any]]

# What each loss is: its title, the axis it is drawn on, and in words.
LOSSES = {
    "rotation": (
        "Rotation",
        "cross-entropy (nats)",
        "Rotation: by how many quarter turns was the crop turned, about which axis?",
    ),
    "contrastive": (
        "Contrastive",
        "NT-Xent (nats)",
        "Contrastive: which other view is of the same crop?",
    ),
    "inpainting": (
        "Inpainting",
        "mean absolute error (SD)",
        "Inpainting: what stood where blocks were cut out?",
    ),
}
ERRORS = {
    "three-task": ("masked_error", "visible_error", "mean absolute error (SD)"),
    "three-task-fixed": ("masked_error", "visible_error", "mean absolute error (SD)"),
    "mae": ("masked", "visible", "mean squared error (SD²)"),
    "simmim": ("masked", "visible", "mean absolute error of 4×4×4 voxels (SD)"),
    "cross-contrast": ("masked", "visible", "mean squared error (SD²)"),
}
ASKED = {
    "three-task": "Three tasks: which way a crop was turned (rotation), which two views are of one "
    "crop (contrastive), and what was cut out of it (inpainting).",
    "mae": "Masked reconstruction: blocks are hidden, and only these are judged.",
    "simmim": "Masked reconstruction by the encoder and one linear layer, at a quarter of the "
    "resolution; only what is hidden is judged.",
    "cross-contrast": "Whole contrasts are left out and restored from the others; only these are "
    "judged.",
}


def write_pretrain_page(
    stage: Stage,
    settings: PretrainSettings,
    state: TrainingState,
    probed: Probed,
    ended: str = "",
) -> Path:
    """Write `report.html` into a run's folder from what it has recorded so far.

    Args:
        stage: The run.
        settings: Its section of the recipe.
        state: Where it stands.
        probed: Whose features are looked at.
        ended: How it ended, as a sentence; empty while it runs: then the page reloads itself.

    Raises:
        RunError: It cannot be written.
    """
    records = by_kind(stage.run.records())
    train, validation = records["train"], records["validation"]
    report = Report(
        title=f"Pretraining: {stage.recipe.name}",
        subtitle=stage.recipe.description,
        status=_status(settings, state, ended),
        reload_s=None if ended else RELOAD_S,
        highlights=_highlights(settings, records),
        warnings=[*_warnings(records), *case_warnings(stage)],
        chapters=[
            _loss_chapter(settings, train, validation),
            _error_chapter(settings, train, validation),
            feature_chapter(settings, records["probe"], probed, stage.transfer is not None),
            film_chapter(stage, settings, state.step),
            _pace_chapter(settings, train),
        ],
        notes=[*_notes(stage), *course_notes(stage), *transfer_notes(stage.transfer)],
        run={"objective": settings.objective.kind, **run_facts(stage, state)},
        provenance=stage.config.provenance,
    )
    path = stage.run.folder / "report.html"
    write_report(path, report)
    return path


def by_kind(records: Rows) -> dict[str, list[Mapping[str, Any]]]:
    """Records of each kind in order of their steps; of a step made twice, the last."""
    last: dict[str, dict[int, Mapping[str, Any]]] = {"train": {}, "validation": {}, "probe": {}}
    for record in records:
        last.setdefault(str(record.get("kind")), {})[int(record.get("step", 0))] = record
    return {kind: [steps[step] for step in sorted(steps)] for kind, steps in last.items()}


def _status(settings: PretrainSettings, state: TrainingState, ended: str) -> str:
    written = f"Written {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    if ended:
        return f"{ended} {written}."
    share = f"step {state.step:,} of {settings.steps:,} ({state.step / settings.steps:.0%})"
    left = ""
    if state.step:
        left = f", about {_duration(state.elapsed_s * (settings.steps / state.step - 1))} to go"
    return (
        f"Running: {share}{left}. {written}; the page reloads itself every minute. "
        "Where that time is long past, the run was cut off."
    )


def _duration(seconds: float) -> str:
    for unit, length_s in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def _highlights(settings: PretrainSettings, records: Mapping[str, Rows]) -> list[Highlight]:
    masked, _, _ = ERRORS[settings.objective.kind]
    judged = records["validation"] or records["train"]
    part = "validation" if records["validation"] else "training"
    names = {"loss": f"loss, {part}"}
    if masked != "masked":  # else it is the loss itself
        names[masked] = f"error where masked, {part}"
    tiles = [_tile(judged, key, name) for key, name in names.items() if _has(judged, key)]
    if records["train"] and "crops_per_s" in records["train"][-1]:
        rate, waiting = _pace(records["train"])
        detail = f"{waiting:.0%} of the time waiting for data"
        tiles.append(Highlight("crops a second", f"{rate:.3g}", detail))
    return [*tiles, *probe_highlights(records["probe"])]


def _tile(rows: Rows, key: str, name: str) -> Highlight:
    first, last = rows[0], rows[-1]
    detail = f"at step {last['step']:,} ({first[key]:.3f} at step {first['step']:,})"
    return Highlight(name, f"{last[key]:.3f}", detail)


def _has(rows: Rows, key: str) -> bool:
    return bool(rows) and key in rows[0] and key in rows[-1]


def _pace(train: Rows) -> tuple[float, float]:
    """Crops a second, and the share of the time that data were waited for, of the last steps."""
    recent = [row for row in train[-RECENT:] if row.get("step_s", 0) > 0]
    total_s = sum(row["step_s"] for row in recent)
    crops = sum(row["crops_per_s"] * row["step_s"] for row in recent)
    return crops / total_s, sum(row["data_wait_s"] for row in recent) / total_s


def _warnings(records: Mapping[str, Rows]) -> list[str]:
    warnings, train, probes = [], records["train"], records["probe"]
    skipped = sum(1 for row in train if row.get("skipped"))
    if skipped:
        warnings.append(
            f"{skipped:,} of {len(train):,} steps were left out, since loss or gradient was not "
            "finite."
        )
    if train and "step_s" in train[-1] and _pace(train)[1] > MUCH_WAITING:
        warnings.append(
            f"Of the last {min(RECENT, len(train))} steps' time, {_pace(train)[1]:.0%} was spent "
            "waiting for data. Raise pretrain.num_workers, or put the store on a faster disk."
        )
    last = probes[-1] if probes else {"step": 0}
    if last["step"] and last["rank"] < COLLAPSED_RANK and last["largest_rank"] >= FEWEST_DIRECTIONS:
        warnings.append(
            f"The features have an effective rank of {last['rank']:.1f}: they have collapsed, and "
            "all brains look alike to this encoder."
        )
    return warnings


def _notes(stage: Stage) -> list[str]:
    if stage.split.validation:
        return []
    return ["The split has no validation subjects: losses of training only, and the last is best."]


def _loss_chapter(settings: PretrainSettings, train: Rows, validation: Rows) -> Chapter:
    objective = settings.objective
    parts = [key for key in LOSSES if _has(train, key)]
    words = "What is minimised, of the training crops and of fixed crops of validation subjects."
    pictures = [_compare(train, validation, "loss", ("Total loss", "loss", words), {})]
    for key in parts:
        pictures.append(_compare(train, validation, key, LOSSES[key], _chance(settings, key)))
    asked = ASKED.get(objective.kind) or ASKED["three-task"]
    texts = [asked]
    if parts:
        texts.append(
            "The total is the sum of the three, each with its weight. Chance is what a network "
            "that has learned nothing reaches."
        )
    return Chapter("losses", "Losses", paragraphs=texts, pictures=pictures)


def _chance(settings: PretrainSettings, key: str) -> dict[str, float]:
    """What a task costs a network that knows nothing, where that can be told."""
    objective = settings.objective
    if not isinstance(objective, ThreeTaskSettings | ThreeTaskFixedSettings):
        return {}
    if key == "rotation":
        return {"chance": objective.rotation.weight * math.log(num_rotations(objective))}
    alone = isinstance(objective, ThreeTaskSettings) or world().size == 1
    if key == "contrastive" and alone and settings.crops_per_case == 1:
        num_others = 2 * settings.batch_size - 1
        return {"chance": objective.contrastive.weight * math.log(num_others)}
    return {}


def _error_chapter(settings: PretrainSettings, train: Rows, validation: Rows) -> Chapter:
    masked, visible, axis = ERRORS[settings.objective.kind]
    rows: list[dict[str, Any]] = []
    names = {}
    for part, source in (("training", train), ("validation", validation)):
        for key, what in ((masked, "masked"), (visible, "visible")):
            names[f"{key} {part}"] = f"{what}, {part}"
            rows += [{"step": r["step"], f"{key} {part}": r[key]} for r in source if key in r]
    text = (
        "How far what the network restores is off, where it could not see and where it could. "
        "SD is the standard deviation of the brain's intensities."
    )
    curve = loss_curves(rows, names, y_label=axis, title="Reconstruction error")
    caption = f"{axis[0].upper()}{axis[1:]} of masked and of visible voxels."
    return Chapter(
        "reconstruction",
        "Reconstruction error",
        paragraphs=[text],
        pictures=[Picture(curve, caption, "Curves of the error of masked and of visible voxels.")],
    )


def _compare(
    train: Rows,
    validation: Rows,
    key: str,
    words: tuple[str, str, str],
    levels: Mapping[str, float],
) -> Picture:
    """One value in training and validation; the words are title, axis and caption."""
    title, axis, caption = words
    rows = [{"step": row["step"], "training": row[key]} for row in train if key in row]
    rows += [{"step": row["step"], "validation": row[key]} for row in validation if key in row]
    names = {"training": "training", "validation": "validation"}
    curve = loss_curves(rows, names, y_label=axis, title=title, levels=levels)
    return Picture(curve, caption, f"Curves of {title.lower()} in training and validation.")


def _pace_chapter(settings: PretrainSettings, train: Rows) -> Chapter:
    rows = [
        {**row, "waiting": 100 * row["data_wait_s"] / row["step_s"]}
        for row in train
        if row.get("step_s", 0) > 0
    ]
    clip = settings.optimizer.clip_norm
    pictures = [
        _single(train, "lr", "Learning rate", "learning rate", "A linear rise, then a cosine."),
        _single(
            train,
            "gradient_norm",
            "Gradient norm",
            "norm before clipping",
            "Steps above the dotted line were shortened to it.",
            {} if clip is None else {"clipped above": clip},
        ),
        _single(
            rows,
            "crops_per_s",
            "Throughput",
            "crops a second",
            "Of all processes together, without validation and checkpoints.",
        ),
        _single(
            rows,
            "waiting",
            "Waiting for data",
            "share of the step's time (%)",
            "What more workers or a faster disk could save.",
        ),
    ]
    return Chapter("pace", "Optimiser and speed", pictures=pictures)


def _single(
    rows: Rows,
    key: str,
    title: str,
    axis: str,
    caption: str,
    levels: Mapping[str, float] | None = None,
) -> Picture:
    curve = loss_curves(rows, {key: title.lower()}, y_label=axis, title=title, levels=levels)
    return Picture(curve, caption, f"Curve of {title.lower()}.")
