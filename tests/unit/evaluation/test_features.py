import numpy as np
import pytest

from brainsegfounder.evaluation.features import effective_rank, largest_rank


def test_the_rank_of_equal_spread_over_some_directions_is_their_number():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(48, 7)))[0]
    shifted = basis - basis.mean(axis=0)
    directions = np.linalg.svd(shifted, full_matrices=False)[0][:, :6]
    features = directions
    assert effective_rank(features) == pytest.approx(6.0, abs=1e-6)


def test_what_all_images_share_is_no_direction():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(40, 12))
    assert effective_rank(features + 100.0) == pytest.approx(effective_rank(features), abs=1e-6)


def test_collapse_shows_as_a_rank_near_one_and_as_zero_where_only_rounding_is_left():
    rng = np.random.default_rng(2)
    line = np.outer(rng.normal(size=64), rng.normal(size=192))
    assert effective_rank(line + 1e-3 * rng.normal(size=line.shape)) < 2.0
    same = np.repeat(rng.normal(size=(1, 192)), 64, axis=0).astype(np.float32)
    rounded = np.nextafter(same, np.where(rng.random(same.shape) < 0.5, np.inf, -np.inf))
    assert effective_rank(rounded.astype(np.float64)) == 0.0


def test_noise_in_all_directions_comes_near_the_largest_rank():
    features = np.random.default_rng(3).normal(size=(30, 500))
    assert largest_rank(*features.shape) == 29
    assert 27.0 < effective_rank(features) <= 29.0


@pytest.mark.parametrize("features", [np.ones((1, 4)), np.full((5, 4), np.nan)])
def test_what_has_no_rank_is_zero(features):
    assert effective_rank(features) == 0.0
