"""Who is trained on, who chooses the model, who is reported: always whole subjects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from brainsegfounder.errors import DataError, UsageError
from brainsegfounder.settings import SplitSettings


@dataclass(frozen=True, slots=True)
class Split:
    """Subjects of the three parts; no subject is in two.

    Attributes:
        train: Subjects whose patches are trained on.
        validation: Subjects that choose the best model; they are part of nothing reported.
        test: Subjects that are reported and that training of any stage never sees.
        fold: Number of the fold, or None where the test subjects were named.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    fold: int | None

    @property
    def sha256(self) -> str:
        """Fingerprint of the assignment."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def split_subjects(
    subjects: Sequence[str], settings: SplitSettings, fold: int | None = None
) -> Split:
    """Assign subjects to training, inner validation and test.

    Args:
        subjects: One name a case; repeats (several visits) are one subject.
        settings: Seed, number of folds, named test subjects, share for inner validation.
        fold: Which fold is the test part, from 0; None takes the named test subjects.

    Raises:
        UsageError: The fold does not exist.
        DataError: A named test subject is not there, or nothing is left to train on.
    """
    everyone = sorted(set(subjects))
    shuffled = [
        everyone[n] for n in np.random.default_rng(settings.seed).permutation(len(everyone))
    ]
    test = (
        _fold_subjects(shuffled, settings, fold) if fold is not None else _named(everyone, settings)
    )
    rest = [subject for subject in shuffled if subject not in test]
    num_validation = _num_validation(len(rest), settings.validation_fraction)
    split = Split(
        train=tuple(sorted(rest[num_validation:])),
        validation=tuple(sorted(rest[:num_validation])),
        test=tuple(sorted(test)),
        fold=fold,
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
