"""Probabilities against masks: soft Dice, average precision, Brier score and reliability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bool = NDArray[np.bool_]

NUM_BINS = 10


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Voxels whose probability lies in one tenth of 0 to 1; the last bin includes 1.

    Attributes:
        num_voxels: How many.
        sum_probability: Sum of their probabilities.
        num_positive: How many are in the reference.
    """

    num_voxels: int
    sum_probability: float
    num_positive: int


@dataclass(frozen=True, slots=True)
class ProbabilityScore:
    """What the probabilities of one region of one case scored.

    Attributes:
        soft_dice: 2 Σ p r / (Σ p + Σ r); None where the reference is empty.
        average_precision: Over voxels; None where the reference is empty.
        brier: Mean of (p - r)².
        ece: Expected calibration error over the bins.
        reliability: The bins, from 0 to 1.
    """

    soft_dice: float | None
    average_precision: float | None
    brier: float
    ece: float
    reliability: tuple[ReliabilityBin, ...]


def score_probabilities(probabilities: NDArray[np.floating], reference: Bool) -> ProbabilityScore:
    """Score probabilities against a mask, voxel by voxel over the whole grid.

    Args:
        probabilities: From 0 to 1, shape (I, J, K).
        reference: The same shape.
    """
    # Voxels that are surely and rightly background add a count and nothing else.
    where = (probabilities > 0) | reference
    p = probabilities[where].astype(np.float64)
    r = reference[where]
    num_sure = reference.size - len(p)
    bins = _reliability(p, r, num_sure)
    positive = float(np.count_nonzero(r))
    return ProbabilityScore(
        soft_dice=float(2 * p[r].sum() / (p.sum() + positive)) if positive else None,
        average_precision=average_precision(p, r, reference.size),
        brier=float(((p - r) ** 2).sum() / reference.size),
        ece=expected_calibration_error(bins),
        reliability=bins,
    )


def average_precision(
    probabilities: Floats, reference: Bool, num_voxels: int | None = None
) -> float | None:
    """Area under precision over recall, as a sum of steps at every distinct probability.

    Args:
        probabilities: Shape (N,).
        reference: Shape (N,).
        num_voxels: Of the whole grid, where voxels of probability 0 outside the reference are
            left out of the arrays.

    Returns:
        0 to 1; None where the reference is empty.
    """
    num_positive = int(np.count_nonzero(reference))
    if num_positive == 0:
        return None
    order = np.argsort(-probabilities, kind="stable")
    ranked, hits = probabilities[order], np.cumsum(reference[order])
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    taken = last + 1
    if num_voxels is not None and ranked[-1] == 0:
        taken[-1] = num_voxels  # the last threshold takes all voxels there are
    found = hits[last]
    return float((np.diff(found, prepend=0) / num_positive * (found / taken)).sum())


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """The mean of |mean probability - share of positives| over bins, by number of voxels."""
    total = sum(one.num_voxels for one in bins)
    return sum(abs(one.sum_probability - one.num_positive) for one in bins) / total


def add_bins(
    one: Sequence[ReliabilityBin], other: Sequence[ReliabilityBin]
) -> tuple[ReliabilityBin, ...]:
    """Reliability over the voxels of two cases."""
    return tuple(
        ReliabilityBin(
            a.num_voxels + b.num_voxels,
            a.sum_probability + b.sum_probability,
            a.num_positive + b.num_positive,
        )
        for a, b in zip(one, other, strict=True)
    )


def _reliability(p: Floats, r: Bool, num_sure: int) -> tuple[ReliabilityBin, ...]:
    bins = np.minimum((p * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    voxels = np.bincount(bins, minlength=NUM_BINS)
    sums = np.bincount(bins, weights=p, minlength=NUM_BINS)
    positives = np.bincount(bins[r], minlength=NUM_BINS)
    voxels[0] += num_sure
    rows = zip(voxels, sums, positives, strict=True)
    return tuple(ReliabilityBin(int(n), float(total), int(hits)) for n, total, hits in rows)
