import pytest
import torch
from torch import nn
from torch.nn import functional

from brainsegfounder.models import slabs, winograd
from brainsegfounder.models.convolution import add_convolved_double, convolve, make_convolution
from brainsegfounder.models.slabs import channels_last


# A single case of few voxels, of more, a single large one, a batch, a width of whole blocks, and a
# 1x1x1 kernel.
@pytest.mark.parametrize(
    ("num_cases", "channels", "size", "kernel"),
    [
        (1, 4, 8, 3),
        (1, 4, 16, 3),
        (1, 24, 32, 3),
        (2, 12, 8, 3),
        (2, 16, 8, 3),
        (1, 4, 8, 1),
        (2, 12, 8, 1),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_and_its_gradients_do_not_depend_on_the_path(
    num_cases, channels, size, kernel, bias
):
    torch.manual_seed(0)
    layer = make_convolution(channels, 12 if channels != 16 else 16, kernel, bias=bias)
    exact = nn.Conv3d(
        layer.in_channels, layer.out_channels, kernel, padding=kernel // 2, bias=bias
    ).double()
    exact.load_state_dict(layer.state_dict())
    image = torch.randn(num_cases, channels, size, size, 8, requires_grad=True)
    found = convolve(image, layer)
    expected = exact(image.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    tensors = torch.autograd.grad(found.sin().sum(), [image, *layer.parameters()])
    doubles = torch.autograd.grad(expected.sin().sum(), [image, *exact.parameters()])
    for gradient, double in zip(tensors, doubles, strict=True):
        scale = float(double.abs().max())
        torch.testing.assert_close(gradient.double(), double.double(), rtol=0, atol=1e-4 * scale)


# Two cases in double precision, all rows at once or four at a time.
@pytest.mark.parametrize("at_once", [16, 4])
@pytest.mark.parametrize("num_rows", [4, 7, 12])
@pytest.mark.parametrize("wants_x", [True, False])
def test_a_large_map_is_convolved_some_rows_at_a_time(num_rows, at_once, wants_x, monkeypatch):
    monkeypatch.setattr(slabs, "ROWS_BYTES", at_once * 5 * 3 * 4 * 8)
    monkeypatch.setattr(winograd, "SMALLER_VALUES", 0)
    monkeypatch.setattr(winograd, "LARGER_VALUES", 0)
    torch.manual_seed(0)
    layer = make_convolution(5, 2, 3, bias=True).double()
    x = torch.randn(2, 5, num_rows, 3, 4, dtype=torch.float64, requires_grad=wants_x)
    found, expected = convolve(x, layer), functional.conv3d(x, *layer.parameters(), padding=1)
    assert "ConvolveRows" in str(found.grad_fn.next_functions)
    torch.testing.assert_close(found, expected)
    tensors = (x, *layer.parameters()) if wants_x else tuple(layer.parameters())
    gradients = torch.autograd.grad(found.sin().sum(), tensors)
    exact = torch.autograd.grad(expected.sin().sum(), tensors)
    for one, other in zip(gradients, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


# Eight fine rows of 3 channels in double precision: all at once, or four at a time.
@pytest.mark.parametrize("rows", [8, 4])
@pytest.mark.parametrize("size", [1, 3])
def test_a_doubled_map_is_convolved_and_added_in_one_step(size, rows, monkeypatch):
    monkeypatch.setattr(slabs, "ROWS_BYTES", rows * 3 * 6 * 4 * 8)
    torch.manual_seed(0)
    coarse = torch.randn(2, 5, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    doubling = torch.randn(5, 4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(3, 4, size, size, size, dtype=torch.float64, requires_grad=True)
    start = torch.randn(2, 3, 8, 6, 4, dtype=torch.float64, requires_grad=True)
    tensors = (start, coarse, doubling, kernel)
    fine = functional.conv_transpose3d(coarse, doubling, stride=2)
    expected = start + functional.conv3d(fine, kernel, padding=size // 2)
    found = add_convolved_double(channels_last(start * 1), coarse, doubling, kernel)
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found.sin().sum(), tensors)
    exact = torch.autograd.grad(expected.sin().sum(), tensors)
    for one, other in zip(gradients, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
