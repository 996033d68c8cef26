"""What the finished runs of a grid scored, gathered into tables.

results/
scores.csv              one row a case, region and training
table.csv, .md, .tex    the experiment's own table
comparison/             arms against the first one; see `compare`
report.html             the page to read first
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

from brainsegfounder.evaluation.report import Cell as TableCell
from brainsegfounder.evaluation.report import (
    Chapter,
    Highlight,
    Picture,
    Report,
    Table,
    write_report,
)
from brainsegfounder.evaluation.score_rows import (
    REGION_MEAN,
    TAGS,
    Row,
    read_scores,
    with_region_mean,
)
from brainsegfounder.evaluation.tables import to_csv, to_latex, to_markdown
from brainsegfounder.evaluation.verdicts import sentence, summary
from brainsegfounder.files import replace_folder, write_text
from brainsegfounder.workflows.compare import CompareOptions, ComparisonDone, run_compare
from brainsegfounder.workflows.experiments.cells import Grid

MOST_HIGHLIGHTS = 6


@dataclass(frozen=True, slots=True)
class Scored:
    """A finished fine-tuning with what its test cases scored.

    Attributes:
        name: Of its cell.
        recipe: Name of its recipe.
        tags: What it is in its experiment.
        path: Its file of scores.
        rows: What it holds, the mean over regions first.
    """

    name: str
    recipe: str
    tags: Mapping[str, str]
    path: Path
    rows: Sequence[Row]

    @property
    def run(self) -> Path:
        """The folder of its run."""
        return self.path.parent.parent

    def mean(self, region: str) -> float:
        """Mean Dice of a region over its test cases."""
        return fmean(row.values["dice"] for row in self.rows if row.region == region)


@dataclass(slots=True)
class Results:
    """What an experiment shows.

    Attributes:
        title: Of the page.
        subtitle: What was done, in a sentence.
        pictures: Curves.
        tables: To be read; the first one is the experiment's own.
        warnings: What a reader must know.
        highlights: Large numbers.
        links: Files beside the page, by what they are.
        notes: What comparisons say in short, a sentence each; their own pages have the rest.
    """

    title: str
    subtitle: str
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    highlights: list[Highlight] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def gather_scores(grid: Grid) -> list[Scored]:
    """The scores of all finished fine-tunings of a grid, in its order.

    Raises:
        DataError: A file of scores cannot be read.
    """
    found = []
    for cell in grid.cells:
        path = grid.run(cell) / "test" / "metrics.json"
        if cell.verb == "finetune" and grid.is_finished(cell) and path.is_file():
            found.append(read_scored(cell.name, cell.recipe.name, cell.tags, path))
    return found


def read_scored(name: str, recipe: str, tags: Mapping[str, str], path: Path) -> Scored:
    """A run with its scores.

    Raises:
        DataError: They cannot be read.
    """
    rows = read_scores(path, training_tags(tags)).rows
    return Scored(name, recipe, tags, path, with_region_mean(rows))


def training_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Fold, seed and labels, as far as they are among some tags."""
    return {tag: tags[tag] for tag in TAGS if tag in tags}


def headline_region(found: Sequence[Scored]) -> str:
    """The region that stands for all: their mean where there are several."""
    return found[0].rows[0].region


def region_in_words(region: str) -> str:
    """For captions."""
    return "the mean over regions" if region == REGION_MEAN else region


def arm_of(one: Scored) -> str:
    """The arm, which is what methods are called where nothing else tells them apart."""
    return one.tags["arm"]


def arms_of(found: Sequence[Scored]) -> list[str]:
    """Arms in order of first appearance."""
    return list(dict.fromkeys(map(arm_of, found)))


def regions_of(found: Sequence[Scored]) -> list[str]:
    """Regions without their mean."""
    names = dict.fromkeys(row.region for one in found for row in one.rows)
    return [name for name in names if name != REGION_MEAN]


def pooled(found: Sequence[Scored], region: str) -> dict[str, float | int | None]:
    """Number of cases and means of Dice and HD95 of a region, over all test cases of some runs."""
    rows = [row for one in found for row in one.rows if row.region == region]
    hd95 = [row.values["hd95_mm"] for row in rows if math.isfinite(row.values["hd95_mm"])]
    return {
        "num_cases": len(rows),
        "dice_mean": fmean(row.values["dice"] for row in rows),
        "hd95_mm_mean": fmean(hd95) if hd95 else None,
    }


