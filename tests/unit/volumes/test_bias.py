import numpy as np
import pytest

from brainsegfounder.volumes.bias import correct_bias


@pytest.fixture(scope="module")
def corrected():
    """A ball of two tissues under a field that doubles from left to right, and without it."""
    rng = np.random.default_rng(0)
    axes = np.linspace(-1, 1, 18)
    right, front, top = np.meshgrid(axes, axes, axes, indexing="ij")
    brain = right**2 + front**2 + top**2 < 0.9
    tissue = np.where(brain, rng.choice([80.0, 120.0], brain.shape), 0)
    clean = (tissue + brain * rng.normal(0, 2, brain.shape)).astype(np.float32)
    field = np.exp(0.35 * right).astype(np.float32)
    return np.stack([clean * field, clean]), brain, field, (8.0, 8.0, 8.0)


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


def test_a_stripped_contrast_that_is_0_at_the_rim_of_the_brain_is_corrected(corrected):
    channels, brain, field, spacing_mm = corrected
    rim = brain & (np.hypot.reduce(np.indices(brain.shape) - 8.5) > 7.3)
    assert 0.1 < rim.sum() / brain.sum() < 0.4
    trimmed = np.where(rim, 0, channels)
    result, findings = correct_bias(trimmed, brain, spacing_mm, "case")
    assert findings == ()
    assert not result[:, rim].any()
    inside = brain & ~rim
    left_over = np.log(result[0][inside] / result[1][inside])
    assert left_over.std() < 0.3 * np.log(field[inside]).std()


def test_a_contrast_that_is_hardly_there_is_left_alone_with_a_warning(corrected):
    channels, brain, _, spacing_mm = corrected
    few = channels[1:] * (np.arange(18) < 6)
    same, findings = correct_bias(few, brain, spacing_mm, "case7")
    np.testing.assert_array_equal(same, few)
    assert [finding.code for finding in findings] == ["bias_left"]
    assert "below 0 in 0% of the brain and above in" in findings[0].message
