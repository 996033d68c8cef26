"""A case in pictures: slices in three planes, with the outlines of prediction and reference.

Pictures have true proportions in millimetres, and letters say which side is which. Colours are
those of Okabe and Ito (2008), which colour-blind readers can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from brainsegfounder.evaluation.metrics import Regions
from brainsegfounder.evaluation.slices import (
    DASHES,
    MOSAIC_DPI,
    PLANES,
    Convention,
    DrawnCase,
    Plane,
    View,
    colour_of,
    draw_outlines,
    draw_slice,
    drawn_case,
    is_flipped,
    png_uri,
    slices_through,
    write_on,
)
from brainsegfounder.volumes.geometry import foreground_box
from brainsegfounder.volumes.volume import Volume

MOSAIC_WIDTH_IN = 10.0
# A legend's row, its lines and its letters, as they come out at the legend's size.
LEGEND_ROW_IN, LEGEND_LINE_IN, LETTER_IN = 0.22, 0.62, 0.078
# What stays visible around a lesion, so that the reader knows where in the brain it is.
SURROUNDINGS_MM = 18.0
CLOSEST_VIEW_MM = 60.0
STRIP_WIDTH_IN, STRIP_DPI, STRIP_FONT = 6.2, 100, 11.5
# Share of the height that is left free for the words over each slice.
STRIP_HEADROOM = 0.1
# Labels of a strip differ by line as well as by colour.
STRIP_LINES: tuple[Any, ...] = ("solid", DASHES, (0, (1, 1)), (0, (6, 2, 1.5, 2)))


def case_mosaic(
    image: Volume,
    prediction: Volume | None,
    reference: Volume | None,
    regions: Regions,
    title: str = "",
    *,
    channel: int = 0,
    convention: Convention = "radiological",
) -> str:
    """Draw a case in three planes through its lesion's largest slice, with both outlines.

    Each row is a plane: the whole slice without outlines, then three close-ups with outlines (a
    thin frame shows where). The slices go through the largest area of the reference (of the
    prediction where the reference is empty or absent) and a quarter of its extent to both sides;
    without any lesion, through the head's middle, whole.

    Args:
        image: Intensities, shape (C, I, J, K), any orientation and spacing.
        prediction: Labels on the image's physical grid, or None; drawn solid.
        reference: Labels on the image's physical grid, or None; drawn dashed.
        regions: For each region to outline its label values.
        title: Heading of the picture.
        channel: Which channel of the image to show.
        convention: `radiological` puts the patient's right on the picture's left. The letters
            on the picture say which side is which.

    Returns:
        A PNG picture as a data URI, with millimetres in true proportion.

    Raises:
        LabelError: A mask is not on the image's physical grid.
    """
    case = drawn_case(image, prediction, reference, regions, channel, convention)
    extent_mm = np.asarray(case.voxels.shape) * np.asarray(case.spacing_mm)
    width_mm = float(max(extent_mm[plane.across] for plane in PLANES))
    zoom = _zoom(case, width_mm)
    handles = _handles(case, regions, prediction is not None, reference is not None)
    per_row = _handles_per_row(handles)
    num_columns, header_in = 4, 0.45 if title else 0.08
    footer_in = 0.72 + LEGEND_ROW_IN * (math.ceil(len(handles) / per_row) - 1 if handles else 0)
    column_in = MOSAIC_WIDTH_IN / num_columns
    rows_in = [column_in * float(extent_mm[plane.up]) / width_mm for plane in PLANES]
    height_in = sum(rows_in) + header_in + footer_in
    figure = Figure(figsize=(MOSAIC_WIDTH_IN, height_in), dpi=MOSAIC_DPI, facecolor="black")
    grid = figure.add_gridspec(
        3, num_columns, height_ratios=rows_in, left=0.0, right=1.0, wspace=0.012,
        hspace=0.02, top=1 - header_in / height_in, bottom=footer_in / height_in,
    )  # fmt: skip
    for row, plane in enumerate(PLANES):
        whole, close = _views(case, plane, width_mm, zoom)
        centre, step = slices_through(case, plane.axis)
        axes = figure.add_subplot(grid[row, 0])
        draw_slice(axes, case, plane, centre, whole)
        if zoom < 1 and case.lesion.any():
            axes.add_patch(
                Rectangle(close[:2], *close[2:], fill=False, ec="white", lw=0.6, clip_on=False)
            )
        for column, index in enumerate((centre - step, centre, centre + step), start=1):
            axes = figure.add_subplot(grid[row, column])
            draw_slice(axes, case, plane, index, close)
            draw_outlines(axes, case, plane, index)
            _draw_scale_bar(axes, close)
    figure.text(0.5, 1 - 0.5 * header_in / height_in, title, color="white", fontsize=12,
                ha="center", va="center", parse_math=False)  # fmt: skip
    _draw_legend(figure, handles, per_row, case.convention)
    return png_uri(figure)


def case_strip(
    image: Volume,
    labels: Volume | None = None,
    regions: Regions | None = None,
    *,
    channel: int = 0,
    convention: Convention = "radiological",
) -> str:
    """Draw a case small: one whole slice in each of three planes, labels outlined.

    The slices go through the largest area of the labels, or through the head's middle.

    Args:
        image: Intensities, shape (C, I, J, K), any orientation and spacing.
        labels: Labels on the image's physical grid, or None.
        regions: For each region to outline its label values; at most four are told apart by line.
        channel: Which channel of the image to show.
        convention: As for `case_mosaic`.

    Returns:
        A PNG picture as a data URI, with millimetres in true proportion.

    Raises:
        LabelError: The labels are not on the image's physical grid.
    """
    regions = regions or {}
    case = drawn_case(image, labels, None, regions, channel, convention)
    extent_mm = np.asarray(case.voxels.shape) * np.asarray(case.spacing_mm)
    widths_mm = [float(extent_mm[plane.across]) for plane in PLANES]
    height_mm = float(max(extent_mm[plane.up] for plane in PLANES))
    shown_mm = (1 + STRIP_HEADROOM) * height_mm
    row_in = STRIP_WIDTH_IN * shown_mm / sum(widths_mm)
    footer_in = 0.3 if labels is not None and regions else 0.0
    height_in = row_in + footer_in
    figure = Figure(figsize=(STRIP_WIDTH_IN, height_in), facecolor="black")
    grid = figure.add_gridspec(
        1, 3, width_ratios=widths_mm, left=0.0, right=1.0, wspace=0.01, top=1.0,
        bottom=footer_in / height_in,
    )  # fmt: skip
    for column, plane in enumerate(PLANES):
        axes = figure.add_subplot(grid[0, column])
        bottom_mm = (float(extent_mm[plane.up]) - height_mm) / 2
        index, view = (
            slices_through(case, plane.axis)[0],
            (0.0, bottom_mm, widths_mm[column], shown_mm),
        )
        draw_slice(axes, case, plane, index, view, STRIP_FONT)
        draw_outlines(axes, case, plane, index, STRIP_LINES)
    if footer_in:
        _draw_strip_legend(figure, regions)
    return png_uri(figure, STRIP_DPI)


def _draw_strip_legend(figure: Figure, regions: Regions) -> None:
    handles = [
        Line2D([], [], color=colour_of(n), lw=2, ls=STRIP_LINES[n % len(STRIP_LINES)], label=name)
        for n, name in enumerate(regions)
    ]
    legend = figure.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.0), ncols=len(handles),
        frameon=False, labelcolor="white", fontsize=STRIP_FONT, borderaxespad=0.2,
        handlelength=2.6, columnspacing=1.4,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _zoom(case: DrawnCase, width_mm: float) -> float:
    """What share of the whole view the close-ups show; one share for all, so one scale."""
    if not case.lesion.any():
        return 1.0
    _, size_vox = foreground_box(case.lesion, (0, 0, 0))
    shares = [CLOSEST_VIEW_MM / width_mm]
    for plane in PLANES:
        height_mm = case.voxels.shape[plane.up] * case.spacing_mm[plane.up]
        for axis, whole_mm in ((plane.across, width_mm), (plane.up, height_mm)):
            shown_mm = size_vox[axis] * case.spacing_mm[axis] + 2 * SURROUNDINGS_MM
            shares.append(shown_mm / whole_mm)
    return 1.0 if max(shares) > 0.85 else max(shares)


def _views(case: DrawnCase, plane: Plane, width_mm: float, zoom: float) -> tuple[View, View]:
    """The whole slice and the close-up around the lesion, both of the row's proportions."""
    start_vox, size_vox = foreground_box(case.lesion, (0, 0, 0))
    extent_mm = np.array([case.voxels.shape[a] * case.spacing_mm[a] for a in plane.drawn])
    middle_mm = np.array(
        [(start_vox[a] + size_vox[a] / 2) * case.spacing_mm[a] for a in plane.drawn]
    )
    if is_flipped(case, plane):
        middle_mm[0] = extent_mm[0] - middle_mm[0]
    whole_mm = np.array([width_mm, extent_mm[1]])
    corner_mm = (extent_mm - whole_mm) / 2
    shown_mm = whole_mm * zoom
    close_mm = np.clip(middle_mm - shown_mm / 2, corner_mm, corner_mm + whole_mm - shown_mm)
    return _view(corner_mm, whole_mm), _view(close_mm, shown_mm)


