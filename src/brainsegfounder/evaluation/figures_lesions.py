"""Pictures of what becomes of single lesions and of probabilities: detection by size, calibration.

Both are drawn from counts that an evaluation has made; nothing is computed from images here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from scipy import stats

from brainsegfounder.evaluation.figures import INK, ON_WHITE, legend_above, new_plot, svg_uri
from brainsegfounder.evaluation.lesion_counts import ProbabilityBin, SizeBin


def detection_by_size(methods: Mapping[str, Sequence[SizeBin]], title: str = "") -> str:
    """Draw the share of reference lesions found, for each range of sizes and each method.

    The whiskers are Wilson's 95 % interval, as if lesions were independent of each other.

    Args:
        methods: For each method the same ranges of sizes, in order.
        title: Heading of the picture.

    Returns:
        An SVG picture as a data URI.
    """
    bins = next(iter(methods.values()))
    figure, axes = new_plot(max(5.0, 1.5 + 1.35 * len(bins)), 3.9, title)
    width = 0.8 / len(methods)
    for place, (colour, (name, found)) in enumerate(zip(ON_WHITE, methods.items(), strict=False)):
        x = np.arange(len(found)) + (place - (len(methods) - 1) / 2) * width
        for at, one in zip(x, found, strict=True):
            if one.num_lesions:
                _draw_share(axes, float(at), width * 0.86, one, colour)
            else:
                axes.text(at, 0.01, "none", ha="center", va="bottom", fontsize=7.5, color=INK)
        axes.plot([], [], color=colour, lw=6, alpha=0.55, label=name)
    names = [f"{one.name}\n{one.num_lesions} lesions" for one in bins]
    axes.set_xticks(range(len(bins)), names)
    axes.set(xlabel="volume of the reference lesion", ylabel="share found", ylim=(0, 1.04))
    axes.grid(axis="x", visible=False)
    axes.tick_params(axis="x", length=0)
    legend_above(axes, num_entries=len(methods))
    return svg_uri(figure)


def calibration_curve(methods: Mapping[str, Sequence[ProbabilityBin]], title: str = "") -> str:
    """Draw how often voxels of a probability are in the reference; the diagonal is perfect.

    The size of a dot grows with the logarithm of the number of voxels.

    Args:
        methods: For each method its bins; empty ones are left out.
        title: Heading of the picture.

    Returns:
        An SVG picture as a data URI.
    """
    figure, axes = new_plot(4.6, 4.7, title)
    axes.plot([0, 1], [0, 1], color=INK, lw=1.0, ls=(0, (3, 2)), label="perfect")
    for colour, (name, bins) in zip(ON_WHITE, methods.items(), strict=False):
        there = [one for one in bins if one.num_voxels]
        x = [one.mean_probability for one in there]
        y = [one.share_positive for one in there]
        axes.plot(x, y, color=colour, lw=1.6, label=name)
        sizes = [8 + 9 * np.log10(one.num_voxels) for one in there]
        axes.scatter(x, y, s=sizes, color=colour, zorder=3, clip_on=False)
    axes.set(xlabel="probability predicted", ylabel="share of voxels in the reference")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    legend_above(axes, num_entries=len(methods) + 1)
    return svg_uri(figure)


def _draw_share(axes: Axes, x: float, width: float, one: SizeBin, colour: str) -> None:
    share = one.num_found / one.num_lesions
    ends = stats.binomtest(one.num_found, one.num_lesions).proportion_ci(method="wilson")
    axes.bar(x, share, width, color=colour, alpha=0.55)
    axes.plot([x, x], [ends.low, ends.high], color=INK, lw=1.2)
