"""How good a segmentation probably is, from its own probabilities, checked against references.

If a voxel that is given 0.8 belongs to the region in 8 of 10 cases, the Dice to be expected follows
from the probabilities alone: twice what is probably shared, over what is marked and what is
probably there. Networks are too sure of themselves, and most so where they are wrong; so a straight
line is fitted from such estimates to true Dice, on cases that the network was not trained on, and
the interval comes from how far each of those cases is from a line fitted to the others (Barber et
al. 2021, jackknife+, in the symmetric form). It holds for cases like those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.inference.model_config import DiceLine, ModelConfig
from brainsegfounder.inference.postprocess import paint_classes, paint_regions

COVERAGE = 0.9
# A line through fewer points says nothing.
FEWEST_CASES = 5


class Expected(NamedTuple):
    """Dice to be expected of one region of one scan.

    Attributes:
        dice: The line's value, from 0 to 1.
        low: Lower end of the interval.
        high: Upper end.
        coverage: Share of scans whose true Dice the interval should hold.
        num_cases: How many cases the line was fitted on.
    """

    dice: float
    low: float
    high: float
    coverage: float
    num_cases: int


def estimate_dice(
    probabilities: NDArray[np.float32], config: ModelConfig
) -> dict[str, float | None]:
    """What the probabilities themselves say of each region's Dice; None where nothing is marked.

    Args:
        probabilities: Shape (R, I, J, K), as the network of this config gives them.
        config: Regions and target.
    """
    if config.target == "regions":
        labels = paint_regions(probabilities, config.regions)
    else:
        labels = paint_classes(probabilities, list(config.labels.values()))
    found: dict[str, float | None] = {}
    for number, (name, region) in enumerate(config.regions.items()):
        marked = np.isin(labels, region.labels)
        values = _of_region(probabilities, config, number, region.labels)
        found[name] = _overlap(values, marked)
    return found


def fit_line(estimates: Sequence[float], truths: Sequence[float]) -> DiceLine | None:
    """The line from estimates to true Dice of cases that were not trained on.

    Args:
        estimates: From `estimate_dice`, one a case.
        truths: Their Dice against the reference.

    Returns:
        None where there are too few cases.
    """
    x, y = np.asarray(estimates, dtype=float), np.asarray(truths, dtype=float)
    if len(x) < FEWEST_CASES:
        return None
    slope, intercept = _line(x, y)
    misses = []
    for number in range(len(x)):
        a, b = _line(np.delete(x, number), np.delete(y, number))
        misses.append(abs(float(y[number]) - float(np.clip(a * x[number] + b, 0, 1))))
    return DiceLine(slope=slope, intercept=intercept, misses=tuple(sorted(misses)))


def expect_dice(line: DiceLine, estimate: float, coverage: float = COVERAGE) -> Expected:
    """The Dice to be expected of a scan, with its interval.

    With fewer cases than the coverage needs (9 for 90 %), the interval is everything.
    """
    dice = float(np.clip(line.slope * estimate + line.intercept, 0, 1))
    number = len(line.misses)
    rank = math.ceil(coverage * (number + 1))
    miss = line.misses[rank - 1] if rank <= number else 1.0
    return Expected(dice, max(0.0, dice - miss), min(1.0, dice + miss), coverage, number)


def fit_lines(
    estimates: Mapping[str, Mapping[str, float | None]], truths: Mapping[str, Mapping[str, float]]
) -> dict[str, DiceLine]:
    """A line for each region that has enough cases.

    Args:
        estimates: By region and case; a case where nothing was marked is left out.
        truths: Dice by region and case.
    """
    lines = {}
    for region, of_cases in estimates.items():
        known = truths.get(region, {})
        pairs = [(e, known[c]) for c, e in of_cases.items() if e is not None and c in known]
        line = fit_line([e for e, _ in pairs], [t for _, t in pairs])
        if line is not None:
            lines[region] = line
    return lines


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and intercept of least squares; a better estimate never means a worse Dice."""
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread if spread > 0 else 0.0
    slope = max(slope, 0.0)
    return slope, float(y.mean()) - slope * float(x.mean())


def _of_region(
    probabilities: NDArray[np.float32], config: ModelConfig, number: int, labels: Sequence[int]
) -> NDArray[np.float32]:
    """Probability that a voxel belongs to a region, shape (I, J, K)."""
    if config.target == "regions":
        channel: NDArray[np.float32] = probabilities[number]
        return channel
    values = list(config.labels.values())
    total: NDArray[np.float32] = probabilities[[1 + values.index(one) for one in labels]].sum(0)
    return total


def _overlap(values: NDArray[np.float32], marked: NDArray[np.bool_]) -> float | None:
    number = int(np.count_nonzero(marked))
    if number == 0:
        return None
    shared = float(values[marked].sum(dtype=np.float64))
    return 2 * shared / (number + float(values.sum(dtype=np.float64)))
