import numpy as np
import pytest
import torch

from brainsegfounder.inference.sliding_window import (
    LOWEST_WEIGHT,
    plan_windows,
    slide,
    window_starts,
    window_weight,
)


def run(network, image, window=(8, 8, 8), overlap=0.5, blending="gaussian", batch_size=3):
    return slide(
        network, image, window=window, overlap=overlap, blending=blending, batch_size=batch_size
    )


def noise(*shape):
    return torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype("f4"))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("size", [5, 8, 9, 15, 16, 17, 41, 100])
def test_windows_cover_the_axis_and_share_at_least_the_overlap(size, overlap):
    starts = window_starts(size, 8, overlap)
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    if size <= 8:
        assert starts == [0]
        return
    assert starts[-1] + 8 == size
    steps = np.diff(starts)
    assert (8 - steps >= int(8 * overlap)).all()
    assert steps.max() - steps.min() <= 1, "evenly spaced"


def test_windows_without_overlap_tile_a_multiple_exactly():
    assert window_starts(32, 8, 0.0) == [0, 8, 16, 24]


def test_the_gaussian_weight_is_highest_in_the_middle_symmetric_and_never_0():
    weight = window_weight((9, 9, 7), "gaussian")
    assert weight.shape == (9, 9, 7)
    assert weight[4, 4, 3] == weight.max() == 1
    assert weight.min() == LOWEST_WEIGHT
    for axis in range(3):
        assert torch.equal(weight, weight.flip(axis))
    assert torch.equal(window_weight((3, 4, 5), "constant"), torch.ones(3, 4, 5))


@pytest.mark.parametrize("blending", ["gaussian", "constant"])
@pytest.mark.parametrize("shape", [(13, 17, 21), (3, 20, 8), (5, 5, 5), (8, 8, 8)])
def test_a_network_that_changes_nothing_returns_the_image(blending, shape):
    image = noise(2, *shape)
    result = run(lambda windows: windows, image, blending=blending)
    assert result.shape == image.shape
    torch.testing.assert_close(result, image, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("blending", ["gaussian", "constant"])
def test_a_constant_network_gives_a_constant(blending):
    result = run(
        lambda windows: torch.full((len(windows), 3, 8, 8, 8), 2.5),
        noise(1, 11, 19, 23),
        blending=blending,
    )
    assert result.shape == (3, 11, 19, 23)
    torch.testing.assert_close(result, torch.full_like(result, 2.5))


def test_the_number_of_windows_at_once_does_not_change_the_result():
    image, seen = noise(1, 13, 17, 11), []

    def network(windows):
        seen.append(len(windows))
        return windows.cumsum(dim=-1)

    one = run(network, image, batch_size=1)
    many = run(network, image, batch_size=5)
    torch.testing.assert_close(one, many)
    assert max(seen) == 5


def test_the_middle_of_a_window_outweighs_its_border():
    def network(windows):
        border = torch.ones_like(windows)
        border[..., 2:6, 2:6, 2:6] = 0
        return border

    sharp = run(network, noise(1, 16, 16, 16), blending="gaussian")
    flat = run(network, noise(1, 16, 16, 16), blending="constant")
    assert sharp[0, 4:12, 4:12, 4:12].mean() < flat[0, 4:12, 4:12, 4:12].mean() / 2


def test_what_is_smaller_than_the_window_is_padded_with_0_on_both_sides():
    seen = []

    def network(windows):
        seen.append(windows.clone())
        return windows

    run(network, torch.ones(1, 4, 8, 5))
    (windows,) = seen
    assert windows.shape == (1, 1, 8, 8, 8)
    assert windows.sum() == 4 * 8 * 5
    assert windows[0, 0, 2:6, :, 1:6].all()


def test_half_precision_outputs_are_blended_in_float32():
    result = run(lambda windows: windows.to(torch.bfloat16), torch.ones(1, 9, 9, 9))
    assert result.dtype == torch.float32


def test_windows_stand_around_what_is_inside():
    inside = np.zeros((40, 40, 40), bool)
    inside[20:30, 4:9, 38:] = True
    starts = plan_windows((40, 40, 40), (8, 8, 8), 0.5, inside)
    covered = np.zeros_like(inside)
    for i, j, k in starts:
        assert min(i, j, k) >= 0
        assert max(i, j, k) <= 32
        assert inside[i : i + 8, j : j + 8, k : k + 8].any()
        covered[i : i + 8, j : j + 8, k : k + 8] = True
    assert (covered | ~inside).all()
    assert len(starts) == 2


def test_nothing_inside_means_everywhere():
    nothing = np.zeros((20, 20, 20), bool)
    assert plan_windows((20, 20, 20), (8, 8, 8), 0.5, nothing) == plan_windows(
        (20, 20, 20), (8, 8, 8), 0.5
    )


def test_where_no_window_comes_there_is_nothing():
    image = torch.ones(1, 20, 8, 8)
    told = slide(
        lambda cut: cut + 4,
        image,
        window=(8, 8, 8),
        blending="gaussian",
        batch_size=1,
        starts=[(0, 0, 0), (12, 0, 0)],
        finish=torch.Tensor.sigmoid_,
    )
    assert float(told[:, 8:12].abs().max()) == 0
    torch.testing.assert_close(told[:, :8], torch.full((1, 8, 8, 8), 5.0).sigmoid())
    torch.testing.assert_close(told[:, 12:], torch.full((1, 8, 8, 8), 5.0).sigmoid())
