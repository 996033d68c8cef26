import pytest
import torch

from brainsegfounder.errors import UsageError
from brainsegfounder.models.ssl_heads import SSLNetwork


# Method sheet, section 2: the paper prints the first of each row as "encoder parameters".
@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("tiny", (19_097_191, 19_097_624, 19_098_490)),
        ("small", (20_982_103, 20_982_536, 20_983_402)),
        ("big", (26_636_839, 26_637_272, 26_638_138)),
    ],
)
@pytest.mark.parametrize("column", [0, 1, 2])
def test_parameter_counts_are_those_of_the_paper(scale, expected, column):
    with torch.device("meta"):
        network = SSLNetwork((1, 2, 4)[column], scale)
    assert sum(p.numel() for p in network.parameters()) == expected[column]


@pytest.mark.parametrize(("scale", "num_tensors"), [("tiny", 142), ("small", 198)])
def test_state_dict_has_the_tensors_of_the_published_files(scale, num_tensors):
    with torch.device("meta"):
        state = SSLNetwork(1, scale).state_dict()
    assert len(state) == num_tensors
    heads = {name.rsplit(".", 1)[0] for name in state if not name.startswith("swinViT.")}
    numbered = {f"conv.{place}" for place in (0, 4, 8, 12, 16, 20)}
    assert heads == {"rotation_head", "contrastive_head"} | numbered


@pytest.mark.parametrize("pooled_heads", [False, True])
def test_outputs_have_the_shapes_that_the_tasks_need(pooled_heads):
    network = SSLNetwork(2, "nano", pooled_heads=pooled_heads).eval()
    with torch.no_grad():
        outputs = network(torch.randn(2, 2, 64, 32, 32))
    assert outputs.rotation_logits.shape == (2, 4)
    assert outputs.embedding.shape == (2, 512)
    assert outputs.reconstruction.shape == (2, 2, 64, 32, 32)


def test_heads_read_the_first_two_tokens_or_their_mean():
    torch.manual_seed(0)
    network, crops = SSLNetwork(1, "nano").eval(), torch.randn(1, 1, 64, 32, 32)
    with torch.no_grad():
        corners = network(crops)
        network.pooled_heads = True
        pooled = network(crops)
        tokens = network.swinViT(crops)[-1].flatten(2)[0].T
        torch.testing.assert_close(corners.rotation_logits[0], network.rotation_head(tokens[0]))
        torch.testing.assert_close(corners.embedding[0], network.contrastive_head(tokens[1]))
        torch.testing.assert_close(pooled.embedding[0], network.contrastive_head(tokens.mean(0)))


def test_every_parameter_gets_a_gradient_from_the_three_tasks():
    network = SSLNetwork(1, "nano", pooled_heads=True)
    sum(out.square().mean() for out in network(torch.randn(2, 1, 64, 32, 32))).backward()
    assert [n for n, p in network.named_parameters() if not p.grad.any()] == []


def test_crops_of_32_voxels_are_refused():
    with torch.device("meta"):
        network, crops = SSLNetwork(1, "nano"), torch.empty(2, 1, 32, 32, 32)
    with pytest.raises(UsageError, match="instance normalisation"):
        network(crops)


def test_ten_rotations_are_told_apart_where_all_axes_are_turned():
    with torch.device("meta"):
        outputs = SSLNetwork(1, "nano", num_rotations=10)(torch.empty(2, 1, 64, 32, 32))
    assert outputs.rotation_logits.shape == (2, 10)


def test_pooling_changes_which_tokens_are_read_and_no_weight():
    with torch.device("meta"):
        corners, pooled = (SSLNetwork(1, "nano", pooled_heads=value) for value in (False, True))
    shapes = [{n: v.shape for n, v in net.state_dict().items()} for net in (corners, pooled)]
    assert shapes[0] == shapes[1]
