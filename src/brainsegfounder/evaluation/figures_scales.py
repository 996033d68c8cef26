"""The paper's Figure 4 with runs of one's own: losses of several model scales, and the published.

The published validation loss is half the true mean (the official code adds up the means of batches
of two and divides by the number of samples), which the picture says; ours is the mean.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from brainsegfounder.errors import DataError, Problem
from brainsegfounder.evaluation.figures import (
    FAINT,
    INK,
    MAX_POINTS,
    ON_WHITE,
    curve_of,
    smoothed,
)

COLUMNS = ("split", "model", "iteration", "total_loss")
PARTS = {"train": "Training loss", "val": "Validation loss"}
HALVED = "published validation values are half the true mean"
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)))

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class ScaleRun:
    """A pretraining run of one scale.

    Attributes:
        name: For the legend, such as `nano, depth 6`.
        train: Its records of training, each with `step` and `loss`.
        validation: Its records of validation, likewise.
    """

    name: str
    train: Sequence[Mapping[str, Any]]
    validation: Sequence[Mapping[str, Any]]


def read_published(path: Path) -> dict[str, dict[str, Curve]]:
    """Published curves by part (`train`, `val`) and model: iterations and total losses.

    Raises:
        DataError: The file is not such a table.
    """
    found: dict[str, dict[str, list[tuple[float, float]]]] = {part: {} for part in PARTS}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                point = (float(row["iteration"]), float(row["total_loss"]))
                found[row["split"]].setdefault(row["model"], []).append(point)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            Problem(
                code="curves_unreadable",
                file=path.name,
                found=f"{type(error).__name__}: {error}",
                expected=f"a CSV with the columns {', '.join(COLUMNS)}, split being train or val",
                advice="Give the table of Figure 4's points.",
            )
        ) from error
    return {
        part: {model: _sorted(points) for model, points in models.items()}
        for part, models in found.items()
    }


def scale_curves(runs: Sequence[ScaleRun], published_csv: Path) -> Figure:
    """Draw training and validation loss of runs of several scales beside the published curves.

    Two rows, the runs above the published, since their steps have other batches and so another
    meaning; two columns, training and validation. Published validation values are drawn as they
    were printed, and thin and dotted at their true mean, twice as high.

    Args:
        runs: One of each scale.
        published_csv: Points of the paper's Figure 4; see `read_published`.

    Raises:
        DataError: The published curves cannot be read.
    """
    published = read_published(published_csv)
    figure = Figure(figsize=(9.6, 7.4), layout="constrained", facecolor="white")
    grid = figure.subplots(2, 2, sharey="row")
    for axes, (part, title) in zip(grid[0], PARTS.items(), strict=True):
        _decorate(axes, f"{title}, these runs")
        for number, run in enumerate(runs):
            records = run.train if part == "train" else run.validation
            _draw(axes, number, run.name, curve_of(records, "step", "loss"))
        _legend(axes)
    for axes, (part, title) in zip(grid[1], PARTS.items(), strict=True):
        _decorate(axes, f"{title}, published")
        for number, (model, curve) in enumerate(published[part].items()):
            _draw(axes, number, model, curve)
            if part == "val":
                again = f"{model}, true mean (2 times)"
                _draw(axes, number, again, (curve[0], 2 * curve[1]), faint=True)
        _legend(axes)
    grid[1][1].set_title(f"Validation loss, published\n{HALVED}", fontsize=10, color=INK)
    return figure


def _sorted(points: Sequence[tuple[float, float]]) -> Curve:
    table = np.array(sorted(points), dtype=np.float64)
    return table[:, 0], table[:, 1]


def _draw(axes: Axes, number: int, name: str, curve: Curve, *, faint: bool = False) -> None:
    steps, values = curve
    if not len(steps):
        axes.plot([], [], color=ON_WHITE[number], label=f"{name}: nothing recorded")
        return
    keep = slice(None, None, -(-len(steps) // MAX_POINTS))
    colour, dash = ON_WHITE[number % len(ON_WHITE)], DASHES[number % len(DASHES)]
    smooth = smoothed(values)
    if faint:
        axes.plot(steps[keep], smooth[keep], color=colour, ls=":", lw=1.0, label=name)
        return
    axes.plot(steps[keep], values[keep], color=colour, lw=0.6, alpha=0.3)
    label = f"{name} (last: {smooth[-1]:.3g})"
    axes.plot(steps[keep], smooth[keep], color=colour, ls=dash, lw=1.8, label=label)


def _decorate(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, color=INK)
    axes.set_xlabel("optimiser step", color=INK)
    axes.set_ylabel("total loss of the three tasks", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(color=FAINT, lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, length=3, labelleft=True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _legend(axes: Axes) -> None:
    legend = axes.legend(
        frameon=True,
        facecolor="white",
        edgecolor="none",
        framealpha=0.8,
        fontsize=8,
        labelcolor=INK,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
