"""Linear probes: how well a property of a subject can be read off an encoder's features.

Ridge regression in closed form; its strength is chosen on the training folds alone, by their
leave-one-out error, also in closed form. Two classes are regressed as -1 and 1. Every image is
judged by a probe that has seen no image of its subject. Chance is what the training folds' mean, or
their larger class, would reach.

Shape letters: N images, C channels, S strengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from brainsegfounder.evaluation.features import Features

Numbers = NDArray[np.float64]

NUM_FOLDS = 5
# Folds are drawn so many times, and results averaged: with few subjects they depend on the draw.
NUM_REPEATS = 5
# Fewer subjects than this, or than this many of a class, tell nothing.
FEWEST_SUBJECTS = 20
FEWEST_OF_CLASS = 8
# Times the mean square of the features; the strongest all but ignores them.
STRENGTHS = np.logspace(-4, 4, 17)


@dataclass(frozen=True, slots=True)
class NumberProbe:
    """How well a number can be read off.

    Attributes:
        r2: 1 minus squared error over that of the training folds' mean; chance is 0, or less.
        mae: Mean absolute error, in the number's unit.
        chance_mae: That of the training folds' mean.
        num_images: How many were judged.
    """

    r2: float
    mae: float
    chance_mae: float
    num_images: int


@dataclass(frozen=True, slots=True)
class ClassProbe:
    """How well one of two classes can be told from the other.

    Attributes:
        auc: Area under the ROC curve within a fold, averaged; chance is 0.5.
        accuracy: Share of the images told right.
        chance_accuracy: Share of the larger class.
        num_images: How many were judged.
    """

    auc: float
    accuracy: float
    chance_accuracy: float
    num_images: int


def probe_number(
    features: Features, values: Numbers, subjects: Sequence[str], seed: int = 0
) -> NumberProbe | None:
    """Cross-validate a linear probe of a number.

    Args:
        features: Shape (N, C).
        values: What is to be read off, shape (N,); not-a-number where it is unknown.
        subjects: Whose each image is; a subject is never on both sides.
        seed: Of the folds.

    Returns:
        What it reaches, or None with fewer than 20 subjects, or one value for all.
    """
    known, values, names = _known(features, values, subjects)
    if len(set(names)) < FEWEST_SUBJECTS or np.ptp(values) == 0:
        return None
    guesses, means = [], []
    for repeat in range(NUM_REPEATS):
        folds = _folds(values, names, [seed, repeat])
        guesses.append(_held_out(known, values, folds))
        means.append(_fold_means(values, folds))
    wrong, chance = np.array(guesses) - values, np.array(means) - values
    return NumberProbe(
        r2=float(1 - np.square(wrong).sum() / np.square(chance).sum()),
        mae=float(np.abs(wrong).mean()),
        chance_mae=float(np.abs(chance).mean()),
        num_images=len(values),
    )


def probe_classes(
    features: Features, is_first: Numbers, subjects: Sequence[str], seed: int = 0
) -> ClassProbe | None:
    """Cross-validate a linear probe of two classes.

    Args:
        features: Shape (N, C).
        is_first: 1 for one class, 0 for the other, not-a-number where unknown; shape (N,).
        subjects: Whose each image is; a subject is never on both sides.
        seed: Of the folds.

    Returns:
        What it reaches, or None with fewer than 20 subjects, or 8 images of either class.
    """
    known, first, names = _known(features, is_first, subjects)
    counts = np.bincount(first.astype(int), minlength=2)
    if len(set(names)) < FEWEST_SUBJECTS or counts.min() < FEWEST_OF_CLASS:
        return None
    signs, aucs, right = 2 * first - 1, [], []
    for repeat in range(NUM_REPEATS):
        folds = _folds(first, names, [seed, repeat])
        guesses = _held_out(known, signs, folds)
        right.append(np.mean((guesses > 0) == (signs > 0)))
        aucs += [_auc(guesses[folds == f], signs[folds == f] > 0) for f in range(NUM_FOLDS)]
    return ClassProbe(
        auc=float(np.nanmean(aucs)),
        accuracy=float(np.mean(right)),
        chance_accuracy=float(counts.max() / counts.sum()),
        num_images=len(first),
    )


def _known(
    features: Features, values: Numbers, subjects: Sequence[str]
) -> tuple[Features, Numbers, list[str]]:
    """Only the images whose value is known."""
    values = np.asarray(values, dtype=np.float64)
    there = np.isfinite(values)
    names = [name for name, known in zip(subjects, there, strict=True) if known]
    return np.asarray(features, dtype=np.float64)[there], values[there], names


def _folds(values: Numbers, subjects: Sequence[str], seed: Sequence[int]) -> NDArray[np.int_]:
    """A fold for each image; subjects are dealt out in order of their values: folds are alike."""
    rng = np.random.default_rng(seed)
    first_of = {name: values[place] for place, name in reversed(list(enumerate(subjects)))}
    names = list(rng.permutation(sorted(first_of)))
    names.sort(key=lambda name: first_of[name])
    fold_of: dict[str, int] = {}
    for start in range(0, len(names), NUM_FOLDS):
        dealt = names[start : start + NUM_FOLDS]
        fold_of.update(zip(dealt, rng.permutation(NUM_FOLDS).tolist(), strict=False))
    return np.array([fold_of[name] for name in subjects])


def _held_out(features: Features, values: Numbers, folds: NDArray[np.int_]) -> Numbers:
    """What a probe trained on the other folds says of each image."""
    guesses = np.empty(len(values))
    for fold in range(NUM_FOLDS):
        test = folds == fold
        guesses[test] = ridge(features[~test], values[~test], features[test])
    return guesses


def _fold_means(values: Numbers, folds: NDArray[np.int_]) -> Numbers:
    """The mean of the other folds, for each image."""
    return np.array([values[folds != fold].mean() for fold in folds])


def ridge(features: Features, values: Numbers, others: Features) -> Numbers:
    """Fit ridge regression, and say what it expects of other images.

    Args:
        features: Shape (N, C); each channel is standardised.
        values: Shape (N,).
        others: Shape (M, C).

    Returns:
        Shape (M,).
    """
    mean, spread = features.mean(axis=0), features.std(axis=0)
    # A channel that is the same for all, but for rounding, tells nothing.
    spread[spread <= 1e-6 * np.abs(mean)] = np.inf
    level = values.mean()
    u_NR, s_R, vt_RC = np.linalg.svd((features - mean) / spread, full_matrices=False)
    kept = s_R > 1e-6 * max(s_R.max(initial=0.0), 1e-12)
    u_NR, s_R, vt_RC = u_NR[:, kept], s_R[kept], vt_RC[kept]
    if not len(s_R):
        return np.full(len(others), level)
    shrunk_SR = s_R**2 / (s_R**2 + STRENGTHS[:, None] * np.square(s_R).mean())
    along_R = u_NR.T @ (values - level)
    # Leaving an image out divides its error by what it does not explain of itself.
    own_SN = shrunk_SR @ np.square(u_NR).T + 1 / len(values)
    error_SN = (values - level - (shrunk_SR * along_R) @ u_NR.T) / np.maximum(1 - own_SN, 1e-9)
    best = int(np.square(error_SN).mean(axis=1).argmin())
    weights_C = vt_RC.T @ (shrunk_SR[best] * along_R / s_R)
    expected: Numbers = level + (others - mean) / spread @ weights_C
    return expected


def _auc(scores: Numbers, is_first: NDArray[np.bool_]) -> float:
    """Share of the pairs of both classes that stand in the right order; ties count half."""
    num_first = int(is_first.sum())
    num_other = len(is_first) - num_first
    if not num_first or not num_other:
        return float("nan")
    ranks = rankdata(scores)[is_first].sum()
    return float((ranks - num_first * (num_first + 1) / 2) / (num_first * num_other))
