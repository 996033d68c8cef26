"""The scan inside a page: compact copies of scan, labels and map, and the viewer that shows them.

The copies are for looking, not for measuring: turned to RAS, cut to the head, whole numbers up to
255, and made coarser where they would be too large for a page. Their headers are written anew, so
no text of the source's header comes along. `viewer.js` is the only file that calls NiiVue.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from brainsegfounder.errors import LabelError
from brainsegfounder.evaluation.grids import on_grid_of
from brainsegfounder.evaluation.metrics import Regions
from brainsegfounder.evaluation.mosaic_map import FAINT, MAP_COLOURS, OPAQUE, ScanMap
from brainsegfounder.evaluation.pages import shipped_text
from brainsegfounder.evaluation.slices import ON_BLACK, Convention, drawn_case
from brainsegfounder.volumes.geometry import (
    resample_labels_to,
    resample_to,
    resized_grid,
    to_ras,
)
from brainsegfounder.volumes.volume import Grid, Triple, Volume, crop

NIIVUE_VERSION = "0.69.0"
NIIVUE_SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
# About 5 MB of noise once packed, 7 MB as text; a head of 1 mm voxels stays whole.
MAX_VOXELS = 8_000_000
LARGEST_BYTE = 255
INTENT_LABEL = 1002
# Grey and white are the scan's; the rest is for labels.
LABEL_COLOURS = ON_BLACK[:6]
DARKER = 0.62


@dataclass(frozen=True, slots=True)
class Key:
    """A label as the viewer shows it.

    Attributes:
        value: In the label file.
        name: In words.
        colour: As `#rrggbb`.
    """

    value: int
    name: str
    colour: str


def label_keys(label_names: Mapping[str, int], regions: Regions) -> list[Key]:
    """Give every label a colour; one that is a region by itself has the region's.

    Args:
        label_names: Value of each label by its name, without 0.
        regions: For each region its label values, in the order of the mosaic's colours.

    Returns:
        Labels in the order of their values. Colours repeat after six in darker shades, and after
        eighteen as they are.
    """
    own = {tuple(values): _shade(number) for number, values in enumerate(regions.values())}
    free = map(_shade, itertools.count(len(regions)))
    ordered = sorted(label_names.items(), key=lambda item: item[1])
    return [Key(value, name, own.get((value,)) or next(free)) for name, value in ordered]


def viewer_data(
    image: Volume,
    labels: Volume,
    keys: Sequence[Key],
    shown: ScanMap | None = None,
    *,
    channel: int = 0,
    convention: Convention = "radiological",
    max_voxels: int = MAX_VOXELS,
) -> dict[str, Any]:
    """What `viewer.js` needs, ready for JSON.

    Args:
        image: Intensities, shape (C, I, J, K), any orientation and spacing.
        labels: Labels on the image's physical grid.
        keys: What each label is called, from `label_keys`.
        shown: A map on the same grid, or None.
        channel: Which channel of the image to show.
        convention: Which side the patient's right is on at first.
        max_voxels: A head of more voxels is made coarser.

    Returns:
        `scan`, `labels` and `map` as base64 of `.nii.gz`, the names and colours of the labels,
        and the millimetres to begin at.

    Raises:
        LabelError: Labels or map are on another grid, or there are more than 255 labels.
    """
    if len(keys) > LARGEST_BYTE:
        raise LabelError(
            f"{labels.source}: {len(keys)} labels; the viewer can show {LARGEST_BYTE}. "
            "Leave the viewer out of the page."
        )
    values = [key.value for key in keys]
    case = drawn_case(image, labels, None, {"labels": values}, channel, convention)
    low, high = case.window
    grey = np.rint(np.clip((case.voxels - low) / (high - low), 0, 1) * LARGEST_BYTE)
    scan = Volume(grey[None].astype(np.float32), case.affine)
    placed = _cut(image, labels, case.box)
    mask = replace(placed, voxels=_numbered(placed.voxels, values))
    grid = _coarse_enough(scan.grid, max_voxels)
    data: dict[str, Any] = {
        "radiological": convention == "radiological",
        "start_mm": _start_mm(case.lesion, case.affine),
        "spacing_mm": [round(mm, 3) for mm in grid.spacing_mm],
        "aspect": _aspect(grid),
        "scan": packed(_bytes(resample_to(scan, grid))),
        "labels": packed(_bytes(resample_labels_to(mask, grid)), intent=INTENT_LABEL),
        "names": [key.name for key in keys],
        "colours": [key.colour for key in keys],
        "map": None,
    }
    if shown is not None:
        values_of_map = resample_to(_cut(image, shown.volume, case.box), grid).voxels
        share = np.rint(np.clip(np.nan_to_num(values_of_map) / shown.top, 0, 1) * LARGEST_BYTE)
        data["map"] = {
            "nii": packed(_bytes(Volume(share, grid.affine))),
            "name": shown.name.lower(), "top": shown.top, "colours": MAP_COLOURS,
            "from": FAINT * LARGEST_BYTE, "opacity": OPAQUE,
        }  # fmt: skip
    return data


def packed(volume: Volume, intent: int = 0) -> str:
    """A volume of bytes as base64 of `.nii.gz`, its header written anew; the same bytes always.

    Args:
        volume: uint8 voxels, shape (1, I, J, K).
        intent: NIfTI's code of what the values are.
    """
    image = nib.Nifti1Image(volume.voxels[0], volume.affine)
    image.header.set_xyzt_units("mm")
    image.header["intent_code"] = intent
    image.set_sform(volume.affine, code=1)
    image.set_qform(None, code=0)
    return base64.b64encode(gzip.compress(image.to_bytes(), 9, mtime=0)).decode("ascii")


def script_json(data: Mapping[str, Any]) -> str:
    """JSON that can stand in a `<script>`: nothing in it can end one."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def adaptor() -> str:
    """Our own script, as it stands in a page."""
    return shipped_text("viewer.js")


