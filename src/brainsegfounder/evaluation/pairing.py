"""Which score stands beside which: by case and region, by seed where both sides have the same.

What is paired is one number for each subject in the end: a subject's visits, and its scores after
several trainings, are averaged. What has no partner, or no number, is listed with its reason.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.evaluation.metric_names import is_signed
from brainsegfounder.evaluation.score_rows import Row
from brainsegfounder.evaluation.sources import Cell

REFERENCE_VOLUME = "reference_volume_ml"


@dataclass(frozen=True, slots=True)
class Method:
    """Everything one method scored: rows of all its files.

    Attributes:
        name: What it is called.
        rows: Of all trainings, regions and cases.
    """

    name: str
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Pair:
    """One case after one training, scored by both methods.

    Attributes:
        case: Name of the case.
        subject: Whose case it is.
        fold: Of the training, or None.
        seed: Of the training, or None where the methods' seeds are not the same.
        method: What the method scored.
        baseline: What the baseline scored.
        reference_ml: Volume of the reference, NaN where no file says.
    """

    case: str
    subject: str
    fold: str | None
    seed: str | None
    method: float
    baseline: float
    reference_ml: float


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A case that could not be paired, and why."""

    case: str
    region: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unit:
    """One subject: the mean of its pairs."""

    subject: str
    method: float
    baseline: float
    reference_ml: float

    @property
    def difference(self) -> float:
        """Method minus baseline."""
        return self.method - self.baseline


@dataclass(frozen=True, slots=True)
class Pairs:
    """All pairs of one metric, region and number of labels.

    Attributes:
        metric: Name of its column.
        region: Name of the region.
        labels: On how many labelled subjects both were trained, or None.
        pairs: One for each case and training.
        unmatched: What was left out.
    """

    metric: str
    region: str
    labels: str | None
    pairs: Sequence[Pair]
    unmatched: Sequence[Unmatched] = ()

    def units(self) -> list[Unit]:
        """One row for each subject, in order of names."""
        subjects: dict[str, list[Pair]] = defaultdict(list)
        for pair in self.pairs:
            subjects[pair.subject].append(pair)
        return [
            Unit(
                subject,
                fmean(pair.method for pair in pairs),
                fmean(pair.baseline for pair in pairs),
                fmean(pair.reference_ml for pair in pairs),
            )
            for subject, pairs in sorted(subjects.items())
        ]

    def differences(self) -> NDArray[np.float64]:
        """Method minus baseline of each subject, shape (num_subjects,)."""
        return np.array([unit.difference for unit in self.units()])

    def cells(self) -> list[Cell]:
        """Differences by training and subject.

        Where a subject was tested in several folds, the folds are trainings like seeds: several
        models on one test set.
        """
        folds_of = defaultdict(set)
        found: dict[tuple[str | None, str | None, str], list[float]] = defaultdict(list)
        for pair in self.pairs:
            folds_of[pair.subject].add(pair.fold)
            key = (pair.fold, pair.seed, pair.subject)
            found[key].append(pair.method - pair.baseline)
        crossed = any(len(folds) > 1 for folds in folds_of.values())
        return [
            Cell(None if crossed else fold, (fold, seed) if crossed else seed, subject, fmean(them))
            for (fold, seed, subject), them in found.items()
        ]


def levels_of(methods: Iterable[Method]) -> list[str | None]:
    """The numbers of labels to compare by, small to large; [None] where no method has several."""
    levels = [{row.labels for row in method.rows} for method in methods]
    if all(len(of_method) == 1 for of_method in levels):
        return [None]
    shared = set.intersection(*levels) - {None}
    return sorted(shared, key=_by_number)


