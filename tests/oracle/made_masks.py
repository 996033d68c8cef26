"""Pairs of masks drawn from a number: random ones, and those on which metrics go wrong.

Needs numpy and scipy only, so that the environments of other people's tools can draw them too.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

SPACINGS_MM = [(1.0, 1.0, 1.0), (0.9375, 0.9375, 1.2), (3.0, 1.0, 0.8), (0.5, 0.5, 5.0)]


def _blob(rng, shape, radius=None):
    centre = rng.uniform(0.15, 0.85, 3) * shape
    grid = np.indices(shape).reshape(3, -1).T - centre
    radius = rng.uniform(1.5, 7.0) if radius is None else radius
    return ((grid / rng.uniform(0.6, 1.4, 3)) ** 2).sum(axis=1).reshape(shape) < radius**2


def _blobs(rng, shape, most=8):
    mask = np.zeros(shape, bool)
    for _ in range(rng.integers(1, most + 1)):
        mask |= _blob(rng, shape)
    return mask


def _field(rng, shape, share=None):
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), rng.uniform(0.8, 2.5))
    return smooth > np.quantile(smooth, 1 - (rng.uniform(0.02, 0.3) if share is None else share))


def _noise(rng, shape):
    return rng.random(shape) < rng.uniform(0.002, 0.3)


def _empty(rng, shape):
    return np.zeros(shape, bool)


def _whole(rng, shape):
    return np.ones(shape, bool)


def _one_voxel(rng, shape):
    mask = np.zeros(shape, bool)
    mask[tuple(rng.integers(0, n) for n in shape)] = True
    return mask


def _border(rng, shape):
    mask = np.zeros(shape, bool)
    mask[: rng.integers(1, 4), :, -rng.integers(1, 4) :] = True
    mask[:, 0, 0] = True
    return mask


def _box(rng, shape):
    mask = np.zeros(shape, bool)
    starts = [rng.integers(0, n - 3) for n in shape]
    mask[tuple(slice(a, a + rng.integers(1, 9)) for a in starts)] = True
    return mask


def _hollow(rng, shape):
    solid = _blob(rng, shape, 7)
    return solid & ~ndimage.binary_erosion(solid, iterations=2)


def _by_corners(rng, shape):
    """A staircase of voxels that touch by their corners only."""
    mask = np.zeros(shape, bool)
    steps = np.arange(min(shape))[rng.integers(0, 3) :: rng.integers(1, 3)]
    mask[steps, steps, steps] = True
    return mask


def _lattice(rng, shape):
    """Single voxels at one distance: many lesions, or one after dilation."""
    mask = np.zeros(shape, bool)
    step = rng.integers(2, 6)
    mask[::step, ::step, ::step] = True
    return mask


def _moved(rng, mask):
    shifted = np.roll(mask, rng.integers(-2, 3, 3), axis=(0, 1, 2))
    return shifted & (rng.random(mask.shape) < 0.9)


def _grown(rng, mask):
    return ndimage.binary_dilation(mask, iterations=int(rng.integers(1, 3)))


def _with_outlier(rng, mask):
    found = mask.copy()
    found[-1, -1, -1] = True
    return found


def _part(rng, mask):
    """Some of the lesions only."""
    labels, number = ndimage.label(mask, np.ones((3, 3, 3)))
    keep = rng.random(number + 1) < 0.6
    keep[0] = False
    return keep[labels]


SHAPES = [
    _blobs, _field, _noise, _empty, _whole, _one_voxel, _border, _box, _hollow, _by_corners,
    _lattice,
]  # fmt: skip
CHANGES = [_moved, _grown, _with_outlier, _part]
MANY = 97  # every pair of this number has 1,000 lesions


def made_pair(number: int):
    """Prediction, reference and spacing of a number; the same number gives the same masks."""
    rng = np.random.default_rng(number)
    spacing_mm = SPACINGS_MM[number % len(SPACINGS_MM)]
    if number % MANY == MANY - 1:
        reference = np.zeros((50, 50, 50), bool)
        for i, k in np.ndindex(2, 2):
            reference[1 + i :: 5, 1::5, 1 + k :: 5] = True
        return _moved(rng, reference), reference, spacing_mm
    shape = tuple(int(n) for n in rng.integers(8, 34, 3))
    reference = SHAPES[rng.integers(len(SHAPES))](rng, shape)
    if rng.random() < 0.55:
        prediction = CHANGES[rng.integers(len(CHANGES))](rng, reference)
    else:
        prediction = SHAPES[rng.integers(len(SHAPES))](rng, shape)
    return prediction, reference, spacing_mm


def made_probabilities(number: int):
    """Probabilities around the prediction of a number, with exact zeros and ones among them."""
    prediction, _, _ = made_pair(number)
    rng = np.random.default_rng(number + 10_000)
    smooth = ndimage.gaussian_filter(prediction.astype(float), rng.uniform(0.3, 2.0))
    return np.clip(smooth + 0.1 * rng.standard_normal(prediction.shape), 0, 1).astype(np.float32)


def voxels_of(mask) -> list[int]:
    """Enough to notice that another version of numpy draws other masks."""
    places = np.flatnonzero(mask)
    return [len(places), int(places.sum())]
