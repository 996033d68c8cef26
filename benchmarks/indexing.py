"""How long it takes to know what is in a BIDS folder: ours, bids2table and pybids.

    python benchmarks/indexing.py                                  # 40,000 subjects, T1w + FLAIR
    python benchmarks/indexing.py --pybids-python .venv/bin/python # pybids from its own environment

The tree is of empty files, in a temporary folder that is removed. Each figure comes from a process
of its own; the sides take turns, so that all find the names in the kernel's cache alike. `wall_s`
is the call that indexes, `cpu_s` the processor time within it, imports aside; each side must find
all subjects and all scans. Results are kept in `benchmarks/results/indexing.json`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "indexing.json"
CONTRASTS = ("T1w", "FLAIR")
MEASURE = """
import json, sys, time
{setup}
began_s, cpu_s = time.perf_counter(), time.process_time()
{work}
print(json.dumps(dict(wall_s=time.perf_counter() - began_s, cpu_s=time.process_time() - cpu_s,
                      subjects=subjects, scans=scans, version=version)))
"""
SIDES = {
    "ours": (
        "from pathlib import Path\nfrom brainsegfounder import __version__ as version\n"
        "from brainsegfounder.data.layouts import find_cases",
        "cases = find_cases([Path(sys.argv[1])]).cases\n"
        "subjects = len({case.subject for case in cases})\n"
        "scans = sum(len(case.contrasts) for case in cases)",
    ),
    "bids2table": (
        "import logging; logging.disable(logging.CRITICAL)\n"
        "import bids2table, importlib.metadata\n"
        "version = importlib.metadata.version('bids2table')",
        "table = bids2table.index_dataset(sys.argv[1])\n"
        "subjects = len(set(table.column('sub').to_pylist()))\nscans = table.num_rows",
    ),
    "pybids": (
        "import bids\nversion = bids.__version__",
        "layout = bids.BIDSLayout(sys.argv[1], validate={validate})\n"
        "subjects = len(layout.get_subjects())\n"
        "scans = len(layout.get(extension='.nii.gz', return_type='filename'))",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pybids-python", help="interpreter of an environment with pybids")
    parser.add_argument("--pybids-subjects", type=int, help="pybids on a smaller tree, if given")
    parser.add_argument("--limit-s", type=float, default=1800)
    options = parser.parse_args()
    rows = _measured(options)
    record = {
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.system(),
            "python": sys.version.split()[0],
        },
        "settings": {
            "subjects": options.subjects,
            "scans": options.subjects * len(CONTRASTS),
            "rounds": options.rounds,
            "bids2table": importlib.metadata.version("bids2table"),
        },
        "rows": rows,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        times = f"{row['wall_s']:8.2f} s  {row['cpu_s']:8.2f} s CPU"
        print(f"{row['side']:12s} {row['subjects']:6d} subjects  {times}")


def _measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each side; ours again on the smaller tree, where pybids has one."""
    small = options.pybids_subjects
    rows = []
    with tempfile.TemporaryDirectory(prefix="indexing-") as scratch:
        tree = make_tree(Path(scratch) / "all", options.subjects)
        runs: dict[str, list[dict[str, Any]]] = {"ours": [], "bids2table": []}
        for _ in range(options.rounds):
            for side, done in runs.items():
                done.append(run(sys.executable, side, tree, options.limit_s))
        rows += [_row(side, done, options.subjects) for side, done in runs.items()]
        if options.pybids_python:
            tree = make_tree(Path(scratch) / "some", small) if small else tree
            if small:
                again = [run(sys.executable, side, tree, options.limit_s) for side in runs]
                rows += [_row(s, [r], small) for s, r in zip(runs, again, strict=True)]
            rows.append(_pybids(options, tree, small or options.subjects))
    return rows


def _pybids(options: argparse.Namespace, tree: Path, num_subjects: int) -> dict[str, Any]:
    """Once only, as it takes its time; a limit that was reached is a result too."""
    try:
        once = run(options.pybids_python, "pybids", tree, options.limit_s)
    except subprocess.TimeoutExpired:
        return {
            "side": "pybids", "version": "", "subjects": num_subjects,
            "wall_s": options.limit_s, "cpu_s": options.limit_s, "runs": [], "stopped": True,
        }  # fmt: skip
    return _row("pybids", [once], num_subjects)


def make_tree(folder: Path, num_subjects: int) -> Path:
    """`sub-00001/anat/sub-00001_{T1w,FLAIR}.nii.gz`, all empty."""
    folder.mkdir()
    description = {"Name": "empty", "BIDSVersion": "1.9.0", "License": "CC0"}
    (folder / "dataset_description.json").write_text(json.dumps(description), encoding="utf-8")
    for number in range(num_subjects):
        anat = folder / f"sub-{number:05d}" / "anat"
        anat.mkdir(parents=True)
        for contrast in CONTRASTS:
            (anat / f"sub-{number:05d}_{contrast}.nii.gz").touch()
    return folder


def run(python: str, side: str, tree: Path, limit_s: float) -> dict[str, Any]:
    """One measurement in a process of its own."""
    setup, work = SIDES[side]
    code = MEASURE.format(setup=setup, work=work.replace("{validate}", "False"))
    done = subprocess.run(
        [python, "-c", code, str(tree)],
        capture_output=True, text=True, check=True, timeout=limit_s, cwd=tempfile.gettempdir(),
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def _row(side: str, runs: list[dict[str, Any]], num_subjects: int) -> dict[str, Any]:
    found = {(r["subjects"], r["scans"]) for r in runs}
    if found != {(num_subjects, num_subjects * len(CONTRASTS))}:
        raise SystemExit(f"{side} found {found} instead of {num_subjects} subjects")
    return {
        "side": side,
        "version": runs[0]["version"],
        "subjects": num_subjects,
        "wall_s": round(statistics.median(r["wall_s"] for r in runs), 3),
        "cpu_s": round(statistics.median(r["cpu_s"] for r in runs), 3),
        "runs": [round(r["wall_s"], 3) for r in runs],
        "at": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
