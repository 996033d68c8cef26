"""Many predicted scans on one page: those that need a person first, and those that were refused.

A workflow makes an `IndexRow` for each scan while it has its picture in memory, and calls
`write_scan_index` at the end. The page runs no script and asks no network for anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from brainsegfounder.evaluation.citation import citations
from brainsegfounder.evaluation.pages import Cell, Picture, render_page
from brainsegfounder.evaluation.scan_page import ExpectedDice
from brainsegfounder.files import write_text


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One scan of many.

    Attributes:
        case: Name of the scan.
        link: Its page, relative to the index.
        volumes_ml: Volume of each region.
        thumbnail: A small picture, as `thumbnail` gives it, or None.
        review: Why a person should look at this scan; empty if no reason is known.
        expected_dice: For each region, as far as known.
    """

    case: str
    link: str
    volumes_ml: Mapping[str, float]
    thumbnail: Picture | None = None
    review: Sequence[str] = ()
    expected_dice: Sequence[ExpectedDice] = ()


@dataclass(frozen=True, slots=True)
class ScanIndex:
    """What the page of all scans says.

    Attributes:
        title: What was done, in a few words.
        rows: The scans, in any order.
        refused: For each scan that could not be predicted, why and what to do.
        noticed: What was noticed about the input beside its scans.
        model: Name of the model.
        model_sha256: Of its weights.
        facts: What was used, in short.
    """

    title: str
    rows: Sequence[IndexRow]
    refused: Mapping[str, str] = field(default_factory=dict)
    noticed: Sequence[str] = ()
    model: str = ""
    model_sha256: str = ""
    facts: Mapping[str, Cell] = field(default_factory=dict)


def write_scan_index(path: Path, index: ScanIndex) -> None:
    """Write the page of all scans as one HTML file, whole or not at all.

    Scans that need review come first, those with most reasons before others; the rest by name.

    Args:
        path: Where to; its folder is made, a file of that name is replaced.
        index: What it says.

    Raises:
        RunError: The file cannot be written.
    """
    write_text(path, render_scan_index(index))


def render_scan_index(index: ScanIndex) -> str:
    """The page as HTML text."""
    rows = sorted(index.rows, key=lambda row: (-len(row.review), row.case))
    regions = list(dict.fromkeys(name for row in rows for name in row.volumes_ml))
    return render_page(
        "scan_index.html.j2",
        index=index,
        rows=[(row, _cells(row, regions)) for row in rows],
        regions=regions,
        refused={case: why.removeprefix(f"{case}: ") for case, why in index.refused.items()},
        num_review=sum(bool(row.review) for row in rows),
        has_dice=any(row.expected_dice for row in rows),
        citations=citations(index.model, index.model_sha256),
    )


def _cells(
    row: IndexRow, regions: Sequence[str]
) -> list[tuple[str, float | None, ExpectedDice | None]]:
    """For each region its name, volume and expected Dice, as far as known."""
    expected = {one.region: one for one in row.expected_dice}
    return [(name, row.volumes_ml.get(name), expected.get(name)) for name in regions]
