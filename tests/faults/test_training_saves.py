"""Saves and records that fail: the run goes on, and what was saved before stays good."""

import errno
import logging
import os
import re
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from brainsegfounder.errors import SaveError, WeightsError
from brainsegfounder.recipes import load_recipe
from brainsegfounder.runs import open_run
from brainsegfounder.training import checkpoint, saving
from brainsegfounder.training.checkpoint import committed
from brainsegfounder.training.loop import train

SAVE_OFTEN = {"steps": 12, "checkpoint_every": 2, "validate_every": 100}


@pytest.fixture(autouse=True)
def waited(monkeypatch):
    """No waiting between the tries of a save; what would have been waited is kept."""
    waits_s = []
    monkeypatch.setattr(saving.time, "sleep", waits_s.append)
    return waits_s


class Disk:
    """Everything a save asks of the disk, counted, and failing where it is told to."""

    def __init__(self, monkeypatch, fails, is_short=False):
        self.count, self.fails, self.is_short = 0, fails, is_short
        self.step = 0
        for owner, name in (
            (checkpoint, "save_file"),
            (Path, "write_text"),
            (Path, "mkdir"),
            (Path, "rename"),
            (os, "open"),
            (os, "fsync"),
        ):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name), name))

    def _counted(self, real, name):
        def work(*args, **options):
            # Only the opening for a flush: what removes a failed try opens folders, too.
            if name == "open" and (options or args[1:] != (os.O_RDONLY,)):
                return real(*args, **options)
            self.count += 1
            if self.fails(self):
                if self.is_short and name in ("save_file", "write_text"):
                    path = args[1] if name == "save_file" else args[0]
                    path.write_bytes(b"half of it")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **options)

        return work


def run(harness, folder, disk=None, settings=None, **changes):
    """Train the toy; the disk knows which step it is."""

    def advance(step, loss):
        if disk is not None:
            disk.step = step

    job = harness.toy_job(folder, {**SAVE_OFTEN, **(settings or {})}, advance=advance, **changes)
    return train(harness.toy_network(), job, harness.CPU)


@pytest.mark.parametrize("is_short", [False, True])
def test_F03_writes_that_fail_at_operation_n_for_every_n_leave_the_checkpoint_before_good(
    harness, tmp_path, monkeypatch, caplog, is_short
):
    """Every try of the save of step 4 fails at its nth operation."""
    operation = 0
    while True:
        operation += 1
        folder, first = tmp_path / str(operation), {}

        def fails(disk, nth=operation, first=first, folder=folder):
            if disk.step != 4:
                return False
            # Each try begins by making the folder that it writes to.
            if "at" not in first:
                first["at"] = disk.count
            return disk.count - first["at"] + 1 >= nth and not has_step(folder, 6)

        def has_step(folder, step):
            return any(path.name == f"step-{step:08d}" for path in committed(folder))

        good = {}

        def record(values, folder=folder, good=good):
            good[values["step"]] = harness.good_steps(folder / "checkpoints")

        caplog.clear()
        with monkeypatch.context() as patch:
            disk = Disk(patch, fails, is_short)
            state = run(harness, folder, disk, record=record)
        assert state.step == 12
        assert 2 in good[5], f"operation {operation}: the checkpoint before is gone"
        assert harness.good_steps(folder / "checkpoints") == [10, 12]
        assert not list((folder / "checkpoints").glob(".*.partial"))
        if "not saved" not in caplog.text:
            break
        assert caplog.text.count("not saved") == 1
        assert re.search(r"about \d+ bytes needed, \d+ bytes free", caplog.text)
    assert operation > 15, "every file is made, written and flushed, and the folder renamed"


def test_F03_a_failure_that_passes_is_tried_again_and_costs_nothing(
    harness, tmp_path, monkeypatch, waited, caplog
):
    failed = []

    def fails(disk):
        if disk.step == 4 and len(failed) < 2:
            failed.append(disk.count)
        return bool(failed) and failed[-1] == disk.count

    run(harness, tmp_path, Disk(monkeypatch, fails), {"steps": 4})
    assert waited == [0.5, 2.0]
    assert harness.good_steps(tmp_path / "checkpoints") == [2, 4]
    assert "not saved" not in caplog.text


def test_F03_three_failed_saves_in_a_row_stop_the_run_with_74_and_keep_what_was(
    harness, tmp_path, monkeypatch, waited
):
    disk = Disk(monkeypatch, lambda disk: disk.step >= 5)
    with pytest.raises(SaveError, match=r"bytes needed, \d+ bytes free.*3 times in each of 3"):
        run(harness, tmp_path, disk)
    assert disk.step == 10
    assert SaveError.exit_code == 74
    assert waited == [0.5, 2.0] * 3
    monkeypatch.undo()
    assert harness.good_steps(tmp_path / "checkpoints") == [2, 4]
    assert run(harness, tmp_path).step == 12


