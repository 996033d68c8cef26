"""A predicted scan as one HTML file: findings first, then pictures, then the scan itself.

A workflow fills a `ScanPage` and calls `write_scan_page`. The file opens from disk and asks no
network for anything: its security policy allows two scripts, known by their hashes, and nothing
else. Every text is escaped. In print, pictures stand for the viewer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brainsegfounder.evaluation.citation import citations
from brainsegfounder.evaluation.metrics import Regions
from brainsegfounder.evaluation.mosaic import case_mosaic
from brainsegfounder.evaluation.mosaic_map import ScanMap, map_mosaic
from brainsegfounder.evaluation.pages import Cell, Picture, render_page, shipped_text
from brainsegfounder.evaluation.slices import Convention
from brainsegfounder.evaluation.viewer import (
    NIIVUE_VERSION,
    Key,
    adaptor,
    label_keys,
    niivue_packed,
    script_json,
    script_policy,
    viewer_data,
)
from brainsegfounder.files import write_text
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.volume import Volume

# More outlines than these cannot be told apart in a picture, and longer names do not fit.
MAX_OUTLINES, MAX_NAME = 6, 36
MAX_LESIONS = 200
KINDS = {"warning": "Look at this", "repair": "Repaired", "note": "Noted"}


@dataclass(frozen=True, slots=True)
class ExpectedDice:
    """How well a region's labels may agree with an expert's, as far as the model can know.

    Attributes:
        region: The region.
        dice: The expected Dice coefficient, from 0 to 1.
        low: Lower end of its interval.
        high: Upper end of its interval.
    """

    region: str
    dice: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LesionLine:
    """A lesion as the page lists it.

    Attributes:
        region: The region it is a part of.
        number: Its place by size in that region, from 1.
        volume_ml: Its volume.
        centre_mm: Where it is, in the scan's RAS millimetres.
        diameter_mm: Its largest diameter, or None.
        location: Where that is in the brain, in words; empty where it is not known.
    """

    region: str
    number: int
    volume_ml: float
    centre_mm: tuple[float, float, float]
    diameter_mm: float | None = None
    location: str = ""


@dataclass(frozen=True, slots=True)
class ScanPage:
    """Everything the page of a scan says; what is empty is left out or said to be missing.

    Attributes:
        case: Name of the scan.
        image: Intensities, shape (C, I, J, K), any orientation and spacing.
        labels: What was predicted, on the image's physical grid.
        label_names: Value of each label by its name, without 0.
        regions: For each region its label values.
        volumes_ml: Volume of each region.
        review: Why a person should look at this scan before using it; empty if no reason is known.
        findings: What was noticed about the scan's files.
        lesions: Largest first; None where the task knows no lesions.
        expected_dice: For each region; empty where it is not available.
        why_no_expected_dice: The reason, as a sentence.
        expected_dice_from: What the expectation and its interval rest on, as a sentence.
        uncertainty: How unsure the model was of each voxel, or None.
        contrast: Name of the contrast shown.
        channel: Which channel of the image that is.
        convention: Which side of the pictures the patient's right is on.
        model: Name of the model.
        model_sha256: Of its weights.
        facts: What was used and chosen, in short.
        preparation: Pictures of what was done to the scan first.
        provenance: Anything JSON can hold; shown folded.
        index: Link to the page of all scans, relative to this one; empty for none.
        with_viewer: Whether the scan itself goes into the file.
    """

    case: str
    image: Volume
    labels: Volume
    label_names: Mapping[str, int]
    regions: Regions
    volumes_ml: Mapping[str, float]
    review: Sequence[str] = ()
    findings: Sequence[Finding] = ()
    lesions: Sequence[LesionLine] | None = None
    expected_dice: Sequence[ExpectedDice] = ()
    why_no_expected_dice: str = "The model was stored without a calibration."
    expected_dice_from: str = ""
    uncertainty: ScanMap | None = None
    contrast: str = ""
    channel: int = 0
    convention: Convention = "radiological"
    model: str = ""
    model_sha256: str = ""
    facts: Mapping[str, Cell] = field(default_factory=dict)
    preparation: Sequence[Picture] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    index: str = ""
    with_viewer: bool = True


def write_scan_page(path: Path, page: ScanPage) -> None:
    """Write the page as one HTML file, whole or not at all.

    Args:
        path: Where to; its folder is made, a file of that name is replaced.
        page: What it says.

    Raises:
        LabelError: The labels or the map are not on the image's physical grid.
        RunError: The file cannot be written.
    """
    write_text(path, render_scan_page(page))


def render_scan_page(page: ScanPage) -> str:
    """The page as HTML text."""
    outlined = outlined_regions(page)
    keys = label_keys(page.label_names, outlined)
    provenance = json.dumps(page.provenance, indent=2, ensure_ascii=False, default=str)
    return render_page(
        "scan_page.html.j2",
        page=page,
        keys=keys,
        regions=_region_lines(page),
        lesions=list(page.lesions or ())[:MAX_LESIONS],
        findings=[(KINDS[kind], kind, _of_kind(page, kind)) for kind in KINDS],
        pictures=_pictures(page, outlined),
        viewer=_viewer(page, keys) if page.with_viewer else None,
        citations=citations(page.model, page.model_sha256),
        provenance=provenance if page.provenance else "",
    )


def outlined_regions(page: ScanPage) -> dict[str, Sequence[int]]:
    """The regions that pictures outline: all, or the largest where there are too many."""
    names = list(page.regions)
    if len(names) > MAX_OUTLINES:
        largest = sorted(names, key=lambda name: -page.volumes_ml.get(name, 0.0))[:MAX_OUTLINES]
        names = [name for name in names if name in largest]
    return {name: page.regions[name] for name in names}


@dataclass(frozen=True, slots=True)
class _RegionLine:
    """A region as the table of findings shows it."""

    name: str
    volume_ml: float
    expected: str
    interval: str


def _region_lines(page: ScanPage) -> list[_RegionLine]:
    expected = {one.region: one for one in page.expected_dice}
    return [
        _RegionLine(
            name,
            volume_ml,
            f"{expected[name].dice:.2f}" if name in expected else "not available",
            f"{expected[name].low:.2f} to {expected[name].high:.2f}" if name in expected else "",
        )
        for name, volume_ml in page.volumes_ml.items()
    ]


def _of_kind(page: ScanPage, kind: str) -> list[Finding]:
    return [finding for finding in page.findings if finding.kind == kind]


def _pictures(page: ScanPage, outlined: Regions) -> list[Picture]:
    """The mosaic of the labels, and that of the uncertainty where there is one."""
    short = _shortened(outlined)
    way = {"channel": page.channel, "convention": page.convention}
    contrast = f"{page.contrast} scan" if page.contrast else "Scan"
    mosaic = case_mosaic(page.image, page.labels, None, short, _short(page.case, 60), **way)  # type: ignore[arg-type]
    more = len(page.regions) - len(outlined)
    of = f"the {len(outlined)} largest of {len(page.regions)} regions" if more else "each region"
    pictures = [
        Picture(
            mosaic,
            f"{contrast} in three planes, with the outline of {of}. Left: the whole slice; the "
            "frame is what the three slices beside it show.",
            f"{contrast} of {page.case} in axial, coronal and sagittal slices, with outlines of "
            f"{', '.join(outlined) or 'nothing'}.",
        )
    ]
    if page.uncertainty is not None:
        name, meaning = page.uncertainty.name, page.uncertainty.meaning
        drawn = map_mosaic(page.image, page.labels, page.regions, page.uncertainty, **way)  # type: ignore[arg-type]
        caption = f"{name} over the scan. {meaning}".strip()
        pictures.append(
            Picture(drawn, caption, f"{name} of {page.case} as colours over slices of the scan.")
        )
    return pictures


def _viewer(page: ScanPage, keys: Sequence[Key]) -> Mapping[str, object]:
    data = viewer_data(
        page.image, page.labels, keys, page.uncertainty,
        channel=page.channel, convention=page.convention,
    )  # fmt: skip
    return {
        "policy": script_policy(),
        "data": script_json(data),
        "niivue": niivue_packed(),
        "script": adaptor(),
        "version": NIIVUE_VERSION,
        "licences": shipped_text("vendored/LICENSES.txt"),
        "aspect": data["aspect"],
        "spacing": " × ".join(f"{mm:.2f}" for mm in data["spacing_mm"]),
    }


def _shortened(regions: Regions) -> dict[str, Sequence[int]]:
    """The regions under names that fit into a picture, still each its own."""
    short: dict[str, Sequence[int]] = {}
    for number, (name, values) in enumerate(regions.items(), start=1):
        fitting = _short(name)
        short[f"{fitting} ({number})" if fitting in short else fitting] = values
    return short


def _short(name: str, longest: int = MAX_NAME) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"
