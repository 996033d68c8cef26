"""The network that is exported gives what the network gives."""

import pytest
import torch

from brainsegfounder.models.ensemble import Ensemble
from brainsegfounder.models.plain import plain
from brainsegfounder.models.swin_unetr import SwinUNETR


def make(merging="complete", seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = SwinUNETR(2, 3, "nano", merging).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    return network


@torch.inference_mode()
def largest_difference(network, size_vox):
    image = torch.randn(1, 2, *size_vox, generator=torch.Generator().manual_seed(1))
    return float((network(image) - plain(network, size_vox)(image)).abs().max())


@pytest.mark.parametrize(
    ("merging", "size_vox"),
    [("complete", (64, 32, 32)), ("legacy", (32, 64, 96)), ("v2", (32, 96, 32))],
)
def test_the_plain_network_gives_the_same_logits(merging, size_vox):
    assert largest_difference(make(merging), size_vox) < 1e-4


def test_so_does_that_of_an_ensemble():
    ensemble = Ensemble([make(seed=0), make(seed=1)]).eval()
    assert largest_difference(ensemble, (64, 32, 32)) < 1e-4


def test_the_network_itself_stays_as_it_was():
    network = make()
    names = {name: type(module) for name, module in network.named_modules()}
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    plain(network, (64, 32, 32))
    assert {name: type(module) for name, module in network.named_modules()} == names
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[n]) for n, tensor in network.state_dict().items())


def test_it_takes_patches_of_no_other_size():
    twin = plain(make(), (64, 32, 32))
    with pytest.raises((RuntimeError, IndexError)):
        twin(torch.zeros(1, 2, 64, 64, 32))
