import pytest
import torch
from torch import nn

from brainsegfounder.models.ssl_heads import SSLNetwork
from brainsegfounder.models.step_cost import count_step

MIB = 2**20


def cost_of(network, shape):
    with torch.device("meta"):
        network, image = network(), torch.empty(shape)

    def loss():
        outputs = network(image)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return torch.stack([out.abs().mean() for out in outputs]).sum()

    return count_step(network, loss)


def test_two_linear_layers_cost_what_the_formula_says():
    cost = cost_of(lambda: nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 4)), (100, 8))
    first, second = 2 * 100 * 8 * 32, 2 * 100 * 32 * 4
    assert cost.num_parameters == 8 * 32 + 32 + 32 * 4 + 4
    assert cost.forward_flop == first + second
    # Back: the gradients of both kernels, and of the second layer's input.
    assert cost.flop == 2 * first + 3 * second


def test_memory_is_weights_gradients_and_what_is_kept():
    cost = cost_of(lambda: nn.Sequential(nn.Linear(1024, 1024, bias=False)), (1024, 1024))
    # Weights and input, 4 MiB each; the output; |output|, which dies; then gradients.
    assert 16 * MIB <= cost.peak_bytes <= 24 * MIB + 64


def test_views_move_nothing():
    class Turned(nn.Linear):
        def forward(self, x):
            return super().forward(x.view(100, 2, 8).transpose(1, 2).transpose(1, 2).view(200, 8))

    plain = cost_of(lambda: nn.Linear(8, 8), (200, 8))
    turned = cost_of(lambda: Turned(8, 8), (100, 16))
    assert turned.moved_bytes == plain.moved_bytes


@pytest.mark.parametrize("scale", ["nano", "tiny"])
def test_twice_the_crops_cost_twice_as_much(scale):
    one, two = (cost_of(lambda: SSLNetwork(1, scale), (n, 1, 64, 64, 64)) for n in (1, 2))
    assert two.num_parameters == one.num_parameters
    assert two.flop == 2 * one.flop
    assert one.moved_bytes < two.moved_bytes < 2 * one.moved_bytes


def test_checkpointing_computes_more_and_keeps_less():
    shape = (2, 1, 64, 64, 64)
    plain = cost_of(lambda: SSLNetwork(1, "tiny"), shape)
    saving = cost_of(lambda: SSLNetwork(1, "tiny", checkpointing=True), shape)
    assert saving.forward_flop == plain.forward_flop
    assert saving.flop > plain.flop
    assert saving.peak_bytes < plain.peak_bytes
