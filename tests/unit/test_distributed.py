import pytest
import torch

from brainsegfounder.distributed import (
    World,
    gather,
    gather_records,
    joined,
    largest,
    means,
    num_processes,
    rank,
    share,
    world,
)
from brainsegfounder.errors import UsageError


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_on_one_process_everything_is_as_without():
    with joined() as me:
        assert me == World()
        assert (rank(), num_processes(), largest(7)) == (0, 1, 7)
        assert means({"loss": 2.0}) == {"loss": 2.0}
        assert gather_records([1, "two"]) == [1, "two"]
        rows = torch.ones(2, 3)
        assert gather(rows) is rows
        assert share(torch.tensor(6.0), torch.tensor(3)) == 2.0
        assert share(torch.tensor(0.0), torch.tensor(0)) == 0.0


def test_the_launcher_says_who_this_is(monkeypatch):
    numbers = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "TORCHELASTIC_RESTART_COUNT": "2"}
    for name, value in numbers.items():
        monkeypatch.setenv(name, value)
    assert world() == World(rank=5, local_rank=1, size=8, attempt=2)
    assert not world().is_main


def test_processes_that_are_not_told_where_to_meet_are_told_how_to_be(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(UsageError, match=r"MASTER_ADDR and MASTER_PORT.*--launch torchrun"),
        joined(),
    ):
        pass
