"""What of a pretrained decoder moves on, and what keeps its initial values."""

import pytest
import torch

from brainsegfounder.errors import WeightsError
from brainsegfounder.models.decoder_transfer import load_decoder
from brainsegfounder.models.masked import LightAutoencoder, MaskedAutoencoder
from brainsegfounder.models.swin_unetr import SwinUNETR


def _load(model, source, source_contrasts=("T1w",), target_contrasts=("T1w",)):
    return load_decoder(
        model,
        source.state_dict(),
        source_contrasts=source_contrasts,
        target_contrasts=target_contrasts,
    )


def _same(one, other, name):
    return torch.equal(one.state_dict()[name], other.state_dict()[name])


def test_fine_tuning_takes_over_all_of_the_decoder_but_the_last_layer():
    source, target = MaskedAutoencoder(1, "nano"), SwinUNETR(1, 1, "nano")
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    kept = _load(target, source)
    assert kept == ("out.conv.conv.weight", "out.conv.conv.bias")
    assert torch.equal(target.state_dict()["out.conv.conv.weight"], before["out.conv.conv.weight"])
    moved = [n for n in before if not n.startswith(("swinViT.", "out."))]
    assert len(moved) > 20
    assert all(_same(source, target, name) for name in moved)
    weight = "swinViT.layers1.0.blocks.0.mlp.linear1.weight"
    assert torch.equal(target.state_dict()[weight], before[weight])


def test_pretraining_that_goes_on_takes_over_last_layer_and_mask_token_too():
    source, target = MaskedAutoencoder(2, "nano"), MaskedAutoencoder(2, "nano")
    kept = _load(target, source, ("T1w", "FLAIR"), ("T1w", "FLAIR"))
    assert kept == ()
    assert _same(source, target, "mask_token")
    assert _same(source, target, "out.conv.conv.weight")


def test_with_other_contrasts_the_convolutions_that_see_them_keep_their_values():
    source, target = MaskedAutoencoder(1, "nano"), SwinUNETR(2, 3, "nano")
    kept = _load(target, source, ("T1w",), ("T1w", "FLAIR"))
    assert [name for name in kept if not name.startswith("out.")] == [
        "encoder1.layer.conv1.conv.weight",
        "encoder1.layer.conv3.conv.weight",
    ]
    assert _same(source, target, "encoder1.layer.conv2.conv.weight")


def test_same_number_of_other_contrasts_is_not_taken_for_the_same():
    source, target = MaskedAutoencoder(1, "nano"), SwinUNETR(1, 1, "nano")
    before = target.state_dict()["encoder1.layer.conv1.conv.weight"].clone()
    kept = _load(target, source, ("T1w",), ("FLAIR",))
    assert "encoder1.layer.conv1.conv.weight" in kept
    assert torch.equal(target.state_dict()["encoder1.layer.conv1.conv.weight"], before)


def test_weights_without_a_decoder_are_refused_with_what_to_do():
    target = SwinUNETR(1, 1, "nano")
    with pytest.raises(WeightsError, match=r"expected a decoder\. Pretrain with an objective"):
        _load(target, LightAutoencoder(1, "nano"))


def test_a_decoder_of_another_scale_is_refused_and_the_network_unchanged():
    target = SwinUNETR(1, 1, "nano")
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    source = {n: torch.cat([t, t]) if t.ndim else t for n, t in before.items()}
    with pytest.raises(WeightsError, match="Set the recipe's scale"):
        load_decoder(target, source, source_contrasts=["T1w"], target_contrasts=["T1w"])
    assert all(torch.equal(target.state_dict()[name], before[name]) for name in before)
