"""The store against the official chain, the loader against a training step, and what disk costs.

    python benchmarks/store.py                      # a drawn subject
    python benchmarks/store.py --scans T1 FLAIR     # a real one, laid on UK Biobank's grid

Both contrasts are laid on a grid of 182 x 218 x 182 voxels of 1 mm, as UK Biobank's are in MNI
space, head and all. Ratios are of medians taken in turns in one process; results are kept as JSON
in `benchmarks/results`.
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
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from brainsegfounder.data.loader import PatchDataset, PatchSampling, batches
from brainsegfounder.data.store import Store, open_store
from brainsegfounder.data.store_arrays import ArrayFormat
from brainsegfounder.recipes import load_recipe
from brainsegfounder.settings import AugmentSettings
from brainsegfounder.volumes.geometry import resample_to
from brainsegfounder.volumes.nifti import read_nifti
from brainsegfounder.volumes.phantom import draw_subject
from brainsegfounder.volumes.volume import Grid, Volume
from brainsegfounder.workflows.prepare import run_prepare

RESULTS = Path(__file__).parent / "results" / "store.json"
SHAPE_VOX = (182, 218, 182)
# MNI152 as FSL has it: left first, so that orienting to RAS is work.
AFFINE = np.array([[-1.0, 0, 0, 90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]])
CONTRASTS = ("T1w", "FLAIR")
PATCH_VOX = (96, 96, 96)
NUM_SUBJECTS = 6
STEP_S = 0.15
UKB_SUBJECTS = 41_400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=Path, nargs=2, help="a T1w and a FLAIR on one grid")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, Any] = {
        "machine": machine(),
        "subject": "real" if arguments.scans else "drawn",
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_scans(folder / "scans", arguments.scans)
        for array_format in ("blosc2", "npy"):
            record[array_format] = measure_format(folder, array_format)
            print(json.dumps(record[array_format], indent=1), flush=True)
        store = open_store(folder / "blosc2")
        record["patches"] = measure_patches(folder / "scans", store)
        record["patches_with_head"] = measure_with_head(folder / "head", arguments.scans)
        print(json.dumps([record["patches"], record["patches_with_head"]], indent=1), flush=True)
        record["loader"] = measure_loader(store)
        print(json.dumps(record["loader"], indent=1), flush=True)
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


# --- the scans


def write_scans(folder: Path, real: list[Path] | None, head: bool = False) -> None:
    """The same subject several times, a little noise apart, so that no two files are equal."""
    for name, volume in zip(CONTRASTS, real_scans(real) if real else drawn_scans(), strict=True):
        on_grid = resample_to(volume, Grid(SHAPE_VOX, AFFINE)).voxels[0]
        scaled = on_grid / on_grid.max() * 1000
        for number in range(NUM_SUBJECTS):
            noise = np.random.default_rng([number, len(name)]).normal(0, 3, SHAPE_VOX)
            voxels = np.where(on_grid > 0, scaled + noise, 0).clip(0)
            voxels = (with_head(voxels, number) if head else voxels).astype(np.int16)
            path = folder / f"s{number}" / f"s{number}_{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, AFFINE), path)


def with_head(voxels: np.ndarray, seed: int) -> np.ndarray:
    """Noise where there is no brain, as scans have that are not skull-stripped."""
    air = np.abs(np.random.default_rng([seed, 9]).normal(0, 15, voxels.shape))
    return np.where(voxels > 0, voxels, air)


def drawn_scans() -> list[Volume]:
    drawn = draw_subject(0, seed=0, lesion="none", contrasts=CONTRASTS, spacing_mm=1.0)
    return [drawn.volumes[name] for name in CONTRASTS]


def real_scans(paths: list[Path]) -> list[Volume]:
    """Moved so that their middle is MNI's, which is all that a benchmark needs."""
    volumes = [read_nifti(path) for path in paths]
    moved = []
    for volume in volumes:
        affine = volume.affine.copy()
        middle = affine @ [*(n / 2 for n in volume.shape_vox), 1]
        affine[:3, 3] += (AFFINE @ [*(n / 2 for n in SHAPE_VOX), 1] - middle)[:3]
        moved.append(Volume(volume.voxels, affine))
    return moved


# --- what is measured


def measure_format(folder: Path, array_format: ArrayFormat) -> dict[str, Any]:
    """Time and disk of preparing; extrapolated to UK Biobank."""
    recipe = load_recipe("paper-stage1", [f"data.contrasts=[{', '.join(CONTRASTS)}]"])
    rows = {}
    done = run_prepare([folder / "scans"], folder / array_format, recipe, array_format=array_format)
    rows[0] = done.seconds / len(done.cases)
    jobs = os.cpu_count() or 1
    rows[jobs] = seconds_of_verb(folder, array_format, jobs) / NUM_SUBJECTS
    began_s = time.perf_counter()
    run_prepare([folder / "scans"], folder / array_format, recipe, array_format=array_format)
    again_s = time.perf_counter() - began_s
    taken = sum(p.stat().st_size for p in (folder / array_format / "cases").iterdir())
    per_subject = taken / NUM_SUBJECTS
    fastest_s = min(rows.values())
    return {
        "seconds_a_subject": {f"{jobs} jobs": round(s, 2) for jobs, s in rows.items()},
        "same_command_again_ms_a_subject": round(again_s * 1000 / NUM_SUBJECTS, 2),
        "shape_vox": open_store(folder / array_format).cases[0].shape_vox,
        "megabytes_a_subject": round(per_subject / 1e6, 2),
        "nifti_megabytes_a_subject": round(nifti_bytes(folder / "scans") / NUM_SUBJECTS / 1e6, 2),
        "uk_biobank_terabytes": round(per_subject * UKB_SUBJECTS / 1e12, 3),
        "uk_biobank_hours_here": round(fastest_s * UKB_SUBJECTS / 3600, 1),
        "uk_biobank_hours_on_32_cores": round(rows[0] * UKB_SUBJECTS / 3600 / 32, 1),
    }


