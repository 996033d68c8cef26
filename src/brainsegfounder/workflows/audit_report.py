"""The page of `audit`: what joins the parts, what an eye should judge, and what runs say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from brainsegfounder.data.overlaps import Kind, Overlap, Scan
from brainsegfounder.errors import DataError, Problem
from brainsegfounder.evaluation.mosaic_pair import pair_picture
from brainsegfounder.evaluation.report import (
    Cell,
    Chapter,
    GalleryCase,
    Highlight,
    Picture,
    Report,
    Table,
    write_report,
)
from brainsegfounder.volumes.likeness import look_at, pictured
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.audit_runs import Check

MAX_PICTURES = 24
MEANS = {
    Kind.SAME_VOXELS: "the same voxels",
    Kind.SAME_BRAIN: "the same brain, by its looks",
    Kind.SAME_SUBJECT: "the same subject, by name",
    Kind.ALIAS: "the same subject, by an alias",
    Kind.LOOKS_ALIKE: "alike: let an eye judge",
    Kind.REPEAT: "another case of the subject",
    Kind.NAMESAKE: "a name in common, other brains",
}
COLUMNS = ("why", "part", "case", "other part", "other case", "contrast", "likeness")


class _Place(Protocol):
    """Where the voxels of a scan are."""

    def read(self) -> Volume: ...


class _Found(Protocol):
    """What the page needs to know of an audit."""

    @property
    def parts(self) -> Mapping[str, int]: ...
    @property
    def overlaps(self) -> Sequence[Overlap]: ...
    @property
    def checks(self) -> Sequence[Check]: ...
    @property
    def refused(self) -> Mapping[str, Problem]: ...


Places = Mapping[tuple[str, str, str], _Place]


def write_audit_report(path: Path, found: _Found, places: Places) -> None:
    """Write the page.

    Args:
        path: The HTML file.
        found: What the audit found.
        places: Where the scans are, for pictures of at most 24 pairs.
    """
    leaks = [overlap for overlap in found.overlaps if overlap.is_leak]
    hidden = [overlap for overlap in found.overlaps if overlap.is_hidden]
    alike = [overlap for overlap in found.overlaps if overlap.kind is Kind.LOOKS_ALIKE]
    of_kind = {kind: [o for o in found.overlaps if o.kind is kind] for kind in Kind}
    broken = [check for check in found.checks if not check.is_met]
    chapters = [
        _chapter("leaks", "Leaks", "Pairs that join two parts.", leaks, places),
        _chapter(
            "hidden", "One brain, two subjects", "Within a part: a split by subject would not keep "
            "these together. Give them one subject name.", hidden, places,
        ),
        _chapter(
            "alike", "For an eye to judge", "More alike than two brains usually are, less than two "
            "scans of one: twins, or one person years apart.", alike, places,
        ),
        _chapter(
            "repeats", "Several cases of a subject", "Within a part, of one name: a split by "
            "subject keeps them together.", of_kind[Kind.REPEAT], {},
        ),
        _chapter(
            "namesakes", "Names in common", "Two subjects of one name in two parts whose brains "
            "differ, as when two data sets begin at sub-01.", of_kind[Kind.NAMESAKE], {},
        ),
        *_runs(found.checks),
        *_refused(found.refused),
    ]  # fmt: skip
    num_cases = sum(found.parts.values())
    warnings = [f"{check.run}: {check.sentence}" for check in broken]
    if leaks:
        warnings.insert(0, f"{_counted(leaks)} join two parts.")
    report = Report(
        title="Audit of " + ", ".join(found.parts),
        subtitle=f"{num_cases:,} cases of {len(found.parts)} parts, compared by name, by voxels "
        "and by looks.",
        highlights=[
            Highlight("Leaks", str(len(leaks)), "pairs of cases across parts"),
            Highlight("Hidden", str(len(hidden)), "one brain under two subjects of a part"),
            Highlight("Alike", str(len(alike)), "for an eye to judge"),
            Highlight(
                "Runs", f"{len(found.checks) - len(broken)} of {len(found.checks)}", "checks met"
            ),
        ],
        warnings=warnings,
        chapters=[chapter for chapter in chapters if chapter is not None],
        tables=[Table("Parts.", ["part", "cases"], [[k, v] for k, v in found.parts.items()])],
        rules={
            "same voxels": "Equal fingerprints of all values that are not 0, in the order right, "
            "anterior, superior: no name, header, compression or padding matters.",
            "same brain": "Correlation of the brain's texture after rigid registration, within "
            "what both scans show, is at least 0.85; from 0.80 an eye should judge.",
            "subject": "By name as it is spelled, by what public names show, and by the table of "
            "aliases; two cases of one name that look like two brains are namesakes.",
        },
    )
    write_report(path, report)


def _chapter(
    name: str, title: str, means: str, overlaps: Sequence[Overlap], places: Places
) -> Chapter | None:
    if not overlaps:
        return None
    table = Table(f"{_counted(overlaps)}.", COLUMNS, [_row(overlap) for overlap in overlaps])
    pictures = [_picture(overlap, places) for overlap in _shown(overlaps, places)]
    return Chapter(
        name, title, paragraphs=[means], tables=[table], cases=[p for p in pictures if p]
    )


def _shown(overlaps: Sequence[Overlap], places: Places) -> Sequence[Overlap]:
    """Those with voxels on both sides, the doubtful ones first."""
    there = [o for o in overlaps if o.one.key in places and o.other.key in places]
    return sorted(there, key=lambda o: -1.0 if o.likeness is None else o.likeness)[:MAX_PICTURES]


def _row(overlap: Overlap) -> list[Cell]:
    one, other = overlap.one, overlap.other
    return [
        MEANS[overlap.kind], one.part, one.case, other.part, other.case,
        one.contrast or other.contrast, overlap.likeness,
    ]  # fmt: skip


def _picture(overlap: Overlap, places: Places) -> GalleryCase | None:
    one, other = overlap.one, overlap.other
    try:
        volumes = [_pictured(scan, places) for scan in (one, other)]
    except DataError:
        return None
    names = f"{one.part}: {one.case} above, {other.part}: {other.case} below"
    picture = Picture(pair_picture(*volumes), names, f"Slices of two scans; {names}")
    facts: dict[str, Cell] = {"likeness": overlap.likeness} if overlap.likeness else {}
    return GalleryCase(MEANS[overlap.kind], f"{one.case} and {other.case}", picture, facts)


def _pictured(scan: Scan, places: Places) -> Volume:
    volume = places[scan.key].read()
    return pictured(volume, scan.look or look_at(volume))


def _runs(checks: Sequence[Check]) -> list[Chapter]:
    rows: list[list[Cell]] = [
        [c.run, c.code.replace("_", " "), "yes" if c.is_met else "NO", c.sentence] for c in checks
    ]
    table = Table("What runs say of themselves.", ["run", "check", "met", "found"], rows)
    return [Chapter("runs", "Runs", tables=[table])] if rows else []


def _refused(refused: Mapping[str, Problem]) -> list[Chapter]:
    rows: list[list[Cell]] = [[name, str(problem)] for name, problem in refused.items()]
    table = Table("Not compared.", ["scan", "reason"], rows)
    return [Chapter("refused", "Not compared", tables=[table])] if rows else []


def _counted(overlaps: Sequence[Overlap]) -> str:
    kinds = Counter(MEANS[overlap.kind] for overlap in overlaps)
    pairs = f"{len(overlaps)} pair{'s' * (len(overlaps) != 1)} of cases"
    return f"{pairs} ({', '.join(f'{number} {kind}' for kind, number in kinds.items())})"
