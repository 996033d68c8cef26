import pytest
import torch

from brainsegfounder.errors import RecipeError
from brainsegfounder.models.scales import Scale
from brainsegfounder.models.swin import (
    MERGING_SLOTS,
    DropPath,
    PatchMerging,
    SwinTransformer,
    check_merging,
)

SMALLEST = Scale(feature_size=6, depths=(2, 2, 2, 2), num_heads=(1, 2, 3, 6))


def encoder(**options):
    torch.manual_seed(1)
    return SwinTransformer(2, SMALLEST, **options)


def test_each_hidden_state_is_half_as_fine_and_twice_as_wide():
    states = encoder()(torch.randn(1, 2, 64, 32, 40))
    assert [tuple(s.shape) for s in states] == [
        (1, 6, 32, 16, 20),
        (1, 12, 16, 8, 10),
        (1, 24, 8, 4, 5),
        (1, 48, 4, 2, 3),
        (1, 96, 2, 1, 2),
    ]


def test_normalised_states_have_mean_zero_and_variance_one_over_channels():
    for state in encoder()(torch.randn(1, 2, 32, 32, 32)):
        mean, variance = state.mean(1), state.var(1, correction=0)
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
        assert (variance <= 1.0 + 1e-4).all()


def test_a_case_does_not_depend_on_the_others_of_its_batch():
    network, images = encoder().eval(), torch.randn(3, 2, 40, 32, 16)
    together = network(images)[-1]
    alone = torch.cat([network(image)[-1] for image in images.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_checkpointing_changes_neither_outputs_nor_gradients():
    image = torch.randn(1, 2, 32, 32, 32)
    plain, frugal = encoder(), encoder(checkpointing=True)
    for network in (plain, frugal):
        sum(s.sin().sum() for s in network(image)).backward()
    for a, b in zip(plain.parameters(), frugal.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_dropout_and_skipped_branches_act_in_training_only():
    network = encoder(dropout=0.2, attention_dropout=0.2, drop_path=0.2)
    image = torch.randn(1, 2, 32, 32, 32)
    assert not torch.equal(network(image)[-1], network(image)[-1])
    network.eval()
    torch.testing.assert_close(network(image)[-1], encoder().eval()(image)[-1])


def test_a_skipped_branch_is_skipped_for_whole_cases_and_keeps_the_mean():
    torch.manual_seed(0)
    out = DropPath(0.25)(torch.ones(4000, 2, 3))
    per_case = out.flatten(1)
    assert ((per_case == 0).all(1) | (per_case == 1 / 0.75).all(1)).all()
    assert out.mean() == pytest.approx(1.0, abs=0.05)


def test_linear_layers_start_small_and_without_bias():
    attention = encoder().requires_grad_(False).layers1[0].blocks[0].attn
    assert attention.qkv.weight.abs().max() < 0.15
    assert attention.qkv.weight.std() == pytest.approx(0.02, rel=0.3)
    assert (attention.qkv.bias == 0).all()
    assert attention.relative_position_bias_table.std() == pytest.approx(0.02, rel=0.1)


def test_complete_mergings_use_each_corner_once_and_legacy_loses_two():
    corners = set(MERGING_SLOTS["v2"])
    assert len(corners) == 8
    assert sorted(MERGING_SLOTS["complete"]) == sorted(corners)
    assert corners - set(MERGING_SLOTS["legacy"]) == {(1, 1, 0), (0, 1, 1)}


def test_merging_pads_odd_sizes_with_zeros():
    torch.manual_seed(0)
    merging, x = PatchMerging(3, "complete"), torch.randn(1, 5, 4, 3, 3)
    padded = torch.zeros(1, 6, 4, 4, 3)
    padded[:, :5, :, :3] = x
    assert torch.equal(merging(x), merging(padded))


def test_an_unknown_merging_is_refused():
    with pytest.raises(RecipeError, match=r"merging 'first'.*complete, legacy, v2"):
        check_merging("first")


def test_layouts_are_kept_out_of_the_state_dict():
    network = encoder()
    before = list(network.state_dict())
    network(torch.randn(1, 2, 32, 32, 32))
    assert list(network.state_dict()) == before


def test_mixed_precision_stays_close_to_full_precision():
    network, image = encoder(), torch.randn(1, 2, 40, 32, 32)
    exact = network(image)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(image)
        sum(s.float().square().mean() for s in mixed).backward()
    for a, b in zip(mixed, exact, strict=True):
        assert (a - b).abs().mean() < 0.05
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("merging", MERGING_SLOTS)
def test_merging_gives_each_corner_the_gradient_of_every_slot_it_stands_in(merging):
    torch.manual_seed(2)
    layer = PatchMerging(3, merging).double()
    x = torch.randn(2, 4, 3, 6, 3, dtype=torch.float64, requires_grad=True)
    padded = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, 1))
    corners = [padded[:, i::2, j::2, k::2] for i, j, k in MERGING_SLOTS[merging]]
    expected = layer.reduction(layer.norm(torch.cat(corners, dim=-1)))
    wanted = torch.autograd.grad(expected.square().sum(), x)
    found = torch.autograd.grad(layer(x).square().sum(), x)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
