"""Our networks against MONAI's: time, peak memory and the largest difference, same weights.

    python benchmarks/model.py                  # on a CPU: the table of docs/concepts/speed.md
    python benchmarks/model.py --growth         # how the cost grows with volume and scale
    python benchmarks/model.py --device cuda    # on a GPU: bf16, three scales, 96 and 128 voxels

Every figure comes from a process of its own, so that its peak memory is its own; the processes of
the two sides take turns, and a ratio is that of their medians. Each result is kept as JSON in
`benchmarks/results`. `--keep-freed-memory` makes the C library of *both* sides keep what is freed
(glibc only), which shows how much of the time on this machine is the price of fresh memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
WORKER = Path(__file__).parent / "model_worker.py"
KEEP_FREED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}

CPU_ROWS = ("forward", "encoder", "training step", "encoder training")
SIDES = ("ours", "monai")
SCALES = ("tiny", "small", "big")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--keep-freed-memory", action="store_true")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side")
    parser.add_argument("--repeats", type=int, default=3, help="timings in each process")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    name = "growth" if arguments.growth else arguments.device
    suffix = "_keep_freed" if arguments.keep_freed_memory else ""
    out = arguments.out or RESULTS / f"model_{name}{suffix}.json"
    measure = {"growth": measure_growth, "cpu": measure_cpu, "cuda": measure_cuda}[name]
    record = {"machine": machine(), "settings": settings(arguments), "rows": []}

    def keep(row: dict[str, Any]) -> None:
        record["rows"].append(row)
        print(line_of(row), flush=True)
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n")

    measure(arguments, keep)
    print(f"kept in {out}")


def measure_cpu(arguments: argparse.Namespace, keep: Callable[[dict[str, Any]], None]) -> None:
    """The table of the documentation: `tiny`, 4 contrasts, 3 outputs, 96 voxels, float32."""
    keep({"what": "largest difference", **work(arguments, what="difference")})
    keep(start(arguments))
    for what in CPU_ROWS:
        keep(compare(arguments, what=what))


def measure_growth(arguments: argparse.Namespace, keep: Callable[[dict[str, Any]], None]) -> None:
    """Forward pass over sizes at `tiny`, then over scales at 96 voxels; MONAI where it fits."""
    for size in (64, 96, 128, 160, 192):
        sides = SIDES if size <= 128 else ("ours",)
        keep(compare(arguments, sides, what="forward", size=size))
    for scale in ("nano", "small", "big"):
        keep(compare(arguments, what="forward", scale=scale))
        keep(compare(arguments, what="training step", scale=scale))


def measure_cuda(arguments: argparse.Namespace, keep: Callable[[dict[str, Any]], None]) -> None:
    """bf16 against MONAI with autocast; also what activation checkpointing costs and saves."""
    keep({"what": "largest difference", **work(arguments, what="difference")})
    rate = work(arguments, what="matrix rate")
    keep({"what": "bf16 matrix rate", **rate})
    for scale in SCALES:
        for size in (96, 128):
            flop = work(arguments, side="monai", what="flop", scale=scale, size=size)["flop"]
            case = {"scale": scale, "size": size, "batch": 2}
            for what, passes in (("forward", 1), ("training step", 3)):
                row = compare(arguments, what=what, **case)
                for side in SIDES:
                    found = passes * 2 * flop / row[side]["median_s"]
                    row[side]["share_of_matrix_rate"] = found / rate["flop_per_s"]
                keep(row)
            checkpointed = work(arguments, what="training step", checkpointing=True, **case)
            keep({"what": "training step, checkpointing", **case, "ours": checkpointed})


def compare(
    arguments: argparse.Namespace, sides: tuple[str, ...] = SIDES, **case: Any
) -> dict[str, Any]:
    """Time each side in turn, in processes of their own."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(arguments.rounds):
        for side in sides:
            runs[side].append(work(arguments, side=side, **case))
    row = dict(case)
    for side, found in runs.items():
        seconds = [s for run in found for s in run["seconds"]]
        row[side] = {
            "median_s": statistics.median(seconds),
            "min_s": min(seconds),
            "max_s": max(seconds),
            "peak_gib": max(run["peak_gib"] for run in found),
        }
    if len(sides) == 2:
        row["times_faster"] = row["monai"]["median_s"] / row["ours"]["median_s"]
        row["share_of_peak_memory"] = row["ours"]["peak_gib"] / row["monai"]["peak_gib"]
    return row


def start(arguments: argparse.Namespace) -> dict[str, Any]:
    """From the start of a process until the first window enters a network of 62 M parameters."""
    folder = work(arguments, what="write model")["folder"]
    moments: dict[str, list[float]] = {"first window": [], "import torch": [], "import monai": []}
    for _ in range(2 * arguments.rounds):
        for what, seconds in moments.items():
            began = time.time()
            seconds.append(work(arguments, what=what, folder=folder)["at"] - began)
    found = {what: statistics.median(seconds) for what, seconds in moments.items()}
    beyond = found["first window"] - found["import torch"]
    return {"what": "start", "seconds": found, "beyond_import_of_torch_s": beyond}


def work(arguments: argparse.Namespace, **case: Any) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    case = {"device": arguments.device, "repeats": arguments.repeats, **case}
    environment = {**os.environ, **(KEEP_FREED if arguments.keep_freed_memory else {})}
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
    if "times_faster" not in row:
        return json.dumps({k: v for k, v in row.items() if k != "folder"})
    case = " ".join(str(row[key]) for key in ("scale", "size") if key in row)
    ours, monai = row["ours"], row["monai"]
    return (
        f"{row['what']:<17} {case:<10} ours {ours['median_s']:7.3f} s {ours['peak_gib']:6.2f} GiB  "
        f"MONAI {monai['median_s']:7.3f} s {monai['peak_gib']:6.2f} GiB  "
        f"{row['times_faster']:.2f} times faster, {row['share_of_peak_memory']:.2f} of the memory"
    )


def machine() -> dict[str, Any]:
    """What computes, without names of hosts or folders."""
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [row for row in cpuinfo.read_text().splitlines() if row.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else ""
    return {"cpu": model, "cores": os.cpu_count(), "system": platform.system()}


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was asked for."""
    kept = ("device", "rounds", "repeats", "keep_freed_memory")
    return {key: getattr(arguments, key) for key in kept}


if __name__ == "__main__":
    main()
