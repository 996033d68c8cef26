"""Are planted leaks found, and nothing else? On made subjects, as many as asked for.

    python benchmarks/audit.py --subjects 1000 --planted 60 --jobs 2

Drawn brains of different anatomy make two parts; copies of some are planted in the other part, each
after one of ten kinds of harm. Counts what `data.overlaps.find_overlaps` reports: planted pairs
found, planted pairs missed, and pairs that nobody planted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage

from brainsegfounder.data.identity import Aliases
from brainsegfounder.data.overlaps import Kind, Scan, find_overlaps
from brainsegfounder.volumes.geometry import resample_to, spaced_grid, to_ras
from brainsegfounder.volumes.intensity import fingerprint
from brainsegfounder.volumes.likeness import look_at
from brainsegfounder.volumes.phantom import draw_subject
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.worker_pool import work_in_processes

SEED = 2406


def drawn(index: int) -> Volume:
    subject = draw_subject(index, seed=SEED, lesion="stroke", contrasts=["T1w"], spacing_mm=2.0)
    return subject.volumes["T1w"]


def changed(volume: Volume, voxels: np.ndarray) -> Volume:
    return Volume(np.asarray(voxels, np.float32), volume.affine)


def same(volume: Volume) -> Volume:
    return volume


def turned(volume: Volume) -> Volume:
    """The same voxels with other axes."""
    flip = np.diag([-1.0, 1.0, -1.0, 1.0])
    flip[:3, 3] = [volume.shape_vox[0] - 1, 0, volume.shape_vox[2] - 1]
    return Volume(volume.voxels[:, ::-1, :, ::-1].copy(), volume.affine @ flip)


def padded(volume: Volume) -> Volume:
    widths = [(0, 0), (6, 3), (0, 9), (4, 4)]
    affine = volume.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.array([6.0, 0.0, 4.0])
    return Volume(np.pad(volume.voxels, widths), affine)


def noisy(volume: Volume) -> Volume:
    brain = volume.voxels != 0
    noise = np.random.default_rng(0).normal(size=brain.shape) * 0.1 * volume.voxels[brain].mean()
    return changed(volume, np.where(brain, volume.voxels + noise, 0))


def biased(volume: Volume) -> Volume:
    i, j, k = np.meshgrid(*[np.linspace(-1, 1, n) for n in volume.shape_vox], indexing="ij")
    return changed(volume, volume.voxels * np.exp(0.5 * i - 0.4 * k + 0.3 * j**2))


def resampled(volume: Volume) -> Volume:
    return resample_to(volume, spaced_grid(volume.grid, (1.0, 1.0, 3.0)))


def cropped(volume: Volume) -> Volume:
    return changed(volume, volume.voxels[:, : int(volume.shape_vox[0] * 0.75)])


def stripped(volume: Volume) -> Volume:
    brain = ndimage.binary_fill_holes(volume.voxels[0] != 0)
    return changed(volume, volume.voxels * ndimage.binary_erosion(brain, iterations=2))


def rotated(volume: Volume) -> Volume:
    cos, sin = np.cos(np.radians(9)), np.sin(np.radians(9))
    turn = np.eye(4)
    turn[:2, :2] = [[cos, -sin], [sin, cos]]
    return resample_to(Volume(volume.voxels, turn @ volume.affine), volume.grid)


def rescaled(volume: Volume) -> Volume:
    return changed(volume, 900 * (volume.voxels / volume.voxels.max()) ** 0.6)


HARMS: tuple[Callable[[Volume], Volume], ...] = (
    same, turned, padded, noisy, biased, resampled, cropped, stripped, rotated, rescaled,
)  # fmt: skip


def look(item: tuple[int, int]) -> Scan:
    """One scan: of which subject, and after which harm (-1: none, a subject of the first part)."""
    index, harm = item
    volume = drawn(index) if harm < 0 else HARMS[harm](drawn(index))
    mark = fingerprint(to_ras(volume).voxels[0])
    part, name = ("first", f"made-{index}") if harm < 0 else ("second", f"copy-{index}")
    return Scan(part, name, name, "", "T1w", frozenset({mark}), look_at(volume))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=1000)
    parser.add_argument("--planted", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/audit.json"))
    given = parser.parse_args()
    step = max(1, given.subjects // given.planted)
    planted = {step * n: n % len(HARMS) for n in range(given.planted)}
    items = [(n, -1) for n in range(given.subjects)] + list(planted.items())
    began_s = time.monotonic()
    scans: dict[int, Scan] = {}
    for number, answer in work_in_processes(look, items, given.jobs):
        if not isinstance(answer, Scan):
            raise RuntimeError(str(answer))
        scans[number] = answer
    looked_s = time.monotonic() - began_s
    overlaps = find_overlaps([scans[n] for n in sorted(scans)], Aliases())
    compared_s = time.monotonic() - began_s - looked_s
    told = {frozenset({o.one.case, o.other.case}): o for o in overlaps}
    wanted = {frozenset({f"made-{n}", f"copy-{n}"}): HARMS[harm] for n, harm in planted.items()}
    found = {pair for pair in wanted if pair in told and told[pair].is_leak}
    unwanted = [overlap for pair, overlap in told.items() if pair not in wanted]
    likeness = [o.likeness for p, o in told.items() if p in found and o.likeness is not None]
    result = {
        "subjects": given.subjects,
        "planted": len(wanted),
        "found": len(found),
        "found_by_harm": dict(Counter(wanted[pair].__name__ for pair in found)),
        "false_leaks": sum(o.is_leak or o.is_hidden for o in unwanted),
        "false_doubts": sum(o.kind is Kind.LOOKS_ALIKE for o in unwanted),
        "highest_likeness_of_a_false_doubt": max(
            (o.likeness for o in unwanted if o.likeness is not None), default=None
        ),
        "lowest_likeness_of_a_found_copy": min(likeness, default=None),
        "looking_s": round(looked_s, 1),
        "comparing_s": round(compared_s, 1),
        "jobs": given.jobs,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
