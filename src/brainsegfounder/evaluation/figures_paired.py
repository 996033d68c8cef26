"""Pictures of a comparison: values in pairs, differences with intervals, volumes.

Every function returns an SVG picture as a data URI, in the look of `figures`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from brainsegfounder.evaluation.comparison import Comparison
from brainsegfounder.evaluation.figures import FAINT, INK, ON_WHITE, new_plot, svg_uri
from brainsegfounder.evaluation.metric_names import label_of
from brainsegfounder.evaluation.pairing import Method
from brainsegfounder.evaluation.statistics import student_interval
from brainsegfounder.evaluation.verdicts import number, place_text, plural, probability

# With more lines than this between pairs they are a grey area.
MAX_LINES = 80
# With more dots than this they are pixels, not outlines; a page of 1,000 cases stays small.
MAX_DOTS, DOTS_PER_INCH = 300, 200
VOLUME, REFERENCE = "volume_ml", "reference_volume_ml"


def paired_boxes(comparisons: Sequence[Comparison], title: str = "") -> str:
    """Draw a method beside the baseline: each unit a dot on both sides, joined, and boxes.

    Args:
        comparisons: Of one method and one metric; one group of two boxes for each.
        title: Heading of the picture.
    """
    first = comparisons[0]
    figure, axes = new_plot(max(4.6, 1.2 + 1.9 * len(comparisons)), 4.2, title)
    figure.set_dpi(DOTS_PER_INCH)
    for place, one in enumerate(comparisons):
        _draw_pairs(axes, place, one)
    names = [f"{place_text(one)}\nn = {one.result.num}" for one in comparisons]
    axes.set_xticks(range(len(comparisons)), names)
    axes.set_xlim(-0.6, len(comparisons) - 0.4)
    axes.set_ylabel(label_of(first.metric))
    axes.grid(axis="x", visible=False)
    axes.tick_params(axis="x", length=0)
    handles: list[Line2D | Patch] = [
        Patch(fc=ON_WHITE[number], ec=INK, alpha=0.35, label=name)
        for number, name in enumerate((first.baseline, first.method))
    ]
    handles.append(Line2D([], [], color=INK, marker="D", ms=4.5, ls="", label="mean"))
    _legend(axes, handles, columns=3)
    return svg_uri(figure)


def forest(comparisons: Sequence[Comparison], title: str = "") -> str:
    """Draw the mean difference of every comparison of one metric with its interval.

    A filled mark is a difference that is shown (interval and corrected test), a hollow one is not.
    Where several trainings were compared, the thin line below is the interval that counts them
    as draws, too. A dashed line stands where the stated margin is.

    Args:
        comparisons: Of one metric.
        title: Heading of the picture.
    """
    first = comparisons[0]
    several = len({one.method for one in comparisons}) > 1
    figure, axes = new_plot(8.0, 1.75 + 0.44 * len(comparisons), title)
    axes.axvline(0.0, color=INK, lw=1.1, zorder=1)
    for row, one in enumerate(comparisons):
        colour = ON_WHITE[1 + _place_of(one, comparisons) % (len(ON_WHITE) - 1)]
        _draw_interval(axes, row, one, colour)
    names = [
        f"{one.method}: {place_text(one)}" if several else place_text(one) for one in comparisons
    ]
    axes.set_yticks(range(len(comparisons)), names)
    axes.set_ylim(len(comparisons) - 0.5, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    who = "method" if several else first.method
    better = {"higher": ", above zero is better", "lower": ", below zero is better", "none": ""}
    axes.set_xlabel(
        f"difference of {label_of(first.metric)}: {who} minus {first.baseline}"
        f"{better[first.direction]}"
    )
    _numbers_at_right(axes, comparisons)
    _legend(axes, _forest_handles(comparisons), columns=2)
    return svg_uri(figure)


def bland_altman(methods: Sequence[Method], region: str, title: str = "") -> str | None:
    """Draw the error of each method's volumes against the mean of prediction and reference.

    Args:
        methods: With the columns `volume_ml` and `reference_volume_ml`.
        region: Which region.
        title: Heading of the picture.

    Returns:
        None where no method has volumes of three or more cases of this region.
    """
    found = [(method.name, *_volumes(method, region)) for method in methods]
    found = [(name, mean, error) for name, mean, error in found if len(mean) >= 3]
    if not found:
        return None
    figure = Figure(
        figsize=(max(4.6, 3.7 * len(found)), 3.9),
        dpi=DOTS_PER_INCH,
        layout="constrained",
        facecolor="white",
    )
    if title:
        figure.suptitle(title, fontsize=11, color=INK, parse_math=False)
    grid = np.atleast_1d(figure.subplots(1, len(found), sharex=True, sharey=True))
    for place, (axes, (name, mean, error)) in enumerate(zip(grid, found, strict=True)):
        _decorate(axes)
        axes.set_title(f"{name}, n = {len(mean)}", fontsize=9.5, color=INK, parse_math=False)
        _draw_agreement(axes, mean, error, ON_WHITE[place % len(ON_WHITE)])
        axes.set_xlabel("mean of prediction and reference (mL)")
    low, high = grid[0].get_ylim()
    grid[0].set_ylim(low, high + 0.2 * (high - low))  # for the words in the corner
    grid[0].set_ylabel("prediction − reference (mL)")
    return svg_uri(figure)


def few_shot_curve(comparisons: Sequence[Comparison], title: str = "") -> str:
    """Draw a metric against the number of labelled subjects trained on, with a band each.

    Args:
        comparisons: Of one metric and region, of one or more methods, each with `labels`.
        title: Heading of the picture.
    """
    first = comparisons[0]
    figure, axes = new_plot(6.0, 4.0, title)
    levels = list(dict.fromkeys(one.labels or "" for one in comparisons))
    places = _numbers(levels)
    curves: dict[str, dict[str, NDArray[np.float64]]] = {}
    for one in comparisons:
        units = one.pairs.units()
        curves.setdefault(one.baseline, {})[one.labels or ""] = np.array(
            [u.baseline for u in units]
        )
        curves.setdefault(one.method, {})[one.labels or ""] = np.array([u.method for u in units])
    level = first.result.interval.level
    for colour, (name, values) in zip(ON_WHITE, curves.items(), strict=False):
        there = [label for label in levels if label in values]
        x = np.array([places[label] for label in there])
        ends = [student_interval(values[label], level) for label in there]
        y = [float(values[label].mean()) for label in there]
        axes.fill_between(
            x, [e.low for e in ends], [e.high for e in ends], color=colour, alpha=0.16, lw=0
        )
        axes.plot(x, y, color=colour, marker="o", ms=5, lw=1.8, label=name)
    if (
        all(label and places[label] > 0 for label in levels)
        and places[levels[-1]] != len(levels) - 1
    ):
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks([places[label] for label in levels], levels)
    axes.set_xlabel("labelled subjects trained on, as given")
    axes.set_ylabel(label_of(first.metric))
    handles: list[Line2D | Patch] = list(axes.get_lines())
    handles.append(
        Patch(
            fc=INK,
            alpha=0.16,
            label=f"{100 * level:g} % interval over {plural(first.unit)}, each method by itself",
        )
    )
    _legend(axes, handles, columns=2)
    return svg_uri(figure)


def _draw_pairs(axes: Axes, place: int, one: Comparison) -> None:
    units = one.pairs.units()
    sides = (np.array([u.baseline for u in units]), np.array([u.method for u in units]))
    centres = (place - 0.2, place + 0.2)
    boxes = axes.boxplot(
        sides, positions=centres, widths=0.26, showfliers=False, patch_artist=True,
        manage_ticks=False, medianprops={"color": INK, "lw": 1.8}, whiskerprops={"color": INK},
        capprops={"color": INK},
    )  # fmt: skip
    for box, colour in zip(boxes["boxes"], ON_WHITE, strict=False):
        box.set(facecolor=colour, alpha=0.3, edgecolor=INK)
    shift = _jitter(len(units))
    if len(units) <= MAX_LINES:
        for before, after, by in zip(*sides, shift, strict=True):
            axes.plot(np.add(centres, by), (before, after), color=INK, lw=0.6, alpha=0.35)
    size, alpha = (4.5, 0.85) if len(units) <= MAX_LINES else (2.5, 0.35)
    for centre, values, colour in zip(centres, sides, ON_WHITE, strict=False):
        axes.plot(
            centre + shift, values, ls="", marker="o", ms=size, mfc=colour, mec="none",
            alpha=alpha, rasterized=len(units) > MAX_DOTS,
        )  # fmt: skip
        axes.plot(centre, values.mean(), marker="D", ms=4.5, color=INK, zorder=4)


def _jitter(num: int) -> NDArray[np.float64]:
    """Sideways shifts that keep dots apart; the same for both sides, so lines stay parallel."""
    golden = np.arange(num, dtype=np.float64) * 0.618034 % 1.0
    shifts: NDArray[np.float64] = (golden - 0.5) * (0.16 if num > 12 else 0.0)
    return shifts


def _draw_interval(axes: Axes, row: int, one: Comparison, colour: str) -> None:
    ends = one.result.interval
    axes.plot(
        [ends.low, ends.high], [row, row], color=colour, lw=2.6, solid_capstyle="butt", zorder=2
    )
    face = colour if one.shown else "white"
    axes.plot(one.result.mean, row, marker="o", ms=7, mfc=face, mec=colour, mew=1.8, zorder=3)
    if one.sources is not None:
        wide = one.sources.interval
        axes.plot([wide.low, wide.high], [row + 0.24] * 2, color=colour, lw=1.1, zorder=2)
    if one.non_inferiority is not None:
        at = (
            -one.non_inferiority.margin if one.direction == "higher" else one.non_inferiority.margin
        )
        axes.plot([at, at], [row - 0.4, row + 0.4], color=INK, lw=1.2, ls=(0, (3, 2)), zorder=1)


def _numbers_at_right(axes: Axes, comparisons: Sequence[Comparison]) -> None:
    """Effect, interval and probability of each row, as the labels of a second axis."""
    right = axes.twinx()
    right.set_ylim(axes.get_ylim())
    texts = []
    for one in comparisons:
        metric, ends = one.metric, one.result.interval
        p = f"p {probability(one.p_holm)}"
        shown = number(one.result.mean, metric, signed=True)
        texts.append(f"{shown}  ({number(ends.low, metric)} to {number(ends.high, metric)})  {p}")
    right.set_yticks(range(len(comparisons)), texts)
    right.tick_params(colors=INK, labelsize=8.5, length=0)
    for side in right.spines.values():
        side.set_visible(False)


def _forest_handles(comparisons: Sequence[Comparison]) -> list[Line2D | Patch]:
    level = 100 * comparisons[0].result.interval.level
    family = comparisons[0].num_family
    corrected = " (p corrected by Holm)" if family > 1 else ""
    handles: list[Line2D | Patch] = [
        Line2D(
            [],
            [],
            color=INK,
            marker="o",
            ms=6,
            lw=2.4,
            label=f"mean, {level:g} % interval{corrected}",
        ),
        Line2D(
            [], [], color=INK, marker="o", ms=6, mfc="white", lw=2.4, label="difference not shown"
        ),
    ]
    if any(one.sources for one in comparisons):
        handles.append(Line2D([], [], color=INK, lw=1.1, label="with trainings as draws, too"))
    if any(one.non_inferiority for one in comparisons):
        handles.append(
            Line2D([], [], color=INK, lw=1.2, ls=(0, (3, 2)), label="margin of non-inferiority")
        )
    return handles


def _place_of(one: Comparison, comparisons: Sequence[Comparison]) -> int:
    return list(dict.fromkeys(other.method for other in comparisons)).index(one.method)


def _volumes(method: Method, region: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of both volumes, and prediction minus reference: one number a case.

    A case's predictions by several trainings are averaged.
    """
    cases: dict[str, list[tuple[float, float]]] = {}
    for row in method.rows:
        pair = (row.values.get(VOLUME, math.nan), row.values.get(REFERENCE, math.nan))
        if row.region == region and np.isfinite(pair).all():
            cases.setdefault(row.case, []).append(pair)
    table = np.array([np.mean(pairs, axis=0) for pairs in cases.values()]).reshape(-1, 2)
    return table.mean(axis=1), table[:, 0] - table[:, 1]