def _view(corner_mm: NDArray[np.float64], size_mm: NDArray[np.float64]) -> View:
    return float(corner_mm[0]), float(corner_mm[1]), float(size_mm[0]), float(size_mm[1])


def _draw_scale_bar(axes: Axes, view: View) -> None:
    left_mm, bottom_mm, width_mm, height_mm = view
    start_mm, level_mm = left_mm + 0.03 * width_mm, bottom_mm + 0.05 * height_mm
    length_mm = 20.0 if width_mm > 4 * CLOSEST_VIEW_MM / 3 else 10.0
    axes.plot([start_mm, start_mm + length_mm], [level_mm, level_mm], color="white", lw=1.5)
    x = (start_mm + length_mm - left_mm) / width_mm + 0.015
    write_on(axes, x, 0.05, f"{length_mm:.0f} mm", ha="left", va="center")


def _handles(case: DrawnCase, regions: Regions, predicted: bool, referenced: bool) -> list[Line2D]:
    """The lines of the legend: a colour for each region, a line for each role."""
    handles = [
        Line2D([], [], color=colour_of(number), lw=3, label=name)
        for number, name in enumerate(regions)
        if predicted or referenced
    ]
    if predicted:
        handles.append(Line2D([], [], color="white", lw=1.4, label="prediction"))
    if referenced:
        handles.append(Line2D([], [], color="white", lw=1.4, ls=DASHES, label="reference"))
    if (predicted or referenced) and not case.lesion.any():
        handles.append(Line2D([], [], ls="", label="(no voxel in any region)"))
    return handles


def _handles_per_row(handles: Sequence[Line2D]) -> int:
    """All in one row where they fit, else as many as fit if each were as long as the longest."""
    widths_in = [LEGEND_LINE_IN + LETTER_IN * len(str(one.get_label())) for one in handles]
    if sum(widths_in) <= MOSAIC_WIDTH_IN:
        return max(1, len(handles))
    return max(1, int(MOSAIC_WIDTH_IN / max(widths_in)))


def _draw_legend(
    figure: Figure, handles: Sequence[Line2D], per_row: int, convention: Convention
) -> None:
    legend = figure.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.3 / figure.get_figheight()),
        ncols=per_row, frameon=False, labelcolor="white", fontsize=9.5, borderaxespad=0.0,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    side = "left" if convention == "radiological" else "right"
    figure.text(
        0.5, 0.16 / figure.get_figheight(), ha="center", va="center", color="#c9d1d9", fontsize=8.5,
        s=f"{convention.capitalize()} convention: the patient's right (R) is on the {side}; "
        "sagittal slices face left.",
    )  # fmt: skip
