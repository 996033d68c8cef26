"""`evaluate`: predictions against references, case by case, by name, by a stated convention."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from brainsegfounder.errors import DataError, UsageError
from brainsegfounder.evaluation.conventions import PLAIN, Convention, convention
from brainsegfounder.evaluation.metrics import (
    TOLERANCES_MM,
    Regions,
    RegionScore,
    score_case,
    write_metrics,
)
from brainsegfounder.evaluation.score_files import rows_of
from brainsegfounder.files import check_new_folder
from brainsegfounder.runs import progress
from brainsegfounder.settings import AS_IT_IS, ReadingSettings, Recipe
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.audit_runs import check_held_out
from brainsegfounder.workflows.evaluate_case import (
    CaseFiles,
    CaseResult,
    label_values_of,
    score_files,
)
from brainsegfounder.workflows.label_files import (
    LabelFiles,
    case_name,
    label_files,
    probability_files,
)
from brainsegfounder.workflows.prediction_folds import folds_of_cases, predicted_files
from brainsegfounder.workflows.worker_pool import Lost, work_in_processes

__all__ = ["Evaluated", "case_name", "evaluate", "run_evaluate", "score_folders"]

# Below this many cases other processes take longer to start than they save.
FEW_CASES = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What an evaluation found.

    Attributes:
        scores: One for each case and region.
        refused: Reason for each case that could not be scored, missing ones included.
        missing: Those of `refused` that have no prediction.
        extra: Those that have no reference.
        duplicate: Those of which a folder holds several masks.
        folds: In which fold each scored case was tested; empty where nobody says so.
    """

    scores: list[RegionScore] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    duplicate: list[str] = field(default_factory=list)
    folds: dict[str, int] = field(default_factory=dict)

    @property
    def without_fold(self) -> list[str]:
        """Scored cases that are in no fold, where others are."""
        cases = dict.fromkeys(score.case for score in self.scores)
        return [case for case in cases if case not in self.folds] if self.folds else []

    @property
    def num_scored(self) -> int:
        """Cases that were scored."""
        return len({score.case for score in self.scores})

    @property
    def num_found(self) -> int:
        """Cases of either side."""
        return self.num_scored + len(self.refused)

    def summary(self) -> str:
        """Over how many cases the numbers are, and what became of the others."""
        named = {
            "without a prediction": len(self.missing),
            "without a reference": len(self.extra),
            "with several masks": len(self.duplicate),
        }
        named["that cannot be scored"] = len(self.refused) - sum(named.values())
        others = ", ".join(f"{number} {what}" for what, number in named.items() if number)
        return f"{self.num_scored} of {self.num_found} cases scored" + (
            f"; left out: {others}" if others else ""
        )

    def fold_note(self) -> str:
        """Which cases are in no fold, in a sentence."""
        some = ", ".join(self.without_fold[:5])
        more = ", ..." if len(self.without_fold) > 5 else ""
        return f"{len(self.without_fold)} of {self.num_scored} cases are in no fold: {some}{more}."

    def record(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "num_cases_found": self.num_found,
            "num_cases_scored": self.num_scored,
            "refused": self.refused,
            "missing": self.missing,
            "extra": self.extra,
            "duplicate": self.duplicate,
            "without_fold": self.without_fold,
        }


@dataclass(frozen=True, slots=True)
class How:
    """How cases are scored.

    Attributes:
        convention: By which rules.
        regions: Label values of each region; None takes every label of the references by itself.
        legal: Label values that may occur beside 0; None allows all, or where `regions` is None
            those of the references.
        tolerances_mm: Of the surface Dice.
        reading: What is allowed of the files.
        probabilities: Folder of `*_probseg.nii.gz`, or None.
        jobs: Number of processes; 0 scores all cases in this one.
        folds: A list of who is tested in which fold, or None.
    """

    convention: Convention = PLAIN
    regions: Regions | None = None
    legal: Sequence[int] | None = None
    tolerances_mm: tuple[float, ...] = TOLERANCES_MM
    reading: ReadingSettings = AS_IT_IS
    probabilities: Path | None = None
    jobs: int = 0
    folds: Path | None = None


