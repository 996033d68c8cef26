"""How a prepared scan looks, in a few numbers: for telling a scan that is unlike those trained on.

All numbers are of standardised intensities inside the brain, so a scanner's scale does not matter.
How bright the brain is at several depths tells the contrasts apart: white matter lies deep, grey
matter and fluid near the surface.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainsegfounder.volumes.volume import Volume

LEVELS = (5, 25, 50, 75, 95)
# Shells below the brain's surface, in mm; the last one reaches the centre.
SHELLS_MM = (0.0, 3.0, 6.0, 12.0, 20.0, 1000.0)
# Finer voxels than these are passed over.
LOOK_MM = 2.0
# Fewer voxels than this have no quantiles worth the name.
FEWEST_VOX = 50

Features = dict[str, float]


def appearance(image: Volume, contrasts: Sequence[str]) -> dict[str, Features]:
    """Numbers that describe each contrast of a prepared image, and the brain itself.

    Args:
        image: Standardised intensities in RAS, 0 outside the brain, shape (C, I, J, K).
        contrasts: Names of the channels.

    Returns:
        Under each contrast's name its features, and under `brain` volume, extents in mm and the
        correlation of each pair of contrasts. Where too little brain is left, nothing.
    """
    steps = [max(1, int(LOOK_MM / mm + 0.01)) for mm in image.spacing_mm]
    i, j, k = (slice(None, None, step) for step in steps)
    spacing_mm = np.multiply(image.spacing_mm, steps)
    inside = np.asarray(image.voxels[:, i, j, k].any(axis=0))
    if np.count_nonzero(inside) < FEWEST_VOX:
        return {}
    depths_mm = _depths(inside, spacing_mm)[inside]
    values = {
        name: channel[i, j, k][inside].astype(np.float64)
        for name, channel in zip(contrasts, image.voxels, strict=True)
    }
    found = {name: _of_contrast(channel, depths_mm) for name, channel in values.items()}
    return {**found, "brain": {**_of_brain(inside, spacing_mm), **_likeness(values)}}


def _of_contrast(values: NDArray[np.float64], depths_mm: NDArray[np.float64]) -> Features:
    quantiles = np.percentile(values, LEVELS)
    found = {f"quantile {level}": float(q) for level, q in zip(LEVELS, quantiles, strict=True)}
    for low_mm, high_mm in pairwise(SHELLS_MM):
        shell = values[(depths_mm > low_mm) & (depths_mm <= high_mm)]
        place = f"beyond {low_mm:g} mm" if high_mm > 100 else f"{low_mm:g} to {high_mm:g} mm"
        found[f"brightness {place} deep"] = float(np.median(shell)) if shell.size else 0.0
    return found


def _of_brain(inside: NDArray[np.bool_], spacing_mm: NDArray[np.float64]) -> Features:
    found = {"volume in mL": float(inside.sum() * np.prod(spacing_mm) / 1000)}
    for axis, name in enumerate(("width", "length", "height")):
        hits = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        found[f"{name} in mm"] = float((hits[-1] - hits[0] + 1) * spacing_mm[axis])
    return found


def _likeness(values: dict[str, NDArray[np.float64]]) -> Features:
    """Correlation of the intensities of each pair of contrasts; 0 where one is empty."""
    found = {}
    for one, other in combinations(values, 2):
        spread = values[one].std() * values[other].std()
        products = (values[one] - values[one].mean()) * (values[other] - values[other].mean())
        found[f"{one} with {other}"] = float(products.mean() / spread) if spread > 0 else 0.0
    return found


def _depths(inside: NDArray[np.bool_], spacing_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance to the nearest voxel that is not brain, in mm; what is around counts as none."""
    padded = np.pad(inside, 1)
    depths: NDArray[np.float64] = ndimage.distance_transform_edt(padded, sampling=spacing_mm)
    return depths[1:-1, 1:-1, 1:-1]
