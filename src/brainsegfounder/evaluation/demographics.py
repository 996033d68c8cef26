"""Who the subjects are: age, sex and other columns of a table of participants, counted.

Persons stay private: ages are counted in bins and never listed, and no count from 1 to 4 is shown.
Small age bins join their neighbours; small levels of another column are pooled into one, and where
that still holds fewer than five it is shown as "<5", and the largest level as a range, so that the
small count cannot be had by subtraction.
"""

from __future__ import annotations

import re
import textwrap
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brainsegfounder.evaluation.figures import INK, ON_WHITE, svg_uri
from brainsegfounder.evaluation.participants import Participants, subject_key

SMALLEST = 5
# From this many known ages on, bins of five years instead of ten.
MANY_AGES = 200


@dataclass(frozen=True, slots=True)
class Level:
    """A row of the table: how many subjects are of one kind.

    Attributes:
        name: Such as `40-49` or `female`.
        count: As it may be shown: a number, `<5`, or a range.
        bar: Length of its bar; nothing that is not in `count`.
        percent: Of the subjects whose value is known; None where the count is hidden.
        percent_of_file: The same over the whole table of participants.
    """

    name: str
    count: str
    bar: float
    percent: float | None = None
    percent_of_file: float | None = None


@dataclass(frozen=True, slots=True)
class Characteristic:
    """One column, counted.

    Attributes:
        name: A key of `COLUMNS`.
        levels: Every subject whose value is known is in one of them.
        num_missing: Subjects without a value.
    """

    name: str
    levels: tuple[Level, ...]
    num_missing: int


def count_characteristics(
    participants: Participants, subjects: Iterable[str]
) -> tuple[Characteristic, ...]:
    """Count every column over the subjects that stand in the table.

    Args:
        participants: The table.
        subjects: Names of the store's subjects, each once.

    Returns:
        One entry for each column; empty where fewer than five subjects are in the table.
    """
    keys = map(subject_key, subjects)
    chosen = [participants.rows[key] for key in keys if key in participants.rows]
    if len(chosen) < SMALLEST:
        return ()
    everyone = list(participants.rows.values())
    return tuple(_counted(name, chosen, everyone) for name in participants.columns)


def demographics_figure(characteristics: Sequence[Characteristic]) -> str:
    """Bars for every level of every column, with its count, as a data URI (SVG).

    At least one column must have a level; one without any is left out.
    """
    drawn = [one for one in characteristics if one.levels]
    heights_in = [0.5 + 0.27 * len(one.levels) for one in drawn]
    figure = Figure((4.6, 0.2 + sum(heights_in)), layout="constrained", facecolor="white")
    # Each panel's share of the height goes by its bars, so that all bars are as thick.
    shares = [len(one.levels) + 0.6 for one in drawn]
    panels = figure.subplots(len(drawn), 1, squeeze=False, height_ratios=shares)
    for number, (axes, one) in enumerate(zip(panels[:, 0], drawn, strict=True)):
        _draw_bars(axes, one, ON_WHITE[number % 3])
    return svg_uri(figure)


def _draw_bars(axes: Axes, one: Characteristic, colour: str) -> None:
    rows, bars = range(len(one.levels)), [level.bar for level in one.levels]
    names = [textwrap.shorten(level.name, 28, placeholder=" …") for level in one.levels]
    axes.barh(rows, bars, height=0.72, color=colour, alpha=0.85)
    for row, level in enumerate(one.levels):
        x = level.bar + 0.015 * max(bars)
        axes.text(x, row, level.count, va="center", fontsize=9, color=INK)
    axes.set_yticks(rows, names, fontsize=9, color=INK, parse_math=False)
    axes.set(xlim=(0, 1.3 * max(bars)), ylim=(len(names) - 0.4, -0.6))
    axes.set_title(_title(one), fontsize=10, loc="left", color=INK)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)


def hidden_counts(counts: Mapping[str, int]) -> dict[str, str]:
    """Counts as they may be shown: small levels pooled, or `<5` and the largest as a range."""
    present = {name: number for name, number in counts.items() if number}
    small = [name for name, number in present.items() if number < SMALLEST]
    shown = {name: f"{number:,}" for name, number in present.items() if number >= SMALLEST}
    if not small:
        return shown
    pooled = sum(present[name] for name in small)
    label = small[0] if len(small) == 1 else f"other ({len(small)} levels)"
    if pooled >= SMALLEST:
        return {**shown, label: f"{pooled:,}"}
    if shown:
        largest = max(shown, key=lambda name: present[name])
        both = present[largest] + pooled
        shown[largest] = f"{both - SMALLEST + 1:,}–{both - 1:,}"
    return {**shown, label: f"<{SMALLEST}"}


def age_cuts(ages: Sequence[float]) -> list[int]:
    """The ages in years at which bins begin (but the first), so that each holds at least five."""
    width = 5 if len(ages) >= MANY_AGES else 10
    ranked = np.sort(np.asarray(ages, dtype=np.float64))
    cuts: list[int] = []
    done = 0
    for cut in range(width, 90, width):
        below = int(np.searchsorted(ranked, cut))
        if below - done >= SMALLEST and len(ranked) - below >= SMALLEST:
            cuts.append(cut)
            done = below
    return cuts


def age_bins(cuts: Sequence[int]) -> list[str]:
    """Names of the bins that the cuts leave, open at both ends."""
    if not cuts:
        return ["all ages"]
    between = [f"{low}–{high - 1}" for low, high in pairwise(cuts)]
    return [f"under {cuts[0]}", *between, f"{cuts[-1]} and over"]


def _counted(
    name: str, chosen: Sequence[Mapping[str, str]], everyone: Sequence[Mapping[str, str]]
) -> Characteristic:
    values = [row[name] for row in chosen if name in row]
    whole = [row[name] for row in everyone if name in row]
    if name == "age":
        cuts = age_cuts([float(age) for age in values])
        order = age_bins(cuts)
        values = [order[bisect_right(cuts, float(age))] for age in values]
        whole = [order[bisect_right(cuts, float(age))] for age in whole]
    else:
        order = [level for level, _ in sorted(Counter(values).items(), key=_largest_first)]
    counts = {level: values.count(level) for level in order}
    levels = [_level(level, text, values, whole) for level, text in hidden_counts(counts).items()]
    return Characteristic(name, tuple(levels), len(chosen) - len(values))


def _largest_first(pair: tuple[str, int]) -> tuple[int, str]:
    return -pair[1], pair[0]


def _level(name: str, shown: str, values: Sequence[str], whole: Sequence[str]) -> Level:
    if not shown.replace(",", "").isdigit():
        numbers = [int(part) for part in re.findall(r"\d+", shown.replace(",", ""))]
        return Level(name, shown, sum(numbers) / len(numbers) if len(numbers) > 1 else SMALLEST - 1)
    count, of_file = int(shown.replace(",", "")), whole.count(name)
    # Who stands in the file but not in the store must not be few either.
    is_safe = of_file >= SMALLEST and not 0 < of_file - count < SMALLEST
    percent_of_file = 100 * of_file / len(whole) if is_safe else None
    return Level(name, shown, count, 100 * count / len(values), percent_of_file)


def _title(one: Characteristic) -> str:
    unit = " (years)" if one.name == "age" else ""
    return f"{one.name.capitalize()}{unit}, {one.num_missing:,} missing"
