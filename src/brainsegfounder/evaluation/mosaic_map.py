"""A map over a scan in pictures, such as how unsure a model was: three planes at two places.

The map's colours run from dark to light at an even pace for any eye (inferno); what is near 0 lets
the scan through. The bar beside the slices says which colour is which value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from brainsegfounder.evaluation.grids import on_grid_of
from brainsegfounder.evaluation.metrics import Regions
from brainsegfounder.evaluation.slices import (
    MOSAIC_DPI,
    PLANES,
    Convention,
    DrawnCase,
    Plane,
    draw_outlines,
    draw_slice,
    drawn_case,
    flat_slice,
    png_uri,
    slices_through,
)
from brainsegfounder.volumes.geometry import to_ras
from brainsegfounder.volumes.volume import Volume

MAP_COLOURS = "inferno"
# Below this share of the scale nothing is drawn; from there the map hides more and more.
FAINT, OPAQUE = 0.1, 0.5
MOST_OPAQUE = 0.9
LABELS = "labels"
WIDTH_IN, HEADER_IN, FOOTER_IN, BAR_SHARE = 10.0, 0.3, 0.34, 0.12


@dataclass(frozen=True, slots=True)
class ScanMap:
    """A value for every voxel of a scan.

    Attributes:
        volume: Values from 0 up, shape (1, I, J, K), on the physical grid of the scan.
        name: What it is, such as `Uncertainty`.
        meaning: Its ends in words, such as `0: sure; 1: as good as a guess`.
        largest: The value at the top of the scale; None for the largest there is.
    """

    volume: Volume
    name: str
    meaning: str = ""
    largest: float | None = None

    @property
    def top(self) -> float:
        """The value at the top of the scale, above 0."""
        if self.largest is not None and self.largest > 0:
            return self.largest
        top = float(np.nanmax(self.volume.voxels[0], initial=0.0))
        return top if top > 0 else 1.0


def map_mosaic(
    image: Volume,
    labels: Volume | None,
    regions: Regions,
    shown: ScanMap,
    *,
    channel: int = 0,
    convention: Convention = "radiological",
) -> str:
    """Draw a map over a scan in three planes, with the labels' outline.

    The upper slices go through the labels' largest area, as those of `case_mosaic`; the lower ones
    through the slice of each plane where the map's sum is largest.

    Args:
        image: Intensities, shape (C, I, J, K), any orientation and spacing.
        labels: Labels on the image's physical grid, or None.
        regions: For each region its label values; one outline is drawn around all.
        shown: The map.
        channel: Which channel of the image to show.
        convention: As for `case_mosaic`.

    Returns:
        A PNG picture as a data URI, with millimetres in true proportion.

    Raises:
        LabelError: Labels or map are not on the image's physical grid.
    """
    every = sorted({value for values in regions.values() for value in values})
    case = drawn_case(image, labels, None, {LABELS: every}, channel, convention)
    placed = replace(on_grid_of(image, shown.volume), affine=image.affine)
    values = np.nan_to_num(to_ras(placed).voxels[0].astype(np.float32))[case.box]
    extent_mm = np.asarray(case.voxels.shape) * np.asarray(case.spacing_mm)
    widths_mm = [float(extent_mm[plane.across]) for plane in PLANES]
    height_mm = float(max(extent_mm[plane.up] for plane in PLANES))
    row_in = WIDTH_IN * (1 - BAR_SHARE) * height_mm / sum(widths_mm)
    height_in = 2 * (row_in + HEADER_IN) + FOOTER_IN
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=MOSAIC_DPI, facecolor="black")
    grid = figure.add_gridspec(
        2, 3, width_ratios=widths_mm, left=0.0, right=1 - BAR_SHARE, wspace=0.01,
        top=1 - HEADER_IN / height_in, bottom=FOOTER_IN / height_in,
        hspace=HEADER_IN / row_in,
    )  # fmt: skip
    for column, plane in enumerate(PLANES):
        through_labels, _ = slices_through(case, plane.axis)
        for row, index in enumerate((through_labels, _fullest(values, plane))):
            axes = figure.add_subplot(grid[row, column])
            bottom_mm = (float(extent_mm[plane.up]) - height_mm) / 2
            draw_slice(axes, case, plane, index, (0.0, bottom_mm, widths_mm[column], height_mm))
            _draw_map(axes, case, plane, index, values, shown.top)
            draw_outlines(axes, case, plane, index)
    has_labels = bool(case.lesion.any())
    upper = "Through the largest area of the labels" if has_labels else "Through the middle"
    lower = f"Where each plane has most {shown.name.lower()}"
    for text, level_in in ((upper, height_in - HEADER_IN / 2),
                           (lower, FOOTER_IN + row_in + HEADER_IN / 2)):  # fmt: skip
        figure.text(0.01, level_in / height_in, text, color="white", fontsize=10, va="center",
                    parse_math=False)  # fmt: skip
    _draw_bar(figure, shown, height_in)
    side = "left" if convention == "radiological" else "right"
    outline = "The blue line is the outline of all labels. " if has_labels else ""
    figure.text(
        0.5, FOOTER_IN / 2 / height_in, ha="center", va="center", color="#c9d1d9", fontsize=8.5,
        s=f"{outline}The patient's right (R) is on the {side}; sagittal slices face left.",
    )  # fmt: skip
    return png_uri(figure)


def _fullest(values: NDArray[np.float32], plane: Plane) -> int:
    """The slice with the largest sum; the middle one where all are empty."""
    sums = values.sum(axis=tuple(a for a in range(3) if a != plane.axis), dtype=np.float64)
    return int(sums.argmax()) if sums.max() > 0 else len(sums) // 2


def _draw_map(
    axes: Axes, case: DrawnCase, plane: Plane, index: int, values: NDArray[np.float32], top: float
) -> None:
    share = np.clip(flat_slice(values, case, plane, index) / top, 0.0, 1.0)
    colours = colormaps[MAP_COLOURS](share)
    colours[..., 3] = MOST_OPAQUE * np.clip((share - FAINT) / (OPAQUE - FAINT), 0.0, 1.0)
    across_mm, up_mm = (case.spacing_mm[a] for a in plane.drawn)
    axes.imshow(
        np.swapaxes(colours, 0, 1), origin="lower", interpolation="nearest", aspect="equal",
        extent=(0.0, share.shape[0] * across_mm, 0.0, share.shape[1] * up_mm),
    )  # fmt: skip


def _draw_bar(figure: Figure, shown: ScanMap, height_in: float) -> None:
    axes = figure.add_axes((1 - BAR_SHARE + 0.035, 0.22, 0.018, 0.56))
    scale = np.linspace(0.0, 1.0, 256)[:, None]
    colours = colormaps[MAP_COLOURS](scale)
    axes.imshow(colours, origin="lower", aspect="auto", extent=(0.0, 1.0, 0.0, shown.top))
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.tick_params(colors="white", labelsize=9)
    ticks = np.linspace(0.0, shown.top, 5)
    axes.set_yticks(ticks, [f"{tick:.2g}" for tick in ticks])
    axes.set_ylim(0.0, shown.top)
    figure.text(
        1 - BAR_SHARE / 2, 0.79 + 0.1 / height_in, shown.name, color="white", fontsize=10,
        ha="center", va="bottom", parse_math=False,
    )  # fmt: skip
