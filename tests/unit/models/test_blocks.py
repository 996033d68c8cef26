import weakref

import pytest
import torch

from brainsegfounder.models import convolution
from brainsegfounder.models.blocks import DecoderBlock, ResidualBlock


def test_cases_of_a_batch_do_not_mix():
    torch.manual_seed(0)
    block = ResidualBlock(3, 5)
    batch = torch.randn(2, 3, 8, 8, 8)
    alone = torch.cat([block(case) for case in batch.split(1)])
    torch.testing.assert_close(block(batch), alone, rtol=1e-4, atol=1e-5)


def test_the_shortcut_has_weights_only_where_the_width_changes():
    assert "conv3.conv.weight" in ResidualBlock(3, 5).state_dict()
    assert "conv3.conv.weight" not in ResidualBlock(5, 5).state_dict()


def test_blocks_work_in_mixed_precision():
    block = ResidualBlock(3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        out = block(torch.randn(1, 3, 8, 8, 8))
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("grid", [(4, 4, 4), (3, 5, 2)])
def test_a_doubled_map_and_a_skip_are_convolved_as_if_joined(grid, monkeypatch):
    torch.manual_seed(0)
    block = DecoderBlock(6, 3).double()
    coarse = torch.randn(2, 6, *grid, dtype=torch.float64, requires_grad=True)
    skip = torch.randn(2, 3, *(2 * n for n in grid), dtype=torch.float64, requires_grad=True)
    inputs = [coarse, skip, *block.parameters()]
    results = []
    for voxels_per_channel in (0, 10**9):  # always in one step, never in one step
        monkeypatch.setattr(convolution, "_VOXELS_PER_CHANNEL_TO_JOIN", voxels_per_channel)
        out = block(coarse, skip)
        results.append((out, *torch.autograd.grad((out * out.detach().sin()).sum(), inputs)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_a_shortcut_is_made_again_instead_of_being_kept():
    made = []

    def watched(*args):
        made.append(weakref.ref(shortcut := forward(*args)))
        return shortcut

    block = ResidualBlock(3, 4)
    forward, block.conv3.forward = block.conv3.forward, watched
    out = block(torch.randn(2, 3, 8, 8, 8))
    assert [one() for one in made] == [None]
    out.square().sum().backward()
    assert len(made) == 2
