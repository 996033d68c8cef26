"""The slab-wise CPU paths against PyTorch's own instance normalisation, in double precision."""

import pytest
import torch
from torch.nn import functional

from brainsegfounder.models import slabs
from brainsegfounder.models.normalisation import (
    NEGATIVE_SLOPE,
    normalise_add_and_activate,
    normalise_and_activate,
)


@pytest.fixture(params=[1 << 20, 1 << 9], ids=["one slab", "many slabs"], autouse=True)
def _slab_size(request, monkeypatch):
    monkeypatch.setattr(slabs, "SLAB_BYTES", request.param)


def plain(x, shortcut=None, normalise_shortcut=False):
    y = functional.instance_norm(x)
    if shortcut is not None:
        y = y + (functional.instance_norm(shortcut) if normalise_shortcut else shortcut)
    return functional.leaky_relu(y, NEGATIVE_SLOPE)


def example(*, dtype=torch.float64, requires_grad=False, shape=(2, 5, 7, 6, 4)):
    torch.manual_seed(3)
    x = (3 + 2 * torch.randn(shape, dtype=dtype)).to(memory_format=torch.channels_last_3d)
    return x.requires_grad_(requires_grad)


def test_normalise_and_activate_is_that_of_pytorch():
    x = example()
    expected = plain(x)
    torch.testing.assert_close(normalise_and_activate(x, overwrite=False), expected)


@pytest.mark.parametrize("normalise_shortcut", [True, False])
def test_joining_a_shortcut_is_that_of_pytorch(normalise_shortcut):
    x, shortcut = example(), example().flip(0) - 1
    expected = plain(x, shortcut, normalise_shortcut)
    before = shortcut.clone()
    found = normalise_add_and_activate(x, shortcut, normalise_shortcut=normalise_shortcut)
    torch.testing.assert_close(found, expected)
    assert torch.equal(shortcut, before)


@pytest.mark.parametrize("kind", ["alone", "shortcut", "normalised shortcut"])
def test_gradients_are_those_of_pytorch(kind):
    x = example(requires_grad=True)
    shortcut = (example().flip(0) - 1).requires_grad_()
    inputs = [x] if kind == "alone" else [x, shortcut]
    is_normalised = kind == "normalised shortcut"
    if kind == "alone":
        found, expected = normalise_and_activate(x, overwrite=True), plain(x)
    else:
        found = normalise_add_and_activate(x, shortcut, normalise_shortcut=is_normalised)
        expected = plain(x, shortcut, is_normalised)
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad((found.sin() * 3).sum(), inputs)
    exact = torch.autograd.grad((expected.sin() * 3).sum(), inputs)
    for one, other in zip(gradients, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_a_gradient_in_another_memory_layout_is_understood():
    x = example(requires_grad=True)
    weights = torch.randn(x.shape, dtype=x.dtype)  # not channels-last
    (found,) = torch.autograd.grad((normalise_and_activate(x, overwrite=True) * weights).sum(), x)
    (expected,) = torch.autograd.grad((plain(x) * weights).sum(), x)
    torch.testing.assert_close(found, expected)


def test_a_large_mean_does_not_swallow_a_small_spread():
    x = 1000 + example(dtype=torch.float32, shape=(1, 3, 40, 40, 40))
    expected = plain(x.double())
    found = normalise_and_activate(x, overwrite=False)
    # A float32 near 1000 is itself uncertain by 3e-5, and the spread here is 2.
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)


def test_nothing_is_overwritten_where_a_gradient_is_wanted():
    x = example(requires_grad=True)
    before = x.detach().clone()
    normalise_and_activate(x, overwrite=True)
    normalise_add_and_activate(x, x, normalise_shortcut=True)
    assert torch.equal(x.detach(), before)
