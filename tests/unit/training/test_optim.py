import itertools
from typing import Literal

import pytest
import torch
from torch import nn

from brainsegfounder.models.swin_unetr import SwinUNETR
from brainsegfounder.settings import OptimizerSettings
from brainsegfounder.training.optim import (
    depths,
    freeze,
    learning_rate,
    make_learner,
    make_optimizer,
)


def test_the_rate_rises_linearly_peaks_and_falls_to_its_final_share() -> None:
    settings = OptimizerSettings(peak_lr=1.0, warmup_steps=4, final_lr_fraction=0.1)
    rates = [learning_rate(step, 100, settings) for step in range(101)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert max(rates) == 1.0
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[4:]))


def test_weight_decay_spares_biases_norms_and_bias_tables() -> None:
    model = nn.Module()
    model.linear = nn.Linear(3, 3)
    model.norm = nn.LayerNorm(3)
    model.relative_position_bias_table = nn.Parameter(torch.zeros(5, 2))
    decayed, spared = make_optimizer(model, OptimizerSettings(weight_decay=0.5)).param_groups
    assert [p is model.linear.weight for p in decayed["params"]] == [True]
    assert decayed["weight_decay"] == 0.5
    assert len(spared["params"]) == 4
    assert spared["weight_decay"] == 0


class Encoder(nn.Module):
    """Names of a Swin encoder with stages of 2, 1, 2 and 1 blocks, and of a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.swinViT = nn.Module()
        self.swinViT.patch_embed = nn.Module()
        self.swinViT.patch_embed.proj = nn.Linear(2, 2)
        for stage, num_blocks in enumerate((2, 1, 2, 1), start=1):
            layer = nn.Module()
            layer.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(num_blocks))
            layer.downsample = nn.Linear(2, 2)
            setattr(self.swinViT, f"layers{stage}", nn.ModuleList([layer]))
        self.decoder1 = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.swinViT.patch_embed.proj(x)
        for stage in range(1, 5):
            layer = getattr(self.swinViT, f"layers{stage}")[0]
            for block in layer.blocks:
                x = block(x)
            x = layer.downsample(x)
        return self.decoder1(x)


DEPTHS = {
    "swinViT.patch_embed.proj": 7,
    "swinViT.layers1.0.blocks.0": 6,
    "swinViT.layers1.0.blocks.1": 5,
    "swinViT.layers1.0.downsample": 5,
    "swinViT.layers2.0.blocks.0": 4,
    "swinViT.layers2.0.downsample": 4,
    "swinViT.layers3.0.blocks.0": 3,
    "swinViT.layers3.0.blocks.1": 2,
    "swinViT.layers3.0.downsample": 2,
    "swinViT.layers4.0.blocks.0": 1,
    "swinViT.layers4.0.downsample": 1,
    "decoder1": 0,
}


def test_depths_count_blocks_from_the_decoder_down_to_the_patch_embedding() -> None:
    found = depths([name for name, _ in Encoder().named_parameters()])
    weights = {name.removesuffix(".weight"): n for name, n in found.items() if "weight" in name}
    assert weights == DEPTHS
    assert all(found[f"{name}.bias"] == depth for name, depth in DEPTHS.items())


@pytest.mark.parametrize("off", [None, 1.0])
def test_without_layer_decay_the_optimiser_has_two_groups_at_one_rate(off: float | None) -> None:
    learner = make_learner(Encoder(), OptimizerSettings(layer_decay=off))
    learner.step(0.25)
    assert [group["lr"] for group in learner.optimizer.param_groups] == [0.25, 0.25]


def test_with_layer_decay_each_block_learns_at_a_share_of_the_one_after_it() -> None:
    model = Encoder()
    learner = make_learner(model, OptimizerSettings(layer_decay=0.5, weight_decay=0.1))
    learner.step(0.8)
    rate = {p: group["lr"] for group in learner.optimizer.param_groups for p in group["params"]}
    decay = {
        p: group["weight_decay"]
        for group in learner.optimizer.param_groups
        for p in group["params"]
    }
    parameters = dict(model.named_parameters())
    assert rate.keys() == set(parameters.values())
    for name, depth in DEPTHS.items():
        for what, wanted in (("weight", 0.1), ("bias", 0.0)):
            parameter = parameters[f"{name}.{what}"]
            assert rate[parameter] == pytest.approx(0.8 * 0.5**depth)
            assert decay[parameter] == wanted


def test_a_deeper_block_moves_less_in_a_real_network() -> None:
    torch.manual_seed(0)
    network = SwinUNETR(1, 1, "nano")
    learner = make_learner(network, OptimizerSettings(layer_decay=0.5, weight_decay=0.0))
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    network(torch.randn(1, 1, 64, 32, 32)).square().mean().backward()
    learner.step(1e-3)
    moved = {
        name: float((parameter.detach() - before[name]).abs().max())
        for name, parameter in network.named_parameters()
    }
    # AdamW's first step moves each weight by about its learning rate.
    assert moved["out.conv.conv.weight"] == pytest.approx(1e-3, rel=0.01)
    assert moved["swinViT.layers4.0.downsample.reduction.weight"] == pytest.approx(5e-4, rel=0.01)
    assert moved["swinViT.layers1.0.blocks.0.mlp.linear1.weight"] == pytest.approx(
        1e-3 * 0.5**8, rel=0.02
    )
    assert moved["swinViT.patch_embed.proj.weight"] == pytest.approx(1e-3 * 0.5**9, rel=0.02)


@pytest.mark.parametrize("what", ["encoder", "encoder-but-patch-embedding"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_frozen_weights_get_no_gradient_no_decay_and_no_bit_of_change(
    what: Literal["encoder", "encoder-but-patch-embedding"], checkpointing: bool
) -> None:
    torch.manual_seed(0)
    network = SwinUNETR(1, 1, "nano", checkpointing=checkpointing)
    num_frozen = freeze(network, what)
    settings = OptimizerSettings(weight_decay=0.5, layer_decay=0.9, ema_decay=0.9)
    learner = make_learner(network, settings)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for _ in range(2):
        network.zero_grad(set_to_none=True)
        network(torch.randn(1, 1, 64, 32, 32)).square().mean().backward()
        learner.step(0.01)
    free = "swinViT.patch_embed." if what == "encoder-but-patch-embedding" else "nothing"
    seen = 0
    for name, parameter in network.named_parameters():
        if name.startswith("swinViT.") and not name.startswith(free):
            assert parameter.grad is None
            assert torch.equal(parameter, before[name])
            assert learner.average is not None
            assert torch.equal(learner.average.shadow[name], before[name])
            assert parameter not in learner.optimizer.state
            seen += parameter.numel()
        else:
            assert not torch.equal(parameter, before[name]), name
    assert seen == num_frozen > 0
