import math

import pytest
import torch

from brainsegfounder.settings import InpaintingSettings, TaskSettings
from brainsegfounder.training.pretext import cut_out, make_views, nt_xent, pretext_losses

ONE_PASS = InpaintingSettings(paste_other=False)


def _crops(number: int, side: int = 32) -> torch.Tensor:
    return torch.randn(number, 1, side, side, side, generator=torch.Generator().manual_seed(0))


def test_views_are_turned_in_the_plane_of_the_last_two_axes() -> None:
    crops = _crops(3)
    views = make_views(crops, TaskSettings(), torch.Generator().manual_seed(1))
    assert set(views.turns.tolist()) <= {0, 1, 2, 3}
    for view, crop, turn in zip(views.whole, torch.cat([crops, crops]), views.turns, strict=True):
        assert torch.equal(view, torch.rot90(crop, int(turn), (2, 3)))


def test_only_what_was_cut_out_differs_from_the_whole_view() -> None:
    views = make_views(_crops(4), TaskSettings(), torch.Generator().manual_seed(2))
    changed = (views.masked != views.whole).any(dim=1, keepdim=True)
    assert not (changed & ~views.cut).any()
    assert views.cut.any()


def test_the_share_cut_out_stays_under_its_bound_and_averages_about_half_of_it() -> None:
    shares = []
    for seed in range(40):
        view = _crops(1)
        mask = cut_out(view, ONE_PASS, torch.Generator().manual_seed(seed))
        shares.append(mask.float().mean().item())
    # One block may reach beyond the drawn share, by at most its own volume (a quarter a side).
    assert max(shares) <= 0.3 + 0.25**3
    assert 0.08 < sum(shares) / len(shares) < 0.2


def test_blocks_are_filled_with_noise_between_zero_and_one() -> None:
    view = torch.full((1, 1, 32, 32, 32), 7.0)
    mask = cut_out(view, ONE_PASS, torch.Generator().manual_seed(5))
    filled = view[mask]
    assert filled.min() >= 0
    assert filled.max() <= 1
    assert (view[~mask] == 7).all()


def test_the_second_pass_pastes_the_same_place_of_another_crop() -> None:
    settings = InpaintingSettings(max_fraction=0.3)
    values = torch.arange(1.0, 5.0).reshape(4, 1, 1, 1, 1) * 10
    view = values.expand(4, 1, 32, 32, 32).clone()
    cut_out(view, settings, torch.Generator().manual_seed(8))
    found = [[bool((crop == value).any()) for value in values.flatten()] for crop in view]
    foreign = [held for n, row in enumerate(found) for m, held in enumerate(row) if n != m]
    assert any(foreign)


def test_a_seed_fixes_the_views() -> None:
    one = make_views(_crops(2), TaskSettings(), torch.Generator().manual_seed(9))
    two = make_views(_crops(2), TaskSettings(), torch.Generator().manual_seed(9))
    assert torch.equal(one.masked, two.masked)
    assert torch.equal(one.turns, two.turns)


def test_nt_xent_follows_its_definition() -> None:
    generator = torch.Generator().manual_seed(4)
    first, second = torch.randn(3, 8, generator=generator), torch.randn(3, 8, generator=generator)
    views = torch.cat([first, second])
    similarity = torch.nn.functional.cosine_similarity(views[:, None], views[None], dim=-1) / 0.5
    total = 0.0
    for i in range(6):
        others = sum(math.exp(similarity[i, j]) for j in range(6) if j != i)
        total -= math.log(math.exp(similarity[i, (i + 3) % 6]) / others)
    assert nt_xent(first, second, 0.5).item() == pytest.approx(total / 6, abs=1e-5)


def test_a_single_crop_has_no_negative_and_costs_nothing() -> None:
    assert nt_xent(torch.randn(1, 8), torch.randn(1, 8), 0.5).item() == pytest.approx(0, abs=1e-6)


def test_the_three_losses_carry_their_weights() -> None:
    settings = TaskSettings.model_validate(
        {"rotation": {"weight": 2.0}, "contrastive": {"weight": 0.0}, "inpainting": {"weight": 3.0}}
    )
    views = make_views(_crops(2), settings, torch.Generator().manual_seed(1))
    logits = torch.zeros(4, 4)
    parts = pretext_losses(logits, torch.randn(4, 8), views.whole + 1, views, settings)
    assert parts["rotation"].item() == pytest.approx(2 * math.log(4))
    assert parts["contrastive"].item() == 0
    assert parts["inpainting"].item() == pytest.approx(3, abs=1e-5)
