import gc

import pytest
import torch

from brainsegfounder.models import maps
from brainsegfounder.models.maps import empty_map, empty_scratch

LARGE = (1, 16, 64, 64, 64)
MIB = 1 << 20


@pytest.fixture
def pool(monkeypatch):
    gc.collect()
    fresh = maps._Pool()
    monkeypatch.setattr(maps, "_POOL", fresh)
    return fresh


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 6), LARGE, (2, 3, 64, 80, 96)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_map_is_channels_last_and_no_view(shape, dtype):
    found = empty_map(shape, dtype)
    assert found.shape == shape
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert not found._is_view()
    assert found.data_ptr() % 64 == 0
    found.fill_(1)
    assert found.double().sum() == found.numel()


def test_memory_is_used_again_only_when_every_view_is_gone(pool):
    first = empty_map(LARGE, torch.float32)
    place, view = first.data_ptr(), first[:, 0]
    del first
    second = empty_map(LARGE, torch.float32)
    assert second.data_ptr() != place
    del view
    assert empty_map(LARGE, torch.float32).data_ptr() == place


def test_what_autograd_keeps_is_not_lent_again(pool):
    x = torch.ones(LARGE, requires_grad=True)
    kept = empty_map(LARGE, torch.float32).fill_(3)
    y = x * kept
    del kept
    empty_map(LARGE, torch.float32).fill_(7)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, torch.full(LARGE, 3.0))


def test_no_more_is_held_than_was_once_in_use(pool):
    most = [empty_scratch((1, 1, n * MIB), torch.float32) for n in (4, 8, 16)]
    del most
    assert pool._held_bytes() <= 28 * 4 * MIB + 3 * maps._ALIGNMENT
    for n in (5, 6, 7, 9, 10, 11, 12):
        empty_scratch((1, 1, n * MIB), torch.float32)
        assert pool._held_bytes() <= 28 * 4 * MIB + 3 * maps._ALIGNMENT
    assert pool._lent_bytes == 0


def test_small_maps_are_left_to_the_c_library(pool):
    small = empty_map((1, 4, 8, 8, 8), torch.float32)
    assert small.is_contiguous(memory_format=torch.channels_last_3d)
    assert pool._most_lent_bytes == 0
