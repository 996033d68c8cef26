"""Differences within groups of subjects: site, sex, age, and size of the lesion.

Groups are looked at, not tested: each has an effect and an interval, and no probability. That two
intervals overlap, or that one holds zero, does not say whether groups differ.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from brainsegfounder.evaluation.comparison import Comparison
from brainsegfounder.evaluation.pairing import Unit
from brainsegfounder.evaluation.participants import Participants, subject_key
from brainsegfounder.evaluation.statistics import Interval, compare_pairs

UNKNOWN = "not known"
NUM_PARTS = 3
# More groups than these are no groups; a column of names, say.
MAX_GROUPS = 30


@dataclass(frozen=True, slots=True)
class Subgroup:
    """A comparison within one group of subjects.

    Attributes:
        method: Name of the method.
        metric: Name of the metric's column.
        region: Name of the region.
        labels: Number of labels, or None.
        by: What the groups are made by.
        group: Which group.
        num: How many units it has.
        method_mean: Mean of the method.
        baseline_mean: Mean of the baseline.
        difference: Mean difference, method minus baseline.
        interval: Of the mean difference; None for a single unit.
    """

    method: str
    metric: str
    region: str
    labels: str | None
    by: str
    group: str
    num: int
    method_mean: float
    baseline_mean: float
    difference: float
    interval: Interval | None


def subgroups_of(
    one: Comparison, participants: Participants | None = None, seed: int = 0
) -> list[Subgroup]:
    """The groups of one comparison, those of the reference's volume first.

    Args:
        one: A comparison.
        participants: Site, sex and age of subjects; None makes groups by volume only.
        seed: Of the bootstrap.

    Returns:
        Nothing for a property that is known of no subject, or has one group only.
    """
    units = one.pairs.units()
    found = []
    for by, groups in _groupings(units, participants).items():
        for group, members in groups.items():
            found.append(_subgroup(one, by, group, members, seed))
    return found


def _groupings(
    units: Sequence[Unit], participants: Participants | None
) -> dict[str, dict[str, list[Unit]]]:
    made = {"reference volume": _by_size(units)}
    rows = participants.rows if participants else {}
    for by in ("age", "sex", "site"):
        values = {unit.subject: rows.get(subject_key(unit.subject), {}).get(by) for unit in units}
        if by == "age":
            made[by] = _by_age(units, values)
        else:
            made[by] = _grouped(units, lambda unit, values=values: values[unit.subject] or UNKNOWN)  # type: ignore[misc]
    return {by: g for by, g in made.items() if 2 <= len(g.keys() - {UNKNOWN}) <= MAX_GROUPS}


def _by_size(units: Sequence[Unit]) -> dict[str, list[Unit]]:
    """No lesion, and three equal parts of the others."""
    sizes_ml = [u.reference_ml for u in units if u.reference_ml > 0]
    edges = _edges(sizes_ml)

    def name(unit: Unit) -> str:
        if math.isnan(unit.reference_ml):
            return UNKNOWN
        if unit.reference_ml == 0:
            return "no lesion"
        return _part(unit.reference_ml, edges, "mL")

    return _grouped(units, name)


def _by_age(units: Sequence[Unit], values: Mapping[str, str | None]) -> dict[str, list[Unit]]:
    ages = {subject: float(age) for subject, age in values.items() if age}
    edges = _edges(list(ages.values()))
    return _grouped(
        units,
        lambda u: _part(ages[u.subject], edges, "years") if u.subject in ages else UNKNOWN,
    )


def _edges(values: Sequence[float]) -> list[float]:
    """Bounds between three equal parts, rounded to be read; none where there are few values."""
    if len(values) < 2 * NUM_PARTS:
        return []
    bounds = np.quantile(values, np.arange(1, NUM_PARTS) / NUM_PARTS)
    return sorted({float(f"{bound:.3g}") for bound in bounds})


def _part(value: float, edges: Sequence[float], unit: str) -> str:
    if not edges:
        return "all"
    place = int(np.searchsorted(edges, value, side="right"))
    if place == 0:
        return f"below {edges[0]:g} {unit}"
    if place == len(edges):
        return f"{edges[-1]:g} {unit} or more"
    return f"{edges[place - 1]:g} to below {edges[place]:g} {unit}"


def _grouped(units: Sequence[Unit], name: Callable[[Unit], str]) -> dict[str, list[Unit]]:
    """Units by the name of their group: parts from small to large, names by the alphabet."""
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(name(unit), []).append(unit)
    return dict(sorted(groups.items(), key=lambda item: _order(item[0])))


def _order(group: str) -> tuple[int, float, str]:
    if group in (UNKNOWN, "no lesion"):
        return (9, 0, "") if group == UNKNOWN else (0, 0, "")
    if group.startswith("below "):
        return (1, 0, "")
    first = group.split(" ")[0]
    try:
        return (3 if group.endswith("or more") else 2, float(first), "")
    except ValueError:
        return (4, 0, group)


def _subgroup(one: Comparison, by: str, group: str, members: Sequence[Unit], seed: int) -> Subgroup:
    differences = np.array([unit.difference for unit in members])
    interval = None
    if len(members) > 1:
        rng = np.random.default_rng([seed, zlib.crc32(f"{by}|{group}|{one.region}".encode())])
        interval = compare_pairs(differences, rng, one.result.interval.level).interval
    return Subgroup(
        method=one.method,
        metric=one.metric,
        region=one.region,
        labels=one.labels,
        by=by,
        group=group,
        num=len(members),
        method_mean=fmean(unit.method for unit in members),
        baseline_mean=fmean(unit.baseline for unit in members),
        difference=float(differences.mean()),
        interval=interval,
    )
