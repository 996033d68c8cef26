"""Lists of folds that others made: datalists, nnU-Net's splits, tables of participants.

They say in which fold a case or a subject is tested, by names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from brainsegfounder.data.layouts.names import split_ending
from brainsegfounder.data.layouts.tree import read_json, read_rows
from brainsegfounder.errors import DataError, Problem
from brainsegfounder.volumes.nifti import stem

NAME_COLUMNS = ("case", "participant_id", "subject", "subject_id", "id")
FOLD_COLUMNS = ("fold", "cv_fold", "fold_id")


def read_folds(path: Path) -> dict[str, int]:
    """Read in which fold, counted from 0, each name is tested.

    Args:
        path: A datalist of MONAI (`{"training": [{"fold": 0, "image": ...}]}`, such as
            `brats21_folds.json`), nnU-Net's `splits_final.json` (fold N tests the names in the
            N-th `val`), or a table, comma- or tab-separated, with a column `fold` beside `case`,
            `subject` or `participant_id`, such as `participants.tsv` of BIDS.

    Raises:
        DataError: It is none of these, names no fold, or one name in two.
    """
    pairs = _json_folds(path) if path.suffix.lower() == ".json" else _table_folds(path)
    folds: dict[str, int] = {}
    for name, fold in pairs:
        if folds.setdefault(name, fold) != fold:
            raise DataError(two_folds(path, name, folds[name], fold))
    if not folds:
        raise DataError(_no_folds(path, "no fold"))
    return folds


def fold_number(value: Any) -> int | None:
    """The number of a fold, counted from 0; None for anything else."""
    text = "" if isinstance(value, bool) else str(value)
    return int(text) if re.fullmatch(r"[0-9]{1,4}", text) else None


def tested_in_splits(content: Any) -> list[tuple[str, int]]:
    """Names and folds of nnU-Net's `splits_final.json`; empty for any other content."""
    splits = content if isinstance(content, list) else []
    tested = []
    for number, split in enumerate(splits):
        names = split.get("val") if isinstance(split, dict) else None
        listed = names if isinstance(names, list) else [names]
        tested += [(name, number) for name in listed if isinstance(name, str) and name]
    return tested


def _json_folds(path: Path) -> list[tuple[str, int]]:
    content = read_json(path)
    if isinstance(content, list):
        return tested_in_splits(content)
    entries = content.get("training") if isinstance(content, Mapping) else None
    if not isinstance(entries, list):
        raise DataError(_no_folds(path, "neither a list nor `training`"))
    return [pair for entry in entries if isinstance(entry, Mapping) for pair in _listed(entry)]


def _listed(entry: Mapping[str, Any]) -> Sequence[tuple[str, int]]:
    """Name and fold of an entry of a datalist; the name is that of its first image."""
    fold, image = fold_number(entry.get("fold")), entry.get("image")
    first = image[0] if isinstance(image, list) and image else image
    if fold is None or not isinstance(first, str):
        return ()
    name = stem(Path(PurePosixPath(first).name))
    return [(split_ending(name)[0] or name, fold)]


def _table_folds(path: Path) -> list[tuple[str, int]]:
    rows = read_rows(path)
    columns = {name.strip().lower(): name for name in (rows[0] if rows else {})}
    named = next((columns[name] for name in NAME_COLUMNS if name in columns), None)
    told = next((columns[name] for name in FOLD_COLUMNS if name in columns), None)
    if named is None or told is None:
        raise DataError(_no_folds(path, f"the columns {', '.join(columns) or '(none)'}"))
    found = [(row[named].strip(), fold_number(row[told].strip())) for row in rows]
    return [(name, fold) for name, fold in found if name and fold is not None]


def _no_folds(path: Path, found: str) -> Problem:
    return Problem(
        code="folds_unreadable",
        file=str(path),
        found=found,
        expected="a MONAI datalist with `fold`, nnU-Net's splits_final.json, or a table with the "
        f"columns {NAME_COLUMNS[0]} (or {', '.join(NAME_COLUMNS[1:])}) and fold, numbers from 0",
        advice="Correct the list, or split.folds_file of the recipe.",
    )


def two_folds(path: Path, name: str, one: int, other: int) -> Problem:
    """What to say of a name that a list tests twice."""
    return Problem(
        code="subject_in_two_folds",
        file=str(path),
        found=f"{name} is tested in folds {one} and {other}",
        expected="every subject tested in one fold",
        advice="Correct the list of folds.",
    )
