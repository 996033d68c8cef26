"""Paired differences to an effect, an interval and a probability; nothing here knows of files.

A difference is one number for each subject: what one method scored minus what the other did. The
units must be independent of each other, so several visits of a subject are averaged before
(`pairing`). Where few pairs are left, the bootstrap's intervals are too narrow; Student's t is
used then, and every interval says which it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]
IntervalKind = Literal["bca", "student_t", "constant"]

NUM_RESAMPLES = 9_999
NUM_FLIPS = 19_999
# Up to this many pairs every pattern of signs is tried (2^16 = 65,536).
MAX_EXACT = 16
# Below this the BCa interval covers too seldom; `benchmarks/interval_coverage.py` shows it.
LEAST_FOR_BOOTSTRAP = 30
# Differences of decimal numbers that are equal on paper differ by less than this.
DECIMALS = 12


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a mean difference may lie.

    Attributes:
        low: Lower end.
        high: Upper end.
        level: Share of repetitions of the study whose interval holds the truth, such as 0.95.
        kind: How it was made: `bca`, `student_t`, or `constant` where all differences are equal.
    """

    low: float
    high: float
    level: float
    kind: IntervalKind


@dataclass(frozen=True, slots=True)
class PairedResult:
    """What a set of paired differences says.

    Attributes:
        num: How many differences.
        mean: Their mean, in the metric's unit.
        median: Their median.
        sd: Their sample standard deviation (n-1).
        interval: The one to report: `bca`, or `student_t` where there are few pairs.
        bca: The bootstrap interval of the mean; None where it cannot be computed.
        student_t: Mean and Student's t.
        p_permutation: Two-sided sign-flip test of the mean.
        exact: Whether every pattern of signs was tried.
        p_smallest: The least value that `p_permutation` can take with these differences.
        p_wilcoxon: Two-sided Wilcoxon signed-rank test; equal pairs are left out.
        cohen_dz: Mean over standard deviation; None where all differences are equal.
        rank_biserial: Share of the rank sum that is positive minus the share that is negative.
        num_higher: How many differences are above zero.
        num_equal: How many are zero.
        num_lower: How many are below zero.
    """

    num: int
    mean: float
    median: float
    sd: float
    interval: Interval
    bca: Interval | None
    student_t: Interval
    p_permutation: float
    exact: bool
    p_smallest: float
    p_wilcoxon: float
    cohen_dz: float | None
    rank_biserial: float
    num_higher: int
    num_equal: int
    num_lower: int


@dataclass(frozen=True, slots=True)
class NonInferiority:
    """Whether a method is worse than another by less than a margin.

    Attributes:
        margin: Largest loss that is accepted, in the metric's unit, above zero.
        bound: The end of the interval on the bad side, as a gain (negative: a loss).
        p: One-sided sign-flip test of a gain above `-margin`.
        shown: Whether the whole interval lies above `-margin`, and `p` says so at half the level
            of the two-sided test.
    """

    margin: float
    bound: float
    p: float
    shown: bool


def compare_pairs(
    differences: Values, rng: np.random.Generator, level: float = 0.95
) -> PairedResult:
    """Describe and test the mean of paired differences.

    Args:
        differences: One for each independent unit, shape (num,), at least two, finite.
        rng: Draws bootstrap samples and signs.
        level: Of the intervals.

    Raises:
        ValueError: Fewer than two, or not finite.
    """
    values = _rounded(differences)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"expected two or more finite numbers, found {values!r}")
    student, bca = student_interval(values, level), bca_interval(values, rng, level)
    enough = len(values) >= LEAST_FOR_BOOTSTRAP and bca is not None
    p, exact = sign_flip_test(values, rng)
    sd = float(values.std(ddof=1))
    return PairedResult(
        num=len(values),
        mean=float(values.mean()),
        median=float(np.median(values)),
        sd=sd,
        interval=bca if enough and bca is not None else student,
        bca=bca,
        student_t=student,
        p_permutation=p,
        exact=exact,
        p_smallest=_smallest_p(values, exact),
        p_wilcoxon=wilcoxon_test(values),
        cohen_dz=None if np.ptp(values) == 0 else float(values.mean() / sd),
        rank_biserial=rank_biserial(values),
        num_higher=int((values > 0).sum()),
        num_equal=int((values == 0).sum()),
        num_lower=int((values < 0).sum()),
    )


