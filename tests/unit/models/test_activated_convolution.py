import pytest
import torch
from torch.nn import functional

from brainsegfounder.models import slabs, winograd
from brainsegfounder.models.activated_convolution import activate_and_convolve
from brainsegfounder.models.convolution import make_convolution
from brainsegfounder.models.normalisation import NEGATIVE_SLOPE


def plain(x, layer):
    activated = functional.leaky_relu(functional.instance_norm(x), NEGATIVE_SLOPE)
    return functional.conv3d(activated, layer.weight, padding=1)


# Two cases of 3 channels in double precision, all rows at once or four at a time: whole tiles of
# four rows, some left over, and too few for one.
@pytest.mark.parametrize("num_rows", [12, 8, 7, 4, 3])
@pytest.mark.parametrize("at_once", [16, 4])
@pytest.mark.parametrize("memory_format", [torch.channels_last_3d, torch.contiguous_format])
def test_values_and_gradients_are_those_of_one_layer_after_the_other(
    num_rows, at_once, memory_format, monkeypatch
):
    monkeypatch.setattr(slabs, "ROWS_BYTES", at_once * 3 * 4 * 5 * 8)
    monkeypatch.setattr(winograd, "SMALLER_VALUES", 0)
    monkeypatch.setattr(winograd, "LARGER_VALUES", 0)
    torch.manual_seed(0)
    layer = make_convolution(3, 6, 3, bias=False).double()
    x = (
        (2 + torch.randn(2, 3, num_rows, 4, 5))
        .double()
        .to(memory_format=memory_format)
        .requires_grad_()
    )
    found, expected = activate_and_convolve(x, layer), plain(x, layer)
    torch.testing.assert_close(found, expected)
    tensors = (x, layer.weight)
    gradients = torch.autograd.grad(found.sin().sum(), tensors)
    exact = torch.autograd.grad(expected.sin().sum(), tensors)
    for one, other in zip(gradients, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