def evaluate(
    prediction: str | os.PathLike[str] | Volume,
    reference: str | os.PathLike[str] | Volume,
    regions: Mapping[str, tuple[int, ...]] | None = None,
    *,
    convention_name: str = PLAIN.name,
    tumour_type: str | None = None,
    folds: str | os.PathLike[str] | None = None,
) -> list[dict[str, Any]]:
    """Score predictions against references.

    Args:
        prediction: A label file, a folder of them, or a volume.
        reference: The same kind.
        regions: Label values of each region; None takes those of the convention, or every
            non-zero label by itself.
        convention_name: By which rules, such as `brats-2023`.
        tumour_type: For `brats-2023`.
        folds: A list of who is tested in which fold, where paths are given.

    Returns:
        The records of `metrics.json`: case, region, dice, hd95_mm, volumes and so on; with `fold`
        where `folds` or folders `fold_N` say so.

    Raises:
        DataError: Nothing could be scored.
        UsageError: There is no such convention.
    """
    rules = convention(convention_name, tumour_type)
    if isinstance(prediction, Volume) and isinstance(reference, Volume):
        found = regions or rules.regions or _label_regions(prediction, reference)
        case = case_name(Path(prediction.source))
        scores = score_case(case, prediction, reference, found, convention=rules)
        return [score.row() for score in scores]
    if isinstance(prediction, Volume) or isinstance(reference, Volume):
        raise DataError("a volume and a path; expected two volumes or two paths.")
    wanted, legal = (regions, None) if regions else _labels_of(rules, None)
    list_of_folds = None if folds is None else Path(folds)
    how = How(rules, wanted, legal, reading=_any_size(AS_IT_IS), folds=list_of_folds)
    result = score_folders(Path(prediction), Path(reference), how)
    return rows_of(result.scores, result.folds)


def run_evaluate(
    predictions: Path,
    references: Path,
    out: Path,
    recipe: Recipe | None = None,
    *,
    rules: Convention = PLAIN,
    reading: ReadingSettings | None = None,
    probabilities: Path | None = None,
    tolerances_mm: Sequence[float] = TOLERANCES_MM,
    jobs: int = 0,
    run: Path | None = None,
    folds: Path | None = None,
) -> Evaluated:
    """Score two folders and write `metrics.json`, `metrics.csv` and `report.html`.

    Args:
        predictions: A folder of label files, or one file.
        references: The same.
        out: A new folder.
        recipe: Its regions, unless the convention has its own; without either every label of the
            references by itself.
        rules: The convention.
        reading: What is allowed of the files; None takes it from the recipe.
        probabilities: A folder of `*_probseg.nii.gz`.
        tolerances_mm: Of the surface Dice.
        jobs: Number of processes; 0 uses none but this one.
        run: The run whose predictions these are: its split must be unchanged, and no case may be
            of a subject that it has seen.
        folds: A list of who is tested in which fold; see `prediction_folds`.

    Raises:
        DataError: Nothing could be scored, or `run` has seen a case.
        OutputExistsError: `out` has content.
        UsageError: The convention needs probabilities, and none were given.
    """
    from brainsegfounder.workflows.evaluate_report import write_evaluation_report

    check_new_folder(out)
    if rules.soft_dice and probabilities is None:
        raise UsageError(
            f"--convention {rules.name}: its Dice is of probabilities; expected --probabilities "
            "FOLDER with *_probseg.nii.gz files."
        )
    how = How(
        rules,
        *_labels_of(rules, recipe),
        tuple(tolerances_mm),
        _any_size(reading or (recipe.reading if recipe else AS_IT_IS)),
        probabilities,
        jobs,
        folds,
    )
    split = check_held_out(run, label_files(references).files) if run else {}
    result = score_folders(predictions, references, how)
    facts = {
        **split,
        "recipe": recipe.name if recipe else None,
        "tolerances_mm": list(how.tolerances_mm),
        "folds_from": None if folds is None else folds.name,
        **result.record(),
    }
    write_metrics(out, result.scores, rules.rules, facts, rules, result.folds)
    write_evaluation_report(out / "report.html", result, rules, recipe)
    return result


