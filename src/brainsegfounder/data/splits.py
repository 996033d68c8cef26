"""Who is trained on, who chooses the model, who is reported: always whole subjects."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from brainsegfounder.data.store import StoredCase
from brainsegfounder.errors import DataError, Problem, UsageError
from brainsegfounder.settings import SplitSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Split:
    """Subjects of the three parts; no subject is in two.

    Attributes:
        train: Subjects whose patches are trained on.
        validation: Subjects that choose the best model; they are part of nothing reported.
        test: Subjects that are reported and that training of any stage never sees.
        fold: Number of the fold, or None where the test subjects were named.
        folds_from: Who made the folds: the recipe's seed, the data set's own list, or the sites.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    fold: int | None
    folds_from: Literal["recipe", "data", "sites"] = "recipe"

    @property
    def sha256(self) -> str:
        """Fingerprint of the assignment."""
        assigned = {name: getattr(self, name) for name in ("train", "validation", "test", "fold")}
        return hashlib.sha256(json.dumps(assigned, sort_keys=True).encode()).hexdigest()


def folds_of_data(cases: Iterable[StoredCase]) -> dict[str, int]:
    """The fold in which each subject is tested, by the data set's own lists.

    They count where every case with labels has a fold, or every case where none has labels. A
    subject without a fold is never tested then.

    Returns:
        The fold of each subject that has one; empty where the data have no folds, or not enough.

    Raises:
        DataError: The cases of a subject are in several folds.
    """
    cases = list(cases)
    folds: dict[str, int] = {}
    for case in cases:
        if case.fold is not None and folds.setdefault(case.subject, case.fold) != case.fold:
            raise DataError(_in_two_folds(case, folds[case.subject]))
    tested = [case for case in cases if case.has_labels] or cases
    without = [case.case for case in tested if case.subject not in folds]
    if folds and without:
        log.warning(
            "%d of %d cases have no fold of the data set's own (%s, ...); the recipe's are used",
            len(without), len(tested), without[0],
        )  # fmt: skip
    return {} if without else folds


def folds_of_sites(cases: Iterable[StoredCase], num_folds: int) -> dict[str, int]:
    """Folds of whole sites, so that every subject is tested by a model that never saw its site.

    The largest site goes first, each into the fold with the fewest subjects so far; with as many
    folds as sites, each site is one fold.

    Args:
        cases: Of a store; each must have a site.
        num_folds: How many.

    Returns:
        The fold of each subject, as `split_subjects` takes it.

    Raises:
        DataError: A case has no site, a subject has two, or there are fewer sites than folds.
    """
    sites: dict[str, str] = {}
    for case in cases:
        if not case.site or sites.setdefault(case.subject, case.site) != case.site:
            raise DataError(_without_one_site(case))
    sizes = Counter(sites.values())
    if len(sizes) < num_folds:
        raise DataError(
            f"{len(sizes)} sites ({', '.join(sorted(sizes)[:5])}) for {num_folds} folds; expected "
            "at least one a fold. Lower split.folds."
        )
    filled, fold_of = [0] * num_folds, {}
    for site, size in sorted(sizes.items(), key=lambda pair: (-pair[1], pair[0])):
        fold_of[site] = filled.index(min(filled))
        filled[fold_of[site]] += size
    return {subject: fold_of[site] for subject, site in sites.items()}


def split_subjects(
    subjects: Sequence[str],
    settings: SplitSettings,
    fold: int | None = None,
    folds: Mapping[str, int] | None = None,
) -> Split:
    """Assign subjects to training, inner validation and test.

    Args:
        subjects: One name a case; repeats (several visits) are one subject.
        settings: Seed, number of folds, named test subjects, share for inner validation.
        fold: Which fold is the test part, from 0; None takes the named test subjects.
        folds: The data's own fold of each subject, as `folds_of_data` gives it; without it the
            seed makes folds.

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
        test = _listed_subjects(everyone, folds, fold)
    else:
        test = _fold_subjects(shuffled, settings, fold)
    rest = [subject for subject in shuffled if subject not in test]
    num_validation = _num_validation(len(rest), settings.validation_fraction)
    split = Split(
        train=tuple(sorted(rest[num_validation:])),
        validation=tuple(sorted(rest[:num_validation])),
        test=tuple(sorted(test)),
        fold=fold,
        folds_from="data" if folds and fold is not None else "recipe",
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


def _listed_subjects(everyone: list[str], folds: Mapping[str, int], fold: int) -> set[str]:
    found = sorted({folds[subject] for subject in everyone if subject in folds})
    if fold not in found:
        raise UsageError(
            f"--fold {fold}: no subject is in it; the data set's own folds are "
            f"{', '.join(map(str, found))}. Choose one of them."
        )
    return {subject for subject in everyone if folds.get(subject) == fold}


def _in_two_folds(case: StoredCase, other: int) -> Problem:
    return Problem(
        code="subject_in_two_folds",
        file=case.case,
        found=f"in fold {case.fold}, another case of subject {case.subject} in fold {other}",
        expected="all cases of a subject in one fold, or training would see whom it is tested on",
        advice="Correct the data set's list of folds and prepare again, or remove the list.",
    )


def _without_one_site(case: StoredCase) -> Problem:
    return Problem(
        code="site_missing" if not case.site else "subject_at_two_sites",
        file=case.case,
        found=f"at another site ({case.site}) than its subject before" if case.site else "no site",
        expected="one site for each subject, or training would see the site it is tested on",
        advice="Add the site to the data set's participants.tsv and prepare again, or exclude it.",
    )


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
