"""How well expected and true Dice agree: each case of a cross-validation, by a line of the others.

    python benchmarks/expected_dice.py GRID --out benchmarks/results/expected_dice.json

`GRID` is what `crossval` made. Every case was segmented by a model that never saw it; here it is
left out once more, the line is fitted to all others, and what it then says is held against the
truth. The plain mean of the others' Dice stands beside it: a line that is no better says nothing.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from brainsegfounder.evaluation.score_rows import read_scores
from brainsegfounder.inference.expected_dice import expect_dice, fit_line
from brainsegfounder.workflows.stored_scores import ESTIMATES_NAME, read_estimates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grid", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    record = {}
    for arm in sorted({path.parents[2].name for path in _tested(arguments.grid)}):
        pairs = read_pairs([p for p in _tested(arguments.grid) if p.parents[2].name == arm])
        record[arm] = {region: agreement(found) for region, found in pairs.items()}
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    for arm, regions in record.items():
        for region, row in regions.items():
            told = {name: value for name, value in row.items() if name != "cases"}
            print(arm, region, json.dumps(told))


def _tested(grid: Path) -> list[Path]:
    return sorted(grid.glob(f"runs/*/*/test/{ESTIMATES_NAME}"))


def read_pairs(files: list[Path]) -> dict[str, list[tuple[str, float, float]]]:
    """Case, estimate and true Dice, by region; cases where nothing was marked are left out."""
    pairs: dict[str, list[tuple[str, float, float]]] = {}
    for path in files:
        estimates = read_estimates(path.parent)
        for row in read_scores(path.with_name("metrics.json")).rows:
            told = estimates.get(row.case, {}).get(row.region)
            if told is not None:
                pairs.setdefault(row.region, []).append((row.case, told, row.values["dice"]))
    return pairs


def agreement(pairs: list[tuple[str, float, float]]) -> dict[str, Any]:
    """Of one region: errors, correlation, and how often the interval holds the truth."""
    rows = []
    for number, (_, estimate, truth) in enumerate(pairs):
        others = pairs[:number] + pairs[number + 1 :]
        line = fit_line([e for _, e, _ in others], [t for _, _, t in others])
        if line is not None:
            told = expect_dice(line, estimate)
            mean = fmean(t for _, _, t in others)
            rows.append((estimate, truth, told, mean))
    if not rows:
        return {"num_cases": len(pairs)}
    estimates, truths = np.array([(e, t) for e, t, _, _ in rows]).T
    spread = estimates.std() * truths.std()
    correlation = float(np.corrcoef(estimates, truths)[0, 1]) if spread > 0 else math.nan
    return {
        "num_cases": len(rows),
        "correlation_of_estimate_and_dice": round(correlation, 3),
        "mean_error_of_expected": round(fmean(abs(t - x.dice) for _, t, x, _ in rows), 4),
        "mean_error_of_the_estimate_itself": round(fmean(abs(t - e) for e, t, _, _ in rows), 4),
        "mean_error_of_the_mean_of_others": round(fmean(abs(t - m) for _, t, _, m in rows), 4),
        "interval_holds": f"{sum(x.low <= t <= x.high for _, t, x, _ in rows)} of {len(rows)}",
        "mean_width_of_interval": round(fmean(x.high - x.low for _, _, x, _ in rows), 3),
        "cases": [
            {"estimate": round(e, 4), "dice": round(t, 4), "expected": round(x.dice, 4)}
            for e, t, x, _ in rows
        ],
    }


if __name__ == "__main__":
    main()
