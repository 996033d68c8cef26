"""A run's report: one HTML file with everything in it, that needs no network and runs no script.

A workflow fills a `Report` and calls `write_report`. Every text is escaped, pictures are embedded,
and a content security policy forbids the rest, so a report can be mailed and opened anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brainsegfounder.errors import UsageError
from brainsegfounder.evaluation.metrics import RegionScore, RegionSummary, summarise
from brainsegfounder.evaluation.pages import Cell as Cell
from brainsegfounder.evaluation.pages import Picture as Picture
from brainsegfounder.evaluation.pages import Table as Table
from brainsegfounder.evaluation.pages import render_page
from brainsegfounder.files import write_text


@dataclass(frozen=True, slots=True)
class Highlight:
    """One number that stands large at the top: what it is, its value, and its spread."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class GalleryCase:
    """One case shown in pictures.

    Attributes:
        role: Why it is shown, such as `best`, `median` or `worst`.
        case: Name of the case.
        picture: Its mosaic.
        facts: Numbers to print beside it, such as Dice per region.
    """

    role: str
    case: str
    picture: Picture
    facts: Mapping[str, Cell] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawing that stands in the page as SVG, in two widths.

    Attributes:
        wide: One `<svg>` element, as `consort` gives it; put into the page as it is.
        narrow: The same for small screens.
        caption: What it shows.
    """

    wide: str
    narrow: str
    caption: str

    def __post_init__(self) -> None:
        if not (self.wide.startswith("<svg") and self.narrow.startswith("<svg")):
            raise ValueError(f"not an SVG element: {self.wide[:40]!r}")


@dataclass(frozen=True, slots=True)
class Group:
    """Cases about which the same was found; listed folded where they are many.

    Attributes:
        kind: Such as `refused`, in a word.
        name: What was found, in short.
        num_cases: How many cases.
        advice: What to do about it, once for all.
        items: For each message the names of its cases, and the message.
        beside: What else it was found about that is no case, in words.
    """

    kind: str
    name: str
    num_cases: int
    advice: str
    items: Sequence[tuple[Sequence[str], str]]
    beside: str = ""


@dataclass(frozen=True, slots=True)
class Film:
    """Pictures of the same things over time, in a grid.

    Attributes:
        columns: Heading of each column of pictures.
        rows: Name of each row, and for each column its pictures, one under the other.
    """

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Sequence[Picture]]]]


@dataclass(frozen=True, slots=True)
class Chapter:
    """A section of its own kind; whatever is empty is left out.

    Attributes:
        id: To link to.
        title: Its heading.
        paragraphs: What is to be read first.
        drawing: A diagram.
        groups: What was found, grouped.
        wide: Figures over the whole width.
        pictures: Figures, beside each other where there is room.
        tables: Tables.
        cases: Cases in small pictures.
        film: Pictures over time.
    """

    id: str
    title: str
    paragraphs: Sequence[str] = ()
    drawing: Drawing | None = None
    groups: Sequence[Group] = ()
    wide: Sequence[Picture] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    cases: Sequence[GalleryCase] = ()
    film: Film | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a report says, in the order it says it; an empty section is left out.

    Attributes:
        title: What was done, in a few words.
        subtitle: One sentence on it.
        highlights: Up to about six large numbers.
        warnings: What a reader must know before believing the numbers.
        chapters: Sections of their own kind.
        notes: What else is worth knowing.
        run: What was run: recipe, model, data, versions, times.
        curves: Pictures of the training, and of the spread of scores.
        tables: Scores, lists of cases, comparisons.
        gallery: Cases in pictures.
        rules: How each metric was computed, usually `metrics.RULES`.
        provenance: Anything JSON can hold; shown folded.
        status: Of what is still going on, or how it ended; one sentence.
        reload_s: After how many seconds a browser reads the page again, or None.
    """

    title: str
    subtitle: str = ""
    highlights: Sequence[Highlight] = ()
    warnings: Sequence[str] = ()
    chapters: Sequence[Chapter] = ()
    notes: Sequence[str] = ()
    run: Mapping[str, Cell] = field(default_factory=dict)
    curves: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    gallery: Sequence[GalleryCase] = ()
    rules: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    status: str = ""
    reload_s: int | None = None


def write_report(path: Path, report: Report) -> None:
    """Write the report as one HTML file, whole or not at all.

    Args:
        path: Where to; its folder is made, a file of that name is replaced.
        report: What it says.

    Raises:
        RunError: The file cannot be written.
    """
    write_text(path, render(report))


def render(report: Report) -> str:
    """The report as HTML text."""
    provenance = json.dumps(report.provenance, indent=2, ensure_ascii=False, default=str)
    return render_page(
        "report.html.j2", report=report, provenance=provenance if report.provenance else ""
    )


def pick_gallery(scores: Sequence[RegionScore], region: str) -> dict[str, str]:
    """Choose the cases to show, by the Dice of one region.

    Cases with an empty reference are chosen only where there is no other: their Dice is 0 or 1 by
    rule. Ties are broken by the case's name.

    Args:
        scores: Scores of any number of cases and regions.
        region: The region that decides.

    Returns:
        The names of the `best`, `median` (the lower of two) and `worst` case; with fewer than
        three cases some are the same.

    Raises:
        UsageError: No case has a score for the region.
    """
    members = [score for score in scores if score.region == region]
    if not members:
        known = ", ".join(dict.fromkeys(score.region for score in scores)) or "none"
        raise UsageError(f"no case has a score for region '{region}'; regions found: {known}.")
    filled = [score for score in members if score.empty in ("none", "prediction")]
    ranked = sorted(filled or members, key=lambda score: (score.dice, score.case))
    chosen = {"best": ranked[-1], "median": ranked[(len(ranked) - 1) // 2], "worst": ranked[0]}
    return {role: score.case for role, score in chosen.items()}


def score_tables(scores: Sequence[RegionScore]) -> list[Table]:
    """The two tables of an evaluation: one row per region, and one row per case and region."""
    by_region = [_summary_row(region, row) for region, row in summarise(scores).items()]
    return [
        Table(
            "Scores per region, over all cases. SD is the sample standard deviation.",
            ["region", "cases", "Dice mean", "Dice SD", "Dice median", "HD95 mean (mm)",
             "HD95 median (mm)", "volume difference mean (mL)"],
            by_region,
        ),
        Table(
            "Scores per case and region. Volume difference is prediction minus reference.",
            ["case", "region", "Dice", "HD95 (mm)", "volume (mL)", "reference volume (mL)",
             "volume difference (mL)", "empty mask"],
            [_score_row(score) for score in scores],
        ),
    ]  # fmt: skip


def _summary_row(region: str, row: RegionSummary) -> list[Cell]:
    return [
        region, row.num_cases, row.dice_mean, row.dice_sd, row.dice_median, row.hd95_mm_mean,
        row.hd95_mm_median, row.volume_difference_ml_mean,
    ]  # fmt: skip


def _score_row(score: RegionScore) -> list[Cell]:
    return [
        score.case, score.region, score.dice, score.hd95_mm, score.volume_ml,
        score.reference_volume_ml, score.volume_difference_ml,
        None if score.empty == "none" else score.empty,
    ]  # fmt: skip