def _draw_agreement(
    axes: Axes, mean: NDArray[np.float64], error: NDArray[np.float64], colour: str
) -> None:
    bias, spread = float(error.mean()), 1.96 * float(error.std(ddof=1))
    alpha = 0.6 if len(mean) < 200 else 0.3
    axes.plot(
        mean, error, ls="", marker="o", ms=4, mfc=colour, mec="none", alpha=alpha,
        rasterized=len(mean) > MAX_DOTS,
    )  # fmt: skip
    axes.axhline(0.0, color=INK, lw=0.8)
    axes.axhline(bias, color=colour, lw=1.8)
    for limit in (bias - spread, bias + spread):
        axes.axhline(limit, color=colour, lw=1.2, ls=(0, (5, 3)))
    text = f"bias {bias:+.2f} mL\nlimits {bias - spread:.2f} to {bias + spread:.2f} mL"
    axes.text(
        0.98, 0.98, text.replace("-", "−"), transform=axes.transAxes, ha="right", va="top",
        fontsize=8, color=INK,
    )  # fmt: skip


def _decorate(axes: Axes) -> None:
    axes.grid(color=FAINT, lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)


def _numbers(levels: Sequence[str]) -> dict[str, float]:
    """Where each level stands: its number, or its place where one is no number."""
    try:
        return {level: float(level.rstrip(" %")) for level in levels}
    except ValueError:
        return {level: float(place) for place, level in enumerate(levels)}


def _legend(axes: Axes, handles: Sequence[Line2D | Patch], columns: int) -> None:
    legend = axes.legend(
        handles=list(handles), loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns,
        frameon=False, fontsize=8.5, labelcolor=INK, borderaxespad=0.3, handlelength=2.2,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
