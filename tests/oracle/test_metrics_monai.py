"""Dice and HD95 against MONAI, and the unrounded distances against scipy."""

import warnings

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import directed_hausdorff

from brainsegfounder.evaluation.metrics import dice, hd95_mm

SPACINGS_MM = [(1.0, 1.0, 1.0), (0.5, 0.5, 5.0), (3.0, 1.0, 0.8), (0.9375, 0.9375, 1.2)]


def blob(rng, shape, radius):
    centre = rng.uniform(0.2, 0.8, 3) * shape
    grid = np.indices(shape).reshape(3, -1).T - centre
    return ((grid / rng.uniform(0.5, 1.5, 3)) ** 2).sum(axis=1).reshape(shape) < radius**2


def smooth_noise(rng, shape, sigma_vox, share):
    field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma_vox)
    return field > np.quantile(field, 1 - share)


def touching_border(rng, shape):
    mask = np.zeros(shape, bool)
    mask[:, : rng.integers(1, 5), -rng.integers(1, 6) :] = True
    return mask


def single_voxel(rng, shape):
    mask = np.zeros(shape, bool)
    mask[tuple(rng.integers(0, n) for n in shape)] = True
    return mask


def hollow(rng, shape):
    solid = blob(rng, shape, 7)
    return solid & ~ndimage.binary_erosion(solid, iterations=2)


def whole(rng, shape):
    return np.ones(shape, bool)


def blob_and_outlier(rng, shape):
    mask = blob(rng, shape, 6)
    mask[-1, -1, -1] = True
    return mask


def noise(rng, shape):
    return rng.random(shape) < 0.3


def coarse(rng, shape):
    return smooth_noise(rng, shape, 2.5, 0.15)


def round_blob(rng, shape):
    return blob(rng, shape, 6)


PAIRS = [
    (round_blob, round_blob),
    (coarse, coarse),
    (touching_border, round_blob),
    (touching_border, touching_border),
    (single_voxel, round_blob),
    (single_voxel, single_voxel),
    (hollow, round_blob),
    (whole, coarse),
    (blob_and_outlier, round_blob),
    (noise, coarse),
]
CASES = [
    pytest.param(number, make, spacing, id=f"{make[0].__name__}-{make[1].__name__}-{spacing}")
    for number, (make, spacing) in enumerate(
        (make, spacing) for make in PAIRS for spacing in SPACINGS_MM
    )
]


def made(number, make):
    rng = np.random.default_rng(number)
    shape = tuple(rng.integers(14, 30, 3))
    return make[0](rng, shape), make[1](rng, shape)


@pytest.fixture(scope="module")
def monai_metrics():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("monai.metrics", reason="MONAI is not installed")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("number", "make", "spacing_mm"), CASES)
def test_distance_is_the_one_monai_gives(monai_metrics, number, make, spacing_mm):
    prediction, reference = made(number, make)
    expected = monai_metrics.compute_hausdorff_distance(
        prediction[None, None].astype(np.float32),
        reference[None, None].astype(np.float32),
        include_background=True,
        percentile=95,
        spacing=spacing_mm,
    )
    ours = hd95_mm(prediction, reference, spacing_mm, 1e6)
    # MONAI takes the percentile in float32, where the rank itself is rounded.
    assert ours == pytest.approx(float(expected), rel=1e-5, abs=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("number", "make", "spacing_mm"), CASES[::4])
def test_dice_is_the_one_monai_gives(monai_metrics, number, make, spacing_mm):
    torch = pytest.importorskip("torch")
    prediction, reference = made(number, make)
    expected = monai_metrics.compute_dice(
        torch.from_numpy(prediction[None, None].astype(np.float32)),
        torch.from_numpy(reference[None, None].astype(np.float32)),
        include_background=True,
        ignore_empty=False,
    )
    assert dice(prediction, reference) == pytest.approx(float(expected), abs=1e-7)


@pytest.mark.parametrize(("number", "make", "spacing_mm"), CASES)
def test_distance_is_a_95_percentile_of_the_distances_scipy_measures(number, make, spacing_mm):
    prediction, reference = made(number, make)
    points_mm = [
        np.argwhere(mask & ~ndimage.binary_erosion(mask)) * np.asarray(spacing_mm)
        for mask in (prediction, reference)
    ]
    largest_mm = max(
        directed_hausdorff(points_mm[0], points_mm[1])[0],
        directed_hausdorff(points_mm[1], points_mm[0])[0],
    )
    by_transform = [
        np.percentile(
            ndimage.distance_transform_edt(
                ~(other & ~ndimage.binary_erosion(other)), sampling=spacing_mm
            )[one & ~ndimage.binary_erosion(one)],
            95,
        )
        for one, other in [(prediction, reference), (reference, prediction)]
    ]
    ours = hd95_mm(prediction, reference, spacing_mm, 1e6)
    assert ours <= largest_mm + 1e-9
    assert ours == pytest.approx(max(by_transform), abs=1e-9)
