"""Score files of any origin, read as one table: a row for each case and region of a training.

`metrics.json` and `metrics.csv` of `evaluate` and `finetune` are read, and any CSV or TSV with the
columns `case` and `region`; every other column that holds numbers is a metric. Columns `subject`,
`fold`, `seed` and `labels` say what the row belongs to, where the file as a whole does not.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from brainsegfounder.errors import DataError, Problem

# The region whose numbers are the mean over all regions of a case.
REGION_MEAN = "mean of regions"
# What a row belongs to, rather than what it scored.
TAGS = ("fold", "seed", "labels")
NAMES = ("case", "region", "subject", "empty", *TAGS)
SUBJECT = re.compile(r"(sub-[A-Za-z0-9]+)(?=_|$)")
WORDS_FOR_NOTHING = {"", "nan", "n/a", "na", "none", "null"}


@dataclass(frozen=True, slots=True)
class Row:
    """What one region of one case scored after one training.

    Attributes:
        case: Name of the case.
        region: Name of the region.
        subject: Whose case it is.
        fold: Which fold's training, or None where that was not said.
        seed: Which seed's training, or None.
        labels: How many labelled subjects it was trained on (a number, or a text), or None.
        values: Metrics by name; NaN where there is no number.
        file: Where it stands.
    """

    case: str
    region: str
    subject: str
    fold: str | None
    seed: str | None
    labels: str | None
    values: Mapping[str, float]
    file: str = ""


@dataclass(frozen=True, slots=True)
class ScoreFile:
    """One file of scores.

    Attributes:
        path: Where it is.
        rows: What it holds.
        convention: By which the metrics were computed, with its version, or None where the file
            does not say.
        split_sha256: Fingerprint of the split, or None.
        extra: Other entries of a JSON file, such as `reliability`.
    """

    path: Path
    rows: Sequence[Row]
    convention: str | None = None
    split_sha256: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def read_scores(path: Path, tags: Mapping[str, str] | None = None) -> ScoreFile:
    """Read one file of scores.

    Args:
        path: `.json` as `evaluate` writes it; anything else is a table with a header line.
        tags: Fold, seed or labels of the whole file; a row's own column goes before.

    Raises:
        DataError: The file cannot be read, has no such columns or no row, or a row stands twice.
    """
    content: dict[str, Any] = {}
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            content = json.loads(text)
            records = list(content["cases"])
        else:
            records = _table(text)
        rows = [_row(record, tags or {}, str(path)) for record in records]
    except OSError as error:
        raise _unreadable(path, error.strerror or "no file that can be read") from error
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise _unreadable(path, f"{type(error).__name__}: {error}") from error
    _check(path, rows)
    return ScoreFile(
        path=path,
        rows=rows,
        convention=_convention(content),
        split_sha256=_text(content.get("split_sha256")),
        extra={k: v for k, v in content.items() if k not in ("cases", "aggregate", "rules")},
    )


def with_region_mean(rows: Sequence[Row]) -> list[Row]:
    """Rows with one more for each case and training, the mean over its regions.

    It comes first, is called `REGION_MEAN`, and has the metrics that all regions of the case have a
    number for. Where there is one region, there is no such row.
    """
    if len({row.region for row in rows}) < 2:
        return list(rows)
    cases: dict[tuple[str | None, ...], list[Row]] = {}
    for row in rows:
        cases.setdefault((row.case, row.fold, row.seed, row.labels), []).append(row)
    means = [
        replace(
            of[0],
            region=REGION_MEAN,
            values={
                name: fmean(row.values.get(name, math.nan) for row in of) for name in of[0].values
            },
        )
        for of in cases.values()
    ]
    return [*means, *rows]


def subject_of(case: str) -> str:
    """Whose case it is by its name: the BIDS entity `sub-…`, or the whole name."""
    found = SUBJECT.match(case)
    return found[1] if found else case


def metrics_of(rows: Sequence[Row]) -> list[str]:
    """Names of the metrics that have a number in some row, in order of appearance."""
    names = dict.fromkeys(name for row in rows for name in row.values)
    return [
        name for name in names if any(math.isfinite(r.values.get(name, math.nan)) for r in rows)
    ]


def _table(text: str) -> list[dict[str, Any]]:
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text), delimiter=max(",\t;", key=header.count))
    missing = {"case", "region"} - set(reader.fieldnames or ())
    if missing:
        raise KeyError(f"columns {', '.join(reader.fieldnames or ()) or 'none'}")
    return list(reader)


def _row(record: Mapping[str, Any], tags: Mapping[str, str], file: str) -> Row:
    case, region = str(record["case"]), str(record["region"])
    own = {tag: _text(record.get(tag)) or tags.get(tag) for tag in TAGS}
    values = {}
    for name, cell in record.items():
        if name not in NAMES and isinstance(name, str):
            number = _number(cell)
            if number is not None:
                values[name] = number
    subject = _text(record.get("subject")) or subject_of(case)
    return Row(case, region, subject, own["fold"], own["seed"], own["labels"], values, file)


def _convention(content: Mapping[str, Any]) -> str | None:
    """By what the scores were made: name, version, and whose parameters."""
    name, parameters = _text(content.get("convention")), content.get("parameters")
    if name is None:
        return None
    kind = parameters.get("tumour_type") if isinstance(parameters, dict) else None
    provisional = " (provisional)" if content.get("provisional") else ""
    version = content.get("version", 1)
    return f"{name}{f', {kind}' if kind else ''}, version {version}{provisional}"


def _number(cell: Any) -> float | None:
    """A cell as a number; NaN where it is empty, None where it is a word."""
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in WORDS_FOR_NOTHING):
        return math.nan
    if isinstance(cell, bool) or not isinstance(cell, int | float | str):
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def _text(value: Any) -> str | None:
    if value is None or str(value).strip().lower() in WORDS_FOR_NOTHING:
        return None
    return str(value).strip()


def _check(path: Path, rows: Sequence[Row]) -> None:
    if not rows:
        raise _unreadable(path, "no row")
    seen: set[tuple[str | None, ...]] = set()
    for row in rows:
        key = (row.case, row.region, row.fold, row.seed, row.labels)
        if key in seen:
            raise DataError(
                Problem(
                    code="score_twice",
                    file=str(path),
                    found=f"case {row.case}, region {row.region} stands twice",
                    expected="one row for each case and region of a training",
                    advice="Tell trainings apart with the columns fold and seed, or remove one.",
                )
            )
        seen.add(key)


def _unreadable(path: Path, found: str) -> DataError:
    return DataError(
        Problem(
            code="scores_unreadable",
            file=str(path),
            found=found,
            expected="metrics.json of `evaluate`, or a table with the columns case, region and "
            "at least one metric",
            advice="Give metrics.csv or metrics.json of an evaluation, or the folder they are in.",
        )
    )
