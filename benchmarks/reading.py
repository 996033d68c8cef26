"""Time to read a scan, checked as `read_nifti` does, against nibabel, which checks less.

    python benchmarks/reading.py --out benchmarks/results/reading.json [--scan FILE ...]

Each round reads the same file once with either reader, in turn, so both see the same machine.
nibabel gives float32 by `load(...).get_fdata(dtype=float32)`, which reads no checksum to its end.
The made file is of BraTS size: 240 x 240 x 155, int16, a smooth ball in zeros.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from brainsegfounder.volumes.nifti import read_nifti
from brainsegfounder.volumes.quality import inspect

SHAPE_VOX = (240, 240, 155)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scan", type=Path, nargs="*", default=[], help="real scans beside it")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "made, compressed": write_made(Path(folder) / "made.nii.gz"),
            "made, plain": write_made(Path(folder) / "made.nii"),
        }
        # Names of scans are not kept.
        files |= {f"real {n}, compressed": path for n, path in enumerate(arguments.scan, 1)}
        rows = {name: compare(path, arguments.rounds) for name, path in files.items()}
    record = {
        "rounds": arguments.rounds,
        "python": platform.python_version(),
        "nibabel": nib.__version__,
        "numpy": np.__version__,
        "limit_ratio": 1.5,
        "files": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


def write_made(path: Path) -> Path:
    """A brain-like ball of smoothed noise in zeros, as int16."""
    noise = np.random.default_rng(0).normal(0, 1, SHAPE_VOX).astype(np.float32)
    axes = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in SHAPE_VOX], indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.6
    tissue = 400 + 1500 * ndimage.gaussian_filter(noise, 2.0) + 10 * noise
    voxels = np.where(inside, tissue, 0).astype(np.int16)
    nib.Nifti1Image(voxels, np.diag([-1.0, -1.0, 1.0, 1.0])).to_filename(path)
    return path


def compare(path: Path, rounds: int) -> dict[str, float]:
    """Median times of both, and the median of the ratios of each round."""
    readers: dict[str, Callable[[], object]] = {
        "ours": lambda: read_nifti(path),
        "nibabel": lambda: nib.load(path).get_fdata(dtype=np.float32),
    }
    ours, theirs = read_nifti(path).voxels[0], readers["nibabel"]()
    np.testing.assert_array_equal(ours, theirs)
    times: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(rounds):
        for name in sorted(readers, reverse=bool(number % 2)):
            times[name].append(seconds(readers[name]))
    ratios = [a / b for a, b in zip(times["ours"], times["nibabel"], strict=True)]
    volume = read_nifti(path)
    return {
        "megabytes": round(path.stat().st_size / 1e6, 2),
        "ours_s": round(statistics.median(times["ours"]), 4),
        "nibabel_s": round(statistics.median(times["nibabel"]), 4),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_worst": round(max(ratios), 3),
        "inspect_s": round(
            statistics.median(seconds(lambda: inspect(volume)) for _ in range(5)), 4
        ),
    }


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
