import numpy as np
import pytest

from brainsegfounder.errors import VolumeError
from brainsegfounder.volumes.intensity import clip_spikes, fingerprint, foreground, zscore_inside


def two_contrasts(draw_brain):
    return draw_brain(num_contrasts=2)[0].voxels


def test_inside_the_mean_is_0_and_the_deviation_1_and_outside_is_exactly_0(draw_brain):
    channels = two_contrasts(draw_brain)
    mask = (channels != 0).any(axis=0)
    result = zscore_inside(channels, mask)
    assert result.dtype == np.float32
    for channel in result:
        assert channel[mask].mean() == pytest.approx(0, abs=1e-5)
        assert channel[mask].std() == pytest.approx(1, abs=1e-5)
        assert not channel[~mask].any()


def test_each_contrast_has_its_own_scale(draw_brain):
    channels = two_contrasts(draw_brain)
    mask = (channels != 0).any(axis=0)
    scaled = zscore_inside(channels * np.array([1000, 0.001], np.float32).reshape(2, 1, 1, 1), mask)
    np.testing.assert_allclose(scaled, zscore_inside(channels, mask), atol=1e-4)


def test_negative_intensities_are_as_good_as_positive_ones(draw_brain):
    channels = two_contrasts(draw_brain)
    mask = (channels != 0).any(axis=0)
    shifted = zscore_inside(np.where(mask, channels - 500, 0), mask)
    np.testing.assert_allclose(shifted, zscore_inside(channels, mask), atol=1e-3)


def test_a_spike_does_not_set_the_scale(draw_brain):
    channels = two_contrasts(draw_brain)
    mask = (channels != 0).any(axis=0)
    clean = zscore_inside(channels, mask)
    spiked = channels.copy()
    spiked[0][tuple(np.argwhere(mask)[0])] = 1e9
    change = np.abs(zscore_inside(spiked, mask) - clean)
    assert np.percentile(change, 99.9) < 0.02
    assert np.abs(zscore_inside(spiked, mask)).max() < np.abs(clean).max() + 0.5


@pytest.mark.parametrize("spike", [5.0, 1e9])
def test_one_value_inside_the_brain_is_refused_even_with_a_spike(spike):
    channels = np.full((1, 20, 20, 20), 5.0, np.float32)
    channels[0, 3, 3, 3] = spike
    with pytest.raises(VolumeError, match=r"a\.nii: one contrast has a single value"):
        zscore_inside(channels, np.ones((20, 20, 20), bool), "a.nii")


def test_an_empty_mask_is_refused():
    with pytest.raises(VolumeError, match="single value"):
        zscore_inside(np.ones((1, 4, 4, 4), np.float32), np.zeros((4, 4, 4), bool))


def test_the_foreground_of_a_stripped_volume_is_all_that_is_not_0():
    channels = np.zeros((2, 10, 10, 10), np.float32)
    channels[0, 2:5, 2:5, 2:5] = 7
    channels[1, 4:8, 4:8, 4:8] = -3
    np.testing.assert_array_equal(foreground(channels), (channels != 0).any(axis=0))


def test_the_foreground_of_a_whole_head_is_one_filled_piece_without_the_air(draw_brain):
    image, _ = draw_brain(air=2.0)
    stripped, _ = draw_brain()
    head = stripped.voxels[0] != 0
    image.voxels[0, 13, 15, 11] = 0.5  # a hole within
    image.voxels[0, 0, 0, :2] = 90.0  # a bright speck in the air
    found = foreground(image.voxels)
    assert not found[0, 0, 0]
    assert found[13, 15, 11]
    overlap = 2 * (found & head).sum() / (found.sum() + head.sum())
    assert overlap > 0.98


@pytest.mark.parametrize("value", [0.0, 7.0, -2.0])
def test_a_volume_of_one_value_is_refused(value):
    with pytest.raises(VolumeError, match="every voxel has the same value"):
        foreground(np.full((1, 5, 5, 5), value, np.float32), "a.nii")


@pytest.mark.parametrize("level", [-1.0, 1e30])
def test_a_speck_on_a_constant_background_is_found_and_does_not_crash(level):
    channels = np.full((1, 20, 20, 20), level, np.float32)
    channels[0, 4, 5, 6] = level + abs(level)
    assert np.argwhere(foreground(channels)).tolist() == [[4, 5, 6]]


def test_a_scan_is_known_again_when_padded_or_cropped_but_not_when_changed():
    voxels = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    padded = np.pad(voxels, 3)
    assert fingerprint(padded) == fingerprint(voxels) == fingerprint(padded[2:-1])
    changed = voxels.copy()
    changed[3, 3, 3] += 1
    assert fingerprint(changed) != fingerprint(voxels)
    assert fingerprint(voxels[::-1]) != fingerprint(voxels)


def test_a_scan_without_spikes_comes_back_itself(draw_brain):
    channels = two_contrasts(draw_brain)
    mask = (channels != 0).any(axis=0)
    same, counts = clip_spikes(channels, mask)
    assert same is channels
    assert counts == (0, 0)


def test_bright_tissue_is_no_spike(draw_brain):
    channels = two_contrasts(draw_brain)
    mask = (channels != 0).any(axis=0)
    channels[0][tuple(np.argwhere(mask)[0])] = 5 * channels[0].max()
    assert clip_spikes(channels, mask)[0] is channels


@pytest.mark.parametrize("spike", [1e9, -1e9])
def test_spikes_are_counted_and_cut_to_the_brains_range_and_nothing_else_changes(draw_brain, spike):
    channels = two_contrasts(draw_brain)
    mask = (channels != 0).any(axis=0)
    spiked, place = channels.copy(), tuple(np.argwhere(mask)[7])
    spiked[1][place] = spiked[1, 0, 0, 0] = spike
    clipped, counts = clip_spikes(spiked, mask)
    assert counts == (0, 2)
    low, high = np.percentile(channels[1][mask], (0.1, 99.9))
    assert clipped[1][place] == pytest.approx(high if spike > 0 else low, rel=0.02)
    assert spiked[1][place] == np.float32(spike), "the input is not touched"
    clipped[1][place] = clipped[1, 0, 0, 0] = 0
    spiked[1][place] = spiked[1, 0, 0, 0] = 0
    np.testing.assert_array_equal(clipped, spiked)


def test_zeros_around_a_brain_far_above_0_are_no_spikes():
    channels = np.zeros((1, 12, 12, 12), np.float32)
    channels[0, 3:9, 3:9, 3:9] = np.random.default_rng(0).normal(1000, 1, (6, 6, 6))
    assert clip_spikes(channels, channels[0] != 0)[0] is channels
