import pytest
import torch
from torch.nn import functional

from brainsegfounder.settings import MaeSettings
from brainsegfounder.training.masking import drop_contrasts, hide_blocks, restoration_losses
from brainsegfounder.training.randomness import generators, mixed


def _hidden(seed: int = 0, number: int = 6, side: int = 64, **settings) -> torch.Tensor:
    crops = torch.zeros(number, 2, side, side, side)
    return hide_blocks(crops, MaeSettings(**settings), generators(seed, range(number)))


# --- which blocks


@pytest.mark.parametrize("block_vox", [8, 16, 32])
def test_what_is_hidden_are_whole_blocks(block_vox: int) -> None:
    hidden = _hidden(block_vox=block_vox)
    assert hidden.shape == (6, 1, 64, 64, 64)
    shares = functional.avg_pool3d(hidden.float(), block_vox)
    assert set(shares.unique().tolist()) == {0.0, 1.0}


def test_the_hidden_share_is_drawn_from_its_range_for_each_crop() -> None:
    shares = [
        share
        for seed in range(8)
        for share in _hidden(seed, min_ratio=0.6, max_ratio=0.9).float().mean((1, 2, 3, 4)).tolist()
    ]
    assert all(0.6 <= share <= 0.9 for share in shares)
    assert min(shares) < 0.66
    assert max(shares) > 0.84
    assert len(set(shares)) > 5


def test_a_range_of_one_value_hides_exactly_that_share() -> None:
    hidden = _hidden(min_ratio=0.75, max_ratio=0.75)
    assert hidden.float().mean((1, 2, 3, 4)).tolist() == [0.75] * 6


@pytest.mark.parametrize("ratio", [0.01, 0.99])
def test_something_is_always_hidden_and_something_seen(ratio: float) -> None:
    hidden = _hidden(block_vox=32, min_ratio=ratio, max_ratio=ratio)
    blocks = hidden.float().sum((1, 2, 3, 4)) / 32**3
    assert blocks.tolist() == [1.0 if ratio < 0.5 else 7.0] * 6


def test_every_block_is_hidden_as_often_as_another() -> None:
    often = sum(_hidden(seed, 20, block_vox=32).float().mean(0) for seed in range(10)) / 10
    # 200 crops of 8 blocks, about 0.67 hidden: a standard deviation of 0.033.
    assert (often - often.mean()).abs().max() < 0.13


def test_what_is_hidden_follows_from_the_seed_and_the_crops_number() -> None:
    assert torch.equal(_hidden(1), _hidden(1))
    assert not torch.equal(_hidden(1), _hidden(2))
    crops = torch.zeros(3, 1, 64, 64, 64)
    together = hide_blocks(crops, MaeSettings(), generators(1, [4, 5, 6]))
    alone = hide_blocks(crops[:1], MaeSettings(), generators(1, [6]))
    assert torch.equal(together[2:], alone)
    assert not torch.equal(together[0], together[1])


# --- which contrasts


@pytest.mark.parametrize("num_contrasts", [2, 3, 4])
def test_at_least_one_contrast_is_dropped_and_one_is_kept(num_contrasts: int) -> None:
    crops = torch.zeros(200, num_contrasts, 2, 2, 2)
    dropped = drop_contrasts(crops, generators(0, range(200)))
    assert dropped.shape == (200, num_contrasts, 1, 1, 1)
    counts = dropped.flatten(1).sum(1)
    assert sorted(set(counts.tolist())) == list(range(1, num_contrasts))
    assert (dropped.float().mean(0).flatten() - 0.5).abs().max() < 0.12, "none more than others"


# --- the loss


def _blocks(shape=(2, 1, 16, 16, 16)) -> torch.Tensor:
    hidden = torch.zeros(shape, dtype=torch.bool)
    hidden[:, :, :8] = True
    return hidden


@pytest.mark.parametrize(("error", "masked", "visible"), [("squared", 9, 4), ("absolute", 3, 2)])
def test_only_what_is_hidden_is_judged_and_the_rest_is_watched(error, masked, visible) -> None:
    image, hidden = torch.randn(2, 3, 16, 16, 16), _blocks()
    restored = (image + torch.where(hidden, 3.0, 2.0)).requires_grad_()
    losses = restoration_losses(restored, image, hidden, None, error=error)
    losses.parts["masked"].backward()
    assert set(losses.parts) == {"masked"}
    assert losses.parts["masked"].item() == pytest.approx(masked, rel=1e-5)
    assert losses.watched["visible"].item() == pytest.approx(visible, rel=1e-5)
    assert not losses.watched["visible"].requires_grad
    assert restored.grad is not None
    assert torch.equal(restored.grad != 0, hidden.expand_as(image))


