"""How alike two scans look: copies after harm stay alike, other brains do not."""

import numpy as np
import pytest
from scipy import ndimage

from brainsegfounder.volumes.geometry import resample_to, spaced_grid
from brainsegfounder.volumes.likeness import (
    Look,
    aligned_likeness,
    look_at,
    rough_likeness,
    rough_spectra,
    shifted_likeness,
)
from brainsegfounder.volumes.phantom import draw_subject
from brainsegfounder.volumes.volume import Volume


def drawn(index: int) -> Volume:
    subject = draw_subject(index, seed=3, lesion="stroke", contrasts=["T1w"], spacing_mm=2.0)
    return subject.volumes["T1w"]


def with_voxels(volume: Volume, voxels: np.ndarray) -> Volume:
    return Volume(np.asarray(voxels, np.float32), volume.affine)


def noisy(volume):
    voxels, brain = volume.voxels, volume.voxels != 0
    noise = np.random.default_rng(0).normal(size=voxels.shape) * 0.1 * voxels[brain].mean()
    return with_voxels(volume, np.where(brain, voxels + noise, 0))


def biased(volume):
    i, j, k = np.meshgrid(*[np.linspace(-1, 1, n) for n in volume.shape_vox], indexing="ij")
    return with_voxels(volume, volume.voxels * np.exp(0.5 * i - 0.4 * k + 0.3 * j**2))


def resampled(volume):
    return resample_to(volume, spaced_grid(volume.grid, (1.3, 1.3, 3.0)))


def cropped(volume):
    return with_voxels(volume, volume.voxels[:, : int(volume.shape_vox[0] * 0.75)])


def rotated(volume):
    cos, sin = np.cos(np.radians(10)), np.sin(np.radians(10))
    turn = np.eye(4)
    turn[:2, :2] = [[cos, -sin], [sin, cos]]
    return resample_to(Volume(volume.voxels, turn @ volume.affine), volume.grid)


def stripped_closer(volume):
    brain = ndimage.binary_fill_holes(volume.voxels[0] != 0)
    return with_voxels(volume, volume.voxels * ndimage.binary_erosion(brain, iterations=2))


def rescaled(volume):
    return with_voxels(volume, 900 * (volume.voxels / volume.voxels.max()) ** 0.6)


def normalised(volume):
    brain = volume.voxels != 0
    inside = volume.voxels[brain]
    return with_voxels(volume, np.where(brain, (volume.voxels - inside.mean()) / inside.std(), 0))


HARMS = [noisy, biased, resampled, cropped, rotated, stripped_closer, rescaled, normalised]


@pytest.fixture(scope="module")
def volumes() -> list[Volume]:
    return [drawn(index) for index in range(5)]


@pytest.fixture(scope="module")
def looks(volumes) -> list[Look]:
    return [look_at(volume) for volume in volumes]


@pytest.mark.parametrize("harm", HARMS)
def test_L04_a_copy_after_harm_is_the_best_match_and_one_brain(volumes, looks, harm):
    number = HARMS.index(harm) % len(volumes)
    copy = look_at(harm(volumes[number]))
    rough = rough_likeness(rough_spectra([copy])[0], rough_spectra(looks))
    assert int(rough.argmax()) == number
    assert shifted_likeness(looks[number], copy) > 0.55
    assert aligned_likeness(looks[number], copy) > 0.85


def test_other_brains_are_no_copies(looks):
    found = [aligned_likeness(looks[0], other) for other in looks[1:]]
    assert max(found) < 0.75


def test_shifted_likeness_is_the_correlation_within_what_both_show(looks):
    one, other = looks[0], looks[1]
    best = -1.0
    for shift in np.ndindex(5, 5, 5):
        places = tuple(np.asarray(shift) - 2)
        inside = np.roll(other.inside, places, (0, 1, 2)) & one.inside
        texture = np.roll(other.texture, places, (0, 1, 2))
        best = max(best, float(np.corrcoef(one.texture[inside], texture[inside])[0, 1]))
    assert shifted_likeness(one, other) == pytest.approx(best, abs=1e-6)
