"""What `prepare` says in tables: grids, steps, sites, and who the subjects are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import aff2axcodes

from brainsegfounder.data.store import Store, StoredCase
from brainsegfounder.evaluation.demographics import (
    Characteristic,
    count_characteristics,
    demographics_figure,
)
from brainsegfounder.evaluation.participants import Participants, read_participants, subject_key
from brainsegfounder.evaluation.report import Cell, Chapter, Picture, Table

MAX_ROWS = 15
MAX_VALUES = 8
# Of fewer no quartiles are given.
FEWEST = 20


def grids_chapter(store: Store) -> Chapter:
    """Shapes and spacings of the files and of the prepared cases, with counts."""
    source = _counts(_source_row(case) for case in store.cases)
    spacings = _counts((_spacing(case.grid.spacing_mm),) for case in store.cases)
    tables = [
        _count_table("Grids of the files.", ["shape (voxels)", "spacing (mm)", "axes"], source),
        _count_table("Spacings of the prepared cases.", ["spacing (mm)"], spacings),
        _range_table(store.cases),
    ]
    if steps := _counts(_steps(store.cases)):
        tables.append(_count_table("What was done.", ["step", "how"], steps))
    return Chapter("grids", "Shapes and spacings", tables=tables)


def subjects_chapter(store: Store, participants: Participants | Path | None) -> Chapter | None:
    """Demographics from a table of participants, and the sites and licences of the cases.

    Raises:
        DataError: The table cannot be read.
    """
    paragraphs, pictures, tables = [], [], []
    if participants is not None:
        if isinstance(participants, Path):
            table, named = read_participants(participants), participants.name
        else:
            table, named = participants, "the table of participants"
        subjects = list(dict.fromkeys(case.subject for case in store.cases))
        counted = count_characteristics(table, subjects)
        paragraphs = _about_participants(table, subjects, named)
        if any(one.levels for one in counted):
            figure = demographics_figure(counted)
            words = _in_words(counted)
            pictures = [Picture(figure, "Subjects of the store.", f"Bars of counts. {words}")]
            tables = [_demographics_table(counted)]
        elif not counted:
            paragraphs.append("Too few to be shown.")
    for name in ("site", "chronicity", "licence"):
        values = [str(getattr(case, name, "") or "") for case in store.cases]
        if any(values):
            rows = _counts((value or "not stated",) for value in values)
            tables.append(_count_table(f"Cases by {name}.", [name], rows))
    known = [getattr(case, "days", None) for case in store.cases]
    if days := [float(number) for number in known if number is not None]:
        tables.append(_days_table(days, len(store.cases)))
    if not paragraphs and not tables:
        return None
    return Chapter("subjects", "Subjects", paragraphs, pictures=pictures, tables=tables)


def _about_participants(table: Participants, subjects: Sequence[str], file: str) -> list[str]:
    matched = sum(subject_key(subject) in table.rows for subject in subjects)
    text = (
        f"{matched:,} of the {len(subjects):,} subjects in the store stand in {file}, which has "
        f"{len(table.rows):,}. Percentages leave missing values out."
    )
    if table.num_repeated:
        text += f" {table.num_repeated:,} further rows of the same subjects are not used."
    if not table.columns:
        text += " It has no column of age, sex, site, ethnicity or group."
    privacy = (
        "To keep persons private, ages stand in bins and no count from 1 to 4 is shown: such "
        "levels are pooled with others or given as <5, and then the largest level as a range. "
        "A percentage of the whole file is left out (–) where it would give away so few."
    )
    return [text, privacy]


def _demographics_table(counted: Sequence[Characteristic]) -> Table:
    rows: list[list[Cell]] = []
    for one in counted:
        for level in one.levels:
            share = None if level.percent is None else f"{level.percent:.1f}"
            whole = None if level.percent_of_file is None else f"{level.percent_of_file:.0f}"
            rows.append([one.name, level.name, level.count, share, whole])
        rows.append([one.name, "missing", f"{one.num_missing:,}", None, None])
    columns = ["characteristic", "level", "subjects", "% of the store", "% of the whole file"]
    return Table("Demographics.", columns, rows)


def _in_words(counted: Sequence[Characteristic]) -> str:
    return " ".join(
        f"{one.name}: {', '.join(f'{level.name} {level.count}' for level in one.levels)}."
        for one in counted
    )


def _days_table(days: Sequence[float], num_cases: int) -> Table:
    """Quartiles, as the ends of a range are single persons."""
    quartiles: list[Cell] = [f"{n:.0f}" for n in np.percentile(days, (25, 50, 75))]
    if len(days) < FEWEST:
        quartiles = ["–"] * 3
    columns = ["cases", "of", "quarter", "median", "three quarters"]
    return Table("Days from stroke to scan.", columns, [[len(days), num_cases, *quartiles]])


def _source_row(case: StoredCase) -> tuple[str, ...]:
    axes = "".join(aff2axcodes(np.asarray(case.source_affine)))
    shape = " × ".join(map(str, case.source_shape_vox))
    return shape, _spacing(case.source_grid.spacing_mm), axes


def _spacing(spacing_mm: Iterable[float]) -> str:
    return " × ".join(f"{round(float(mm), 2):g}" for mm in spacing_mm)


def _steps(cases: Sequence[StoredCase]) -> Iterator[tuple[str, ...]]:
    """Named choices among the steps (words, yes or no) that take few values over the cases."""
    pairs = [pair for case in cases for pair in _choices(getattr(case, "steps", None) or {})]
    values: dict[str, set[str]] = {}
    for step, value in pairs:
        values.setdefault(step, set()).add(value)
    yield from (pair for pair in pairs if len(values[pair[0]]) <= MAX_VALUES)


def _choices(steps: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in steps.items():
        name = key.replace("_", " ")
        if isinstance(value, Mapping):
            yield from _choices(value, f"{prefix}{name}: ")
        elif isinstance(value, bool):
            yield f"{prefix}{name}", "yes" if value else "no"
        elif isinstance(value, str) and "/" not in value:
            yield f"{prefix}{name}", value


def _counts(rows: Iterable[tuple[str, ...]]) -> list[tuple[tuple[str, ...], int]]:
    return sorted(Counter(rows).items(), key=lambda pair: (-pair[1], pair[0]))


def _count_table(
    caption: str, columns: list[str], counts: Sequence[tuple[tuple[str, ...], int]]
) -> Table:
    rows: list[list[Cell]] = [[*row, number] for row, number in counts[:MAX_ROWS]]
    if rest := counts[MAX_ROWS:]:
        padding = [""] * (len(columns) - 1)
        rows.append([f"{len(rest):,} others", *padding, sum(number for _, number in rest)])
    return Table(caption, [*columns, "cases"], rows)


def _range_table(cases: Sequence[StoredCase]) -> Table:
    rows: list[list[Cell]] = []
    for name, grids in (
        ("files", [case.source_grid for case in cases]),
        ("prepared", [case.grid for case in cases]),
    ):
        shapes = np.array([grid.shape_vox for grid in grids])
        extents_mm = shapes * np.array([grid.spacing_mm for grid in grids])
        for word, percentile in (("smallest", 0), ("median", 50), ("largest", 100)):
            sizes = [np.percentile(values, percentile, axis=0) for values in (shapes, extents_mm)]
            rows.append([name, word, *(" × ".join(f"{n:.0f}" for n in size) for size in sizes)])
    caption = "Sizes, each axis on its own; of prepared cases: right, anterior, superior."
    return Table(caption, ["grid", "of all cases", "voxels", "mm"], rows)
