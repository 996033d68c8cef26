"""A whole step of pretraining against the official network and step: time, peak memory, losses.

    python benchmarks/pretraining.py                 # on a CPU: the table of docs/concepts/speed.md
    python benchmarks/pretraining.py --device cuda   # on a GPU: bf16, three scales

A step makes two views of each crop, passes them through the network, and goes back from the three
losses to new weights (AdamW). Every figure comes from a process of its own, so that its peak memory
is its own. The processes of the two sides take turns; a ratio is taken within each turn, and the
median, least and largest of them are kept. On a CPU the seconds of the processor are kept beside
those of the clock, since other work on the machine prolongs the latter alone. What the two sides
are is in `pretraining_worker.py`; `--keep-freed-memory` is explained in `model.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model import KEEP_FREED, RESULTS, SCALES, machine

WORKER = Path(__file__).parent / "pretraining_worker.py"
SIDES = ("ours", "official")
TIMES = ("seconds", "cpu_seconds")
# Equal losses from equal weights and views, in float32.
LARGEST_GAP = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--keep-freed-memory", action="store_true")
    parser.add_argument("--rounds", type=int, default=3, help="turns of both sides")
    parser.add_argument("--repeats", type=int, default=2, help="timed steps in each process")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    suffix = "_keep_freed" if arguments.keep_freed_memory else ""
    out = arguments.out or RESULTS / f"pretraining_{arguments.device}{suffix}.json"
    kept = ("device", "rounds", "repeats", "keep_freed_memory")
    settings = {key: getattr(arguments, key) for key in kept}
    record: dict[str, Any] = {"machine": machine(), "settings": settings, "rows": []}

    def keep(row: dict[str, Any]) -> None:
        record["rows"].append(row)
        print(line_of(row), flush=True)
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n")

    measure_cuda(arguments, keep) if arguments.device == "cuda" else measure_cpu(arguments, keep)
    print(f"kept in {out}")


def measure_cpu(arguments: argparse.Namespace, keep: Callable[[dict[str, Any]], None]) -> None:
    """`tiny`, 96 voxels, float32: one and two crops, one and two contrasts."""
    for contrasts in (1, 2):
        keep(check_losses(arguments, crops=2, contrasts=contrasts))
    for crops in (1, 2):
        for contrasts in (1, 2):
            keep(compare(arguments, crops=crops, contrasts=contrasts))


def measure_cuda(arguments: argparse.Namespace, keep: Callable[[dict[str, Any]], None]) -> None:
    """bf16, 96 voxels, two contrasts: three scales, and the paper's share of a GPU."""
    keep(check_losses(arguments, crops=2, contrasts=2))
    for scale in SCALES:
        for crops in (2, 4):
            for checkpointing in (False, True):
                case = {"scale": scale, "crops": crops, "contrasts": 2}
                keep(compare(arguments, checkpointing=checkpointing, **case))


def check_losses(arguments: argparse.Namespace, **case: Any) -> dict[str, Any]:
    """Refuse to compare speeds of what does not compute the same."""
    found = work(arguments, what="losses", **case)
    if found["largest_gap"] > LARGEST_GAP:
        sys.exit(f"losses differ by {found['largest_gap']}; expected at most {LARGEST_GAP}")
    return {"what": "losses", **case, **found}


def compare(arguments: argparse.Namespace, **case: Any) -> dict[str, Any]:
    """Time each side in turn, in processes of their own."""
    rounds = [
        {side: work(arguments, what="step", side=side, **case) for side in SIDES}
        for _ in range(arguments.rounds)
    ]
    row: dict[str, Any] = {"what": "step", **case}
    for side in SIDES:
        runs = [turn[side] for turn in rounds]
        row[side] = {
            **{key: spread([s for run in runs for s in run[key]]) for key in TIMES},
            "peak_gib": max(run["peak_gib"] for run in runs),
            "imported_gib": max(run["imported_gib"] for run in runs),
            "threads": runs[0]["threads"],
        }
    for key in TIMES:
        row[f"times_faster_{key}"] = spread([times_faster(turn, key) for turn in rounds])
    row["share_of_peak_memory"] = row["ours"]["peak_gib"] / row["official"]["peak_gib"]
    return row


def times_faster(turn: dict[str, Any], key: str) -> float:
    """Of one turn; both sides had the same neighbours, more or less."""
    ours, official = (statistics.median(turn[side][key]) for side in SIDES)
    return official / ours


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def work(arguments: argparse.Namespace, **case: Any) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    case = {"device": arguments.device, "repeats": arguments.repeats, **case}
    done = subprocess.run(
        [sys.executable, str(WORKER), json.dumps(case)],
        stdout=subprocess.PIPE,
        env={**os.environ, **(KEEP_FREED if arguments.keep_freed_memory else {})},
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def line_of(row: dict[str, Any]) -> str:
    """One row for people."""
    case = f"crops {row['crops']}, contrasts {row['contrasts']}, {row.get('scale', 'tiny')}"
    if row["what"] == "losses":
        return f"{case}: largest difference of a loss {row['largest_gap']:.1e}"
    ours, official = row["ours"], row["official"]
    if row.get("checkpointing"):
        case += ", checkpointing"
    return (
        f"{case}: ours {ours['seconds']['median']:.2f} s {ours['peak_gib']:.2f} GiB, "
        f"official {official['seconds']['median']:.2f} s {official['peak_gib']:.2f} GiB; "
        f"{row['times_faster_seconds']['median']:.2f} times faster "
        f"({row['times_faster_cpu_seconds']['median']:.2f} in seconds of the processor), "
        f"{row['share_of_peak_memory']:.2f} of the memory"
    )


if __name__ == "__main__":
    main()
