import math

import pytest
import torch
from torch.nn import functional

from brainsegfounder.settings import (
    InpaintingSettings,
    ThreeTaskFixedSettings,
    ThreeTaskSettings,
)
from brainsegfounder.training import pretext
from brainsegfounder.training.losses import Losses
from brainsegfounder.training.pretext import (
    Views,
    cut_out,
    make_views,
    mean_where,
    nt_xent,
    num_rotations,
    pretext_losses,
)
from brainsegfounder.training.randomness import generators

ONE_PASS = InpaintingSettings(paste_other=False)
# The published code's three tasks, from the settings that put them right.
SWITCHED_BACK = {
    "all_axes": False,
    "pooled_heads": False,
    "gather_negatives": False,
    "same_subject_negatives": True,
    "masked_only": False,
    "min_brain": 0.0,
}


def _crops(number: int, side: int = 32, contrasts: int = 1) -> torch.Tensor:
    seed = torch.Generator().manual_seed(0)
    return torch.randn(number, contrasts, side, side, side, generator=seed)


def _views(seed: int, number: int = 4, settings=None, **shape: int) -> Views:
    chosen = settings or ThreeTaskSettings()
    return make_views(_crops(number, **shape), chosen, generators(seed, range(number)))


def _losses(views: Views, settings, subjects=("a", "b", "c", "d"), restored=None) -> Losses:
    num_views = len(views.whole)
    embedding = torch.randn(num_views, 8, generator=torch.Generator().manual_seed(4))
    logits = torch.zeros(num_views, num_rotations(settings))
    restored = views.whole + 1 if restored is None else restored
    return pretext_losses(logits, embedding, restored, views, settings, subjects[: num_views // 2])


# --- rotation


def test_views_are_turned_in_the_plane_of_the_last_two_axes() -> None:
    seen = set()
    for seed in range(8):
        crops, views = _crops(3), _views(seed, 3)
        assert set(views.turns.tolist()) <= {0, 1, 2, 3}
        seen |= set(views.turns.tolist())
        twice = torch.cat([crops, crops])
        for view, crop, turn in zip(views.whole, twice, views.turns, strict=True):
            assert torch.equal(view, torch.rot90(crop, int(turn), (2, 3)))
    assert seen == {0, 1, 2, 3}
    assert num_rotations(ThreeTaskSettings()) == 4


def test_all_axes_make_ten_rotations_that_are_all_different() -> None:
    settings, crop, seen = ThreeTaskFixedSettings(), _crops(1, side=6), {}
    assert num_rotations(settings) == 10
    for seed in range(60):
        views = make_views(crop, settings, generators(seed, [0]))
        for turn, view in zip(views.turns.tolist(), views.whole, strict=True):
            seen.setdefault(turn, set()).add(view.numpy().tobytes())
    assert sorted(seen) == list(range(10))
    assert all(len(images) == 1 for images in seen.values()), "a rotation is one thing"
    assert len(set.union(*seen.values())) == 10
    assert seen[0] == {crop[0].numpy().tobytes()}
    for turn in (1, 2, 3):
        assert seen[turn] == {torch.rot90(crop[0], turn, (2, 3)).numpy().tobytes()}


def test_the_two_views_of_a_crop_are_turned_and_cut_out_each_on_its_own() -> None:
    views = _views(1, 16, side=16)
    first, second = views.turns.chunk(2)
    assert (first != second).any()
    one, other = views.cut.chunk(2)
    assert all(not torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_all_rotations_are_drawn_equally_often() -> None:
    settings = InpaintingSettings(max_fraction=0.0)
    chosen = ThreeTaskSettings(inpainting=settings)
    views = make_views(torch.zeros(600, 1, 2, 2, 2), chosen, generators(3, range(600)))
    counts = torch.bincount(views.turns, minlength=4)
    # Of 1,200 draws a quarter is 300, with a standard deviation of 15.
    assert (counts - 300).abs().max() < 60


# --- cut-out


def test_only_what_was_cut_out_differs_from_the_whole_view() -> None:
    views = _views(2)
    changed = (views.masked != views.whole).any(dim=1, keepdim=True)
    assert not (changed & ~views.cut).any()
    assert views.cut.any()


def test_the_share_cut_out_stays_under_its_bound_and_averages_about_half_of_it() -> None:
    shares = []
    for seed in range(40):
        view = _crops(1)
        mask = cut_out(view, ONE_PASS, generators(seed, [0]))
        shares.append(mask.float().mean().item())
    # One block may reach beyond the drawn share, by at most its own volume (a quarter a side).
    assert max(shares) <= 0.3 + 0.25**3
    assert 0.08 < sum(shares) / len(shares) < 0.2


def test_blocks_have_the_sides_and_places_of_the_method() -> None:
    """Sides of U[4, 24) voxels from corners of U[0, 92) in crops of 96, clipped at the border."""
    side, shortest, longest = 96, 4, 23
    spans = []
    for seed in range(30):
        boxes = pretext._blocks(torch.Size([side] * 3), ONE_PASS, generators(seed, [0])[0])
        volumes = [math.prod(s.stop - s.start for s in box[1:]) for box in boxes]
        spans += [span for box in boxes for span in box[1:]]
        target = float(torch.rand((), generator=generators(seed, [0])[0])) * 0.3 * side**3
        assert sum(volumes) >= target > sum(volumes[:-1]), "no block more than the share needs"
    starts = [span.start for span in spans]
    inner = [span.stop - span.start for span in spans if span.stop < side]
    assert (min(starts), max(starts)) == (0, side - shortest - 1)
    assert (min(inner), max(inner)) == (shortest, longest)
    assert max(span.stop for span in spans) == side


def test_blocks_are_filled_with_noise_between_zero_and_one() -> None:
    view = torch.full((1, 1, 32, 32, 32), 7.0)
    mask = cut_out(view, ONE_PASS, generators(5, [0]))
    filled = view[mask]
    assert filled.min() >= 0
    assert filled.max() <= 1
    assert (view[~mask] == 7).all()


def test_a_block_is_cut_out_of_all_contrasts() -> None:
    view = torch.full((1, 3, 32, 32, 32), 7.0)
    mask = cut_out(view, ONE_PASS, generators(5, [0]))
    assert mask.shape == (1, 1, 32, 32, 32)
    assert torch.equal(view != 7, mask.expand_as(view))


def test_the_second_pass_pastes_the_same_place_of_another_crop() -> None:
    settings = InpaintingSettings(max_fraction=0.3)
    values = torch.arange(1.0, 5.0).reshape(4, 1, 1, 1, 1) * 10
    view = values.expand(4, 1, 32, 32, 32).clone()
    cut_out(view, settings, generators(8, range(4)))
    found = [[bool((crop == value).any()) for value in values.flatten()] for crop in view]
    foreign = [held for n, row in enumerate(found) for m, held in enumerate(row) if n != m]
    assert any(foreign)


def test_the_pasted_place_is_the_same_in_both_crops() -> None:
    ramp, num_pasted = torch.arange(16.0**3).reshape(1, 1, 16, 16, 16), 0
    for seed in range(8):
        view = torch.cat([ramp, ramp + 10_000])
        masks = cut_out(view, InpaintingSettings(), generators(seed, range(2)))
        pasted = (view[0, 0] >= 10_000) & masks[0, 0]
        num_pasted += int(pasted.sum())
        assert torch.equal(view[0, 0][pasted] - 10_000, ramp[0, 0][pasted])
    assert num_pasted > 0


@pytest.mark.parametrize(("num_crops", "expected"), [(1, 0.0), (2, 0.5), (4, 0.75)])
def test_a_partner_is_drawn_with_probability_n_minus_1_over_n(num_crops, expected) -> None:
    # Noise lies in [0, 1], so a value of 10 or more that is not its own is another crop's.
    settings = InpaintingSettings(min_side=0.2, max_side=0.5)
    values = torch.arange(1, num_crops + 1).reshape(-1, 1, 1, 1, 1) * 10.0
    pasted = []
    for seed in range(100):
        view = values.expand(num_crops, 1, 8, 8, 8).clone()
        cut_out(view, settings, generators(seed, range(num_crops)))
        # The first crop is made first, so nothing that it is given was cut out before.
        pasted.append(bool((view[0] >= 20).any()))
    assert sum(pasted) / len(pasted) == pytest.approx(expected, abs=0.15)


def test_a_seed_and_the_crops_numbers_fix_the_views() -> None:
    one, two, three = _views(9, 2), _views(9, 2), _views(10, 2)
    assert torch.equal(one.masked, two.masked)
    assert torch.equal(one.turns, two.turns)
    assert not torch.equal(one.masked, three.masked)


def test_what_is_drawn_for_a_crop_does_not_depend_on_its_place_in_the_batch() -> None:
    settings = ThreeTaskSettings(inpainting=ONE_PASS)
    crops = _crops(3, side=16)
    whole = make_views(crops, settings, generators(1, [5, 6, 7]))
    alone = make_views(crops[2:], settings, generators(1, [7]))
    for name in ("masked", "turns", "cut"):
        together = getattr(whole, name)
        assert torch.equal(together[[2, 5]], getattr(alone, name))


# --- contrastive coding


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


def test_other_crops_of_the_same_subject_are_no_negatives_where_that_is_asked() -> None:
    generator = torch.Generator().manual_seed(4)
    first, second = torch.randn(3, 8, generator=generator), torch.randn(3, 8, generator=generator)
    views, owners = functional.normalize(torch.cat([first, second])), [0, 0, 1, 0, 0, 1]
    similarity = views @ views.T / 0.5
    total = 0.0
    for i in range(6):
        partner = (i + 3) % 6
        counted = [j for j in range(6) if owners[j] != owners[i] or j == partner]
        others = sum(math.exp(similarity[i, j]) for j in counted)
        total -= math.log(math.exp(similarity[i, partner]) / others)
    found = nt_xent(first, second, 0.5, subjects=("sub-1", "sub-1", "sub-2"))
    assert found.item() == pytest.approx(total / 6, abs=1e-5)
    assert found < nt_xent(first, second, 0.5)
    everyone = nt_xent(first, second, 0.5, subjects=("x", "y", "z"))
    assert everyone.item() == pytest.approx(nt_xent(first, second, 0.5).item(), abs=1e-6)


def test_a_single_crop_has_no_negative_and_costs_nothing() -> None:
    assert nt_xent(torch.randn(1, 8), torch.randn(1, 8), 0.5).item() == pytest.approx(0, abs=1e-6)


def test_crops_of_one_subject_alone_cost_nothing_and_give_no_gradient() -> None:
    first = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    second = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    loss = nt_xent(first, second, 0.5, subjects=("a", "a"))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert first.grad is not None
    assert first.grad.abs().max() < 1e-6, "and nothing that is not a number"


# --- the losses


def test_the_three_losses_carry_their_weights() -> None:
    settings = ThreeTaskSettings.model_validate(
        {"rotation": {"weight": 2.0}, "contrastive": {"weight": 0.0}, "inpainting": {"weight": 3.0}}
    )
    views = _views(1, 2, settings)
    parts = _losses(views, settings).parts
    assert parts["rotation"].item() == pytest.approx(2 * math.log(4))
    assert parts["contrastive"].item() == 0
    assert parts["inpainting"].item() == pytest.approx(3, abs=1e-5)


def _wrong_by(views: Views, cut: float, rest: float) -> torch.Tensor:
    """A restoration with one error where something was cut out and another where nothing was."""
    return views.whole + torch.where(views.cut, cut, rest)


def test_three_tasks_judge_the_whole_crop_and_watch_both_parts() -> None:
    settings = ThreeTaskSettings()
    views = _views(3, settings=settings)
    losses = _losses(views, settings, restored=_wrong_by(views, 5.0, 1.0))
    share = views.cut.float().mean().item()
    assert losses.parts["inpainting"].item() == pytest.approx(5 * share + 1 - share, abs=1e-4)
    assert losses.watched["masked_error"].item() == pytest.approx(5, abs=1e-4)
    assert losses.watched["visible_error"].item() == pytest.approx(1, abs=1e-4)


def test_masked_only_judges_what_was_cut_out_and_nothing_else() -> None:
    settings = ThreeTaskFixedSettings()
    views = _views(3, settings=settings)
    restored = _wrong_by(views, 5.0, 1.0).requires_grad_()
    loss = _losses(views, settings, restored=restored).parts["inpainting"]
    loss.backward()
    assert loss.item() == pytest.approx(5, abs=1e-4)
    assert restored.grad is not None
    assert torch.equal(restored.grad != 0, views.cut)
    back = ThreeTaskFixedSettings(masked_only=False)
    share = views.cut.float().mean().item()
    everywhere = _losses(views, back, restored=restored).parts["inpainting"]
    assert everywhere.item() == pytest.approx(5 * share + 1 - share, abs=1e-4)


def test_same_subject_negatives_is_a_switch() -> None:
    subjects = ("a", "a", "b", "b")
    views = _views(3, settings=ThreeTaskFixedSettings())
    left_out, counted = (
        _losses(views, ThreeTaskFixedSettings(same_subject_negatives=value), subjects)
        for value in (False, True)
    )
    assert left_out.parts["contrastive"] < counted.parts["contrastive"]
    plain = _views(3)
    assert torch.equal(
        counted.parts["contrastive"],
        _losses(plain, ThreeTaskSettings(), subjects).parts["contrastive"],
    )


def test_gather_negatives_is_a_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(pretext, "gather", lambda rows: asked.append(len(rows)) or rows)
    views = _views(3, settings=ThreeTaskFixedSettings())
    _losses(views, ThreeTaskFixedSettings(gather_negatives=False))
    assert asked == []
    _losses(views, ThreeTaskFixedSettings())
    assert asked
    asked.clear()
    _losses(_views(3), ThreeTaskSettings())
    assert asked == [], "the paper's negatives are those of one process"


def test_switched_back_it_is_the_papers_to_the_last_bit() -> None:
    paper, back = ThreeTaskSettings(), ThreeTaskFixedSettings.model_validate(SWITCHED_BACK)
    one, other = _views(6, settings=paper), _views(6, settings=back)
    assert torch.equal(one.masked, other.masked)
    assert torch.equal(one.turns, other.turns)
    subjects = ("a", "a", "b", "b")
    for name, value in _losses(one, paper, subjects).parts.items():
        found = _losses(other, back, subjects).parts[name]
        assert found.item() == pytest.approx(value.item(), rel=1e-6)


def test_where_there_is_no_anatomy_nothing_is_judged() -> None:
    settings, crops = ThreeTaskFixedSettings(), _crops(2)
    valid = torch.ones(2, 1, 32, 32, 32, dtype=torch.bool)
    valid[:, :, :16] = False
    views = make_views(crops, settings, generators(3, range(2)), valid)
    assert views.valid is not None
    for view, turn in zip(views.valid, views.turns.tolist(), strict=True):
        axis, quarters = divmod(turn - 1, 3) if turn else (0, -1)
        assert torch.equal(view, torch.rot90(valid[0], quarters + 1, pretext.PLANES[axis]))
    restored = (views.whole + torch.where(views.valid, 1.0, 100.0)).requires_grad_()
    losses = _losses(views, settings, restored=restored)
    losses.parts["inpainting"].backward()
    assert losses.parts["inpainting"].item() == pytest.approx(1, abs=1e-4)
    assert losses.watched["visible_error"].item() == pytest.approx(1, abs=1e-4)
    assert restored.grad is not None
    assert torch.equal(restored.grad != 0, views.cut & views.valid)


def test_the_mean_of_nothing_is_0_and_has_no_gradient() -> None:
    error = torch.ones(1, 2, 2, 2, 2, requires_grad=True)
    mean = mean_where(error, torch.zeros(1, 1, 2, 2, 2, dtype=torch.bool))
    mean.backward()
    assert mean.item() == 0
    assert error.grad is not None
    assert not error.grad.any()
