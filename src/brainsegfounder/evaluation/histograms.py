"""Intensities of many cases beside each other, and the cases that differ from the rest.

Each case is kept as a histogram and its percentiles, a few hundred numbers, so that any number of
cases can be compared without holding their voxels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.evaluation.figures import INK, ON_WHITE, legend_above, new_plot, svg_uri

RANGE_SD = (-5.0, 8.0)
NUM_BINS = 130
PERCENTILES = np.arange(1, 100)
MAX_VOXELS = 200_000
# The rule of `unusual_cases`.
FEWEST_CASES = 8
MAD_FACTOR = 5.0
LEAST_DISTANCE_SD = 0.1
RULE = (
    "A case is named as unusual where its distance is more than 0.1 SD and more than the median "
    "distance plus 5 scaled median absolute deviations. Its distance is the mean absolute "
    "difference, over percentiles 1 to 99, between its own intensities and the median over all "
    f"cases looked at. With fewer than {FEWEST_CASES} cases none is named."
)
DASHES = ((0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (1, 1)))


@dataclass(frozen=True, slots=True)
class Profile:
    """The intensities of one contrast of one case, in standard deviations.

    Attributes:
        density: Share of the voxels per SD, one number a bin of `RANGE_SD`.
        percentiles: Intensities at percentiles 1 to 99.
    """

    density: NDArray[np.float64]
    percentiles: NDArray[np.float64]


def intensity_profile(values: NDArray[np.floating]) -> Profile:
    """The profile of the voxels inside a brain.

    Args:
        values: Normalised intensities, any shape; of more than 200,000 every n-th is taken.

    Returns:
        The profile, all zeros where there is no finite value.
    """
    flat = np.asarray(values, dtype=np.float64).ravel()
    flat = flat[np.isfinite(flat)]
    flat = flat[:: max(1, -(-flat.size // MAX_VOXELS))]
    if not flat.size:
        return Profile(np.zeros(NUM_BINS), np.zeros(len(PERCENTILES)))
    counts, edges = np.histogram(np.clip(flat, *RANGE_SD), bins=NUM_BINS, range=RANGE_SD)
    density = counts / flat.size / (edges[1] - edges[0])
    return Profile(density, np.percentile(flat, PERCENTILES))


def unusual_cases(profiles: Mapping[str, Profile]) -> dict[str, float]:
    """The cases that differ from the rest by `RULE`, the farthest first, with their distance."""
    if len(profiles) < FEWEST_CASES:
        return {}
    percentiles = np.stack([profile.percentiles for profile in profiles.values()])
    distances = np.abs(percentiles - np.median(percentiles, axis=0)).mean(axis=1)
    middle = float(np.median(distances))
    spread = 1.4826 * float(np.median(np.abs(distances - middle)))
    limit = max(LEAST_DISTANCE_SD, middle + MAD_FACTOR * spread)
    ranked = sorted(zip(profiles, distances, strict=True), key=lambda pair: -pair[1])
    return {case: float(distance) for case, distance in ranked if distance > limit}


def histogram_figure(
    profiles: Mapping[str, Profile], unusual: Sequence[str] = (), title: str = ""
) -> str:
    """Draw the median histogram, bands of half and nine tenths of the cases, and unusual cases.

    Args:
        profiles: Of one contrast, by case.
        unusual: Cases to draw on their own; at most the first four are.
        title: Heading of the picture.

    Returns:
        An SVG picture as a data URI.
    """
    figure, axes = new_plot(4.6, 3.3, title)
    axes.set(xlabel="intensity (SD from the brain's mean)", ylabel="share of voxels per SD")
    edges = np.linspace(*RANGE_SD, NUM_BINS + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    densities = np.stack([profile.density for profile in profiles.values()])
    low, lower, middle, upper, high = np.percentile(densities, [5, 25, 50, 75, 95], axis=0)
    axes.fill_between(
        centres, low, high, color=ON_WHITE[0], alpha=0.18, lw=0, label="9 in 10 cases"
    )
    axes.fill_between(
        centres, lower, upper, color=ON_WHITE[0], alpha=0.35, lw=0, label="half of the cases"
    )
    axes.plot(centres, middle, color=ON_WHITE[0], lw=1.8, label=f"median of {len(profiles)}")
    for number, case in enumerate(unusual[: len(DASHES)]):
        axes.plot(
            centres, profiles[case].density, color=ON_WHITE[1], ls=DASHES[number], lw=1.2,
            label=_shortened(case),
        )  # fmt: skip
    seen = np.flatnonzero(densities.mean(axis=0) > 0.002)
    if seen.size > 1:
        axes.set_xlim(centres[seen[0]], centres[seen[-1]])
    axes.set_ylim(bottom=0)
    axes.axvline(0, color=INK, lw=0.6, alpha=0.5)
    legend_above(axes, num_entries=3 + min(len(unusual), len(DASHES)))
    return svg_uri(figure)


def _shortened(name: str, most: int = 26) -> str:
    return name if len(name) <= most else f"{name[: most - 9]}…{name[-8:]}"
