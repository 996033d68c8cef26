"""Where differences between two methods vary: between folds, seeds and subjects.

The model, for fold f, seed r and subject s (who is tested in one fold, by every seed of it):

    difference = mean + fold_f + training_fr + subject_fs + rest_frs

Trainings (one for each seed of a fold) and subjects are both random draws; both are nested in
folds. The components are the analysis of variance's: they equal those of a mixed model (REML)
where every seed tested the same subjects and none comes out negative. Subjects that some seed
did not test are left out here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.evaluation.statistics import Interval, around

Grid = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cell:
    """The difference of one subject after one training."""

    fold: Hashable
    seed: Hashable
    subject: str
    difference: float


@dataclass(frozen=True, slots=True)
class Sources:
    """Standard deviations of a difference, and an interval that counts trainings as draws, too.

    Attributes:
        num_folds: How many folds.
        num_seeds: Trainings in each fold.
        num_subjects: Subjects of all folds together.
        fold_sd: Between folds, beyond what seeds and subjects explain; None with one fold.
        training_sd: Between trainings of a fold (seeds); None with one seed.
        subject_sd: Between subjects of a fold; with one seed, together with the rest.
        rest_sd: What is left; None with one seed.
        mean: Mean over folds of the folds' means.
        interval: For other trainings and other subjects; Student's t.
        degrees: Its degrees of freedom.
    """

    num_folds: int
    num_seeds: int
    num_subjects: int
    fold_sd: float | None
    training_sd: float | None
    subject_sd: float
    rest_sd: float | None
    mean: float
    interval: Interval
    degrees: float


def variance_sources(cells: Iterable[Cell], level: float = 0.95) -> Sources | None:
    """Part the variance of differences by fold, seed and subject.

    With two or more folds the interval is that of the folds' means: each is a training on other
    subjects, tested on others. Where these differ less than seeds and subjects alone would make
    them, that is chance, and the spread that seeds and subjects make is taken. With one fold and
    several seeds it is that of the mean of a two-way table with both sides random
    (Satterthwaite's degrees of freedom).

    Args:
        cells: One difference for each training and subject.
        level: Of the interval.

    Returns:
        None where there is one training only, or a fold has fewer than two subjects.
    """
    grids = _grids(cells)
    if not grids or min(grid.shape[1] for grid in grids) < 2:
        return None
    num_folds, num_seeds = len(grids), grids[0].shape[0]
    if num_folds * num_seeds < 2:
        return None
    seeds_ms, subjects_ms, rest_ms = _mean_squares(grids)
    # With folds of nearly equal size this stands for all of them.
    size = num_folds / sum(1 / grid.shape[1] for grid in grids)
    training, subject, rest = _components(seeds_ms, subjects_ms, rest_ms, num_seeds, size)
    means = np.array([grid.mean() for grid in grids])
    fold: float | None = None
    if num_folds > 1:
        within = training / num_seeds + (subject + rest / num_seeds) / size
        fold = max(0.0, float(means.var(ddof=1)) - within)
        degrees = num_folds - 1.0
        interval = around(float(means.mean()), ((fold + within) / num_folds) ** 0.5, degrees, level)
    else:
        interval, degrees = _two_way_interval(grids[0], seeds_ms, subjects_ms, rest_ms, level)
    several = num_seeds > 1
    return Sources(
        num_folds=num_folds,
        num_seeds=num_seeds,
        num_subjects=sum(grid.shape[1] for grid in grids),
        fold_sd=None if fold is None else fold**0.5,
        training_sd=training**0.5 if several else None,
        subject_sd=subject**0.5,
        rest_sd=rest**0.5 if several else None,
        mean=float(means.mean()),
        interval=interval,
        degrees=degrees,
    )


def _grids(cells: Iterable[Cell]) -> list[Grid]:
    """For each fold a full table of differences, shape (num_seeds, num_subjects)."""
    folds: dict[Hashable, dict[Hashable, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        folds[cell.fold][cell.seed][cell.subject] = cell.difference
    seeds = set.intersection(*(set(rows) for rows in folds.values())) if folds else set()
    grids = []
    for rows in folds.values():
        chosen = [rows[seed] for seed in sorted(seeds, key=str)]
        subjects = sorted(set.intersection(*map(set, chosen))) if chosen else []
        if subjects:
            grids.append(np.array([[row[name] for name in subjects] for row in chosen]))
    return grids


def _mean_squares(grids: list[Grid]) -> tuple[float, float, float]:
    """Mean squares of seeds, subjects and the rest, each within folds and pooled over them."""
    sums, degrees = np.zeros(3), np.zeros(3)
    for grid in grids:
        num_seeds, num_subjects = grid.shape
        seeds = grid.mean(axis=1, keepdims=True) - grid.mean()
        subjects = grid.mean(axis=0, keepdims=True) - grid.mean()
        rest = grid - grid.mean() - seeds - subjects
        sums += (num_subjects * (seeds**2).sum(), num_seeds * (subjects**2).sum(), (rest**2).sum())
        parts = (num_seeds - 1, num_subjects - 1, (num_seeds - 1) * (num_subjects - 1))
        degrees += parts
    found = np.divide(sums, degrees, out=np.zeros(3), where=degrees > 0)
    return float(found[0]), float(found[1]), float(found[2])


def _components(
    seeds_ms: float, subjects_ms: float, rest_ms: float, num_seeds: int, size: float
) -> tuple[float, float, float]:
    """Variances of trainings, subjects and the rest; a negative estimate is none."""
    if num_seeds == 1:
        return 0.0, subjects_ms, 0.0
    training = max(0.0, (seeds_ms - rest_ms) / size)
    return training, max(0.0, (subjects_ms - rest_ms) / num_seeds), rest_ms


def _two_way_interval(
    grid: Grid, seeds_ms: float, subjects_ms: float, rest_ms: float, level: float
) -> tuple[Interval, float]:
    """Interval of the mean of seeds by subjects, both random."""
    num_seeds, num_subjects = grid.shape
    squares = np.array([seeds_ms, subjects_ms, rest_ms])
    free = np.array([num_seeds - 1, num_subjects - 1, (num_seeds - 1) * (num_subjects - 1)])
    total = max(seeds_ms + subjects_ms - rest_ms, seeds_ms, subjects_ms)
    degrees = float(total**2 / (squares**2 / free).sum()) if total else float(num_seeds - 1)
    return around(float(grid.mean()), (total / grid.size) ** 0.5, degrees, level), degrees
