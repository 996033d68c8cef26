"""Prediction against MONAI's: from files to a label file, and the same windows; same weights.

    python benchmarks/prediction.py CASE_FOLDER --model MODEL    # a BraTS case, a model of its data

`CASE_FOLDER` is a case as BraTS distributes it (`*_t1.nii.gz`, …, `*_seg.nii.gz`). MONAI's side is
its `SwinUNETR` with our weights and its `sliding_window_inference` with the model's window, overlap
and blending; its pipeline reads, turns, resamples and standardises with MONAI's transforms, and
carries probabilities back with them. Libraries are imported before the clock starts, on both sides.

Every figure comes from a process of its own, so that its peak memory is its own; the processes of
the sides take turns, and a ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
WORKER = Path(__file__).parent / "prediction_worker.py"
SIDES = ("ours", "monai")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="trained; its labels count")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", default="windows,whole,tiny windows,tiny whole")
    parser.add_argument("--out", type=Path, default=RESULTS / "prediction.json")
    arguments = parser.parse_args()
    record: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "rows": [],
    }
    for what in arguments.rows.split(","):
        row = compare(arguments, what.strip())
        record["rows"].append(row)
        print(line_of(row), flush=True)
        arguments.out.parent.mkdir(exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"kept in {arguments.out}")


def compare(arguments: argparse.Namespace, what: str) -> dict[str, Any]:
    """One row: both sides in turn, and how far their labels agree."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(arguments.rounds):
        for side in SIDES:
            runs[side].append(work(arguments, side, what))
    row: dict[str, Any] = {"what": what}
    for side, found in runs.items():
        row[side] = {
            "seconds": [round(run["seconds"], 2) for run in found],
            "median_s": statistics.median(run["seconds"] for run in found),
            "peak_gib": max(run["peak_gib"] for run in found),
            "before_gib": max(run["before_gib"] for run in found),
            **{key: found[-1][key] for key in ("windows", "parts_s", "dice") if key in found[-1]},
        }
    row["times_faster"] = row["monai"]["median_s"] / row["ours"]["median_s"]
    row["share_of_peak_memory"] = row["ours"]["peak_gib"] / row["monai"]["peak_gib"]
    row["agreement"] = agreement(*(runs[side][-1]["labels"] for side in SIDES))
    return row


def agreement(one: str, other: str) -> dict[str, float]:
    """Dice of each label value between the two sides, and the share of voxels that are equal."""
    import numpy as np

    ours, monai = np.load(one), np.load(other)
    values = sorted({*np.unique(ours).tolist(), *np.unique(monai).tolist()} - {0})
    dice = {
        str(value): 2 * float(((ours == value) & (monai == value)).sum())
        / max(1.0, float((ours == value).sum() + (monai == value).sum()))
        for value in values
    }  # fmt: skip
    return {**dice, "equal": float((ours == monai).mean())}


def work(arguments: argparse.Namespace, side: str, what: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    case = {
        "case": str(arguments.case),
        "model": str(arguments.model),
        "side": side,
        "what": what,
        "threads": arguments.threads,
    }
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    done = subprocess.run(
        [sys.executable, str(WORKER), json.dumps(case)],
        stdout=subprocess.PIPE,
        env=environment,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def line_of(row: dict[str, Any]) -> str:
    """One row for people."""
    ours, monai = row["ours"], row["monai"]
    return (
        f"{row['what']:<13} ours {ours['median_s']:6.2f} s {ours['peak_gib']:5.2f} GiB  "
        f"MONAI {monai['median_s']:6.2f} s {monai['peak_gib']:5.2f} GiB  "
        f"{row['times_faster']:.2f} times faster, {row['share_of_peak_memory']:.2f} of the memory; "
        f"agreement {row['agreement']}; Dice {ours.get('dice')} and {monai.get('dice')}"
    )


if __name__ == "__main__":
    main()
