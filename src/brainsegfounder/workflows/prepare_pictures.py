"""What `prepare` shows of the voxels: histograms and mosaics of some of the cases.

A store may hold more than a machine's memory, so one case is read at a time, and only a stated
number of them, spread evenly over the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from brainsegfounder.data.store import Store, StoredCase
from brainsegfounder.evaluation.histograms import (
    RULE,
    Profile,
    histogram_figure,
    intensity_profile,
    unusual_cases,
)
from brainsegfounder.evaluation.mosaic import case_strip
from brainsegfounder.evaluation.report import Cell, Chapter, GalleryCase, Picture, Table
from brainsegfounder.volumes.volume import Volume

MAX_HISTOGRAMS = 100
MAX_MOSAICS = 24
# Beyond the evenly chosen ones: cases with unusual intensities, and cases with a warning.
MAX_DOUBTFUL = 6
# Lesions are seen best in the first of these that is there.
LESION_CONTRASTS = ("FLAIR", "T1ce", "T2w")
MAX_OUTLINES = 4

Item = TypeVar("Item")


def spread_evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, from the first to the last at even distances."""
    if len(items) <= most:
        return list(items)
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, most)]


def read_profiles(store: Store) -> dict[str, dict[str, Profile]]:
    """Intensities inside the brain of evenly chosen cases, by contrast and case."""
    profiles: dict[str, dict[str, Profile]] = {contrast: {} for contrast in store.contrasts}
    for case in spread_evenly(store.cases, MAX_HISTOGRAMS):
        voxels = store.prepared_image(case, store.contrasts).voxels
        brain = (voxels != 0).any(axis=0)
        for contrast, channel in zip(store.contrasts, voxels, strict=True):
            profiles[contrast][case.case] = intensity_profile(channel[brain])
    return profiles


def histogram_chapter(store: Store, profiles: dict[str, dict[str, Profile]]) -> Chapter:
    """A picture for each contrast, and the cases that differ from the rest."""
    num_seen = len(spread_evenly(store.cases, MAX_HISTOGRAMS))
    total = f"{len(store.cases):,} cases"
    seen = (
        f"All {total}" if num_seen == len(store.cases) else f"{num_seen} of {total}, evenly chosen"
    )
    pictures: list[Picture] = []
    rows: list[list[Cell]] = []
    for contrast, by_case in profiles.items():
        unusual = unusual_cases(by_case)
        rows += [[contrast, case, distance] for case, distance in unusual.items()]
        words = _in_words(contrast, len(by_case), list(unusual))
        uri = histogram_figure(by_case, list(unusual), contrast)
        pictures.append(Picture(uri, words, f"Histogram. {words}"))
    tables = [Table("Unusual intensities.", ["contrast", "case", "distance (SD)"], rows)]
    return Chapter(
        "intensities",
        "Intensities",
        paragraphs=[
            f"{seen}, inside the brain and after normalisation.",
            RULE,
        ],
        pictures=pictures,
        tables=tables if rows else [],
    )


def mosaic_chapter(store: Store, unusual: Sequence[str], doubtful: Sequence[str]) -> Chapter:
    """Small pictures of evenly chosen cases, then of those that may need a look."""
    even = [case.case for case in spread_evenly(store.cases, MAX_MOSAICS)]
    roles = dict.fromkeys(even, "sample")
    for names, role in ((doubtful, "warning"), (unusual, "unusual intensities")):
        roles.update(dict.fromkeys(list(dict.fromkeys(names))[:MAX_DOUBTFUL], role))
    shown = [case for case in store.cases if case.case in roles]
    regions = _outlined(store, shown)
    text = (
        f"{len(shown)} of {len(store.cases):,} cases: {len(even)} chosen evenly, and up to "
        f"{MAX_DOUBTFUL} each of those with a warning and with unusual intensities. "
        "Right (R) is on the left; sagittal slices face left."
    )
    if regions:
        text += " Slices go through the largest area of the labels, which are outlined."
    figures = [_strip(store, case, roles[case.case], regions) for case in shown]
    return Chapter("cases", "Cases in pictures", paragraphs=[text], cases=figures)


def _strip(
    store: Store, case: StoredCase, role: str, regions: dict[str, tuple[int, ...]]
) -> GalleryCase:
    contrast = _shown_contrast(store, bool(regions))
    image = store.prepared_image(case, [contrast])
    labels = Volume(store.labels(case)[:], image.affine, case.case) if case.has_labels else None
    outlines = f" with outlines of {', '.join(regions)}" if labels is not None and regions else ""
    size = " × ".join(map(str, case.shape_vox))
    picture = Picture(
        case_strip(image, labels, regions),
        f"{contrast}, {size} voxels.",
        f"Axial, coronal and sagittal slice of {case.case}{outlines}.",
    )
    return GalleryCase(role, case.case, picture)


def _outlined(store: Store, cases: Sequence[StoredCase]) -> dict[str, tuple[int, ...]]:
    """The label values of these cases, each a region, or all as one where they are many."""
    found = {int(v) for case in cases if case.has_labels for v in store.foreground(case)[:, 0]}
    values = sorted(found)
    if len(values) > MAX_OUTLINES:
        return {f"any of {len(values)} labels": tuple(values)}
    return {f"label {value}": (value,) for value in values}


def _shown_contrast(store: Store, has_labels: bool) -> str:
    wanted = LESION_CONTRASTS if has_labels else ()
    return next((name for name in wanted if name in store.contrasts), store.contrasts[0])


def _in_words(contrast: str, num_cases: int, unusual: Sequence[str]) -> str:
    named = ", ".join(unusual[:4]) + (" and others" if len(unusual) > 4 else "")
    what = f"{contrast} of {num_cases} cases: the median, and bands of half and nine tenths of them"
    return f"{what}; broken lines: {named}." if unusual else f"{what}. No case is unusual."


def unusual_names(profiles: dict[str, dict[str, Profile]]) -> list[str]:
    """Cases with unusual intensities in any contrast, each once."""
    names: dict[str, Cell] = {}
    for by_case in profiles.values():
        names.update(dict.fromkeys(unusual_cases(by_case)))
    return list(names)
