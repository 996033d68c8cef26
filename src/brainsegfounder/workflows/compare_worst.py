"""The worst cases of a comparison: a table always, pictures where scans and label files are known.

A method's label files are known where they stand beside its scores, as `finetune` writes them
(`RUN/test/CASE_seg.nii.gz`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from brainsegfounder.errors import DataError
from brainsegfounder.evaluation.comparison import Comparison
from brainsegfounder.evaluation.metric_names import label_of
from brainsegfounder.evaluation.mosaic import case_mosaic
from brainsegfounder.evaluation.pairing import Unit
from brainsegfounder.evaluation.report import Chapter, GalleryCase, Picture, Table
from brainsegfounder.evaluation.verdicts import number
from brainsegfounder.volumes.geometry import resample_labels_to
from brainsegfounder.volumes.nifti import is_nifti, read_labels, read_nifti, stem
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.compare_inputs import Gathered

log = logging.getLogger(__name__)

NUM_LISTED, NUM_SHOWN = 10, 3
# Which contrast shows lesions best, by a part of the file's name; the first that is there.
CONTRASTS = ("flair", "t1ce", "t1c", "t2w", "t2", "t1w", "t1", "")


def worst_chapter(
    comparisons: Sequence[Comparison],
    gathered: Gathered,
    scans: Path | None = None,
    references: Path | None = None,
) -> Chapter | None:
    """The worst cases by the first metric, and those that lost most against the baseline.

    Args:
        comparisons: The first one's metric, region and labels are looked at, for each method.
        gathered: Says where score files, and so label files, are.
        scans: Folder of scans, or None for no pictures.
        references: Folder of reference label files, or None.

    Returns:
        None where the metric has no better and worse.
    """
    first = comparisons[0]
    if first.direction == "none":
        return None
    same = (first.metric, first.region, first.labels)
    shown = [one for one in comparisons if (one.metric, one.region, one.labels) == same]
    tables = [table for one in shown for table in (_worst_table(one), _loss_table(one))]
    cases: list[GalleryCase] = []
    if scans is not None:
        for unit in ranked(first)[:NUM_SHOWN]:
            case = next(p.case for p in first.pairs.pairs if p.subject == unit.subject)
            cases += _pictures(case, gathered, scans, references)
    texts = [
        "Sorted by the mean of both methods; the numbers of one case prove nothing about others."
    ]
    if scans is not None and not cases:
        texts.append(f"No picture: no label files beside the scores, or no scan in {scans}.")
    return Chapter("worst", "Worst cases", texts, tables=tables, cases=cases)


def ranked(one: Comparison) -> list[Unit]:
    """Units from the worst to the best, by the mean of both methods."""
    turn = 1.0 if one.direction == "higher" else -1.0
    return sorted(one.pairs.units(), key=lambda u: (turn * (u.method + u.baseline), u.subject))


def _worst_table(one: Comparison) -> Table:
    what = f"{label_of(one.metric)} of {one.region}"
    return _table(one, ranked(one), f"Worst {what}, {one.method} and {one.baseline}.")


def _loss_table(one: Comparison) -> Table:
    turn = 1.0 if one.direction == "higher" else -1.0
    units = sorted(one.pairs.units(), key=lambda u: (turn * u.difference, u.subject))
    what = f"{label_of(one.metric)} of {one.region}"
    return _table(one, units, f"Where {one.method} loses most against {one.baseline}: {what}.")


def _table(one: Comparison, units: Sequence[Unit], caption: str) -> Table:
    rows = [
        [
            unit.subject,
            number(unit.method, one.metric),
            number(unit.baseline, one.metric),
            number(unit.difference, one.metric, signed=True),
            None if unit.reference_ml != unit.reference_ml else unit.reference_ml,
        ]
        for unit in units[:NUM_LISTED]
    ]
    columns = [one.unit, one.method, one.baseline, "difference", "reference volume (mL)"]
    return Table(caption, columns, rows)


def _pictures(
    case: str, gathered: Gathered, scans: Path, references: Path | None
) -> list[GalleryCase]:
    """One picture for each method whose label file is known; what cannot be drawn is logged."""
    scan = _file_of(case, scans)
    if scan is None:
        return []
    reference = _file_of(case, references, ("seg", "mask", "lesion", "")) if references else None
    drawn = []
    for name, files in gathered.files.items():
        labels = next((f for file in files if (f := _labels(file.path, case)) is not None), None)
        if labels is None:
            continue
        try:
            drawn.append(GalleryCase(name, case, _picture(case, name, scan, labels, reference)))
        except DataError as error:
            log.warning("%s of %s is not shown: %s", case, name, error)
    return drawn


def _picture(case: str, name: str, scan: Path, labels: Path, reference: Path | None) -> Picture:
    image = read_nifti(scan)
    image = Volume(image.voxels[:1], image.affine, image.source)
    predicted = resample_labels_to(read_labels(labels), image.grid)
    expected = None if reference is None else resample_labels_to(read_labels(reference), image.grid)
    values = {int(v) for one in (predicted, expected) if one for v in np.unique(one.voxels)} - {0}
    regions = {f"label {value}": (value,) for value in sorted(values) or (1,)}
    outlines = "Solid: prediction." if expected is None else "Solid: prediction; dashed: reference."
    return Picture(
        case_mosaic(image, predicted, expected, regions, title=f"{case}, {name}"),
        f"{case} by {name}. {outlines}",
        f"Slices of {case} in three planes with outlines by {name}.",
    )


def _labels(scores: Path, case: str) -> Path | None:
    found = scores.parent / f"{case}_seg.nii.gz"
    return found if found.is_file() else None


def _file_of(case: str, folder: Path, endings: Sequence[str] = CONTRASTS) -> Path | None:
    """A NIfTI file of a case, by the ending of its name; the first ending that is there."""
    files = [p for p in sorted(folder.rglob(f"{case}*")) if is_nifti(p)]
    names = {p: stem(p).removeprefix(case).lower() for p in files}
    for ending in endings:
        for path, rest in names.items():
            if (rest == "" or rest[0] in "_-.") and rest.endswith(ending):
                return path
    return None
