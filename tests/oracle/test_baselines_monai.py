"""Baselines against MONAI's own networks: the same weights, the same numbers."""

import copy
import sys

import pytest
import torch

from brainsegfounder.errors import RecipeError, UsageError
from brainsegfounder.models import baselines
from brainsegfounder.models.baselines import OUTPUT_LAYERS, build_baseline, output_layer
from brainsegfounder.models.swin_unetr import SwinUNETR

PATCH = (32, 32, 32)
# What MONAI is asked for here, in its own words: what the recipe's nano means.
THEIRS = {
    "segresnet": lambda nets: nets.SegResNet(3, 16, 4, 3),
    "dynunet": lambda nets: nets.DynUNet(
        3, 4, 3, [3] * 4, [1, 2, 2, 2], [2, 2, 2], filters=[16, 32, 64, 128]
    ),
    "unetr": lambda nets: nets.UNETR(4, 3, PATCH, 12, 96, 384, 6),
}
# Learnt numbers in millions, with four contrasts, three outputs and patches of 96.
SIZES_M = {
    ("segresnet", "nano"): 4.70,
    ("segresnet", "big"): 18.80,
    ("dynunet", "nano"): 4.14,
    ("dynunet", "tiny"): 16.55,
    ("unetr", "nano"): 4.42,
    ("unetr", "small"): 102.22,
}


@pytest.fixture(scope="module", autouse=True)
def nets(monai_nets):
    """MONAI's networks; without MONAI nothing here is asked."""
    return sys.modules["monai.networks.nets"]


def build(architecture, **options):
    return build_baseline(architecture, 4, 3, "nano", patch_size_vox=PATCH, **options)


@pytest.mark.parametrize("architecture", THEIRS)
@torch.no_grad()
def test_with_monais_weights_a_baseline_computes_what_monais_network_does(architecture, nets):
    theirs = THEIRS[architecture](nets).eval()
    ours = build(architecture).eval()
    state = {name: theirs.state_dict()[name] for name in ours.state_dict()}
    ours.load_state_dict(state, strict=True)
    image = torch.randn(1, 4, *PATCH, generator=torch.Generator().manual_seed(1))
    assert torch.equal(ours(image), theirs(image))


@pytest.mark.parametrize("architecture", THEIRS)
def test_every_parameter_is_trained_and_stands_once(architecture):
    network = build(architecture)
    image = torch.randn(1, 4, *PATCH, generator=torch.Generator().manual_seed(1))
    network(image).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    places = [tensor.data_ptr() for tensor in network.state_dict().values()]
    assert len(places) == len(set(places))


@pytest.mark.parametrize("architecture", OUTPUT_LAYERS)
@torch.no_grad()
def test_the_output_layer_is_the_last_one(architecture):
    ours = architecture == "swin-unetr"
    network = SwinUNETR(4, 3, "nano") if ours else build(architecture)
    layer = output_layer(network.eval(), architecture)
    layer.weight.zero_()
    layer.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    logits = network(torch.randn(1, 4, *((64, 32, 32) if ours else PATCH)))
    assert torch.equal(logits.amax(dim=(0, 2, 3, 4)), layer.bias)
    assert torch.equal(logits.amin(dim=(0, 2, 3, 4)), layer.bias)


@pytest.mark.parametrize(("architecture", "scale"), SIZES_M)
def test_sizes_are_those_of_the_documentation(architecture, scale):
    with torch.device("meta"):
        network = build_baseline(architecture, 4, 3, scale)
    number = sum(parameter.numel() for parameter in network.parameters())
    assert number / 1e6 == pytest.approx(SIZES_M[architecture, scale], abs=0.01)


@pytest.mark.parametrize("architecture", THEIRS)
@torch.no_grad()
def test_images_it_was_not_built_for_are_refused_also_by_a_copy(architecture):
    network = copy.deepcopy(build(architecture))
    with pytest.raises(UsageError, match="patches of"):
        network(torch.zeros(1, 4, 20, 32, 32))
    with pytest.raises(UsageError, match=r"shape \(1, 3, 32, 32, 32\)"):
        network(torch.zeros(1, 3, *PATCH))
    if architecture == "unetr":
        with pytest.raises(UsageError, match="only positions it knows"):
            network(torch.zeros(1, 4, 64, 32, 32))


def test_what_cannot_be_built_is_refused_before_monai_sees_it():
    with pytest.raises(UsageError, match=r"multiples of \(8, 8, 8\)"):
        build_baseline("segresnet", 4, 3, "nano", patch_size_vox=(64, 64, 60))
    with pytest.raises(UsageError, match=r"multiples of \(16, 16, 16\)"):
        build_baseline("unetr", 4, 3, "nano", patch_size_vox=(64, 64, 40))
    with pytest.raises(UsageError, match="can be halved 1 times"):
        build_baseline("dynunet", 4, 3, "nano", patch_size_vox=(8, 8, 8))
    with pytest.raises(UsageError, match="nnU-Net has none"):
        build("dynunet", dropout=0.1)
    with pytest.raises(UsageError, match="expected one of segresnet, dynunet, unetr"):
        build("vnet")
    with pytest.raises(RecipeError, match="no such scale"):
        build_baseline("unetr", 4, 3, "huge")


@pytest.mark.parametrize("architecture", ["segresnet", "unetr"])
def test_dropout_reaches_the_network(architecture):
    network = build(architecture, dropout=0.3)
    rates = {m.p for m in network.modules() if isinstance(m, torch.nn.modules.dropout._DropoutNd)}
    assert 0.3 in rates


def test_without_monai_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(UsageError, match=r"pip install 'brainsegfounder\[baselines\]'"):
        baselines.build_baseline("segresnet", 4, 3, "nano")
