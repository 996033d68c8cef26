import pytest
import torch
from torch.nn import functional

from brainsegfounder.models import mlp
from brainsegfounder.models.swin import Mlp


def network_and_tokens(num_tokens=70):
    torch.manual_seed(4)
    return Mlp(6, 0.0).double(), torch.randn(2, num_tokens, 6, dtype=torch.float64)


def plain(network, tokens):
    return network.linear2(functional.gelu(network.linear1(tokens)))


@pytest.mark.parametrize("least_tokens", [1, 64, 10_000])
def test_gradients_are_those_of_the_plain_layers_however_tokens_are_cut(monkeypatch, least_tokens):
    monkeypatch.setattr(mlp, "_LEAST_TOKENS", least_tokens)
    monkeypatch.setattr(mlp, "SLAB_BYTES", 1)
    network, tokens = network_and_tokens()
    tokens.requires_grad_()
    wanted = (tokens, *network.parameters())
    weight = torch.linspace(-1, 1, tokens.numel(), dtype=torch.float64).view(tokens.shape)
    expected = torch.autograd.grad((plain(network, tokens) * weight).sum(), wanted)
    found = torch.autograd.grad((network(tokens) * weight).sum(), wanted)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_it_gives_the_same_numbers(mode):
    network, tokens = network_and_tokens()
    expected = plain(network, tokens)
    with mode():
        torch.testing.assert_close(network(tokens), expected.detach(), rtol=1e-12, atol=1e-12)


def test_only_the_wide_map_is_kept_beside_input_and_weights():
    network, tokens = network_and_tokens()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        network(tokens)
    own = {p.data_ptr() for p in network.parameters()} | {tokens.data_ptr()}
    assert [tuple(x.shape) for x in kept if x.data_ptr() not in own] == [(140, 24)]


def test_dropout_still_drops_in_training():
    torch.manual_seed(0)
    network, tokens = Mlp(6, 0.5), torch.randn(4, 6)
    assert (network(tokens) == 0).any()
    assert torch.equal(network.eval()(tokens), network(tokens))
