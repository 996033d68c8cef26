import pytest
import torch
from torch import nn
from torch.nn import functional

from brainsegfounder.models.blocks import InstanceNorm, ResidualBlock, convolve, instance_norm


# A single small case, a single large one, a batch, a width of whole blocks, and a 1x1x1 kernel.
@pytest.mark.parametrize(
    ("num_cases", "channels", "size", "kernel"),
    [(1, 4, 8, 3), (1, 24, 32, 3), (2, 12, 8, 3), (2, 16, 8, 3), (1, 4, 8, 1), (2, 12, 8, 1)],
)
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_and_its_gradients_do_not_depend_on_the_path(
    num_cases, channels, size, kernel, bias
):
    torch.manual_seed(0)
    layer = nn.Conv3d(
        channels, 12 if channels != 16 else 16, kernel, padding=kernel // 2, bias=bias
    )
    exact = nn.Conv3d(
        layer.in_channels, layer.out_channels, kernel, padding=kernel // 2, bias=bias
    ).double()
    exact.load_state_dict(layer.state_dict())
    image = torch.randn(num_cases, channels, size, size, 8, requires_grad=True)
    found = convolve(image, layer)
    expected = exact(image.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    assert found.is_contiguous()
    tensors = torch.autograd.grad(found.sin().sum(), [image, *layer.parameters()])
    doubles = torch.autograd.grad(expected.sin().sum(), [image, *exact.parameters()])
    for gradient, double in zip(tensors, doubles, strict=True):
        scale = float(double.abs().max())
        torch.testing.assert_close(gradient.double(), double.double(), rtol=0, atol=1e-4 * scale)


def test_instance_norm_is_that_of_pytorch():
    x = 3 + 2 * torch.randn(2, 5, 8, 6, 4)
    torch.testing.assert_close(instance_norm(x), functional.instance_norm(x))
    torch.testing.assert_close(InstanceNorm()(x), functional.instance_norm(x))


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
