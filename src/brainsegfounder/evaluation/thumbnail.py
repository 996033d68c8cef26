"""A scan as small as a stamp: one axial slice through its labels, to be told from others."""

from __future__ import annotations

from matplotlib.figure import Figure

from brainsegfounder.evaluation.metrics import Regions
from brainsegfounder.evaluation.slices import (
    PLANES,
    Convention,
    draw_outlines,
    draw_slice,
    drawn_case,
    png_uri,
    slices_through,
)
from brainsegfounder.volumes.volume import Volume

SIDE_IN, DPI = 1.8, 100


def thumbnail(
    image: Volume,
    labels: Volume | None,
    regions: Regions,
    *,
    channel: int = 0,
    convention: Convention = "radiological",
) -> str:
    """Draw one axial slice through the labels' largest area, with their outlines.

    Args:
        image: Intensities, shape (C, I, J, K), any orientation and spacing.
        labels: Labels on the image's physical grid, or None.
        regions: For each region to outline its label values.
        channel: Which channel of the image to show.
        convention: As for `case_mosaic`.

    Returns:
        A square PNG of 180 pixels as a data URI, about 15 kB.

    Raises:
        LabelError: The labels are not on the image's physical grid.
    """
    case = drawn_case(image, labels, None, regions, channel, convention)
    axial = PLANES[0]
    index, _ = slices_through(case, axial.axis)
    width_mm, height_mm = (case.voxels.shape[a] * case.spacing_mm[a] for a in axial.drawn)
    side_mm = max(width_mm, height_mm)
    figure = Figure(figsize=(SIDE_IN, SIDE_IN), facecolor="black")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    view = ((width_mm - side_mm) / 2, (height_mm - side_mm) / 2, side_mm, side_mm)
    draw_slice(axes, case, axial, index, view)
    draw_outlines(axes, case, axial, index)
    return png_uri(figure, DPI)