def test_F03_failed_saves_with_a_good_one_between_them_do_not_add_up(
    harness, tmp_path, monkeypatch, caplog
):
    disk = Disk(monkeypatch, lambda disk: disk.step in (2, 4, 8, 10))
    assert run(harness, tmp_path, disk).step == 12
    assert caplog.text.count("not saved") == 4


def test_F03_the_last_save_of_a_run_must_not_fail_in_silence(harness, tmp_path, monkeypatch):
    with pytest.raises(SaveError, match="--resume"):
        run(harness, tmp_path, Disk(monkeypatch, lambda disk: disk.step == 12))
    monkeypatch.undo()
    assert harness.good_steps(tmp_path / "checkpoints") == [8, 10]


def test_F03_a_best_model_that_cannot_be_kept_is_not_taken_for_kept(harness, tmp_path, caplog):
    kept = []

    def keep_best(model, step):
        if step == 4:
            raise WeightsError("model.safetensors: cannot be written")
        kept.append(step)

    settings = {"validate_every": 4}
    state = run(harness, tmp_path, None, settings, keep_best=keep_best)
    assert kept == [8, 12]
    assert state.best_step == 12
    assert "not saved (1 of 3" in caplog.text


@pytest.mark.parametrize("num_bytes", [50, 200, 500])
def test_F04_files_that_may_not_grow_leave_earlier_checkpoints_good(
    harness, tmp_path, num_bytes, caplog
):
    run(harness, tmp_path, None, {"steps": 4})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
        with pytest.raises(SaveError, match="File too large"):
            run(harness, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert harness.good_steps(tmp_path / "checkpoints") == [2, 4]
    assert not list((tmp_path / "checkpoints").glob(".*.partial"))
    assert run(harness, tmp_path).step == 12


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_F04_a_disk_that_fills_up_stops_the_run_with_the_bytes_and_mends(
    harness, small_disk, caplog
):
    run(harness, small_disk, None, {"steps": 4})
    ballast = small_disk / "ballast"

    def fill_up(step, loss):
        if step == 5:
            free = shutil.disk_usage(small_disk).free
            ballast.write_bytes(bytes(free))

    job = harness.toy_job(small_disk, SAVE_OFTEN, advance=fill_up)
    with pytest.raises(SaveError, match=r"No space left .* bytes needed, 0 bytes free"):
        train(harness.toy_network(), job, harness.CPU)
    assert harness.good_steps(small_disk / "checkpoints") == [2, 4]
    ballast.unlink()
    assert run(harness, small_disk).step == 12


def test_F04_a_run_whose_checkpoints_would_not_fit_is_not_begun(harness, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_free_bytes", lambda folder: 100)
    steps = []
    with pytest.raises(SaveError, match="nothing was trained"):
        run(harness, tmp_path, record=steps.append)
    assert steps == []


@pytest.mark.parametrize("kind", ["record", "advance", "resumed"])
def test_F28_a_listener_that_fails_touches_no_weight_and_is_one_warning(
    harness, tmp_path, kind, caplog
):
    calls = []

    def broken(*values):
        calls.append(values)
        raise ConnectionError("tracker down")

    settings = {**SAVE_OFTEN, "validate_every": 4}
    with caplog.at_level(logging.WARNING):
        train(harness.toy_network(), harness.toy_job(tmp_path / "well", settings), harness.CPU)
        job = harness.toy_job(tmp_path / "down", settings, **{kind: broken})
        train(harness.toy_network(), job, harness.CPU)
    assert calls
    assert caplog.text.count("tracker down") == 1
    ends = [committed(tmp_path / name / "checkpoints")[-1] for name in ("well", "down")]
    sums = [(end / "model.safetensors").read_bytes() for end in ends]
    assert sums[0] == sums[1]


def test_F28_a_metrics_file_that_cannot_be_written_is_one_warning(harness, tmp_path, caplog):
    folder = open_run(tmp_path / "run", load_recipe("demo-stage1"), resume=False)
    (folder.folder / "metrics.jsonl").symlink_to("/dev/full")
    assert run(harness, folder.folder, record=folder.record).step == 12
    assert caplog.text.count("training goes on without") == 1
    assert harness.good_steps(folder.checkpoints) == [10, 12]
