"""Whether a scan looks like those that a model was trained on.

For each contrast, and for the brain as a whole, the training scans' features have a mean and a
spread. How far a scan is from them is the root mean square of its distances in spreads. What counts
as far comes from the training scans themselves: each is measured against the others, and a new scan
is unfamiliar when it is well beyond the furthest of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from brainsegfounder.settings.section import Section
from brainsegfounder.volumes.appearance import Features

# With fewer scans there is no telling what is usual.
FEWEST_SCANS = 5
# How much further than the furthest training scan counts as unfamiliar.
BEYOND = 1.5
# No spread is smaller than this share of the mean's size, or than this: a few scans of one machine
# would else call any other one strange.
SMALLEST_SPREAD, SMALLEST_SHARE = 0.05, 0.02
# Contrasts are taken for others where names as given fit this many times worse than the best ones.
# In 12 gliomas, each against the other 11, right names reached 1.06; with two of four contrasts
# swapped the ratio was at least 1.24 in 65 of 72 cases (the rest but one: T1w and T1ce).
CLEARLY = 1.15
SHOWN = 2
BRAIN = "brain"


class Usual(Section):
    """What is usual for one contrast, or for the brain.

    Attributes:
        mean: Of each feature.
        spread: Of each feature: standard deviation, with a floor.
        limit: Distance beyond which a scan is unfamiliar.
    """

    mean: dict[str, float]
    spread: dict[str, float]
    limit: float

    def distance(self, features: Features) -> float:
        """Root mean square distance of a scan in spreads, over the features both have."""
        shared = [name for name in self.mean if name in features]
        far = [(features[n] - self.mean[n]) / self.spread[n] for n in shared]
        return float(np.sqrt(np.mean(np.square(far)))) if far else 0.0

    def furthest(self, features: Features) -> list[str]:
        """The features that are furthest from usual, in words."""
        shared = [name for name in self.mean if name in features]
        far = {n: abs(features[n] - self.mean[n]) / self.spread[n] for n in shared}
        names = sorted(far, key=lambda name: -far[name])[:SHOWN]
        return [f"{name} {features[name]:.2f} (usually {self.mean[name]:.2f})" for name in names]


class Familiar(Section):
    """What is usual in the scans that a model was trained on.

    Attributes:
        usual: For each contrast, and for `brain`.
        num_scans: How many scans that was learnt from.
    """

    usual: dict[str, Usual]
    num_scans: int


def learn_usual(appearances: Sequence[Mapping[str, Features]]) -> Familiar | None:
    """What is usual in some scans, from `volumes.appearance`; None where they are too few."""
    seen = [one for one in appearances if one]
    if len(seen) < FEWEST_SCANS:
        return None
    return Familiar(
        usual={part: _usual([one[part] for one in seen]) for part in seen[0]},
        num_scans=len(seen),
    )


def doubts(familiar: Familiar, seen: Mapping[str, Features]) -> Iterator[tuple[str, str]]:
    """What is strange about a scan: a code and a sentence for each.

    Args:
        familiar: What is usual.
        seen: The scan's appearance.
    """
    alike = _taken_for(familiar, seen)
    for name, other in alike.items():
        yield "contrast_unlike", f"{name} looks like {other}; is it the right file?"
    for part, usual in familiar.usual.items():
        if part in seen and part not in alike and usual.distance(seen[part]) > usual.limit:
            yield "unfamiliar", _told(part, familiar, seen)


def _taken_for(familiar: Familiar, seen: Mapping[str, Features]) -> dict[str, str]:
    """Contrasts that look like other ones: names that fit clearly better, each used once."""
    kinds = [part for part in familiar.usual if part != BRAIN]
    given = [name for name in kinds if name in seen]
    table = np.array([[familiar.usual[kind].distance(seen[n]) for kind in kinds] for n in given])
    if len(kinds) < 2 or not given:
        return {}
    rows, columns = optimize.linear_sum_assignment(table)
    as_given = sum(table[row, kinds.index(name)] for row, name in enumerate(given))
    if as_given <= CLEARLY * table[rows, columns].sum():
        return {}
    best = {given[row]: kinds[column] for row, column in zip(rows, columns, strict=True)}
    return {name: other for name, other in best.items() if name != other}


def _told(part: str, familiar: Familiar, seen: Mapping[str, Features]) -> str:
    usual = familiar.usual[part]
    ratio = usual.distance(seen[part]) / usual.limit
    name = "the brain" if part == BRAIN else part
    return (
        f"{name} is unlike the {familiar.num_scans} scans the model was trained on ({ratio:.1f} "
        f"times the limit): {'; '.join(usual.furthest(seen[part]))}. Results may be wrong."
    )


def _usual(features: Sequence[Features]) -> Usual:
    names = list(features[0])
    table = np.array([[one[name] for name in names] for one in features])
    return Usual(
        mean=dict(zip(names, map(float, table.mean(axis=0)), strict=True)),
        spread=dict(zip(names, map(float, _spread(table)), strict=True)),
        limit=BEYOND * _furthest_left_out(table),
    )


def _furthest_left_out(table: NDArray[np.float64]) -> float:
    """The largest distance of a scan from all the others."""
    distances = []
    for number in range(len(table)):
        others = np.delete(table, number, axis=0)
        far = (table[number] - others.mean(axis=0)) / _spread(others)
        distances.append(float(np.sqrt(np.mean(far**2))))
    return max(*distances, 1.0)


def _spread(table: NDArray[np.float64]) -> NDArray[np.float64]:
    floor = np.maximum(SMALLEST_SPREAD, SMALLEST_SHARE * np.abs(table.mean(axis=0)))
    spread: NDArray[np.float64] = np.maximum(table.std(axis=0, ddof=1), floor)
    return spread
