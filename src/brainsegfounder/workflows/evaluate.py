"""`evaluate`: predictions against references, case by case, by name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from brainsegfounder.errors import DataError
from brainsegfounder.evaluation.metrics import (
    RULES,
    Regions,
    RegionScore,
    score_case,
    write_metrics,
)
from brainsegfounder.evaluation.report import Report, score_tables, write_report
from brainsegfounder.files import check_new_folder
from brainsegfounder.runs import progress
from brainsegfounder.settings import Recipe
from brainsegfounder.volumes.nifti import is_nifti, read_labels, stem
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.reports import dice_highlights

# What is not part of a case's name: the ending that says it is a mask, and BIDS entities of it.
MASK_ENDING = re.compile(
    r"(?P<case>.+?)(_(label|desc|space|seg|res)-[a-zA-Z0-9]+)*[_-](seg|lesion|mask|dseg|label|pred)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What an evaluation found.

    Attributes:
        scores: One for each case and region.
        refused: Reason for each case that could not be scored, missing ones included.
    """

    scores: list[RegionScore] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def evaluate(
    prediction: str | os.PathLike[str] | Volume,
    reference: str | os.PathLike[str] | Volume,
    regions: Mapping[str, tuple[int, ...]] | None = None,
) -> list[dict[str, Any]]:
    """Score predictions against references.

    Args:
        prediction: A label file, a folder of them, or a volume.
        reference: The same kind.
        regions: Label values of each region; None takes every non-zero label by itself.

    Returns:
        The records of `metrics.json`: case, region, dice, hd95_mm, volumes.

    Raises:
        DataError: Nothing could be scored.
    """
    if isinstance(prediction, Volume) and isinstance(reference, Volume):
        found = regions or _label_regions(prediction, reference)
        case = case_name(Path(prediction.source))
        return [asdict(score) for score in score_case(case, prediction, reference, found)]
    if isinstance(prediction, Volume) or isinstance(reference, Volume):
        raise DataError("a volume and a path; expected two volumes or two paths.")
    result = score_folders(Path(prediction), Path(reference), regions)
    return [asdict(score) for score in result.scores]


def run_evaluate(
    predictions: Path, references: Path, out: Path, recipe: Recipe | None = None
) -> Evaluated:
    """Score two folders and write `metrics.json`, `metrics.csv` and `report.html`.

    Args:
        predictions: A folder of label files, or one file.
        references: The same.
        out: A new folder.
        recipe: Its regions; without one every non-zero label by itself.

    Raises:
        DataError: Nothing could be scored.
        OutputExistsError: `out` has content.
    """
    check_new_folder(out)
    regions = None
    if recipe is not None and recipe.data.regions:
        regions = {name: region.labels for name, region in recipe.data.regions.items()}
    result = score_folders(predictions, references, regions)
    facts = {"recipe": recipe.name if recipe else None, "refused": result.refused}
    write_metrics(out, result.scores, RULES, facts)
    cases = len({score.case for score in result.scores})
    report = Report(
        title=f"Evaluation of {cases} cases",
        subtitle=f"Regions of recipe {recipe.name}." if recipe else "Every label by itself.",
        highlights=dice_highlights(result.scores),
        warnings=[f"{case}: {reason}" for case, reason in result.refused.items()],
        tables=score_tables(result.scores),
        rules=RULES,
    )
    write_report(out / "report.html", report)
    return result


def score_folders(predictions: Path, references: Path, regions: Regions | None) -> Evaluated:
    """Score every case found on both sides; what cannot be scored is listed with its reason."""
    predicted, expected = label_files(predictions), label_files(references)
    if predictions.is_file() and references.is_file():
        # Two single files are one case, whatever they are called.
        expected = dict(zip(predicted, expected.values(), strict=True))
    result = Evaluated()
    pairs: dict[str, tuple[Volume, Volume]] = {}
    for case in sorted(predicted.keys() | expected.keys()):
        if case not in predicted or case not in expected:
            side = "prediction" if case not in predicted else "reference"
            result.refused[case] = f"no {side} found; expected one of this name."
    shared = sorted(predicted.keys() & expected.keys())
    if regions is None:
        regions = _shared_regions([expected[case] for case in shared], result.refused, shared)
    with progress(len(shared), "evaluating") as report:
        for number, case in enumerate(shared, start=1):
            try:
                pairs = {case: (read_labels(predicted[case]), read_labels(expected[case]))}
                result.scores.extend(score_case(case, *pairs[case], regions))
            except DataError as error:
                result.refused[case] = str(error)
            report(number, case)
    if not result.scores:
        first = next(iter(result.refused.items()), ("", "no label file"))
        raise DataError(
            f"{predictions} against {references}: nothing could be scored ({first[0]}: {first[1]}) "
            "Expected label files whose names up to _seg, _mask, _dseg or _lesion agree."
        )
    return result


def label_files(path: Path) -> dict[str, Path]:
    """The label files of a folder (or a single one) by case name.

    In a folder where some file's name ends as a mask's does (`_seg`, `_lesion`, `_mask`,
    `_dseg`), only such files count, so a folder of scans with their masks is fine.

    Raises:
        DataError: There is none, or two files are of one case.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; expected label files.")
    if path.is_file():
        return {case_name(path): path}
    files = [p for p in sorted(path.rglob("*")) if is_nifti(p) and not p.name.startswith(".")]
    masks = [p for p in files if MASK_ENDING.match(stem(p))]
    found: dict[str, Path] = {}
    for file in masks or files:
        case = case_name(file)
        if case in found:
            raise DataError(
                f"{file}: a second mask of {case} beside {found[case]}; expected one. "
                "Remove or rename one of them."
            )
        found[case] = file
    if not found:
        raise DataError(f"{path}: no .nii or .nii.gz file found; expected label files.")
    return found


def case_name(path: Path) -> str:
    """A label file's case: its name without ending and without what says it is a mask."""
    match = MASK_ENDING.match(stem(path))
    return match["case"] if match else stem(path)


def _label_regions(*volumes: Volume) -> dict[str, tuple[int, ...]]:
    values = sorted({int(v) for volume in volumes for v in np.unique(volume.voxels)} - {0})
    return {f"label-{value}": (value,) for value in values} or {"label-1": (1,)}


def _shared_regions(
    references: list[Path], refused: dict[str, str], cases: list[str]
) -> dict[str, tuple[int, ...]]:
    """Every non-zero label of any reference as a region of its own."""
    volumes = []
    for case, path in zip(cases, references, strict=True):
        try:
            volumes.append(read_labels(path))
        except DataError as error:
            refused[case] = str(error)
    return _label_regions(*volumes)
