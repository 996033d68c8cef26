"""SwinUNETR and its encoder against MONAI's, weight for weight and number for number."""

import pytest
import torch

from brainsegfounder.models.scales import Scale, get_scale
from brainsegfounder.models.swin import SwinTransformer
from brainsegfounder.models.swin_unetr import SwinUNETR


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(20)
        yield


def shake(network):
    """Move every parameter off its start, so that biases and norms of zero and one count too."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * parameter.abs().mean().clamp(min=0.2) * torch.randn_like(parameter)
    return network


@pytest.fixture
def make_theirs(monai_nets, legacy_merging):
    """Makes MONAI's network of one of our scales."""
    downsample = {"complete": "merging", "legacy": legacy_merging, "v2": "mergingv2"}

    def make(scale, merging, in_channels=4):
        size = get_scale(scale)
        return monai_nets.SwinUNETR(
            in_channels,
            3,
            feature_size=size.feature_size,
            depths=size.depths,
            num_heads=size.num_heads,
            downsample=downsample[merging],
        )

    return make


@pytest.fixture
def pair(make_theirs):
    """Makes our network and MONAI's, with equal weights."""

    def make(scale, merging, in_channels=4):
        theirs = make_theirs(scale, merging, in_channels)
        ours = SwinUNETR(in_channels, 3, scale, merging)
        ours.load_state_dict(shake(theirs).state_dict(), strict=True)
        return ours, theirs

    return make


@torch.no_grad()
def largest_difference(ours, theirs, image):
    return float((ours(image) - theirs(image)).abs().max())


@pytest.mark.parametrize(
    ("scale", "merging"),
    [("nano", "legacy"), ("nano", "v2"), ("tiny", "complete"), ("small", "complete")],
)
def test_state_dict_has_the_names_and_shapes_of_monais(make_theirs, scale, merging):
    theirs = make_theirs(scale, merging)
    with torch.device("meta"):
        ours = SwinUNETR(4, 3, scale, merging)
    expected = {name: (t.shape, t.dtype) for name, t in theirs.state_dict().items()}
    assert {name: (t.shape, t.dtype) for name, t in ours.state_dict().items()} == expected


@pytest.mark.parametrize("merging", ["complete", "legacy", "v2"])
@pytest.mark.parametrize("size_vox", [(64, 64, 64), (64, 32, 96)])
def test_nano_gives_the_logits_of_monai(pair, merging, size_vox):
    ours, theirs = (network.eval() for network in pair("nano", merging))
    assert largest_difference(ours, theirs, torch.randn(1, 4, *size_vox)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("merging", "size_vox"), [("complete", (64, 32, 96)), ("legacy", (64, 64, 64))]
)
def test_tiny_gives_the_logits_of_monai(pair, merging, size_vox):
    ours, theirs = (network.eval() for network in pair("tiny", merging))
    assert largest_difference(ours, theirs, torch.randn(1, 4, *size_vox)) < 1e-4


def test_a_batch_gives_the_logits_of_monai(pair):
    ours, theirs = pair("nano", "complete")
    assert largest_difference(ours, theirs, torch.randn(2, 4, 64, 32, 32)) < 1e-4


def test_mergings_differ_though_weights_are_the_same(pair):
    legacy, _ = pair("nano", "legacy", in_channels=1)
    complete = SwinUNETR(1, 3, "nano", "complete")
    complete.load_state_dict(legacy.state_dict(), strict=True)
    assert largest_difference(legacy, complete, torch.randn(1, 1, 64, 32, 32)) > 1e-2


@pytest.mark.parametrize("merging", ["complete", "legacy", "v2"])
@pytest.mark.parametrize("size_vox", [(37, 45, 50), (33, 16, 29)])
@pytest.mark.parametrize("normalize", [True, False])
def test_encoder_gives_the_hidden_states_of_monai_at_odd_sizes(pair, merging, size_vox, normalize):
    ours, theirs = pair("nano", merging, in_channels=2)
    image = torch.randn(1, 2, *size_vox)
    with torch.no_grad():
        found = ours.swinViT(image, normalize)
        expected = theirs.swinViT(image, normalize)
    for state, monai_state in zip(found, expected, strict=True):
        torch.testing.assert_close(state, monai_state, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_gradients_are_those_of_monai_in_double_precision(pair):
    ours, theirs = (network.double() for network in pair("nano", "legacy", 1))
    image = torch.randn(1, 1, 64, 32, 32, dtype=torch.float64)
    target = torch.randn(1, 3, 64, 32, 32, dtype=torch.float64)
    for network in (ours, theirs):
        (network(image) * target).mean().backward()
    found = {name: p.grad for name, p in ours.named_parameters()}
    for name, parameter in theirs.named_parameters():
        scale = parameter.grad.abs().max()
        assert (found[name] - parameter.grad).abs().max() <= 1e-9 * scale + 1e-15, name


def test_encoder_gradients_are_those_of_monai_where_windows_are_cut_and_padded(monai_nets):
    # 46 voxels: 23 tokens are padded by 5, more than the tail that a shift leaves.
    size = Scale(feature_size=6, depths=(2, 2, 2, 2), num_heads=(1, 2, 3, 6))
    theirs = monai_nets.SwinTransformer(
        1, 6, (7, 7, 7), (2, 2, 2), size.depths, size.num_heads, downsample="merging"
    )
    ours = SwinTransformer(1, size)
    ours.load_state_dict(shake(theirs).state_dict(), strict=True)
    image = torch.randn(2, 1, 46, 18, 34, dtype=torch.float64)
    for network in (ours, theirs):
        states = network.double()(image)
        sum((state * (state + 1).sin()).sum() for state in states).backward()
    found = {name: p.grad for name, p in ours.named_parameters()}
    for name, parameter in theirs.named_parameters():
        scale = parameter.grad.abs().max()
        assert (found[name] - parameter.grad).abs().max() <= 1e-9 * scale + 1e-12, name


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_skipped_branches_grow_with_depth_as_in_monai(monai_nets, rate):
    theirs = monai_nets.SwinUNETR(1, 1, feature_size=12, dropout_path_rate=rate)
    ours = SwinUNETR(1, 1, "nano", drop_path=rate)
    expected = [m.drop_prob for m in theirs.modules() if type(m).__name__ == "DropPath"]
    found = [m.rate for m in ours.modules() if type(m).__name__ == "DropPath" and m.rate > 0]
    assert found == pytest.approx(expected)
