"""In which fold each subject is tested: by the data's own list or another, site or lesion load."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from brainsegfounder.data.identity import spelling
from brainsegfounder.data.layouts.fold_lists import read_folds, two_folds
from brainsegfounder.data.store import StoredCase
from brainsegfounder.errors import DataError, Problem

log = logging.getLogger(__name__)


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
        some = f"sites ({', '.join(sorted(sizes)[:5])})"
        raise DataError(_fewer_than_folds(len(sizes), some, num_folds))
    filled, fold_of = [0] * num_folds, {}
    for site, size in sorted(sizes.items(), key=lambda pair: (-pair[1], pair[0])):
        fold_of[site] = filled.index(min(filled))
        filled[fold_of[site]] += size
    return {subject: fold_of[site] for subject, site in sites.items()}


def folds_of_load(cases: Iterable[StoredCase], num_folds: int, seed: int) -> dict[str, int]:
    """Folds that test small and large lesions alike.

    Subjects are sorted by lesion load (the mean of their visits); of each `num_folds` neighbours
    every fold gets one, which one is drawn. Subjects without labels are shared out evenly after
    them.

    Args:
        cases: Of a store.
        num_folds: How many.
        seed: Of the draw.

    Returns:
        The fold of each subject, as `split_subjects` takes it.

    Raises:
        DataError: Fewer subjects than folds, or a store in which labels were not counted.
    """
    loads: dict[str, list[float]] = {}
    for case in cases:
        visits = loads.setdefault(case.subject, [])
        if case.has_labels:
            visits.append(lesion_load_ml(case))
    if len(loads) < num_folds:
        raise DataError(_fewer_than_folds(len(loads), "subjects", num_folds))
    means = {subject: float(np.mean(ml)) if ml else np.inf for subject, ml in loads.items()}
    ordered = sorted(means, key=lambda subject: (means[subject], subject))
    draw = np.random.default_rng(seed)
    drawn = [n for _ in range(0, len(ordered), num_folds) for n in draw.permutation(num_folds)]
    return {subject: int(fold) for subject, fold in zip(ordered, drawn, strict=False)}


def folds_of_list(cases: Iterable[StoredCase], path: Path) -> dict[str, int]:
    """The fold in which each subject is tested, by a list.

    Args:
        cases: Of a store; names of the list may be theirs or their subjects'.
        path: See `read_folds`.

    Returns:
        The fold of each subject that the list names; a subject without labels need not be in it
        and is never tested then.

    Raises:
        DataError: The list cannot be read, puts a subject into two folds, or leaves out a subject
            with labels.
    """
    listed = folds_by_spelling(path)
    folds: dict[str, int] = {}
    absent: set[str] = set()
    used: set[str] = set()
    for case in cases:
        names = {spelling(name) for name in (case.case, case.subject)} & listed.keys()
        for name in sorted(names):
            if folds.setdefault(case.subject, listed[name]) != listed[name]:
                raise DataError(two_folds(path, case.subject, folds[case.subject], listed[name]))
        used |= names
        if not names and case.has_labels:
            absent.add(case.subject)
    if absent := absent - folds.keys():
        raise DataError(_not_listed(path, sorted(absent), len(folds)))
    if unused := sorted(listed.keys() - used):
        log.warning("%s: %d names have no case (%s, ...)", path, len(unused), unused[0])
    return folds


def folds_by_spelling(path: Path) -> dict[str, int]:
    """The folds of a list by names as they are compared; see `read_folds` and `spelling`.

    Raises:
        DataError: The list cannot be read, or one name is in two folds.
    """
    listed: dict[str, int] = {}
    for name, fold in read_folds(path).items():
        if listed.setdefault(spelling(name), fold) != fold:
            raise DataError(two_folds(path, name, listed[spelling(name)], fold))
    return listed


def lesion_load_ml(case: StoredCase) -> float:
    """Volume of all that is labelled in a case, in mL on the prepared grid.

    Raises:
        DataError: It was prepared before labels were counted.
    """
    if case.label_voxels is None:
        raise DataError(
            Problem(
                code="labels_not_counted",
                file=case.case,
                found="no number of labelled voxels in the store",
                expected="one for each label",
                advice="Give the same `prepare` command again; it counts them.",
            )
        )
    return sum(case.label_voxels.values()) * case.grid.voxel_volume_ml


def _fewer_than_folds(number: int, what: str, num_folds: int) -> str:
    return (
        f"{number} {what} for {num_folds} folds; expected at least one a fold. Lower split.folds."
    )


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


def _not_listed(path: Path, subjects: Sequence[str], num_listed: int) -> Problem:
    return Problem(
        code="not_in_folds",
        file=str(path),
        found=f"{len(subjects)} subjects with labels are in no fold ({', '.join(subjects[:3])}"
        f"{', ...' if len(subjects) > 3 else ''}); {num_listed} are",
        expected="a fold for every subject with labels, by its name or that of its case",
        advice="Complete the list, or leave the others out by data.exclude_subjects.",
    )