def bca_interval(values: Values, rng: np.random.Generator, level: float = 0.95) -> Interval | None:
    """Bias-corrected and accelerated bootstrap interval of the mean (Efron 1987), by scipy.

    Returns:
        None where it is not defined, as with hardly any value that differs from the others.
    """
    if np.ptp(values) == 0:
        return Interval(float(values[0]), float(values[0]), level, "constant")
    batch = max(1, 2_000_000 // len(values))
    with np.errstate(all="ignore"):
        found = stats.bootstrap(
            (values,), np.mean, n_resamples=NUM_RESAMPLES, batch=batch, vectorized=True,
            confidence_level=level, method="BCa", rng=rng,
        ).confidence_interval  # fmt: skip
    if not np.isfinite([found.low, found.high]).all():
        return None
    return Interval(float(found.low), float(found.high), level, "bca")


def student_interval(values: Values, level: float = 0.95) -> Interval:
    """The mean and Student's t with n-1 degrees of freedom."""
    error = 0.0 if np.ptp(values) == 0 else float(np.std(values, ddof=1)) / len(values) ** 0.5
    return around(float(np.mean(values)), error, len(values) - 1, level)


def around(mean: float, error: float, degrees: float, level: float) -> Interval:
    """A mean, and Student's t times its standard error to both sides."""
    if error == 0:
        return Interval(mean, mean, level, "constant")
    half = float(stats.t.ppf(0.5 + level / 2, degrees)) * error
    return Interval(mean - half, mean + half, level, "student_t")


def sign_flip_test(
    values: Values,
    rng: np.random.Generator,
    alternative: Literal["two-sided", "greater"] = "two-sided",
) -> tuple[float, bool]:
    """Permutation test of a mean of zero: methods are exchanged within pairs.

    The null hypothesis is that each difference may as well have the other sign. Up to 16 pairs
    every pattern is tried; beyond that 19,999 random ones, and the observed one is counted in.

    Returns:
        The probability, and whether every pattern was tried.
    """

    def measure(sums: Values) -> Values:
        return np.abs(sums) if alternative == "two-sided" else sums

    observed = float(measure(values.sum(keepdims=True))[0])
    # Sums that are equal on paper may differ in the last bit.
    threshold = observed - 1e-9 * max(float(np.abs(values).sum()), 1e-300)
    if len(values) <= MAX_EXACT:
        patterns = np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1
        return float((measure((1.0 - 2.0 * patterns) @ values) >= threshold).mean()), True
    reached, rest = 0, NUM_FLIPS
    chunk = max(1, 4_000_000 // len(values))
    while rest:
        size = min(chunk, rest)
        signs = rng.integers(0, 2, (size, len(values)), dtype=np.int8) * 2.0 - 1.0
        reached += int((measure(signs @ values) >= threshold).sum())
        rest -= size
    return (reached + 1) / (NUM_FLIPS + 1), False


def wilcoxon_test(values: Values) -> float:
    """Wilcoxon signed-rank test, two-sided; 1 where no pair differs."""
    changed = values[values != 0]
    return float(stats.wilcoxon(changed).pvalue) if len(changed) else 1.0


def rank_biserial(values: Values) -> float:
    """Matched-pairs rank-biserial correlation (Kerby 2014), −1 to 1; equal pairs are left out."""
    changed = values[values != 0]
    if not len(changed):
        return 0.0
    ranks = stats.rankdata(np.abs(changed))
    return float((ranks * np.sign(changed)).sum() / ranks.sum())


def holm(probabilities: Sequence[float]) -> list[float]:
    """Probabilities corrected for being several (Holm 1979), in the same order."""
    order = np.argsort(probabilities, kind="stable")
    factors = len(probabilities) - np.arange(len(probabilities))
    stepped = np.maximum.accumulate(np.asarray(probabilities, dtype=float)[order] * factors)
    corrected = np.empty(len(probabilities))
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(p) for p in corrected]


def non_inferiority(
    gains: Values, margin: float, interval: Interval, rng: np.random.Generator
) -> NonInferiority:
    """Whether a method loses less than a margin.

    Args:
        gains: Differences, turned so that more is better, shape (num,).
        margin: Largest loss that is accepted, above zero.
        interval: Of the mean of `gains`.
        rng: Draws signs.
    """
    p, _ = sign_flip_test(_rounded(gains) + margin, rng, "greater")
    shown = interval.low > -margin and p <= (1 - interval.level) / 2 + 1e-12
    return NonInferiority(margin, interval.low, p, shown)


def _rounded(values: Values) -> Values:
    return np.round(np.asarray(values, dtype=np.float64), DECIMALS).astype(np.float64)


def _smallest_p(values: Values, exact: bool) -> float:
    """What the test would give if all differences had one sign."""
    changed = int((values != 0).sum())
    if not exact:
        return 1 / (NUM_FLIPS + 1)
    return min(1.0, 2.0 ** (1 - changed))
