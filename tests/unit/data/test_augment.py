import numpy as np
import pytest

from brainsegfounder.data.augment import augment
from brainsegfounder.settings import AugmentSettings

QUIET = {"scale_intensity": 0.0, "shift_intensity": 0.0, "noise": 0.0}


@pytest.fixture
def patch(draw_brain):
    image, labels = draw_brain(num_contrasts=2)
    return image.voxels / 100, labels.voxels


def run(patch, seed=0, **settings):
    image, labels = patch
    rng = np.random.default_rng(seed)
    return augment(image, labels, AugmentSettings(**settings), rng)


def test_the_mask_follows_every_flip(patch):
    image, labels = patch
    seen = set()
    for seed in range(30):
        new_image, new_labels = run(patch, seed, flip=0.5, **QUIET)
        axes = [
            axes
            for axes in [(), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)]
            if np.array_equal(new_image, np.flip(image, axes))
        ]
        assert len(axes) == 1, "nothing but a flip, and the brain tells its sides apart"
        np.testing.assert_array_equal(new_labels, np.flip(labels, axes[0]))
        seen.add(axes[0])
    assert len(seen) == 8


def test_the_background_stays_exactly_0_under_every_change(patch):
    for seed in range(10):
        image, _ = run(patch, seed, flip=0.0, scale_intensity=0.5, shift_intensity=0.5, noise=1.0)
        np.testing.assert_array_equal(image == 0, patch[0] == 0)
        assert image.dtype == np.float32


def test_intensities_change_within_their_bounds_and_by_contrast(patch):
    image, _ = patch
    brain = image[0] != 0
    for seed in range(10):
        new, _ = run(patch, seed, flip=0.0, scale_intensity=0.1, shift_intensity=0.2, noise=0.0)
        factors = []
        for old_channel, new_channel in zip(image, new, strict=True):
            slope, shift = np.polyfit(old_channel[brain], new_channel[brain], 1)
            assert abs(slope - 1) <= 0.1001
            assert abs(shift) <= 0.2001
            factors.append(slope)
        assert factors[0] != pytest.approx(factors[1], abs=1e-6)


def test_noise_comes_in_about_a_fifth_of_the_patches(patch):
    quiet = {**QUIET, "noise": 0.3, "flip": 0.0}
    noisy = sum(not np.array_equal(run(patch, seed, **quiet)[0], patch[0]) for seed in range(200))
    assert 20 <= noisy <= 60


def test_the_inputs_stay_as_they_were(patch):
    image, labels = patch[0].copy(), patch[1].copy()
    run(patch, flip=1.0, noise=1.0)
    np.testing.assert_array_equal(patch[0], image)
    np.testing.assert_array_equal(patch[1], labels)


def test_the_same_generator_gives_the_same_patch(patch):
    for one, other in zip(run(patch, 3, noise=1.0), run(patch, 3, noise=1.0), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_patch_without_a_mask_has_none_after(patch):
    image, labels = augment(patch[0], None, AugmentSettings(), np.random.default_rng(0))
    assert labels is None
    assert image.shape == patch[0].shape