def pair_up(
    method: Method, baseline: Method, metric: str, region: str, labels: str | None = None
) -> Pairs:
    """Put the scores of two methods beside each other.

    Seeds are paired where both methods have the same ones for these cases; otherwise a case's
    mean over seeds is. Folds are a property of the case in a cross-validation; where only one
    side names them, they are taken from there.

    Args:
        method: What is looked at.
        baseline: What it is compared with.
        metric: A column; a signed error (a difference of volumes) is compared by its size.
        region: Name of the region.
        labels: Number of labels, or None for all rows.
    """
    sides = [_chosen(one.rows, metric, region, labels) for one in (method, baseline)]
    seeds = [{row.seed for row in rows} for rows in sides]
    if seeds[0] != seeds[1]:
        sides = [[replace(row, seed=None) for row in rows] for rows in sides]
    sides = _with_folds(sides)
    tables = [_by_place(rows, metric) for rows in sides]
    volumes = _volumes([*sides[0], *sides[1]])
    subjects = {row.case: row.subject for row in sides[0]}
    pairs, unmatched = [], []
    for key in sorted(tables[0].keys() | tables[1].keys(), key=str):
        case, fold, seed = key
        values = [table.get(key) for table in tables]
        reason = _reason(values, (method.name, baseline.name))
        if reason:
            told = ", ".join(
                f"{w} {t}" for w, t in (("fold", fold), ("seed", seed)) if t is not None
            )
            unmatched.append(Unmatched(case, region, f"{reason}{f' ({told})' if told else ''}"))
            continue
        one, other = values
        subject = subjects[case]
        pairs.append(
            Pair(case, subject, fold, seed, one or 0.0, other or 0.0, volumes.get(case, math.nan))
        )
    return Pairs(metric, region, labels, pairs, unmatched)


def _chosen(rows: Sequence[Row], metric: str, region: str, labels: str | None) -> list[Row]:
    return [
        row
        for row in rows
        if row.region == region and metric in row.values and labels in (None, row.labels)
    ]


def _with_folds(sides: Sequence[Sequence[Row]]) -> list[list[Row]]:
    """Both sides with the same folds, where each case has one fold on each side that names any.

    The baseline's count where both sides name others, and the other side's where it names none.
    """
    folds = [_fold_of_case(rows) for rows in sides]
    if folds[0] is None or folds[1] is None:
        return [list(rows) for rows in sides]
    told = {**folds[0], **{case: fold for case, fold in folds[1].items() if fold is not None}}
    return [[replace(row, fold=told.get(row.case)) for row in rows] for rows in sides]


def _fold_of_case(rows: Sequence[Row]) -> dict[str, str | None] | None:
    """The one fold of each case; None where some case was tested in several."""
    found: dict[str, str | None] = {}
    for row in rows:
        if found.setdefault(row.case, row.fold) != row.fold:
            return None
    return found


Place = tuple[str, str | None, str | None]


def _by_place(rows: Sequence[Row], metric: str) -> dict[Place, float]:
    """The value of each case, fold and seed; what is of one place now is averaged."""
    found: dict[Place, list[float]] = defaultdict(list)
    for row in rows:
        value = row.values[metric]
        found[row.case, row.fold, row.seed].append(abs(value) if is_signed(metric) else value)
    return {place: fmean(values) for place, values in found.items()}


def _volumes(rows: Iterable[Row]) -> dict[str, float]:
    """Volume of each case's reference in mL, where a row says."""
    return {
        row.case: row.values[REFERENCE_VOLUME]
        for row in rows
        if math.isfinite(row.values.get(REFERENCE_VOLUME, math.nan))
    }


def _reason(values: Sequence[float | None], names: Sequence[str]) -> str:
    """Why two values are no pair; empty where they are."""
    for value, name in zip(values, names, strict=True):
        if value is None:
            return f"not scored by {name}"
        if not math.isfinite(value):
            return f"no number ({value}) by {name}"
    return ""


def _by_number(text: str | None) -> tuple[float, str]:
    found = (text or "").strip().rstrip("%")
    try:
        return float(found), text or ""
    except ValueError:
        return math.inf, text or ""


def reasons_counted(unmatched: Iterable[Unmatched]) -> list[tuple[str, int]]:
    """How often each reason stands, most often first."""
    return Counter(one.reason for one in unmatched).most_common()
