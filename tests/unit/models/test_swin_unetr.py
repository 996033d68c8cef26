import pytest
import torch

from brainsegfounder.errors import RecipeError, UsageError
from brainsegfounder.models.swin_unetr import SwinUNETR


def num_parameters(network):
    return sum(p.numel() for p in network.parameters())


# Method sheet, section 2; validated there against the logs of the paper's runs.
@pytest.mark.parametrize(
    ("scale", "encoder", "whole"),
    [
        ("tiny", (8_062_002, 8_062_386, 8_063_154), (62_186_757, 62_188_485, 62_191_941)),
        ("small", (9_946_914, 9_947_298, 9_948_066), (64_071_669, 64_073_397, 64_076_853)),
        ("big", (15_601_650, 15_602_034, 15_602_802), (69_726_405, 69_728_133, 69_731_589)),
    ],
)
@pytest.mark.parametrize("column", [0, 1, 2])
def test_parameter_counts_are_those_of_the_paper(scale, encoder, whole, column):
    with torch.device("meta"):
        network = SwinUNETR((1, 2, 4)[column], 3, scale)
    assert num_parameters(network.swinViT) == encoder[column]
    assert num_parameters(network) == whole[column]


def test_one_output_saves_98_parameters():
    with torch.device("meta"):
        assert num_parameters(SwinUNETR(4, 3)) - num_parameters(SwinUNETR(4, 1)) == 98


def test_nano_has_four_million_parameters():
    with torch.device("meta"):
        assert num_parameters(SwinUNETR(4, 3, "nano")) == 4_079_373


def test_a_network_says_what_it_is():
    with torch.device("meta"):
        network = SwinUNETR(2, 1, "small", "legacy")
    found = (network.in_channels, network.out_channels, network.scale, network.merging)
    assert found == (2, 1, "small", "legacy")


def test_logits_have_the_size_of_the_image():
    network = SwinUNETR(2, 3, "nano").eval()
    with torch.no_grad():
        assert network(torch.randn(1, 2, 64, 32, 96)).shape == (1, 3, 64, 32, 96)


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    network = SwinUNETR(1, 2, "nano", checkpointing=True, dropout=0.1, drop_path=0.1)
    network(torch.randn(2, 1, 64, 32, 32)).square().mean().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_the_same_seed_gives_the_same_network():
    networks = []
    for _ in range(2):
        torch.manual_seed(5)
        networks.append(SwinUNETR(1, 1, "nano").state_dict())
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 2, 64, 60, 64), r"\(64, 60, 64\) voxels.*multiple of 32.*\(64, 64, 64\)"),
        ((1, 2, 32, 32, 0), "multiple of 32"),
        ((1, 3, 64, 64, 64), r"\(1, 3, 64, 64, 64\).*2 contrasts"),
        ((2, 64, 64, 64), r"\(cases, 2, I, J, K\)"),
        ((1, 2, 32, 32, 32), "one voxel.*two or more"),
    ],
)
def test_an_image_that_does_not_fit_is_refused_with_what_would(shape, message):
    with torch.device("meta"):
        network, image = SwinUNETR(2, 3, "nano"), torch.empty(shape)
    with pytest.raises(UsageError, match=message):
        network(image)


def test_an_unknown_scale_or_merging_is_refused():
    with pytest.raises(RecipeError, match="did you mean 'nano'"):
        SwinUNETR(1, 1, "nanno")
    with pytest.raises(RecipeError, match="merging 'old'"):
        SwinUNETR(1, 1, "nano", "old")
