"""How often intervals of a mean difference hold the truth, by number of pairs and kind of interval.

    python benchmarks/interval_coverage.py --repeats 2000

Differences are drawn from three populations whose mean is known: normal; skewed, as of a
distance with outliers; and mostly zero, as of empty regions. For each number of pairs the share
of repeats is written in which the interval holds the true mean (0.95 is what is promised), for
Student's t and for BCa bootstrap intervals. `statistics.LEAST_FOR_BOOTSTRAP` rests on it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from brainsegfounder.evaluation import statistics
from brainsegfounder.evaluation.statistics import Interval, bca_interval, student_interval

Draw = Callable[[np.random.Generator, int], np.ndarray]
POPULATIONS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda random, num: random.normal(0.0, 1.0, num), 0.0),
    "skewed (log-normal)": (lambda random, num: random.lognormal(0.0, 0.75, num), np.exp(0.28125)),
    "70 % zeros": (
        lambda random, num: np.where(random.random(num) < 0.7, 0.0, random.normal(1.0, 1.0, num)),
        0.3,
    ),
}
NUMS = (5, 8, 12, 20, 30, 50, 100, 250)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=1999)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    statistics.NUM_RESAMPLES = arguments.resamples
    began_s = time.monotonic()
    rows = [row for name in POPULATIONS for row in coverage(name, arguments.repeats)]
    record = {
        "repeats": arguments.repeats,
        "resamples": arguments.resamples,
        "level": 0.95,
        "seconds": round(time.monotonic() - began_s, 1),
        "rows": rows,
    }
    path = arguments.out / "interval_coverage.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(table(rows))


def coverage(name: str, repeats: int) -> list[dict[str, float | str]]:
    """Coverage and mean width for every number of pairs of one population."""
    draw, truth = POPULATIONS[name]
    rows: list[dict[str, float | str]] = []
    for num in NUMS:
        random = np.random.default_rng([num, len(name)])
        found: dict[str, list[Interval]] = {"student_t": [], "bca": []}
        for _ in range(repeats):
            values = draw(random, num)
            student = student_interval(values)
            found["student_t"].append(student)
            # What is reported where the bootstrap's interval is not defined.
            found["bca"].append(bca_interval(values, random) or student)
        row: dict[str, float | str] = {"population": name, "pairs": num}
        for kind, intervals in found.items():
            held = [one.low <= truth <= one.high for one in intervals]
            row[f"{kind}_coverage"] = round(float(np.mean(held)), 4)
            row[f"{kind}_width"] = round(float(np.mean([o.high - o.low for o in intervals])), 4)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def table(rows: list[dict[str, float | str]]) -> str:
    lines = ["| differences | pairs | Student's t | BCa |", "|---|---:|---:|---:|"]
    lines += [
        f"| {row['population']} | {row['pairs']} | {row['student_t_coverage']:.3f} | "
        f"{row['bca_coverage']:.3f} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
