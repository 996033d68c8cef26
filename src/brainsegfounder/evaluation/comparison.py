"""Several methods against a baseline: every metric, region and number of labels, tested once.

A comparison always has an effect, an interval and a probability together, and one sentence. The
probabilities of one metric are a family and are corrected for their number (Holm).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import numpy as np

from brainsegfounder.errors import DataError, Problem
from brainsegfounder.evaluation.metric_names import Direction, direction_of
from brainsegfounder.evaluation.pairing import Method, Pairs, Unmatched, levels_of, pair_up
from brainsegfounder.evaluation.sources import Sources, variance_sources
from brainsegfounder.evaluation.statistics import (
    Interval,
    NonInferiority,
    PairedResult,
    compare_pairs,
    holm,
    non_inferiority,
)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to compare.

    Attributes:
        level: Of intervals; the level of tests is one minus this.
        margins: For a metric the largest loss that is accepted (non-inferiority).
        seed: Of bootstrap samples and random signs.
        unit: What one independent unit is, in a word.
    """

    level: float = 0.95
    margins: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    unit: str = "subject"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one region, a method against the baseline.

    Attributes:
        method: Name of the method.
        baseline: Name of the baseline.
        metric: Name of the metric's column.
        region: Name of the region.
        labels: Number of labelled subjects trained on, or None.
        direction: Whether more is better.
        unit: What was paired, such as `subject`.
        method_mean: Mean of the method over the units.
        baseline_mean: Mean of the baseline.
        result: Effect, interval and tests of the differences (method minus baseline).
        p_holm: `result.p_permutation`, corrected for the family.
        num_family: How many comparisons the family has.
        sources: Variance by fold, seed and subject; None with one training.
        non_inferiority: None where no margin was stated.
        pairs: What was compared.
    """

    method: str
    baseline: str
    metric: str
    region: str
    labels: str | None
    direction: Direction
    unit: str
    method_mean: float
    baseline_mean: float
    result: PairedResult
    p_holm: float
    num_family: int
    sources: Sources | None
    non_inferiority: NonInferiority | None
    pairs: Pairs

    @property
    def shown(self) -> bool:
        """Whether a difference is shown: by the corrected test and by the interval, both."""
        interval = self.result.interval
        apart = interval.low > 0 or interval.high < 0
        return apart and self.p_holm <= 1 - interval.level + 1e-12


@dataclass(frozen=True, slots=True)
class Untested:
    """What could not be compared, and why."""

    method: str
    metric: str
    region: str
    labels: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Compared:
    """Everything that a comparison found.

    Attributes:
        comparisons: In order of methods, metrics, labels and regions.
        untested: Combinations without two pairs.
        unmatched: For each method the cases that were left out of some comparison.
    """

    comparisons: Sequence[Comparison]
    untested: Sequence[Untested]
    unmatched: Mapping[str, Sequence[Unmatched]]

    @property
    def metrics(self) -> list[str]:
        """The metrics that were compared."""
        return list(dict.fromkeys(one.metric for one in self.comparisons))


def compare_methods(
    methods: Sequence[Method], metrics: Sequence[str], settings: Settings | None = None
) -> Compared:
    """Compare every method with the first.

    Args:
        methods: The baseline, and one or more others.
        metrics: Columns to compare; each is a family of tests of its own.
        settings: Level, margins, seed.

    Raises:
        DataError: Nothing is in common, or only one case is.
    """
    settings = settings or Settings()
    baseline, *others = methods
    comparisons: list[Comparison] = []
    untested: list[Untested] = []
    unmatched: dict[str, dict[Unmatched, None]] = {method.name: {} for method in others}
    levels = levels_of(methods)
    regions = list(dict.fromkeys(row.region for method in methods for row in method.rows))
    for metric in metrics:
        family: list[Comparison] = []
        for method in others:
            for labels in levels:
                for region in regions:
                    pairs = pair_up(method, baseline, metric, region, labels)
                    unmatched[method.name].update(dict.fromkeys(pairs.unmatched))
                    if len({pair.subject for pair in pairs.pairs}) < 2:
                        reason = _too_few(pairs, settings.unit)
                        untested.append(Untested(method.name, metric, region, labels, reason))
                    else:
                        family.append(_compare(method.name, baseline.name, pairs, settings))
        comparisons += _corrected(family)
    if not comparisons:
        raise _nothing_to_compare(methods, untested)
    return Compared(comparisons, untested, {name: list(of) for name, of in unmatched.items()})


def _compare(method: str, baseline: str, pairs: Pairs, settings: Settings) -> Comparison:
    key = f"{method}|{baseline}|{pairs.metric}|{pairs.region}|{pairs.labels}"
    rng = np.random.default_rng([settings.seed, zlib.crc32(key.encode())])
    units = pairs.units()
    differences = pairs.differences()
    result = compare_pairs(differences, rng, settings.level)
    direction = direction_of(pairs.metric)
    margin = settings.margins.get(pairs.metric)
    safe = None
    if margin is not None and direction != "none":
        turn = 1.0 if direction == "higher" else -1.0
        safe = non_inferiority(turn * differences, margin, _turned(result.interval, turn), rng)
    return Comparison(
        method=method,
        baseline=baseline,
        metric=pairs.metric,
        region=pairs.region,
        labels=pairs.labels,
        direction=direction,
        unit=settings.unit,
        method_mean=fmean(unit.method for unit in units),
        baseline_mean=fmean(unit.baseline for unit in units),
        result=result,
        p_holm=result.p_permutation,
        num_family=1,
        sources=variance_sources(pairs.cells(), settings.level),
        non_inferiority=safe,
        pairs=pairs,
    )


def _turned(interval: Interval, turn: float) -> Interval:
    ends = sorted((turn * interval.low, turn * interval.high))
    return replace(interval, low=ends[0], high=ends[1])


def _corrected(family: Sequence[Comparison]) -> list[Comparison]:
    corrected = holm([one.result.p_permutation for one in family])
    return [
        replace(one, p_holm=p, num_family=len(family))
        for one, p in zip(family, corrected, strict=True)
    ]


def _too_few(pairs: Pairs, unit: str) -> str:
    found = sorted({pair.subject for pair in pairs.pairs})
    if not found:
        return f"no {unit} in common"
    only = pairs.units()[0]
    return (
        f"one {unit} in common ({only.subject}: {only.method:.4g} against {only.baseline:.4g}), "
        "from which nothing about others can be said"
    )


def _nothing_to_compare(methods: Sequence[Method], untested: Sequence[Untested]) -> DataError:
    examples = "; ".join(
        f"{method.name} has cases {', '.join(sorted({row.case for row in method.rows})[:3])} "
        f"and regions {', '.join(sorted({row.region for row in method.rows})[:4])}"
        for method in methods
    )
    reasons = list(dict.fromkeys(one.reason for one in untested))
    return DataError(
        Problem(
            code="nothing_to_compare",
            file=" against ".join(reversed([method.name for method in methods])),
            found=f"{reasons[0] if reasons else 'no number of labels in common'} ({examples})",
            expected="at least two that both scored, with the same names of case and region",
            advice="Evaluate the same cases with both methods; six give a test a "
            "chance, thirty an interval by the bootstrap.",
        )
    )
