"""The pages of a prediction: one for each scan, and one over all that is in the folder."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brainsegfounder.evaluation.mosaic import case_mosaic
from brainsegfounder.evaluation.mosaic_map import ScanMap
from brainsegfounder.evaluation.pages import Picture
from brainsegfounder.evaluation.scan_index import IndexRow, ScanIndex, write_scan_index
from brainsegfounder.evaluation.scan_page import (
    ExpectedDice,
    LesionLine,
    ScanPage,
    write_scan_page,
)
from brainsegfounder.evaluation.thumbnail import thumbnail
from brainsegfounder.files import write_bytes
from brainsegfounder.inference.expected_dice import COVERAGE
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.geometry import same_grid
from brainsegfounder.volumes.preparation import undo_labels
from brainsegfounder.volumes.session import of_volume, read_scan
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.derivative_record import CaseFiles
from brainsegfounder.workflows.derivative_tables import finished_cases, lesion_rows
from brainsegfounder.workflows.model_folder import Model
from brainsegfounder.workflows.predict_case import Segmented
from brainsegfounder.workflows.predict_output import Origin
from brainsegfounder.workflows.predict_review import why_not_expected
from brainsegfounder.workflows.reports import shown_contrast

INDEX_NAME = "report.html"
PAGES, THUMBNAILS = "reports", "thumbnails"
ENTROPY = "0: decided; 1: nothing speaks for any answer"
PNG = "data:image/png;base64,"
# The viewer has room for as many labels.
MAX_LABELS = 255


def page_path(out: Path, files: CaseFiles) -> Path:
    """Where the page of a case is; named as the case's other files."""
    return out / PAGES / f"{_stem(files)}.html"


def write_case_page(
    out: Path,
    done: Segmented,
    model: Model,
    origin: Origin,
    files: CaseFiles,
    uncertainty: Volume,
) -> None:
    """Write the page of a scan, and the small picture that stands for it in the index."""
    regions = {name: region.labels for name, region in model.config.regions.items()}
    contrast = shown_contrast(done.present)
    # Of contrasts on other grids only the first one is where the labels are.
    grid = done.prepared.input_grids[done.present.index(contrast)].grid
    contrast = contrast if same_grid(grid, done.labels.grid) else done.present[0]
    reading = of_volume(origin.reading, done.case.volumes.get(contrast))
    image = read_scan(done.case.contrasts[contrast], reading)
    path = page_path(out, files)
    write_scan_page(
        path,
        ScanPage(
            case=done.case.case,
            image=image,
            labels=done.labels,
            label_names=model.config.labels,
            regions=regions,
            volumes_ml={row["region"]: row["volume_ml"] for row in files.record["Volumes"]},
            review=_review(files),
            findings=findings_of(files),
            lesions=_lesions(files) if model.config.regions_are == "lesions" else None,
            expected_dice=_expected(files),
            why_no_expected_dice=why_not_expected(model),
            expected_dice_from=_expected_from(model),
            uncertainty=ScanMap(uncertainty, "Uncertainty", ENTROPY, 1.0),
            contrast=contrast,
            model=origin.model,
            model_sha256=origin.weights_sha256,
            facts={"contrasts": ", ".join(done.present), "device": done.device},
            preparation=[_brain_picture(done, image)],
            provenance=files.record["Provenance"],
            index=f"../{INDEX_NAME}",
            with_viewer=origin.options.viewer and len(model.config.labels) <= MAX_LABELS,
        ),
    )
    uri = thumbnail(image, done.labels, regions)
    stamp = base64.b64decode(uri.removeprefix(PNG))
    write_bytes(_thumbnail_path(out, files), stamp)


def write_index(
    out: Path,
    model: str,
    model_sha256: str,
    refused: Mapping[str, str],
    noticed: Sequence[str],
) -> Path:
    """Write the page over all whole cases of a folder, whenever they were made."""
    rows = [
        _row(out, name, files) for name, found in finished_cases(out).items() for files in found
    ]
    index = ScanIndex(
        title="Segmented scans",
        rows=rows,
        refused=refused,
        noticed=noticed,
        model=model,
        model_sha256=model_sha256,
    )
    write_scan_index(out / INDEX_NAME, index)
    return out / INDEX_NAME


def _row(out: Path, name: str, files: CaseFiles) -> IndexRow:
    page, stamp = page_path(out, files), _thumbnail_path(out, files)
    return IndexRow(
        case=name,
        link=page.relative_to(out).as_posix() if page.is_file() else "",
        volumes_ml={row["region"]: row["volume_ml"] for row in files.record["Volumes"]},
        thumbnail=_picture(stamp, name) if stamp.is_file() else None,
        review=_review(files),
        expected_dice=_expected(files),
    )


def _picture(stamp: Path, name: str) -> Picture:
    uri = PNG + base64.b64encode(stamp.read_bytes()).decode()
    return Picture(uri, "", f"An axial slice of {name} with its outlines.")


def _thumbnail_path(out: Path, files: CaseFiles) -> Path:
    return out / PAGES / THUMBNAILS / f"{_stem(files)}.png"


def _stem(files: CaseFiles) -> str:
    return files.sidecar.name.removesuffix("_dseg.json")


def findings_of(files: CaseFiles) -> tuple[Finding, ...]:
    """What was noticed when a case was made."""
    return tuple(Finding(**one) for one in files.record["Flags"])


def _review(files: CaseFiles) -> list[str]:
    """Why a person should look at the scan: its warnings."""
    warnings = (one.message for one in findings_of(files) if one.kind == "warning")
    return list(dict.fromkeys(warnings))


def _expected(files: CaseFiles) -> list[ExpectedDice]:
    rows: Sequence[Mapping[str, Any]] = files.record["Volumes"]
    return [
        ExpectedDice(row["region"], row["expected_dice"], row["low"], row["high"])
        for row in rows
        if row.get("expected_dice") is not None
    ]


def _expected_from(model: Model) -> str:
    lines = model.config.expected_dice
    if not lines:
        return ""
    number = max(len(line.misses) for line in lines.values())
    return (
        f"From {number} cases of the model's cross-validation: the interval should hold the true "
        f"Dice of {COVERAGE:.0%} of scans like those. It says nothing of scans unlike them."
    )


def _lesions(files: CaseFiles) -> list[LesionLine]:
    """The lesions of a case as its files list them."""
    rows: Sequence[Mapping[str, Any]] = lesion_rows(files)
    return [
        LesionLine(
            region=row["region"],
            number=row["lesion"],
            volume_ml=row["volume_ml"],
            centre_mm=(row["x_mm"], row["y_mm"], row["z_mm"]),
            diameter_mm=row["diameter_mm"],
            location=row["location"] or "",
        )
        for row in rows
    ]


def _brain_picture(done: Segmented, image: Volume) -> Picture:
    """Where intensities were standardised, and windows stand."""
    prepared = done.prepared
    mask = Volume(prepared.brain[None].astype(np.int16), prepared.image.affine, image.source)
    brain = undo_labels(mask, prepared.source_grid)
    how = prepared.steps["brain"]
    caption = f"The brain as it was found ({how['method']}, {how['volume_ml']:.0f} mL)."
    uri = case_mosaic(image, brain, None, {"brain": (1,)}, done.case.case)
    return Picture(uri, caption, "Outline of the brain in three planes.")
