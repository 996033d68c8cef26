"""float16 against int16 with scales: disk, error and time to read, on cases that are given.

    python benchmarks/store_dtype.py CASES [CASES ...]

The first case of each input is prepared at its own contrasts and 1 mm, once for each format and
type. A reading is a patch of 96 x 96 x 96 voxels of all contrasts as float32, warm, one thread: the
mean over 12 places of the best of 3 readings. Errors are against the same case in float32.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from brainsegfounder.data.layouts import read_cases
from brainsegfounder.data.store import Store, StorePlan, open_store
from brainsegfounder.data.store_arrays import ArrayFormat, Dtype
from brainsegfounder.data.store_writer import finish_store, write_case
from brainsegfounder.settings import PreparationSettings
from brainsegfounder.volumes.preparation import Prepared, prepare_case

SETTINGS = PreparationSettings()
PATCH_VOX = 96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inputs", type=Path, nargs="+", help="folders of cases")
    torch.set_num_threads(1)
    for folder in parser.parse_args().inputs:
        case = read_cases([folder])[0]
        contrasts = tuple(case.contrasts)
        prepared = prepare_case(case.case, case.contrasts, contrasts, SETTINGS)
        print(f"{case.case}: {prepared.image.voxels.shape}")
        with tempfile.TemporaryDirectory() as room:
            for array_format, dtype in product(get_args(ArrayFormat), get_args(Dtype)):
                out = Path(room) / f"{array_format}-{dtype}"
                write_case(out, case, prepared, (), array_format=array_format, dtype=dtype)
                plan = StorePlan(contrasts, SETTINGS, array_format=array_format, dtype=dtype)
                finish_store(out, [case], plan)
                print(f"  {array_format:7} {dtype:8} {measured(open_store(out), prepared)}")


def measured(store: Store, prepared: Prepared) -> str:
    """Disk, largest and mean error inside the brain, and milliseconds a patch."""
    (case,) = store.cases
    num_bytes = sum(file.num_bytes for name, file in case.files.items() if ".image." in name)
    error = np.abs(store.prepared_image(case, store.contrasts).voxels - prepared.image.voxels)
    inside = error[prepared.image.voxels != 0]
    rng = np.random.default_rng(0)
    room = np.maximum(np.asarray(case.shape_vox) - PATCH_VOX, 0)
    starts = rng.integers(0, room + 1, (12, 3))
    times = [min(read_s(store, start) for _ in range(3)) for start in starts]
    return (
        f"{num_bytes / 1e6:6.2f} MB, off by {inside.max():.5f} at most and {inside.mean():.6f} in "
        f"the mean, {1e3 * statistics.mean(times):5.2f} ms a patch"
    )


def read_s(store: Store, start: np.ndarray) -> float:
    """Seconds to read one patch as float32, as the loader does."""
    spans = [slice(int(n), int(n) + PATCH_VOX) for n in start]
    began_s = time.perf_counter()
    voxels = np.asarray(store.image(store.cases[0])[(slice(None), *spans)])
    voxels = voxels if voxels.flags.writeable else np.array(voxels)
    torch.empty(voxels.shape).copy_(torch.from_numpy(voxels))
    return time.perf_counter() - began_s


if __name__ == "__main__":
    main()
