"""How long BraTS 2023's lesion-wise metrics take: ours, and cc3d with surface-distance.

    python benchmarks/evaluation.py --theirs theirs/bin/python          # a drawn case
    python benchmarks/evaluation.py --theirs theirs/bin/python --prediction P --reference R

`theirs` is an environment with surface-distance and connected-components-3d (see
tests/oracle/reference_numbers.py, whose straightforward composition is what is timed). Both sides
score WT, TC and ET of one 240x240x155 case, one thread, in processes of their own that take turns;
reading files and imports are not counted. Ours computes every column of metrics.csv in that time,
theirs the numbers of BraTS 2023 only. `wall_s` suffers from what else the machine does, `cpu_s`
hardly. Then `evaluate` runs over copies of the case, for the speed
of several processes and the peak of their memory. Kept in `benchmarks/results/evaluation.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from brainsegfounder.volumes.nifti import read_labels, write_nifti
from brainsegfounder.volumes.volume import Volume

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "evaluation.json"
ORACLE = HERE.parent / "tests" / "oracle"
SHAPE_VOX = (240, 240, 155)
NUMBERS = ("dice", "hd95_mm", "whole_dice", "whole_hd95_mm", "sensitivity", "specificity")
COUNTS = ("num_found", "num_missed", "num_false")
OURS = """
import json, sys, time
import numpy as np
from brainsegfounder.evaluation.conventions import convention
from brainsegfounder.evaluation.metrics import score_case
from brainsegfounder.volumes.volume import Volume
data = np.load(sys.argv[1])
prediction, reference = (Volume(data[name][None], np.eye(4)) for name in ("p", "r"))
rules = convention("brats-2023")
began_s, cpu_s = time.perf_counter(), time.process_time()
scores = score_case("case", prediction, reference, rules.regions, convention=rules)
wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
values = {one.region: one.row() for one in scores}
print(json.dumps(dict(wall_s=wall_s, cpu_s=cpu_s, values=values)))
"""
THEIRS = """
import json, sys, time
sys.path.insert(0, sys.argv[2])
import numpy as np
import cc3d, surface_distance
from reference_numbers import (
    by_definition_of_brats_2021, by_definition_of_brats_2023, by_surface_distance)
data = np.load(sys.argv[1])
regions = dict(WT=(1, 2, 3, 4), TC=(1, 3, 4), ET=(3, 4))
values = {}
began_s, cpu_s = time.perf_counter(), time.process_time()
for region, labels in regions.items():
    p, r = (np.isin(data[name], labels) for name in ("p", "r"))
    found = by_definition_of_brats_2023(p, r, (1.0, 1.0, 1.0), 3, 50.0)
    measured = surface_distance.compute_surface_distances(r, p, (1.0, 1.0, 1.0))
    both = int((p & r).sum())
    num_p, num_r = int(p.sum()), int(r.sum())
    values[region] = dict(
        dice=found["dice"], hd95_mm=found["hd95_mm"], num_found=found["tp"],
        num_missed=found["fn"], num_false=found["fp"], whole_dice=2 * both / (num_p + num_r),
        whole_hd95_mm=float(surface_distance.compute_robust_hausdorff(measured, 95)),
        sensitivity=both / num_r,
        specificity=(p.size - num_p - num_r + both) / (p.size - num_r))
wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
print(json.dumps(dict(wall_s=wall_s, cpu_s=cpu_s, values=values)))
"""
FOLDERS = """
import json, resource, sys, time
from pathlib import Path
from brainsegfounder.evaluation.conventions import convention
from brainsegfounder.workflows.evaluate import run_evaluate
def main():
    root, out, jobs = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    began_s = time.perf_counter()
    run_evaluate(root / "p", root / "r", out, rules=convention("brats-2023"), jobs=jobs)
    peaks = [resource.getrusage(who).ru_maxrss / 2**20
             for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps(dict(wall_s=time.perf_counter() - began_s, peak_gib=max(peaks))))
if __name__ == "__main__":
    main()