def seconds_of_verb(folder: Path, array_format: ArrayFormat, jobs: int) -> float:
    """The command itself, from its start to its end."""
    words = [sys.executable, "-m", "brainsegfounder", "prepare", str(folder / "scans")]
    words += ["--out", str(folder / f"{array_format}-{jobs}"), "--recipe", "paper-stage1"]
    began_s = time.perf_counter()
    subprocess.run(
        [*words, "--jobs", str(jobs), "--format", array_format], check=True, capture_output=True
    )
    return time.perf_counter() - began_s


def measure_patches(scans: Path, store: Store, rounds: int = 15) -> dict[str, Any]:
    """Patches of both contrasts: from the store, and as the official chain makes two of them."""
    sampling = PatchSampling(PATCH_VOX)
    dataset = PatchDataset(store, store.cases, CONTRASTS, sampling, seed=0)
    rng = np.random.default_rng(0)
    theirs, ours = [], []
    for number in range(rounds + 1):
        began_s = time.perf_counter()
        official_chain(scans / f"s{number % NUM_SUBJECTS}", rng)
        theirs.append((time.perf_counter() - began_s) / 2)
        began_s = time.perf_counter()
        for sample in range(20):
            dataset[number * 20 + sample]
        ours.append((time.perf_counter() - began_s) / 20)
    chain_s, store_s = statistics.median(theirs[1:]), statistics.median(ours[1:])
    return {
        "official_chain_patches_a_second": round(1 / chain_s, 2),
        "official_chain_seconds_a_subject": round(2 * chain_s, 3),
        "store_patches_a_second": round(1 / store_s, 1),
        "ratio": round(chain_s / store_s, 1),
    }


def measure_with_head(folder: Path, real: list[Path] | None) -> dict[str, Any]:
    """The same for scans that are not skull-stripped, whose files are larger."""
    write_scans(folder / "scans", real, head=True)
    recipe = load_recipe("paper-stage1")
    run_prepare([folder / "scans"], folder / "store", recipe)
    store = open_store(folder / "store")
    taken = sum(p.stat().st_size for p in (folder / "store" / "cases").iterdir()) / NUM_SUBJECTS
    return measure_patches(folder / "scans", store) | {
        "shape_vox": store.cases[0].shape_vox,
        "megabytes_a_subject": round(taken / 1e6, 2),
        "nifti_megabytes_a_subject": round(nifti_bytes(folder / "scans") / NUM_SUBJECTS / 1e6, 2),
        "uk_biobank_terabytes": round(taken * UKB_SUBJECTS / 1e12, 3),
    }


def official_chain(folder: Path, rng: np.random.Generator) -> list[np.ndarray]:
    """Load two files, orient, scale to 0..1, crop two patches: what one subject costs a step."""
    channels = []
    for name in CONTRASTS:
        image = nib.as_closest_canonical(nib.load(folder / f"{folder.name}_{name}.nii.gz"))
        voxels = image.get_fdata()
        low, high = voxels.min(), voxels.max()
        channels.append((voxels - low) / (high - low))
    joined = np.stack(channels).astype(np.float32)
    crops = []
    for _ in range(2):
        i, j, k = (rng.integers(0, n - m + 1) for n, m in zip(SHAPE_VOX, PATCH_VOX, strict=True))
        crops.append(np.ascontiguousarray(joined[:, i : i + 96, j : j + 96, k : k + 96]))
    return crops


def measure_loader(store: Store, num_batches: int = 60, warm: int = 5) -> dict[str, Any]:
    """How long a step that sleeps waits for its batch."""
    sampling = PatchSampling(PATCH_VOX, crops_per_case=2, augment=AugmentSettings(noise=0.1))
    dataset = PatchDataset(store, store.cases, CONTRASTS, sampling, seed=0)
    waited = []
    loader = batches(dataset, first_batch=0, num_batches=num_batches, batch_size=2, num_workers=2)
    while True:
        began_s = time.perf_counter()
        batch = next(loader, None)
        if batch is None:
            break
        waited.append(time.perf_counter() - began_s)
        assert batch.image.shape == (4, 2, *PATCH_VOX)
        time.sleep(STEP_S)
    share = sum(waited[warm:]) / (sum(waited[warm:]) + STEP_S * len(waited[warm:]))
    return {
        "workers": 2,
        "step_s": STEP_S,
        "batches": len(waited) - warm,
        "first_batch_s": round(waited[0], 2),
        "wait_median_ms": round(1000 * statistics.median(waited[warm:]), 2),
        "wait_longest_ms": round(1000 * max(waited[warm:]), 1),
        "share_of_time_waited": round(share, 4),
    }


def nifti_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.nii.gz"))


def machine() -> dict[str, Any]:
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
