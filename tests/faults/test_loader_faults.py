"""Workers of the loader killed, stopped, blocked; cases that cannot be read: never a hang."""

import contextlib
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from brainsegfounder.data import loader, parcels, patches, workers
from brainsegfounder.data.loader import PatchDataset, PatchSampling, batches
from brainsegfounder.data.manifest import Case
from brainsegfounder.data.quarantine import Quarantine
from brainsegfounder.data.store import StorePlan, open_store
from brainsegfounder.data.store_writer import finish_store, write_case
from brainsegfounder.errors import DataError, TrainingError
from brainsegfounder.settings import PreparationSettings
from brainsegfounder.volumes.preparation import prepare

NAMES = ("anna", "bert", "carl", "dora")
SETTINGS = PreparationSettings(spacing_mm=None, margin_mm=2.0)
pytestmark = pytest.mark.skipif(
    multiprocessing.get_start_method() != "fork", reason="faults are planted in forked workers"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nobody waits in these tests, and every one ends within a minute."""
    monkeypatch.setattr(patches, "SECONDS_TO_RETRY", 0.0)
    monkeypatch.setattr(workers, "SECONDS_TO_DUMP", 0.3)
    signal.alarm(60)
    yield
    signal.alarm(0)
    assert crew() == []


@pytest.fixture
def store(draw_brain, tmp_path):
    cases = [Case(name, name, {}) for name in NAMES]
    for seed, case in enumerate(cases):
        image, labels = draw_brain(seed=seed)
        write_case(tmp_path, case, prepare(image, SETTINGS, labels))
    finish_store(tmp_path, cases, StorePlan(("T1w",), SETTINGS))
    return open_store(tmp_path)


def dataset(store):
    return PatchDataset(store, store.cases, ("T1w",), PatchSampling((8, 8, 8)), seed=0)


def made(store, num_workers=2, num_batches=8, first_batch=0, **options):
    return batches(
        dataset(store),
        first_batch=first_batch,
        num_batches=num_batches,
        batch_size=2,
        num_workers=num_workers,
        **options,
    )


def crew():
    return [p for p in multiprocessing.active_children() if p.name.startswith("data worker")]


def same(one, other):
    return (
        one.cases == other.cases
        and one.numbers == other.numbers
        and one.quarantined == other.quarantined
        and torch.equal(one.image, other.image)
    )


def plant(monkeypatch, fault, case="bert"):
    """Let something happen in a worker when it reads a case."""
    crops = PatchDataset._crops

    def faulty(self, stored, images, rng):
        if stored.case == case and multiprocessing.parent_process() is not None:
            fault()
        return crops(self, stored, images, rng)

    monkeypatch.setattr(PatchDataset, "_crops", faulty)


def once(flag, fault):
    """The first process that comes here suffers; those after it do not."""

    def happen():
        with contextlib.suppress(FileExistsError):
            flag.touch(exist_ok=False)
            fault()

    return happen


def kill_oneself():
    os.kill(os.getpid(), signal.SIGKILL)


def stop_oneself():
    os.kill(os.getpid(), signal.SIGSTOP)


def wait_for_a_dead_disk():
    time.sleep(1000)


@pytest.mark.parametrize("fault", [kill_oneself, stop_oneself, wait_for_a_dead_disk])
def test_after_one_fault_of_a_worker_every_batch_comes_as_if_nothing_had_been(
    store, monkeypatch, tmp_path, caplog, fault
):
    plain = list(made(store, num_workers=0))
    plant(monkeypatch, once(tmp_path / "flag", fault))
    survived = list(made(store, patience_s=1.0))
    assert len(survived) == len(plain) == 8
    assert all(map(same, plain, survived))
    assert (tmp_path / "flag").exists()
    assert "it read case 'bert'. Starting another one; no batch is lost" in caplog.text


@pytest.mark.parametrize(
    ("fault", "how"),
    [
        (kill_oneself, "was ended by SIGKILL, as systems do that run out of memory"),
        (stop_oneself, r"has not moved for 1 s \(it was stopped by a signal\)"),
        (wait_for_a_dead_disk, "has not moved for 1 s"),
    ],
)
def test_a_case_that_no_worker_survives_is_named_in_the_error(store, monkeypatch, fault, how):
    plant(monkeypatch, fault)
    with pytest.raises(TrainingError, match=rf"data worker \d \(process \d+\) {how}; it read case"):
        list(made(store, patience_s=1.0))


def test_the_error_comes_after_one_restart_and_says_what_to_do(store, monkeypatch, caplog):
    plant(monkeypatch, kill_oneself)
    with pytest.raises(TrainingError, match=r"case 'bert'\. It is the second time.*--resume"):
        list(made(store))
    assert caplog.text.count("Starting another one") == 1


def test_where_a_worker_hangs_its_stack_is_told(store, monkeypatch, tmp_path, caplog):
    plant(monkeypatch, once(tmp_path / "flag", wait_for_a_dead_disk))
    assert len(list(made(store, patience_s=1.0))) == 8
    assert "in wait_for_a_dead_disk" in caplog.text


def test_a_worker_killed_between_batches_costs_nothing(store, caplog):
    plain, running = list(made(store, num_workers=0)), made(store)
    survived = [next(running)]
    crew()[0].kill()
    survived += running
    assert all(map(same, plain, survived))
    assert len(survived) == len(plain)
    assert "was ended by SIGKILL" in caplog.text


def test_a_worker_mended_long_ago_is_forgotten(store, monkeypatch, caplog):
    monkeypatch.setattr(workers, "FORGIVEN_AFTER", 4)
    running, survived = made(store, num_workers=1, num_batches=20), []
    for number in range(20):
        if number in (2, 12):
            crew()[0].kill()
        survived.append(next(running))
    running.close()
    assert all(map(same, made(store, num_workers=0, num_batches=20), survived))
    assert caplog.text.count("Starting another one") == 2


def test_slow_cases_are_not_taken_for_a_hang(store, monkeypatch):
    plant(monkeypatch, lambda: time.sleep(0.7))
    slow = replace_all_names(store, "bert")
    assert len(list(made(slow, num_batches=2, patience_s=1.0))) == 2


def replace_all_names(store, case):
    """A store whose cases are all the same one."""
    (stored,) = [c for c in store.cases if c.case == case]
    return replace(store, cases=(stored,) * 4)


def test_a_run_that_stops_early_leaves_no_worker_even_if_one_is_stopped(store):
    running = made(store)
    next(running)
    os.kill(crew()[0].pid, signal.SIGSTOP)
    assert len(crew()) == 2
    running.close()
    assert crew() == []


def test_workers_end_when_the_run_is_killed(store, tmp_path):
    file = tmp_path / "pids"
    child = os.fork()
    if child == 0:
        running = made(store)
        next(running)
        file.write_text(" ".join(str(p.pid) for p in crew()))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    pids = [int(pid) for pid in file.read_text().split()]
    assert len(pids) == 2
    deadline_s = time.monotonic() + 20
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert not any(is_alive(pid) for pid in pids)


def is_alive(pid):
    """Whether a process runs; one that only waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_signals_to_all_processes_of_a_job_are_the_parents_business(store):
    running = made(store)
    survived = [next(running)]
    for process in crew():
        os.kill(process.pid, signal.SIGINT)
        os.kill(process.pid, signal.SIGUSR1)
    survived += running
    assert all(map(same, made(store, num_workers=0), survived))


def test_what_a_worker_raises_is_raised_here_with_the_place_where_it_was(store, monkeypatch):
    def refuse():
        raise KeyError("a mistake of ours")

    plant(monkeypatch, refuse)
    with pytest.raises(KeyError, match="a mistake of ours") as caught:
        list(made(store))
    assert "in refuse" in "".join(caught.value.__notes__)


# --- memory


def test_batches_of_workers_lie_in_memory_without_a_name(store):
    batch = next(running := made(store))
    assert "memfd:batch" in Path("/proc/self/maps").read_text()
    running.close()
    assert batch.image.abs().sum() > 0, "they stay when the worker has gone"


def test_without_such_memory_batches_come_through_the_pipe(store, monkeypatch):
    monkeypatch.delattr(parcels.os, "memfd_create")
    plain = list(made(store, num_workers=0))
    assert all(map(same, plain, made(store)))
    changed = next(iter(made(store))).image.add_(1)
    assert torch.equal(changed, plain[0].image + 1)


def test_fewer_workers_are_started_where_memory_is_short_and_that_is_said(
    store, monkeypatch, caplog
):
    patch_gib = 2 * 8**3 * 4 / 2**30
    monkeypatch.setattr(loader, "available_memory_gib", lambda: 2 * 3 * 4 * patch_gib)
    running = made(store, num_workers=5)
    next(running)
    assert len(crew()) == 3
    running.close()
    assert "5 data workers need" in caplog.text
    assert "using 3" in caplog.text


# --- cases that cannot be read


def spoil(store, name, how):
    """Damage a case's image in the store."""
    path = store.folder / "cases" / f"{name}.image.b2nd"
    content = bytearray(path.read_bytes())
    if how == "cut short":
        content = content[: len(content) // 2]
    elif how == "of zeros":
        content[200:-200] = bytes(len(content) - 400)
    elif how == "overwritten":
        middle = slice(200, len(content) - 200)
        content[middle] = np.random.default_rng(0).bytes(len(content) - 400)
    elif how == "changed in one byte":
        content[len(content) // 2] ^= 1
    path.write_bytes(content)
    if how == "gone":
        path.unlink()


@pytest.mark.parametrize(
    "how", ["cut short", "gone", "overwritten", "of zeros", "changed in one byte"]
)
def test_a_damaged_case_is_left_out_and_another_takes_its_place(store, tmp_path, how, caplog):
    before = list(made(store, num_workers=0))
    spoil(store, "bert", how)
    quarantine = Quarantine(len(NAMES), tmp_path / "quarantine.json")
    after = list(made(store, num_workers=0, quarantine=quarantine))
    assert list(quarantine.reasons) == ["bert"]
    assert "bert" in quarantine.reasons["bert"]
    assert "case 'bert' is left out, another takes its place" in caplog.text
    assert Quarantine(len(NAMES), tmp_path / "quarantine.json").reasons == quarantine.reasons
    for one, other in zip(before, after, strict=True):
        assert "bert" not in other.cases
        assert len(other.image) == len(one.image)
        assert one.numbers == other.numbers
        assert [c for c, _ in other.quarantined] == [c for c in one.cases if c == "bert"]
        for place, case in enumerate(one.cases):
            is_kept = torch.equal(one.image[place], other.image[place])
            assert is_kept == (case != "bert")


def test_what_takes_its_place_is_the_same_for_any_workers_and_any_start(store):
    spoil(store, "bert", "cut short")
    whole = list(made(store, num_workers=0))
    assert all(map(same, whole, made(store, num_workers=2)))
    assert all(map(same, whole[3:], made(store, first_batch=3, num_batches=5, num_workers=1)))
    stand_ins = {case for n in (1, 5, 9, 13) for case in dataset(store)[n].cases}
    assert len(stand_ins) > 1


def test_damage_that_comes_while_the_run_goes_on_is_found_too(store):
    data = dataset(store)
    assert len({data[n].cases for n in range(4)}) == 4
    spoil(store, "bert", "overwritten")
    replaced = [name for n in range(4, 8) for name, _ in data[n].quarantined]
    assert replaced == ["bert"]


def test_numbers_that_are_none_are_damage(store, monkeypatch):
    cut = patches._cut
    monkeypatch.setattr(patches, "_cut", lambda *a: np.full_like(cut(*a), np.nan))
    with pytest.raises(DataError, match=r"4 cases in a row cannot be read.*from nan to nan"):
        next(made(store, num_workers=0))


def test_a_case_that_fails_once_is_read_again(store, monkeypatch, tmp_path):
    plain, cut = list(made(store, num_workers=0)), patches._cut

    def failing_once(*arguments):
        if not (tmp_path / "flag").exists():
            (tmp_path / "flag").touch()
            raise patches.StoreError("stale file handle")
        return cut(*arguments)

    monkeypatch.setattr(patches, "_cut", failing_once)
    assert all(map(same, plain, made(store, num_workers=0)))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_damaged_cases_end_the_run_and_are_named(store, num_workers):
    spoil(store, "bert", "cut short")
    spoil(store, "carl", "gone")
    with pytest.raises(DataError, match="2 of 4 cases cannot be read") as caught:
        list(made(store, num_workers=num_workers))
    assert "bert" in str(caught.value)
    assert "carl" in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_resumed_run_does_not_forget_how_many_were_damaged(store, tmp_path):
    file = tmp_path / "quarantine.json"
    spoil(store, "bert", "cut short")
    list(made(store, num_workers=0, quarantine=Quarantine(4, file)))
    spoil(store, "carl", "cut short")
    for _ in range(2):
        with pytest.raises(DataError, match="2 of 4 cases"):
            list(made(store, num_workers=0, quarantine=Quarantine(4, file)))


def test_one_case_in_a_hundred_may_be_damaged_and_always_one():
    assert [Quarantine(n).limit for n in (1, 99, 200, 41_400)] == [1, 1, 2, 414]


def test_a_store_that_has_gone_is_not_taken_for_damaged_cases(store):
    running = made(store, num_workers=0)
    next(running)
    (store.folder / "cases").rename(store.folder / "elsewhere")
    with pytest.raises(DataError, match="Is the folder still there"):
        next(running)
