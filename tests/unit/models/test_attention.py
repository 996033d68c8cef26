import pytest
import torch
from torch.nn import functional

from brainsegfounder.models import attention
from brainsegfounder.models.attention import attend


def inputs(dtype=torch.float64, num_windows=5):
    random = torch.Generator().manual_seed(3)
    shapes = [
        (num_windows, 2, 12, 4),
        (num_windows, 2, 13, 4),
        (num_windows, 2, 13, 4),
        (2, 12, 13),
    ]
    return [
        torch.randn(shape, generator=random, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in shapes
    ]


def plain(q, k, v, bias):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("piece_bytes", [1, 6000, 4 << 20])
def test_gradients_are_those_of_the_formula_however_it_is_cut_in_pieces(monkeypatch, piece_bytes):
    monkeypatch.setattr(attention, "PIECE_BYTES", piece_bytes)
    tensors = inputs()
    weight = torch.linspace(-1, 1, 5 * 2 * 12 * 4, dtype=torch.float64).view(5, 2, 12, 4)
    expected = torch.autograd.grad((plain(*tensors) * weight).sum(), tensors)
    found = torch.autograd.grad((attend(*tensors) * weight).sum(), tensors)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_without_gradients_it_gives_the_same_numbers():
    tensors = inputs()
    with torch.no_grad():
        torch.testing.assert_close(attend(*tensors), plain(*tensors))
    torch.testing.assert_close(attend(*tensors), plain(*tensors))


def test_half_precision_gradients_are_as_good_as_those_of_pytorch():
    exact = inputs(num_windows=200)
    half = inputs(torch.bfloat16, num_windows=200)
    expected = torch.autograd.grad(plain(*exact).square().sum(), exact)
    q, k, v, bias = half
    peer = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.unsqueeze(0))
    theirs = torch.autograd.grad(peer.square().sum(), half)
    ours = torch.autograd.grad(attend(*half).square().sum(), half)
    for a, b, c in zip(ours, theirs, expected, strict=True):
        error, peer_error = (a - c).norm() / c.norm(), (b - c).norm() / c.norm()
        assert error < 1.5 * peer_error + 1e-3


def test_dropout_changes_attention():
    tensors = inputs()
    torch.manual_seed(0)
    assert not torch.allclose(attend(*tensors, dropout=0.5), attend(*tensors))