@cache
def niivue_packed() -> str:
    """NiiVue as base64 of gzip.

    Raises:
        ValueError: The vendored file is not the one whose hash is pinned.
    """
    content = shipped_text("vendored/niivue.umd.js").encode("utf-8")
    if hashlib.sha256(content).hexdigest() != NIIVUE_SHA256:
        raise ValueError("vendored/niivue.umd.js is not NiiVue " + NIIVUE_VERSION)
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode("ascii")


def script_policy() -> str:
    """Hashes of the only two scripts a page with a viewer may run, for its security policy."""
    ours = hashlib.sha256(adaptor().encode("utf-8")).digest()
    digests = (ours, bytes.fromhex(NIIVUE_SHA256))
    return " ".join(f"'sha256-{base64.b64encode(one).decode('ascii')}'" for one in digests)


def _shade(number: int) -> str:
    colour = LABEL_COLOURS[number % len(LABEL_COLOURS)]
    share = DARKER ** (number // len(LABEL_COLOURS) % 3)
    return "#" + "".join(f"{round(int(colour[n : n + 2], 16) * share):02X}" for n in (1, 3, 5))


def _cut(image: Volume, volume: Volume, box: tuple[slice, ...]) -> Volume:
    """A volume on the image's grid, turned to RAS and cut as the image was."""
    turned = to_ras(replace(on_grid_of(image, volume), affine=image.affine))
    start, size = (
        (int(a), int(b), int(c))
        for a, b, c in zip(*((span.start, span.stop - span.start) for span in box), strict=True)
    )
    return crop(turned, start, size)


def _numbered(labels: NDArray[Any], values: Sequence[int]) -> NDArray[np.uint8]:
    """Labels as 1, 2, ... in the order of their values; any other value is 0."""
    beyond = max(values, default=0) + 1
    numbers = np.zeros(beyond + 1, np.uint8)
    for number, value in enumerate(values, start=1):
        numbers[value] = number
    placed: NDArray[np.uint8] = numbers[np.clip(labels, 0, beyond)]
    return placed


def _coarse_enough(grid: Grid, max_voxels: int) -> Grid:
    """The same field of view in at most that many voxels, the finest axes made coarser first."""
    spacing_mm = np.asarray(grid.spacing_mm)
    shape = np.asarray(grid.shape_vox)
    finest_mm = float(spacing_mm.min())
    size = shape
    while np.prod(size, dtype=np.int64) > max_voxels:
        finest_mm *= 1.02
        ratio = np.maximum(1.0, finest_mm / spacing_mm)
        size = np.maximum(1, np.floor(shape / ratio)).astype(int)
    if (size == shape).all():
        return grid
    i, j, k = (int(n) for n in size)
    return resized_grid(grid, (i, j, k))


def _aspect(grid: Grid) -> float:
    """Width by height of the three planes side by side."""
    right, front, up = (n * mm for n, mm in zip(grid.shape_vox, grid.spacing_mm, strict=True))
    return round((2 * right + front) / max(front, up), 3)


def _start_mm(lesion: NDArray[np.bool_], affine: NDArray[np.float64]) -> list[float]:
    """The middle voxel of the slice where the labels are largest, else the head's middle."""
    place: Triple = tuple(n // 2 for n in lesion.shape)
    if lesion.any():
        k = int(lesion.sum(axis=(0, 1)).argmax())
        hits = np.argwhere(lesion[:, :, k])
        nearest = hits[np.square(hits - hits.mean(axis=0)).sum(axis=1).argmin()]
        place = (int(nearest[0]), int(nearest[1]), k)
    return [round(float(mm), 3) for mm in (affine @ [*place, 1.0])[:3]]


def _bytes(volume: Volume) -> Volume:
    return replace(volume, voxels=volume.voxels.astype(np.uint8))
