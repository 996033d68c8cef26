import pytest
import torch
from torch.nn import functional

from brainsegfounder.models.slabs import channels_last
from brainsegfounder.models.winograd import RowConvolution, RowKernelGradient, pays


def rows_and_kernel(num_rows, dtype):
    torch.manual_seed(0)
    x = channels_last(torch.randn(1, 5, num_rows + 2, 6, 7, dtype=dtype))
    kernel = torch.randn(3, 5, 3, 3, 3, dtype=dtype)
    return x, kernel, functional.conv3d(x, kernel, padding=(0, 1, 1))


# Fewer rows than a tile, one, two and three tiles, and tiles with rows left over.
@pytest.mark.parametrize("num_rows", [1, 3, 4, 8, 9, 12, 15])
def test_rows_are_convolved_and_the_kernel_has_the_exact_gradient(num_rows):
    x, kernel, expected = rows_and_kernel(num_rows, torch.float64)
    found = torch.empty_like(expected, memory_format=torch.channels_last_3d)
    RowConvolution(kernel).apply(x, found)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

    kernel.requires_grad_()
    expected = functional.conv3d(x, kernel, padding=(0, 1, 1))
    (exact,) = torch.autograd.grad(expected.sin().sum(), kernel)
    gradient = RowKernelGradient(kernel.detach())
    gradient.add(x, channels_last(expected.detach().cos()))
    torch.testing.assert_close(gradient.result(), exact, rtol=1e-12, atol=1e-11)


def test_in_single_precision_little_is_lost():
    x, kernel, _ = rows_and_kernel(16, torch.float64)
    exact = functional.conv3d(x, kernel, padding=(0, 1, 1))
    found = torch.empty_like(exact, dtype=torch.float32, memory_format=torch.channels_last_3d)
    RowConvolution(kernel.float()).apply(x.float(), found)
    assert (found - exact).abs().max() < 3e-6 * exact.abs().max()


@pytest.mark.parametrize(
    ("shape", "out_channels", "expected"),
    [
        ((1, 48, 96, 96, 96), 48, True),
        ((2, 4, 96, 96, 96), 48, True),
        ((1, 48, 3, 96, 96), 48, False),  # no whole tile
        ((1, 1, 96, 96, 96), 48, False),  # PyTorch's slow path for planes
        ((1, 384, 6, 6, 6), 384, False),
    ],
)
def test_only_large_maps_go_this_way(shape, out_channels, expected):
    assert pays(torch.Size(shape), out_channels) is expected
