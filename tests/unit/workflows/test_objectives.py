"""Each kind at work: its network, its loss, what it restores."""

from dataclasses import replace

import pytest
import torch

from brainsegfounder.data.loader import Batch
from brainsegfounder.models.masked import LightAutoencoder, MaskedAutoencoder
from brainsegfounder.models.ssl_heads import SSLNetwork
from brainsegfounder.models.swin_unetr import SwinUNETR
from brainsegfounder.settings import (
    CrossContrastSettings,
    MaeSettings,
    SimMimSettings,
    ThreeTaskFixedSettings,
    ThreeTaskSettings,
)
from brainsegfounder.workflows.objectives import ask, build_pretraining_network

OBJECTIVES = [
    (ThreeTaskSettings(), SSLNetwork, {"rotation", "contrastive", "inpainting"}),
    (ThreeTaskFixedSettings(all_axes=False), SSLNetwork, {"rotation", "contrastive", "inpainting"}),
    (MaeSettings(block_vox=16), MaskedAutoencoder, {"masked"}),
    (MaeSettings(block_vox=16, decoder=False), LightAutoencoder, {"masked"}),
    (SimMimSettings(block_vox=16), LightAutoencoder, {"masked"}),
    (CrossContrastSettings(), SwinUNETR, {"masked"}),
    (CrossContrastSettings(decoder=False), LightAutoencoder, {"masked"}),
]
SIDES = (64, 32, 32)
EVERY = pytest.mark.parametrize(("objective", "kind", "parts"), OBJECTIVES)


def _batch(valid=None, seed=0):
    image = torch.randn(2, 2, *SIDES, generator=torch.Generator().manual_seed(seed))
    return Batch(image, None, valid, ("a", "b"), ("a", "b"), (6, 7))


def _network(objective):
    torch.manual_seed(0)
    return build_pretraining_network(objective, 2, "nano", "complete").eval()


@EVERY
def test_each_objective_has_its_network_and_its_losses(objective, kind, parts):
    network = _network(objective)
    with torch.no_grad():
        losses = ask(objective).loss(network, _batch(), 3)
    assert type(network) is kind
    assert set(losses.parts) == parts
    assert all(value.isfinite() and value > 0 for value in losses.parts.values())
    assert len(losses.watched) == (2 if "inpainting" in parts else 1)


@EVERY
def test_the_loss_is_a_function_of_network_batch_and_seed(objective, kind, parts):
    network, loss = _network(objective), ask(objective).loss
    with torch.no_grad():
        one, again, *others = (loss(network, _batch(), seed).parts for seed in (3, 3, 4, 5))
    assert all(torch.equal(one[name], again[name]) for name in parts)
    # Two contrasts of two crops can be dropped in four ways, so a seed may repeat another's.
    assert any(not torch.equal(one[name], other[name]) for other in others for name in parts)


@EVERY
def test_what_is_restored_has_the_shape_of_the_image(objective, kind, parts):
    batch = _batch()
    with torch.no_grad():
        restored = ask(objective).restore(_network(objective), batch, 3)
    assert all(part.shape == batch.image.shape for part in restored)
    assert restored.hidden.dtype == torch.bool
    assert restored.hidden.any()
    assert not restored.hidden.all()
    assert torch.equal(restored.whole[~restored.hidden], restored.seen[~restored.hidden])
    assert not torch.equal(restored.whole, restored.seen)


@pytest.mark.parametrize("settings", [o for o, *_ in OBJECTIVES if o.kind != "three-task"])
def test_where_there_is_no_anatomy_nothing_is_judged(settings):
    valid = torch.ones(2, 1, *SIDES, dtype=torch.bool)
    nothing = torch.zeros_like(valid)
    judged = "inpainting" if "three" in settings.kind else "masked"
    network, loss = _network(settings), ask(settings).loss
    with torch.no_grad():
        everywhere, all_valid, none_valid = (
            loss(network, _batch(mask), 3).parts[judged] for mask in (None, valid, nothing)
        )
    assert torch.equal(everywhere, all_valid)
    assert none_valid == 0


def test_a_dropped_contrast_has_no_effect_on_what_is_restored():
    objective, batch = CrossContrastSettings(), _batch()
    network, restore = _network(objective), ask(objective).restore
    with torch.no_grad():
        plain = restore(network, batch, 3)
        dropped = plain.hidden[:, :, :1, :1, :1]
        hidden_changed = batch.image + 5 * dropped
        seen_changed = batch.image + 0.5 * ~dropped
        same, other = (
            restore(network, replace(batch, image=image), 3)
            for image in (hidden_changed, seen_changed)
        )
    assert torch.equal(plain.restored, same.restored)
    assert not torch.allclose(plain.restored, other.restored, atol=1e-4)
    assert not plain.seen[dropped.expand_as(plain.seen)].any()
    counts = dropped.flatten(1).sum(1)
    assert ((counts >= 1) & (counts < 2)).all()


def test_mae_squares_errors_and_simmim_does_not():
    image, zeros = torch.full((1, 1, 64, 64, 64), 3.0), torch.zeros(1, 1, 64, 64, 64)
    batch = Batch(image, None, None, ("a",), ("a",), (0,))

    def silent(_image, _hidden):
        return zeros

    def silent_and_coarse(_image, _hidden):
        return zeros[..., ::4, ::4, ::4]

    assert ask(MaeSettings()).loss(silent, batch, 0).parts["masked"] == 9
    assert ask(SimMimSettings()).loss(silent_and_coarse, batch, 0).parts["masked"] == 3


@pytest.mark.parametrize("pooled", [False, True])
def test_pooled_heads_and_all_axes_reach_the_network(pooled):
    objective = ThreeTaskFixedSettings(pooled_heads=pooled, all_axes=pooled)
    with torch.device("meta"):
        network = build_pretraining_network(objective, 1, "nano", "complete")
        paper = build_pretraining_network(ThreeTaskSettings(), 1, "nano", "complete")
    assert network.pooled_heads is pooled
    assert network.rotation_head.out_features == (10 if pooled else 4)
    assert paper.pooled_heads is False
    assert paper.rotation_head.out_features == 4


def test_every_network_has_an_encoder_that_moves_on():
    with torch.device("meta"):
        encoders = [
            {n: v.shape for n, v in net.state_dict().items() if n.startswith("swinViT.")}
            for net in (
                build_pretraining_network(objective, 2, "nano", "complete")
                for objective, *_ in OBJECTIVES
            )
        ]
    assert all(encoder == encoders[0] for encoder in encoders)
    assert len(encoders[0]) > 100
