"""Who is trained on, who chooses the model, who is reported: always whole subjects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from brainsegfounder.data.folds import (
    folds_of_data,
    folds_of_list,
    folds_of_load,
    folds_of_sites,
)
from brainsegfounder.data.store import StoredCase
from brainsegfounder.errors import DataError, UsageError
from brainsegfounder.settings import SplitSettings

FoldsFrom = Literal["recipe", "data", "list", "sites", "lesion-load"]


@dataclass(frozen=True, slots=True)
class Split:
    """Subjects of the three parts; no subject is in two.

    Attributes:
        train: Subjects whose patches are trained on.
        validation: Subjects that choose the best model; they are part of nothing reported.
        test: Subjects that are reported and that training of any stage never sees.
        fold: Number of the fold, or None where the test subjects were named.
        folds_from: What made the folds: the recipe's seed, the data set's own list, a list that
            the recipe names, sites, or lesion loads.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    fold: int | None
    folds_from: FoldsFrom = "recipe"

    @property
    def sha256(self) -> str:
        """Fingerprint of the assignment."""
        assigned = {name: getattr(self, name) for name in ("train", "validation", "test", "fold")}
        return hashlib.sha256(json.dumps(assigned, sort_keys=True).encode()).hexdigest()


def split_cases(
    cases: Sequence[StoredCase], settings: SplitSettings, fold: int | None = None
) -> Split:
    """Assign the subjects of some cases to training, inner validation and test.

    Folds are those of the list that the settings name, else of whole sites or balanced by lesion
    load where the settings ask for that, else the data's own, else the settings' seed makes them.

    Raises:
        DataError: The folds cannot be made of these cases, or nobody is left to train on.
        UsageError: The fold does not exist.
    """
    subjects = [case.subject for case in cases]
    if fold is None:
        return split_subjects(subjects, settings)
    made_from, folds = _folds(cases, settings)
    return split_subjects(subjects, settings, fold, folds, made_from)


def fold_numbers(cases: Sequence[StoredCase], settings: SplitSettings) -> list[int]:
    """The folds there are, as `split_cases` makes them; those of a list may have gaps.

    Raises:
        DataError: The folds cannot be made of these cases.
    """
    folds = _folds(cases, settings)[1]
    return sorted(set(folds.values())) or list(range(settings.folds))


def _folds(
    cases: Sequence[StoredCase], settings: SplitSettings
) -> tuple[FoldsFrom, dict[str, int]]:
    if settings.folds_file:
        return "list", folds_of_list(cases, Path(settings.folds_file).expanduser())
    if settings.by == "site":
        return "sites", folds_of_sites(cases, settings.folds)
    if settings.stratify == "lesion-load":
        return "lesion-load", folds_of_load(cases, settings.folds, settings.seed)
    return "data", folds_of_data(cases)


def split_subjects(
    subjects: Sequence[str],
    settings: SplitSettings,
    fold: int | None = None,
    folds: Mapping[str, int] | None = None,
    folds_from: FoldsFrom = "data",
) -> Split:
    """Assign subjects to training, inner validation and test.

    Args:
        subjects: One name a case; repeats (several visits) are one subject.
        settings: Seed, number of folds, named test subjects, share for inner validation.
        fold: Which fold is the test part, from 0; None takes the named test subjects.
        folds: The fold of each subject, as a function of `data.folds` gives it; without it the
            seed makes folds.
        folds_from: What made them.

    Raises:
        UsageError: The fold does not exist.
        DataError: A named test subject is not there, or nothing is left to train on.
    """
    everyone = sorted(set(subjects))
    shuffled = [
        everyone[n] for n in np.random.default_rng(settings.seed).permutation(len(everyone))
    ]
    if fold is None:
        test = _named(everyone, settings)
    elif folds:
        test = _listed_subjects(everyone, folds, fold, folds_from)
    else:
        test = _fold_subjects(shuffled, settings, fold)
    rest = [subject for subject in shuffled if subject not in test]
    num_validation = _num_validation(len(rest), settings.validation_fraction)
    split = Split(
        train=tuple(sorted(rest[num_validation:])),
        validation=tuple(sorted(rest[:num_validation])),
        test=tuple(sorted(test)),
        fold=fold,
        folds_from=folds_from if folds and fold is not None else "recipe",
    )
    if not split.train:
        raise DataError(
            f"{len(everyone)} subjects, {len(test)} of them held out for test and "
            f"{num_validation} for validation: none is left to train on. Add subjects, or lower "
            "split.validation_fraction."
        )
    return split


def _fold_subjects(shuffled: list[str], settings: SplitSettings, fold: int) -> set[str]:
    if not 0 <= fold < settings.folds:
        raise UsageError(
            f"--fold {fold}: expected 0 to {settings.folds - 1} (split.folds is {settings.folds})."
        )
    if len(shuffled) < settings.folds:
        raise DataError(
            f"{len(shuffled)} subjects for {settings.folds} folds; expected at least one a fold. "
            "Lower split.folds."
        )
    return set(shuffled[fold :: settings.folds])


def _listed_subjects(
    everyone: list[str], folds: Mapping[str, int], fold: int, folds_from: FoldsFrom
) -> set[str]:
    found = sorted({folds[subject] for subject in everyone if subject in folds})
    if fold not in found:
        whose = "the data set's own folds" if folds_from == "data" else f"folds by {folds_from}"
        raise UsageError(
            f"--fold {fold}: no subject is in it; {whose} are "
            f"{', '.join(map(str, found))}. Choose one of them."
        )
    return {subject for subject in everyone if folds.get(subject) == fold}


def _named(everyone: list[str], settings: SplitSettings) -> set[str]:
    absent = sorted(set(settings.test_subjects) - set(everyone))
    if absent:
        raise DataError(
            f"split.test_subjects: {', '.join(absent[:5])} not among the {len(everyone)} subjects "
            f"of the data ({', '.join(everyone[:3])}, ...). Correct the names, or ask for --fold."
        )
    return set(settings.test_subjects)


def _num_validation(num_subjects: int, fraction: float) -> int:
    return max(1, round(num_subjects * fraction)) if fraction > 0 and num_subjects > 1 else 0
