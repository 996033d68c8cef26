"""One slice of a case as it is drawn: turned to RAS, cut to the head, with letters and outlines.

The parts that every mosaic is made of. A picture has true proportions in millimetres, and letters
say which side is which. Colours are those of Okabe and Ito (2008).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from brainsegfounder.evaluation.metrics import Regions, on_grid_of
from brainsegfounder.volumes.geometry import foreground_box, to_ras
from brainsegfounder.volumes.volume import Volume

Convention = Literal["radiological", "neurological"]
View = tuple[float, float, float, float]  # left, bottom, width, height of what is shown, in mm

ON_BLACK = ("#56B4E9", "#E69F00", "#CC79A7", "#F0E442", "#009E73", "#D55E00", "#FFFFFF")
DASHES = (0, (2.4, 1.8))
MOSAIC_DPI = 110
MOSAIC_FONT = 8.5
MARGIN_MM = 5.0


@dataclass(frozen=True, slots=True)
class Plane:
    """One of the three views: which axis it cuts, and the letters at its sides.

    Attributes:
        name: As radiologists call it.
        axis: RAS axis that the slice number counts along.
        across: RAS axis drawn from left to right (or right to left).
        up: RAS axis drawn upwards.
        letters: At the low and high end of `across`.
    """

    name: str
    axis: int
    across: int
    up: int
    letters: tuple[str, str]

    @property
    def drawn(self) -> tuple[int, int]:
        """The two axes of the picture."""
        return self.across, self.up


PLANES = (
    Plane("axial", 2, 0, 1, ("L", "R")),
    Plane("coronal", 1, 0, 2, ("L", "R")),
    Plane("sagittal", 0, 1, 2, ("P", "A")),
)


@dataclass(frozen=True, slots=True)
class DrawnCase:
    """A case in RAS, cut to the head.

    Attributes:
        voxels: Intensities, shape (I, J, K).
        outlines: By role (`reference`, `prediction`) and region, boolean, of the same shape.
        lesion: All regions of the reference, or of the prediction where that is empty or absent.
        spacing_mm: Distance between voxel centres.
        affine: Of the cut grid, shape (4, 4).
        window: Intensities shown black and white.
        convention: Which side of a picture the patient's right is on.
        box: Where the cut was made, in voxels of the whole scan in RAS.
    """

    voxels: NDArray[np.float32]
    outlines: dict[str, dict[str, NDArray[np.bool_]]]
    lesion: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]
    affine: NDArray[np.float64]
    window: tuple[float, float]
    convention: Convention
    box: tuple[slice, ...]


def drawn_case(
    image: Volume,
    prediction: Volume | None,
    reference: Volume | None,
    regions: Regions,
    channel: int,
    convention: Convention,
) -> DrawnCase:
    """Turn a case to RAS and cut it to what is head or lesion.

    Args:
        image: Intensities, shape (C, I, J, K), any orientation and spacing.
        prediction: Labels on the image's physical grid, or None.
        reference: The same.
        regions: For each region to outline its label values.
        channel: Which channel of the image to show.
        convention: `radiological` puts the patient's right on the picture's left.

    Raises:
        LabelError: A mask is not on the image's physical grid.
    """
    turned = to_ras(replace(image, voxels=image.voxels[channel : channel + 1]))
    voxels = np.nan_to_num(turned.voxels[0].astype(np.float32))
    outlines = {}
    for role, labels in (("reference", reference), ("prediction", prediction)):
        if labels is not None:
            placed = replace(on_grid_of(image, labels), affine=image.affine)
            values = to_ras(placed).voxels[0]
            outlines[role] = {name: np.isin(values, list(v)) for name, v in regions.items()}
    lesions = [np.any(list(masks.values()), axis=0) for masks in outlines.values() if masks]
    lesion = next((mask for mask in lesions if mask.any()), np.zeros(voxels.shape, dtype=bool))
    window = _window(voxels)
    inside = np.any([voxels > window[0] + 0.08 * (window[1] - window[0]), *lesions], axis=0)
    i_vox, j_vox, k_vox = (int(np.ceil(MARGIN_MM / mm)) for mm in turned.spacing_mm)
    start, size = foreground_box(inside, (i_vox, j_vox, k_vox))
    box = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
    affine = turned.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.asarray(start, dtype=np.float64)
    return DrawnCase(
        voxels=np.where(voxels == 0, min(window[0], 0.0), voxels)[box],
        outlines={
            role: {name: mask[box] for name, mask in masks.items()}
            for role, masks in outlines.items()
        },
        lesion=lesion[box],
        spacing_mm=turned.spacing_mm,
        affine=affine,
        window=window,
        convention=convention,
        box=box,
    )


def _window(voxels: NDArray[np.float32]) -> tuple[float, float]:
    """Intensities shown black and white; voxels of exactly 0 are background and do not count.

    Black is 0 where nothing is negative, so that dark tissue stands out from the background.
    """
    inside = voxels[voxels != 0]
    if not inside.size:
        return 0.0, 1.0
    low, high = (float(x) for x in np.percentile(inside, [0.5, 99.5]))
    low = 0.0 if inside.min() > 0 else low
    return (low, high) if high > low else (low - 1.0, low + 1.0)


def slices_through(case: DrawnCase, axis: int) -> tuple[int, int]:
    """Number of the slice with the lesion's largest area, and the step to its neighbours."""
    num_slices = case.voxels.shape[axis]
    area = np.count_nonzero(case.lesion, axis=tuple(a for a in range(3) if a != axis))
    hits, largest = np.flatnonzero(area), np.flatnonzero(area == area.max())
    if not hits.size:
        return num_slices // 2, max(1, num_slices // 6)
    return int(largest[len(largest) // 2]), max(1, round((hits[-1] - hits[0] + 1) / 4))


def draw_slice(
    axes: Axes, case: DrawnCase, plane: Plane, index: int, view: View, font: float = MOSAIC_FONT
) -> None:
    """Draw one slice in grey, with its letters and where it is; black beyond the head."""
    axes.set_facecolor("black")
    axes.set_axis_off()
    left_mm, bottom_mm, width_mm, height_mm = view
    if 0 <= index < case.voxels.shape[plane.axis]:
        picture = flat_slice(case.voxels, case, plane, index)
        across_mm, up_mm = (case.spacing_mm[a] for a in plane.drawn)
        axes.imshow(
            picture.T, origin="lower", cmap="gray", interpolation="bilinear",
            vmin=case.window[0], vmax=case.window[1], aspect="equal",
            extent=(0.0, picture.shape[0] * across_mm, 0.0, picture.shape[1] * up_mm),
        )  # fmt: skip
    axes.set(xlim=(left_mm, left_mm + width_mm), ylim=(bottom_mm, bottom_mm + height_mm))
    first, last = reversed(plane.letters) if is_flipped(case, plane) else plane.letters
    write_on(axes, 0.02, 0.5, first, ha="left", va="center", fontsize=font)
    write_on(axes, 0.98, 0.5, last, ha="right", va="center", fontsize=font)
    write_on(axes, 0.02, 0.98, _where(case, plane, index), ha="left", va="top", fontsize=font)


def draw_outlines(
    axes: Axes, case: DrawnCase, plane: Plane, index: int, lines: Sequence[Any] = ("solid",)
) -> None:
    """The reference first and dashed, the prediction over it in the lines given."""
    if not 0 <= index < case.voxels.shape[plane.axis]:
        return
    spacing_mm = [case.spacing_mm[a] for a in plane.drawn]
    for role, masks in case.outlines.items():
        for number, mask in enumerate(masks.values()):
            dashes = DASHES if role == "reference" else lines[number % len(lines)]
            flat = np.pad(flat_slice(mask, case, plane, index), 1)
            if flat.any():
                across_mm, up_mm = (
                    (np.arange(n) - 0.5) * mm for n, mm in zip(flat.shape, spacing_mm, strict=True)
                )
                axes.contour(
                    across_mm, up_mm, flat.T.astype(np.float32), levels=[0.5],
                    colors=[colour_of(number)], linestyles=[dashes], linewidths=1.4,
                )  # fmt: skip


def is_flipped(case: DrawnCase, plane: Plane) -> bool:
    """Whether the high end of the axis across is drawn on the left."""
    return plane.name == "sagittal" or case.convention == "radiological"


def colour_of(number: int) -> str:
    """The colour of the region of that number; they repeat after seven."""
    return ON_BLACK[number % len(ON_BLACK)]


def flat_slice(voxels: NDArray[Any], case: DrawnCase, plane: Plane, index: int) -> NDArray[Any]:
    """One slice as it is drawn, shape (across, up)."""
    flat: NDArray[Any] = voxels.take(index, axis=plane.axis)
    return flat[::-1] if is_flipped(case, plane) else flat


def _where(case: DrawnCase, plane: Plane, index: int) -> str:
    middle = np.asarray(case.voxels.shape, dtype=np.float64) / 2
    middle[plane.axis] = index
    position_mm = round((case.affine @ [*middle, 1.0])[plane.axis])
    return f"{plane.name} {'xyz'[plane.axis]} = {position_mm} mm".replace("-", "−")


def write_on(axes: Axes, x: float, y: float, text: str, **align: Any) -> None:
    """Write white text with a black rim; x and y are shares of the picture."""
    axes.text(
        x, y, text, transform=axes.transAxes, color="white",
        path_effects=[withStroke(linewidth=2, foreground="black")],
        **{"fontsize": MOSAIC_FONT, **align},
    )  # fmt: skip


def png_uri(figure: Figure, dpi: int = MOSAIC_DPI) -> str:
    """The figure as a PNG in a data URI; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