def pivot(
    found: Sequence[Scored],
    tag: str,
    caption: str,
    region: str,
    *,
    name: Callable[[Scored], str] = arm_of,
    summed_up: bool = True,
) -> Table:
    """Mean Dice of a region, a row for each value of a tag and a column for each method.

    Args:
        found: Of one value and method, all test cases count alike.
        tag: Such as `fold`.
        caption: What the table shows.
        region: Of which region.
        name: Of the method of a run.
        summed_up: Whether mean and standard deviation of the rows and the mean over all cases
            stand below.
    """
    names = list(dict.fromkeys(map(name, found)))
    values = list(dict.fromkeys(one.tags[tag] for one in found))

    def of(value: str, column: str) -> list[Scored]:
        return [one for one in found if one.tags[tag] == value and name(one) == column]

    columns = [[_dice(of(value, column), region) for value in values] for column in names]
    rows: list[list[TableCell]] = [
        [value, *(_rounded(column[n]) for column in columns)] for n, value in enumerate(values)
    ]
    if summed_up:
        there = [[value for value in column if value is not None] for column in columns]
        rows.append([f"mean of {tag}s", *(_rounded(fmean(column)) for column in there)])
        spread = [stdev(column) if len(column) > 1 else None for column in there]
        rows.append([f"SD of {tag}s", *map(_rounded, spread)])
        of_name = [[one for one in found if name(one) == column] for column in names]
        rows.append(["all cases", *(_rounded(_dice(of, region)) for of in of_name)])
    return Table(caption, [tag, *names], rows)


def scores_table(found: Sequence[Scored]) -> Table:
    """Every score of every run, for machines."""
    tags = list(dict.fromkeys(tag for one in found for tag in one.tags))
    metrics = list(dict.fromkeys(name for one in found for row in one.rows for name in row.values))
    rows: list[list[TableCell]] = [
        [
            *(one.tags.get(tag) for tag in tags),
            row.case,
            row.region,
            *(_number(row.values.get(name)) for name in metrics),
        ]
        for one in found
        for row in one.rows
        if row.region != REGION_MEAN
    ]
    return Table("Scores", [*tags, "case", "region", *metrics], rows)


def compare_arms(
    found: Sequence[Scored],
    out: Path,
    *,
    name: Callable[[Scored], str] = arm_of,
    by_labels: bool = False,
) -> ComparisonDone | None:
    """Compare all methods with the first one, case by case; None where there is one only."""
    if len(set(map(name, found))) < 2:
        return None
    words = []
    for one in found:
        told = ",".join(f"{key}={value}" for key, value in training_tags(one.tags).items())
        words.append(f"{name(one)}@{told}={one.path}" if told else f"{name(one)}={one.path}")
    region_mean = headline_region(found) == REGION_MEAN
    return run_compare(words, out, CompareOptions(region_mean=region_mean, by_labels=by_labels))


def told_in_short(compared: ComparisonDone) -> list[str]:
    """What a comparison says of each metric, and of the first metric's first region in full."""
    comparisons = compared.compared.comparisons
    first = [
        sentence(one)
        for one in comparisons
        if (one.metric, one.region) == (comparisons[0].metric, comparisons[0].region)
    ]
    return [*(summary(comparisons, metric) for metric in compared.compared.metrics), *first]


def arm_highlights(found: Sequence[Scored]) -> list[Highlight]:
    """Mean Dice of each arm over all test cases of its runs."""
    region = headline_region(found)
    highlights = []
    for arm in arms_of(found):
        of = pooled([one for one in found if arm_of(one) == arm], region)
        detail = f"mean over {of['num_cases']} tests of {region_in_words(region)}"
        highlights.append(Highlight(f"Dice, {arm}", f"{of['dice_mean']:.3f}", detail))
    return highlights[:MOST_HIGHLIGHTS]


def write_results(grid: Grid, found: Sequence[Scored], results: Results, partial: Path) -> Path:
    """Write tables and page beside what `partial` holds already, and put all in its place.

    Returns:
        The page.
    """
    write_text(partial / "scores.csv", to_csv(scores_table(found)))
    for number, table in enumerate(results.tables):
        name = "table" if number == 0 else f"table-{number + 1}"
        write_text(partial / f"{name}.csv", to_csv(table))
        write_text(partial / f"{name}.md", to_markdown(table))
        write_text(partial / f"{name}.tex", to_latex(table, f"{grid.folder.name}-{name}"))
    num_left = len(grid.unfinished)
    warnings = list(results.warnings)
    if num_left:
        warnings.insert(
            0, f"{num_left} of {len(grid.cells)} runs are not finished; the tables lack them."
        )
    page = Report(
        title=results.title,
        subtitle=results.subtitle,
        highlights=results.highlights,
        warnings=warnings,
        chapters=[
            Chapter(
                "results",
                "Results",
                results.notes,
                wide=results.pictures,
                tables=results.tables,
            )
        ],
        run={"runs": len(grid.cells), "finished": len(grid.cells) - num_left, **results.links},
        provenance={
            "cells": [{"name": one.name, **one.tags, "recipe": one.recipe} for one in found]
        },
    )
    write_report(partial / "report.html", page)
    replace_folder(partial, grid.results)
    return grid.results / "report.html"


def fresh_folder(grid: Grid) -> Path:
    """An empty folder in which results are made before they replace older ones."""
    partial = grid.folder / ".results.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _dice(found: Sequence[Scored], region: str) -> float | None:
    return float(pooled(found, region)["dice_mean"] or 0.0) if found else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
