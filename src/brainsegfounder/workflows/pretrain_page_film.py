"""Pictures of a pretraining run in its page: the same crops after more and more steps."""

from __future__ import annotations

import base64

from brainsegfounder.evaluation.mosaic_restored import BRIGHTEST_ERROR_SD, GIVEN, MADE
from brainsegfounder.evaluation.report import Chapter, Film, Picture
from brainsegfounder.settings import PretrainSettings
from brainsegfounder.workflows.prepare_pictures import spread_evenly
from brainsegfounder.workflows.pretrain_pictures import Pictured, picture_path, pictured
from brainsegfounder.workflows.pretrain_probe import probe_steps
from brainsegfounder.workflows.stage import Stage

TITLE = "Pictures over time"
MOST_COLUMNS = 6


def film_chapter(stage: Stage, settings: PretrainSettings, step: int) -> Chapter:
    """What was restored of the fixed crops, at up to six of the steps made so far."""
    rows = pictured(stage)
    steps = [
        number
        for number in probe_steps(settings.steps, settings.validate_every)
        if number <= step and picture_path(stage, number, 0, MADE[0]).is_file()
    ]
    if not rows or not steps:
        why = "No picture yet: they are taken before the first step and at validations."
        if settings.sharding != "none":
            why = "No pictures: the model's blocks are spread over processes (pretrain.sharding)."
        return Chapter("pictures", TITLE, paragraphs=[why])
    steps = spread_evenly(steps, MOST_COLUMNS)
    columns = ["what it is given", *(f"step {number:,}" for number in steps)]
    cells = [
        (_name(row), [_given(stage, row, number, steps[-1]), *_made(stage, number, steps)])
        for number, row in enumerate(rows)
    ]
    return Chapter("pictures", TITLE, paragraphs=_words(stage, settings), film=Film(columns, cells))


def _words(stage: Stage, settings: PretrainSettings) -> list[str]:
    part = "validation" if stage.split.validation else "training"
    hidden = " Blue: masked."
    if settings.objective.kind.startswith("three-task"):
        hidden = (
            " Crops are turned as the task turns them; what was cut out is filled with noise or "
            "with pieces of another crop (blue: of its background)."
        )
    if settings.objective.kind == "cross-contrast":
        hidden = " The input is a contrast that was left out."
    return [
        f"One axial slice of the middle of the same {part} cases, masked alike every time; the "
        f"patient's right is on the left.{hidden} Error: from black (0) to bright "
        f"({BRIGHTEST_ERROR_SD:g} SD of the brain, or more). All that were taken are in the run's "
        "folder, under pictures."
    ]


def _name(row: Pictured) -> str:
    return f"{row.case} ({row.contrast})"


def _given(stage: Stage, row: Pictured, number: int, step: int) -> list[Picture]:
    words = {"input": "input", "masked": "what it sees"}
    if row.seen != row.contrast:
        words["masked"] = f"what it sees: {row.seen}"
    return [_picture(stage, step, number, name, words[name]) for name in GIVEN]


def _made(stage: Stage, number: int, steps: list[int]) -> list[list[Picture]]:
    return [[_picture(stage, step, number, name, name) for name in MADE] for step in steps]


def _picture(stage: Stage, step: int, number: int, name: str, words: str) -> Picture:
    content = picture_path(stage, step, number, name).read_bytes()
    uri = "data:image/png;base64," + base64.b64encode(content).decode("ascii")
    return Picture(uri, words, f"{words} of case {number + 1} after {step} steps")
