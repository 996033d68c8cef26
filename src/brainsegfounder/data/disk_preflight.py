"""Does a store fit on the disk? Asked of the headers, before hours are spent."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import nibabel as nib
import numpy as np

from brainsegfounder.data.manifest import Case
from brainsegfounder.data.store import StorePlan
from brainsegfounder.data.store_arrays import disk_bytes
from brainsegfounder.errors import RunError

SAMPLE = 64
PLAUSIBLE_MM = (30.0, 600.0)
# Record, sampled foreground and heads of the arrays of a case.
SMALL_FILES_BYTES = 60_000


def check_disk(out: Path, cases: Sequence[Case], plan: StorePlan) -> None:
    """Refuse a store that will not fit.

    Args:
        out: Its folder, which need not exist.
        cases: What is still to be prepared.
        plan: What the store is for.

    Raises:
        RunError: With what is needed and what is free.
    """
    needed, free = expected_bytes(cases, plan), free_bytes(out)
    if needed > free:
        raise RunError(
            f"{out}: about {_gigabytes(needed)} needed for {len(cases)} cases, "
            f"{_gigabytes(free)} free; nothing was prepared. Free space there, choose another "
            "--out, or a wider spacing."
        )


def expected_bytes(cases: Sequence[Case], plan: StorePlan) -> int:
    """About how much disk some cases will take, from the headers of up to 64 of them.

    Headers that cannot be read or are not believable count like the mean of the others; without
    any, the answer is 0.
    """
    step = max(1, math.ceil(len(cases) / SAMPLE))
    sizes = [size for case in cases[::step] if (size := _case_bytes(case, plan)) is not None]
    return math.ceil(fmean(sizes) * len(cases)) if sizes else 0


def free_bytes(path: Path) -> int:
    """Free space where a folder is or will be made."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def _case_bytes(case: Case, plan: StorePlan) -> int | None:
    path = next((case.contrasts[name] for name in plan.contrasts if name in case.contrasts), None)
    if path is None or not path.is_file():
        return None
    try:
        image: Any = nib.load(path)
        shape_vox = np.asarray(image.shape[:3], dtype=np.float64)
        spacing_mm = np.asarray(image.header.get_zooms()[:3], dtype=np.float64)
    # What is wrong with this file is told when its turn comes; here it is only not counted.
    except Exception:
        return None
    extent_mm = shape_vox * spacing_mm
    low, high = PLAUSIBLE_MM
    if len(extent_mm) < 3 or not ((extent_mm >= low) & (extent_mm <= high)).all():
        return None
    prepared = extent_mm / (plan.preparation.spacing_mm or spacing_mm)
    if plan.preparation.resize_vox is not None:
        prepared = np.asarray(plan.preparation.resize_vox)
    num_arrays = len(plan.contrasts)
    if plan.array_format == "npy" and case.label is not None and plan.labels != ():
        num_arrays += 2  # compressed, masks take next to nothing
    num_voxels = int(prepared.prod()) * num_arrays
    return disk_bytes(num_voxels, plan.array_format) + SMALL_FILES_BYTES


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB"
