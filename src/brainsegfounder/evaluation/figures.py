"""Pictures for a report: loss curves, dots of Dice, and the mosaic of a case.

Every function returns a data URI (`data:image/...;base64,...`) ready for `<img src>`; nothing is
written and no global plotting state is used. The same input gives the same bytes.

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from brainsegfounder.evaluation.metrics import RegionScore
from brainsegfounder.evaluation.mosaic import case_mosaic

__all__ = [
    "case_mosaic",
    "curve_of",
    "dice_strip",
    "legend_above",
    "loss_curves",
    "new_plot",
    "smoothed",
    "svg_uri",
]

ON_WHITE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)))
INK, FAINT = "#30363d", "#d8dee4"
# Beyond this many points a curve on a screen does not change, and the file only grows.
MAX_POINTS = 800
# A range this wide is read better in decades.
LOG_RANGE = 20.0


def loss_curves(
    records: Sequence[Mapping[str, Any]],
    components: Mapping[str, str] | None = None,
    *,
    step_key: str = "step",
    x_label: str = "optimiser step",
    y_label: str = "loss",
    title: str = "",
    levels: Mapping[str, float] | None = None,
) -> str:
    """Draw named quantities of a run against its steps: smoothed, with the raw values faint.

    Args:
        records: One mapping per logged step; a record without a key is skipped for that key.
        components: Which keys to draw, and how the legend names them (with units, if any).
            None draws every key that starts with `loss`.
        step_key: The key of the horizontal axis.
        x_label: Its label.
        y_label: Label of the vertical axis. It is logarithmic where all values are positive and
            span more than a factor of 20.
        title: Heading of the picture.
        levels: Named values to compare with, such as chance; each is a dotted line.

    Returns:
        An SVG picture as a data URI; it says so where there is nothing to draw.
    """
    names = components if components is not None else _loss_names(records)
    curves = {label: curve_of(records, step_key, key) for key, label in names.items()}
    curves = {label: xy for label, xy in curves.items() if xy[0].size}
    figure, axes = new_plot(6.0, 3.6, title)
    axes.set(xlabel=x_label, ylabel=y_label)
    if not curves:
        _say_nothing(axes, "nothing was recorded")
        return svg_uri(figure)
    for number, (label, (steps, values)) in enumerate(curves.items()):
        colour, dash = ON_WHITE[number % len(ON_WHITE)], DASHES[number % len(DASHES)]
        smooth = smoothed(values)
        keep = slice(None, None, -(-len(steps) // MAX_POINTS))
        if len(steps) > 1:
            axes.plot(steps[keep], values[keep], color=colour, lw=0.6, alpha=0.3, zorder=1)
        label = f"{label} (last: {smooth[-1]:.3g})"
        marker = "o" if len(steps) < 20 else ""
        axes.plot(
            steps[keep], smooth[keep], color=colour, ls=dash, lw=1.8, label=label,
            marker=marker, ms=3.5, zorder=2,
        )  # fmt: skip
    for label, value in (levels or {}).items():
        axes.axhline(value, color=INK, lw=1.2, ls=(0, (1, 2)), label=f"{label} ({value:.3g})")
    everything = np.concatenate([values for _, values in curves.values()])
    _scale_y(axes, np.append(everything, list((levels or {}).values())))
    all_steps = np.unique(np.concatenate([steps for steps, _ in curves.values()]))
    if len(all_steps) == 1:  # a span of nothing has no round steps in it
        axes.set_xticks(all_steps)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    legend_above(axes, num_entries=len(curves) + len(levels or {}))
    return svg_uri(figure)


def dice_strip(scores: Sequence[RegionScore], title: str = "") -> str:
    """Draw every case's Dice as a dot, one row per region, with median and quartiles.

    Args:
        scores: Any number of cases and regions; rows stand in order of first appearance.
        title: Heading of the picture.

    Returns:
        An SVG picture as a data URI. Hollow dots are cases scored by the rule for empty masks.
    """
    regions = list(dict.fromkeys(score.region for score in scores))
    figure, axes = new_plot(6.0, 1.4 + 0.75 * max(1, len(regions)), title)
    axes.set(xlabel="Dice per case", xlim=(-0.02, 1.02))
    if not regions:
        _say_nothing(axes, "no case was scored")
        return svg_uri(figure)
    for row, region in enumerate(regions):
        members = [score for score in scores if score.region == region]
        _draw_strip(axes, row, members, ON_WHITE[row % len(ON_WHITE)])
    counts = [sum(score.region == region for score in scores) for region in regions]
    axes.set_yticks(
        range(len(regions)), [f"{r}\nn = {n}" for r, n in zip(regions, counts, strict=True)]
    )
    axes.set_ylim(len(regions) - 0.45, -0.55)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    handles = [
        _key("o", "case", mfc=INK),
        _key("o", "scored by the rule for empty masks", mfc="white"),
        _key("|", "median", ms=14, mew=2.5),
        Line2D([], [], color=INK, lw=4, alpha=0.35, label="middle half of the cases"),
    ]
    legend_above(axes, num_entries=len(handles), handles=handles)
    return svg_uri(figure)


def _loss_names(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    keys = dict.fromkeys(key for record in records for key in record if key.startswith("loss"))
    return {key: key.removeprefix("loss").strip("_./ ") or "total" for key in keys}


def curve_of(
    records: Sequence[Mapping[str, Any]], step_key: str, key: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values of one quantity, those that are finite numbers, in order of steps."""
    pairs = [
        (float(record[step_key]), float(record[key]))
        for record in records
        if isinstance(record.get(step_key), int | float)
        and isinstance(record.get(key), int | float)
    ]
    points = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    points = points[np.argsort(points[:, 0], kind="stable")]
    return points[:, 0], points[:, 1]


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A centred moving mean over about 2 % of the curve, shorter at its ends."""
    half = len(values) // 100
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    first, last = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    smooth: NDArray[np.float64] = (sums[last] - sums[first]) / (last - first)
    return smooth


def _scale_y(axes: Axes, values: NDArray[np.float64]) -> None:
    if values.min() <= 0 or values.max() / values.min() <= LOG_RANGE:
        axes.yaxis.set_major_locator(MaxNLocator(6))
        return
    axes.set_yscale("log")
    decades = np.log10(values.max() / values.min())
    steps = (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _draw_strip(axes: Axes, row: int, scores: Sequence[RegionScore], colour: str) -> None:
    values = np.array([score.dice for score in scores])
    low, median, high = np.percentile(values, [25, 50, 75])
    axes.plot([low, high], [row, row], color=colour, lw=7, alpha=0.25, solid_capstyle="butt")
    offsets = _spread(values, width=0.02)
    for hollow in (False, True):
        chosen = np.array([(score.empty != "none") == hollow for score in scores])
        face = "white" if hollow else colour
        axes.plot(
            values[chosen], row + offsets[chosen], ls="", marker="o", ms=5, mfc=face, mec=colour,
            mew=1.0, alpha=0.9, clip_on=False,
        )  # fmt: skip
    axes.plot(median, row, marker="|", ms=26, mew=2.5, color=INK, zorder=3)
    axes.annotate(
        f"{median:.3f}", (median, row - 0.36), ha="center", va="bottom", fontsize=8, color=INK
    )


def _spread(values: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Vertical offsets so that dots of near-equal values stand beside each other."""
    offsets = np.zeros(len(values))
    bins = np.floor(values / width)
    for one in np.unique(bins):
        members = np.flatnonzero(bins == one)
        pitch = min(0.11, 0.5 / len(members))
        offsets[members] = (np.arange(len(members)) - (len(members) - 1) / 2) * pitch
    return offsets


def new_plot(width_in: float, height_in: float, title: str = "") -> tuple[Figure, Axes]:
    """An empty plot in the look of all reports, white in dark pages too."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    if title:
        figure.suptitle(title, fontsize=11, color=INK, parse_math=False)
    axes.grid(color=FAINT, lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    return figure, axes


def _say_nothing(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=INK)
    axes.set_xticks([])
    axes.set_yticks([])


def _key(marker: str, label: str, **style: Any) -> Line2D:
    return Line2D([], [], ls="", marker=marker, color=INK, label=label, **style)


def legend_above(axes: Axes, num_entries: int, handles: list[Line2D] | None = None) -> None:
    """Put the legend over the plot, in two columns, where it hides nothing."""
    legend = axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=min(num_entries, 2),
        frameon=False, fontsize=8.5, labelcolor=INK, borderaxespad=0.3, handlelength=2.6,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def svg_uri(figure: Figure) -> str:
    """The figure as a data URI; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "brainsegfounder", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