def score_folders(predictions: Path, references: Path, how: How) -> Evaluated:
    """Score every case found on both sides; what cannot be scored is listed with its reason."""
    (predicted, by_folder), expected = predicted_files(predictions), label_files(references)
    if predictions.is_file() and references.is_file():
        # Two single files are one case, whatever they are called.
        expected = LabelFiles(dict(zip(predicted.files, expected.files.values(), strict=True)))
    predicted = predicted.named_as(expected.files.keys())
    by_folder = {predicted.sources.get(case, case): fold for case, fold in by_folder.items()}
    result = _unpaired(predicted, expected)
    shared = sorted(predicted.files.keys() & expected.files.keys())
    folds, trained_on = folds_of_cases(shared, by_folder, how.folds)
    result.folds.update(folds)
    result.refused.update(trained_on)
    shared = [case for case in shared if case not in trained_on]
    regions, legal = how.regions, how.legal
    if regions is None:
        shared, regions = _reference_regions(shared, expected, how, result)
        legal = _values_of(regions)
    items = _items(shared, predicted, expected, regions, legal, how)
    for place, answer in sorted(_answers(score_files, items, how.jobs, "evaluating")):
        if isinstance(answer, Lost):
            answer = CaseResult(reason=f"{answer}. Lower --jobs.")
        result.scores.extend(answer.scores)
        if answer.reason:
            result.refused[items[place].case] = answer.reason
    if not result.scores:
        first = next(iter(result.refused.items()), ("", "no label file"))
        raise DataError(
            f"{predictions} against {references}: nothing could be scored ({first[0]}: {first[1]}) "
            "Expected label files whose names up to _seg, _mask, _dseg or _lesion agree."
        )
    return result


def _labels_of(
    rules: Convention, recipe: Recipe | None
) -> tuple[Regions | None, Sequence[int] | None]:
    """Regions and legal values: the convention's, or else the recipe's."""
    if rules.regions is not None:
        return rules.regions, _values_of(rules.regions)
    if recipe is None or not recipe.data.regions:
        return None, None
    regions = {name: region.labels for name, region in recipe.data.regions.items()}
    return regions, sorted(set(recipe.data.labels.values()))


def _values_of(regions: Regions) -> list[int]:
    return sorted({value for values in regions.values() for value in values})


def _any_size(reading: ReadingSettings) -> ReadingSettings:
    """Two masks on one grid can be compared, however small or large it is."""
    return reading.model_copy(update={"any_size": True})


def _unpaired(predicted: LabelFiles, expected: LabelFiles) -> Evaluated:
    """What stands on one side only, or twice."""
    result = Evaluated()
    for side in (expected, predicted):
        result.refused.update(side.duplicates)
    result.duplicate.extend(sorted(result.refused))
    for case in sorted(predicted.files.keys() ^ expected.files.keys()):
        if case in result.refused:
            continue
        is_extra = case in predicted.files
        absent = "reference" if is_extra else "prediction"
        (result.extra if is_extra else result.missing).append(case)
        result.refused[case] = f"no {absent} found; expected one of this name."
    return result


def _reference_regions(
    cases: list[str], expected: LabelFiles, how: How, result: Evaluated
) -> tuple[list[str], dict[str, tuple[int, ...]]]:
    """Every non-zero label of any reference as a region of its own; those that can be read."""
    items = [(expected.files[case], how.reading) for case in cases]
    readable, values = [], set[int]()
    for place, answer in sorted(_answers(label_values_of, items, how.jobs, "reading references")):
        if isinstance(answer, Lost | str):
            result.refused[cases[place]] = str(answer)
        else:
            readable.append(cases[place])
            values.update(answer)
    return readable, {f"label-{value}": (value,) for value in sorted(values)} or {"label-1": (1,)}


def _items(
    cases: Sequence[str],
    predicted: LabelFiles,
    expected: LabelFiles,
    regions: Regions,
    legal: Sequence[int] | None,
    how: How,
) -> list[CaseFiles]:
    probable = probability_files(how.probabilities, regions) if how.probabilities else None
    # In a derivative they are called by the participants' names.
    called = {source: case for case, source in predicted.sources.items()}
    return [
        CaseFiles(
            case,
            predicted.files[case],
            expected.files[case],
            regions,
            legal,
            how.convention,
            how.tolerances_mm,
            how.reading,
            None
            if probable is None
            else probable.get(case) or probable.get(called.get(case, ""), {}),
        )
        for case in cases
    ]


def _answers(
    work: Callable[[Item], Result], items: Sequence[Item], jobs: int, what: str
) -> Iterator[tuple[int, Result | Lost]]:
    """Do the work here or in other processes, and show how far it is."""
    with progress(len(items), what) as report:
        answers: Iterator[tuple[int, Result | Lost]] = enumerate(map(work, items))
        if jobs and len(items) >= FEW_CASES:
            answers = work_in_processes(work, items, min(jobs, len(items)))
        for number, answer in enumerate(answers, start=1):
            report(number)
            yield answer


def _label_regions(*volumes: Volume) -> dict[str, tuple[int, ...]]:
    values = sorted({int(v) for volume in volumes for v in np.unique(volume.voxels)} - {0})
    return {f"label-{value}": (value,) for value in values} or {"label-1": (1,)}