def test_where_there_is_no_anatomy_nothing_is_judged_nor_watched() -> None:
    image, hidden = torch.randn(2, 1, 16, 16, 16), _blocks()
    valid = torch.ones_like(hidden)
    valid[..., :8] = False
    restored = (image + torch.where(valid, 1.0, 1000.0)).requires_grad_()
    losses = restoration_losses(restored, image, hidden, valid, error="squared")
    losses.parts["masked"].backward()
    assert losses.parts["masked"].item() == pytest.approx(1, rel=1e-4)
    assert losses.watched["visible"].item() == pytest.approx(1, rel=1e-4)
    assert restored.grad is not None
    assert torch.equal(restored.grad != 0, hidden & valid)


def test_a_crop_without_anatomy_costs_nothing() -> None:
    image, hidden = torch.randn(1, 1, 16, 16, 16), _blocks((1, 1, 16, 16, 16))
    losses = restoration_losses(
        image + 1, image, hidden, torch.zeros_like(hidden), error="absolute"
    )
    assert losses.parts["masked"].item() == 0


def test_every_voxel_counts_alike_whichever_crop_it_is_of() -> None:
    image, hidden = torch.zeros(2, 1, 4, 4, 4), torch.zeros(2, 1, 4, 4, 4, dtype=torch.bool)
    hidden[0] = True
    hidden[1, :, :1] = True
    restored = torch.stack([torch.full((1, 4, 4, 4), 1.0), torch.full((1, 4, 4, 4), 6.0)])
    losses = restoration_losses(restored, image, hidden, None, error="absolute")
    assert losses.parts["masked"].item() == pytest.approx((64 * 1 + 16 * 6) / 80)


def test_a_coarse_restoration_is_compared_with_means_of_cubes() -> None:
    image, hidden = torch.randn(2, 1, 16, 16, 16), _blocks()
    means = functional.avg_pool3d(image, 4)
    losses = restoration_losses(means, image, hidden, None, error="absolute")
    assert losses.parts["masked"].item() == pytest.approx(0, abs=1e-6)
    off = restoration_losses(means + 2, image, hidden, None, error="absolute")
    assert off.parts["masked"].item() == pytest.approx(2, rel=1e-5)
    valid = torch.ones_like(hidden)
    valid[..., :6] = False  # a cube and a half: only cubes that are whole count
    wrong = means + torch.where(functional.max_pool3d((~valid).float(), 4) > 0, 1000.0, 1.0)
    kept = restoration_losses(wrong, image, hidden, valid, error="absolute")
    assert kept.parts["masked"].item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("stride", [1, 4])
def test_dropped_contrasts_are_judged_and_kept_ones_watched(stride: int) -> None:
    image = torch.randn(2, 3, 16, 16, 16)
    dropped = torch.tensor([[1, 0, 0], [0, 1, 1]], dtype=torch.bool).view(2, 3, 1, 1, 1)
    whole = functional.avg_pool3d(image, stride) if stride > 1 else image
    restored = whole + torch.where(dropped, 3.0, 2.0)
    losses = restoration_losses(restored, image, dropped, None, error="squared")
    assert losses.parts["masked"].item() == pytest.approx(9, rel=1e-5)
    assert losses.watched["visible"].item() == pytest.approx(4, rel=1e-5)


def test_errors_are_summed_in_float32_at_least() -> None:
    image, hidden = torch.zeros(1, 1, 16, 16, 16), _blocks((1, 1, 16, 16, 16))
    half = restoration_losses(
        torch.full_like(image, 0.1, dtype=torch.bfloat16), image, hidden, None, error="absolute"
    )
    double = restoration_losses(image.double(), image.double(), hidden, None, error="squared")
    assert half.parts["masked"].dtype == torch.float32
    assert double.parts["masked"].dtype == torch.float64


# --- seeds


def test_seeds_of_neighbouring_numbers_have_nothing_in_common() -> None:
    seeds = [mixed(seed, number) for seed in range(20) for number in range(200)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    draws = torch.stack([torch.rand(4, generator=g) for g in generators(0, range(500))])
    assert (torch.corrcoef(draws.T) - torch.eye(4)).abs().max() < 0.2
    assert (draws.mean(0) - 0.5).abs().max() < 0.06
    lagged = torch.corrcoef(torch.stack([draws[:-1, 0], draws[1:, 0]]))[0, 1]
    assert lagged.abs() < 0.2