"""


def drawn_case(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A tumour with three satellites, and a prediction that is off, misses one and invents two."""
    rng = np.random.default_rng(seed)
    places = [(95, 120, 80, 24), (150, 100, 70, 9), (130, 160, 95, 6), (100, 70, 60, 5)]
    reference = _tumours(rng, places)
    predicted = [(97, 119, 81, 23), (151, 101, 70, 9), (131, 159, 95, 7)]
    prediction = _tumours(rng, [*predicted, (160, 150, 50, 3), (80, 170, 100, 4)])
    return prediction, reference


def _tumours(rng: np.random.Generator, places: list[tuple[int, int, int, int]]) -> np.ndarray:
    rough = 3.0 * ndimage.gaussian_filter(rng.standard_normal(SHAPE_VOX), 2.5) * 10
    grid = np.ogrid[tuple(slice(n) for n in SHAPE_VOX)]
    labels = np.zeros(SHAPE_VOX, np.int16)
    for *centre, radius in places:
        away = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True))) + rough
        for share, label in ((1.0, 2), (0.65, 4), (0.35, 1)):
            labels[away < share * radius] = label
    return labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--theirs", required=True, help="interpreter of their environment")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prediction", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--copies", type=int, default=16)
    options = parser.parse_args()
    if options.prediction and options.reference:
        files = (options.prediction, options.reference)
        prediction, reference = (read_labels(file).voxels[0] for file in files)
    else:
        prediction, reference = drawn_case()
    with tempfile.TemporaryDirectory(prefix="evaluation-") as scratch:
        sides = _measured(Path(scratch), prediction, reference, options)
        folders = _folders(Path(scratch), prediction, reference, options.copies)
    record = {
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.system(),
            "python": sys.version.split()[0],
        },
        "settings": {
            "shape_vox": list(reference.shape),
            "case": "given" if options.prediction else "drawn, seed 0",
            "rounds": options.rounds,
        },
        **sides,
        "folders": folders,
    }
    if not options.prediction:
        RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))


def _measured(scratch: Path, p: Any, r: Any, options: argparse.Namespace) -> dict[str, Any]:
    np.savez(scratch / "case.npz", p=p, r=r)
    commands = {
        "ours": [sys.executable, "-c", OURS],
        "theirs": [options.theirs, "-W", "ignore", "-c", THEIRS],
    }
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in commands}
    for _ in range(options.rounds):
        for side, command in commands.items():
            runs[side].append(_run([*command, str(scratch / "case.npz"), str(ORACLE)]))
    kinds = ("wall_s", "cpu_s")
    ours, theirs = (runs[side][0]["values"] for side in commands)
    apart = {
        region: max(abs(ours[region][name] - theirs[region][name]) for name in (*NUMBERS, *COUNTS))
        for region in theirs
    }
    pairs = list(zip(runs["ours"], runs["theirs"], strict=True))
    ratios = {kind: [b[kind] / a[kind] for a, b in pairs] for kind in kinds}
    return {
        "seconds": {
            side: {kind: spread([run[kind] for run in done]) for kind in kinds}
            for side, done in runs.items()
        },
        "times_faster": {kind: spread(found) for kind, found in ratios.items()},
        "largest_disagreement": apart,
        "values": {
            region: {name: ours[region][name] for name in (*NUMBERS, *COUNTS)} for region in theirs
        },
    }


def spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _folders(scratch: Path, p: Any, r: Any, copies: int) -> list[dict[str, Any]]:
    rows = []
    for number in (copies // 4, copies):
        root = scratch / f"{number}"
        for side, labels in (("p", p), ("r", r)):
            for case in range(number):
                volume = Volume(labels[None], np.eye(4))
                write_nifti(root / side / f"case{case:03d}_seg.nii.gz", volume)
        script = scratch / "folders.py"
        script.write_text(FOLDERS, encoding="utf-8")
        for jobs in (0, 2):
            words = [str(root), str(scratch / f"out{number}-{jobs}"), str(jobs)]
            rows.append(
                {"cases": number, "jobs": jobs, **_run([sys.executable, str(script), *words])}
            )
    return rows


def _run(command: list[str]) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
