"""Predictions of a cross-validation: one folder a fold, and lists that say who is tested in which.

nnU-Net writes `nnUNetTrainer__PLANS__CONFIGURATION/fold_N/validation`; other systems `fold_N`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from brainsegfounder.data.folds import folds_by_spelling
from brainsegfounder.data.identity import spelling
from brainsegfounder.errors import DataError, Problem
from brainsegfounder.evaluation.score_rows import subject_of
from brainsegfounder.workflows.label_files import LabelFiles, has_niftis, label_files

FOLD_FOLDER = re.compile(r"fold[_-]?(?P<number>\d{1,4})", re.IGNORECASE)
# Where nnU-Net, version 2 or 1, puts what a fold's model says of its test cases.
VALIDATION = ("validation", "validation_raw")


def fold_folders(path: Path) -> dict[int, Path]:
    """Where the predictions of each fold are; empty where a folder is not divided into folds.

    Only `fold_N` with a number counts (`fold_all` was tested on those it was trained on), and in
    it `validation` of nnU-Net. What lies beside, such as copies of all predictions, does not count.

    Args:
        path: A folder with `fold_N` in it, or one with a single folder that has these, such as
            nnU-Net's of a data set.

    Raises:
        DataError: Several folders have folds: predictions of several systems.
    """
    if not path.is_dir():
        return {}
    if found := _folds_in(path):
        return found
    divided = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and _folds_in(folder)]
    if len(divided) > 1:
        raise DataError(
            f"{path}: predictions of {len(divided)} systems "
            f"({', '.join(folder.name for folder in divided[:3])}); expected those of one. "
            "Evaluate each folder by itself."
        )
    return _folds_in(divided[0]) if divided else {}


def predicted_files(path: Path) -> tuple[LabelFiles, dict[str, int]]:
    """Label files by case as `label_files` finds them, and the fold of each by its folder.

    A case that is in several folds is listed with the duplicates.

    Raises:
        DataError: There is no label file, or the folders belong to several systems.
    """
    folders = fold_folders(path)
    if not folders:
        return label_files(path), {}
    merged, folds = LabelFiles(), dict[str, int]()
    for number, folder in sorted(folders.items()):
        found = label_files(folder)
        merged.duplicates.update(found.duplicates)
        merged.sources.update(found.sources)
        for case, file in found.files.items():
            if (first := folds.setdefault(case, number)) != number:
                merged.duplicates[case] = _predicted_twice(path, first, number)
            merged.files[case] = file
    for case in merged.duplicates:
        merged.files.pop(case, None)
    return merged, folds


def folds_of_cases(
    cases: Sequence[str], by_folder: Mapping[str, int], path: Path | None
) -> tuple[dict[str, int], dict[str, str]]:
    """In which fold each case was tested, by a list or else by its folder.

    Args:
        cases: Their names.
        by_folder: As `predicted_files` gives it.
        path: A list, see `read_folds`; it names cases or their subjects. Or None.

    Returns:
        The fold of each case that has one; and for each case that the folder of another fold than
        that of the list has predicted, why that is no test.

    Raises:
        DataError: The list cannot be read, names something in two folds, or none of the cases.
    """
    listed = _listed_folds(cases, path) if path else {}
    folds, refused = dict[str, int](), dict[str, str]()
    for case in cases:
        found = [of[case] for of in (listed, by_folder) if case in of]
        if path and len(set(found)) > 1:
            refused[case] = _trained_on(found[0], found[1], path)
        elif found:
            folds[case] = found[0]
    return folds, refused


def _listed_folds(cases: Sequence[str], path: Path) -> dict[str, int]:
    listed = folds_by_spelling(path)
    folds: dict[str, int] = {}
    for case in cases:
        names = [name for name in map(spelling, (case, subject_of(case))) if name in listed]
        if names:
            folds[case] = listed[names[0]]
    if cases and not folds:
        raise DataError(
            Problem(
                code="folds_of_others",
                file=str(path),
                found=f"none of {len(cases)} cases ({cases[0]}, ...) among its {len(listed)} names "
                f"({next(iter(listed))}, ...)",
                expected="names of cases, or of their subjects",
                advice="Give the list of these predictions, or rename the files.",
            )
        )
    return folds


def _trained_on(fold: int, folder: int, path: Path) -> str:
    return (
        f"predicted in fold {folder}, but {path.name} tests it in fold {fold}: the model of fold "
        f"{folder} was trained on it; expected the same fold. Give the list of these predictions, "
        "or number the folders as it does, from 0."
    )


def _folds_in(path: Path) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for folder in sorted(path.iterdir()):
        match = FOLD_FOLDER.fullmatch(folder.name)
        if match and folder.is_dir():
            inner = next((folder / n for n in VALIDATION if (folder / n).is_dir()), folder)
            if has_niftis(inner):
                found[int(match["number"])] = inner
    return found


def _predicted_twice(path: Path, first: int, other: int) -> str:
    return (
        f"predicted in folds {first} and {other} of {path}; expected each case in one fold. Of "
        "models that were all tested on the same cases, evaluate each folder by itself."
    )
