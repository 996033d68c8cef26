import numpy as np
import pytest

from brainsegfounder.volumes.bias import correct_bias
from brainsegfounder.volumes.geometry import resample_to, spaced_grid


@pytest.fixture(scope="module")
def corrected(subject):
    """A coarse T1w under a field that doubles from left to right, and clean; brain, field, both."""
    fine = subject.volumes["T1w"]
    t1w = resample_to(fine, spaced_grid(fine.grid, (12.0, 12.0, 12.0)))
    brain = t1w.voxels[0] > 0
    right = np.linspace(-0.5, 0.5, brain.shape[0], dtype=np.float32)[:, None, None]
    field = np.exp(0.7 * right)
    channels = np.concatenate([t1w.voxels * field, t1w.voxels])
    return channels, brain, np.broadcast_to(field, brain.shape), t1w.spacing_mm


@pytest.fixture(scope="module")
def result(corrected):
    channels, brain, _, spacing_mm = corrected
    return correct_bias(channels, brain, spacing_mm, "case")


def test_a_smooth_field_is_taken_out(corrected, result):
    _, brain, field, _ = corrected
    left_over = np.log(result[0][0][brain] / result[0][1][brain])
    assert left_over.std() < 0.2 * np.log(field[brain]).std()


def test_the_mean_in_the_brain_stays(corrected, result):
    channels, brain, _, _ = corrected
    assert result[0].dtype == np.float32
    assert result[1] == ()
    np.testing.assert_allclose(result[0][:, brain].mean(1), channels[:, brain].mean(1), rtol=1e-4)


def test_the_same_scan_gives_the_same_correction_to_the_last_bit(corrected, result):
    channels, brain, _, spacing_mm = corrected
    again, _ = correct_bias(channels[1:], brain, spacing_mm, "case")
    np.testing.assert_array_equal(again[0], result[0][1])


def test_a_contrast_below_0_is_left_alone_with_a_warning(corrected):
    channels, brain, _, spacing_mm = corrected
    below = channels[1:] - np.median(channels[1][brain])
    same, findings = correct_bias(below, brain, spacing_mm, "case7")
    np.testing.assert_array_equal(same, below)
    assert [(f.code, f.file, f.kind) for f in findings] == [("bias_left", "case7", "warning")]
