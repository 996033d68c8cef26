"""SwinUNETR and its encoder against MONAI's, weight for weight and number for number."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from brainsegfounder.models.scales import Scale, get_scale
from brainsegfounder.models.swin import SwinTransformer
from brainsegfounder.models.swin_unetr import SwinUNETR

# The eight slots of MONAI's `PatchMerging` from 0.9.1 to 1.4 (method sheet, 6.3); 1.6.1 has it no
# more, but takes a class in its place.
SLOTS_BEFORE_1_5 = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
SLOTS_BEFORE_1_5 += [(1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1)]


class MergingBefore15(nn.Module):
    def __init__(self, dim, norm_layer=nn.LayerNorm, spatial_dims=3):
        super().__init__()
        self.reduction = nn.Linear(8 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(8 * dim)

    def forward(self, x):
        i, j, k = (n % 2 for n in x.shape[1:4])
        x = functional.pad(x, (0, 0, 0, k, 0, j, 0, i))
        corners = [x[:, a::2, b::2, c::2] for a, b, c in SLOTS_BEFORE_1_5]
        return self.reduction(self.norm(torch.cat(corners, -1)))


DOWNSAMPLE = {"complete": "merging", "legacy": MergingBefore15, "v2": "mergingv2"}


@pytest.fixture(scope="module")
def monai_nets():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("monai.networks.nets.swin_unetr", reason="no MONAI here")


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


def pair(monai_nets, scale, merging, in_channels=4):
    """Our network and MONAI's, with equal weights."""
    size = get_scale(scale)
    theirs = monai_nets.SwinUNETR(
        in_channels,
        3,
        feature_size=size.feature_size,
        depths=size.depths,
        num_heads=size.num_heads,
        downsample=DOWNSAMPLE[merging],
    )
    ours = SwinUNETR(in_channels, 3, scale, merging)
    ours.load_state_dict(shake(theirs).state_dict(), strict=True)
    return ours, theirs


@torch.no_grad()
def largest_difference(ours, theirs, image):
    return float((ours(image) - theirs(image)).abs().max())


@pytest.mark.parametrize(
    ("scale", "merging"),
    [("nano", "legacy"), ("nano", "v2"), ("tiny", "complete"), ("small", "complete")],
)
def test_state_dict_has_the_names_and_shapes_of_monais(monai_nets, scale, merging):
    size = get_scale(scale)
    theirs = monai_nets.SwinUNETR(
        *(4, 3),
        feature_size=size.feature_size,
        depths=size.depths,
        downsample=DOWNSAMPLE[merging],
    )
    with torch.device("meta"):
        ours = SwinUNETR(4, 3, scale, merging)
    expected = {name: (t.shape, t.dtype) for name, t in theirs.state_dict().items()}
    assert {name: (t.shape, t.dtype) for name, t in ours.state_dict().items()} == expected


@pytest.mark.parametrize("merging", ["complete", "legacy", "v2"])
@pytest.mark.parametrize("size_vox", [(64, 64, 64), (64, 32, 96)])
def test_nano_gives_the_logits_of_monai(monai_nets, merging, size_vox):
    ours, theirs = (network.eval() for network in pair(monai_nets, "nano", merging))
    assert largest_difference(ours, theirs, torch.randn(1, 4, *size_vox)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("merging", "size_vox"), [("complete", (64, 32, 96)), ("legacy", (64, 64, 64))]
)
def test_tiny_gives_the_logits_of_monai(monai_nets, merging, size_vox):
    ours, theirs = (network.eval() for network in pair(monai_nets, "tiny", merging))
    assert largest_difference(ours, theirs, torch.randn(1, 4, *size_vox)) < 1e-4


def test_a_batch_gives_the_logits_of_monai(monai_nets):
    ours, theirs = pair(monai_nets, "nano", "complete")
    assert largest_difference(ours, theirs, torch.randn(2, 4, 64, 32, 32)) < 1e-4


def test_mergings_differ_though_weights_are_the_same(monai_nets):
    legacy, _ = pair(monai_nets, "nano", "legacy", in_channels=1)
    complete = SwinUNETR(1, 3, "nano", "complete")
    complete.load_state_dict(legacy.state_dict(), strict=True)
    assert largest_difference(legacy, complete, torch.randn(1, 1, 64, 32, 32)) > 1e-2


@pytest.mark.parametrize("merging", ["complete", "legacy", "v2"])
@pytest.mark.parametrize("size_vox", [(37, 45, 50), (33, 16, 29)])
@pytest.mark.parametrize("normalize", [True, False])
def test_encoder_gives_the_hidden_states_of_monai_at_odd_sizes(
    monai_nets, merging, size_vox, normalize
):
    ours, theirs = pair(monai_nets, "nano", merging, in_channels=2)
    image = torch.randn(1, 2, *size_vox)
    with torch.no_grad():
        found = ours.swinViT(image, normalize)
        expected = theirs.swinViT(image, normalize)
    for state, monai_state in zip(found, expected, strict=True):
        torch.testing.assert_close(state, monai_state, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_gradients_are_those_of_monai_in_double_precision(monai_nets):
    ours, theirs = (network.double() for network in pair(monai_nets, "nano", "legacy", 1))
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
