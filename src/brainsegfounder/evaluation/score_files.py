"""`metrics.csv` and `metrics.json`: scores as files for people, spreadsheets and `compare`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from brainsegfounder.evaluation.calibration import expected_calibration_error
from brainsegfounder.evaluation.conventions import PLAIN, Convention
from brainsegfounder.evaluation.scores import RegionScore, Value, aggregate, reliability, summarise
from brainsegfounder.files import write_text


def write_metrics(
    folder: Path,
    scores: Sequence[RegionScore],
    rules: Mapping[str, str],
    extra: Mapping[str, Any],
    convention: Convention = PLAIN,
    folds: Mapping[str, int] | None = None,
) -> None:
    """Write `metrics.csv` (rounded, one row per case and region) and `metrics.json` (exact).

    Args:
        folder: Made where it does not exist; files of these names are replaced.
        scores: What to write; the order is kept.
        rules: Sentences that say how the numbers came about, usually the convention's.
        extra: Further top-level entries of the JSON file, such as recipe and data.
        convention: By which the scores were made.
        folds: In which fold a case was tested; None where nobody says so.

    Raises:
        RunError: A file cannot be written.
    """
    parameters = asdict(convention)
    name, version = parameters.pop("name"), parameters.pop("version")
    del parameters["rules"]
    rows = rows_of(scores, folds or {})
    numbers = aggregate(scores)
    content: dict[str, Any] = {
        **extra,
        "convention": name,
        "version": version,
        "provisional": parameters.pop("provisional"),
        "source": parameters.pop("source"),
        "parameters": parameters,
        "rules": dict(rules),
        "cases": rows,
        "aggregate": {
            region: {**asdict(row), "metrics": numbers[region]}
            for region, row in summarise(scores).items()
        },
    }
    if curves := _curves(scores):
        content["reliability"] = curves
    write_text(folder / "metrics.csv", csv_text(rows))
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(folder / "metrics.json", text + "\n")


def rows_of(scores: Sequence[RegionScore], folds: Mapping[str, int]) -> list[dict[str, Value]]:
    """Scores as columns, with `fold` after all others where there are folds."""
    if not folds:
        return [score.row() for score in scores]
    return [{**score.row(), "fold": folds.get(score.case)} for score in scores]


def csv_text(rows: Sequence[Mapping[str, Value]]) -> str:
    """Rows as CSV; a column that no row has a value for is left empty, not left out."""
    columns = list(dict.fromkeys(name for row in rows for name in row if name != "empty"))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*columns, "empty"])
    for row in rows:
        writer.writerow([rounded(row.get(column)) for column in (*columns, "empty")])
    return buffer.getvalue()


def rounded(value: Value) -> str:
    """Four decimals: 0.1 µm, 0.1 µL, and more than a Dice can mean."""
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _curves(scores: Sequence[RegionScore]) -> dict[str, Any]:
    return {
        region: {
            "ece": expected_calibration_error(bins),
            "bins": [asdict(one) for one in bins],
        }
        for region, bins in reliability(scores).items()
    }
