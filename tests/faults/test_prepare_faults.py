"""`prepare` killed, starved, doubled: it ends well, or the next run does, with the same bytes."""

import os
import resource
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from brainsegfounder.data.store import open_store
from brainsegfounder.errors import RunError
from brainsegfounder.recipes import load_recipe
from brainsegfounder.workflows.prepare import run_prepare
from brainsegfounder.workflows.prepare_report import PAGE

RECIPE = load_recipe("demo-target", ["preparation.spacing_mm=null"])
COMMAND = [sys.executable, "-m", "brainsegfounder", "prepare"]
OPTIONS = ["--recipe", "demo-target", "--set", "preparation.spacing_mm=null"]


def contents(folder):
    """Every file's bytes, hidden ones too, but not the page, which says how long it took."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != PAGE]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(brats_folder, tmp_path_factory):
    """What an uninterrupted run writes."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    run_prepare([brats_folder], folder, RECIPE)
    return contents(folder)


def in_child(work):
    """Run something in a copy of this process; gives how it ended."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(step, moment, scans, out):
    """Prepare, and die by SIGKILL just before or after a file takes its place, or half written."""
    replace, write_bytes, done = Path.replace, Path.write_bytes, 0

    def dying_replace(path, target):
        nonlocal done
        done += 1
        if done == step and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(path, target)
        if done == step and moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    def dying_write(path, data):
        if done == step - 1 and moment == "within":
            write_bytes(path, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write_bytes(path, data)

    Path.replace, Path.write_bytes = dying_replace, dying_write
    run_prepare([scans], out, RECIPE)


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_killed_at_any_file_and_run_again_the_store_has_the_same_bytes(
    brats_folder, tmp_path, whole, moment
):
    endings = []
    for step in range(1, 100):
        out = tmp_path / str(step)
        endings.append(in_child(lambda s=step, o=out: killed_at(s, moment, brats_folder, o)))
        if endings[-1] == 0:
            break
        if (out / "store.json").exists():
            assert len(open_store(out).cases) == 2
        run_prepare([brats_folder], out, RECIPE)
        assert contents(out) == whole, f"killed {moment} file {step}"
    assert set(endings[:-1]) == {-signal.SIGKILL}
    assert len(endings) > len(whole), "killed at every file"


def test_killed_with_its_workers_at_work_and_run_again_the_store_has_the_same_bytes(
    brats_folder, tmp_path, whole
):
    out = tmp_path / "store"
    words = [*COMMAND, str(brats_folder), "--out", str(out), *OPTIONS, "--jobs", "2"]
    child = subprocess.Popen(words, stderr=subprocess.PIPE, start_new_session=True)
    deadline_s = time.monotonic() + 60
    while not list(out.glob("cases/*.b2nd")) and child.poll() is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    child.kill()
    # The workers hold the other end of the pipe until they are gone.
    child.communicate(timeout=30)
    assert run_prepare([brats_folder], out, RECIPE).cases == ["Brats18_A_1", "Brats18_B_1"]
    assert contents(out) == whole


def test_interrupted_from_the_keyboard_it_ends_with_130_and_leaves_nothing_half_written(
    bids_tree, tmp_path
):
    out = tmp_path / "store"
    words = [*COMMAND, str(bids_tree), "--out", str(out), "--recipe", "demo-target", "--jobs", "2"]
    child = subprocess.Popen(words, stderr=subprocess.PIPE, start_new_session=True)
    deadline_s = time.monotonic() + 60
    while not list(out.glob("cases/*.json")) and child.poll() is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGINT)
    error = child.communicate(timeout=30)[1].decode()
    assert child.returncode == 130
    assert "Traceback" not in error
    assert not list(out.rglob("*.partial"))
    assert not (out / "store.json").exists()


def test_two_processes_that_prepare_one_store_at_once_both_end_well(brats_folder, tmp_path, whole):
    out = tmp_path / "store"
    words = [*COMMAND, str(brats_folder), "--out", str(out), *OPTIONS, "--jobs", "1"]
    children = [subprocess.Popen(words, stderr=subprocess.PIPE) for _ in range(2)]
    endings = [(child.communicate(timeout=60)[1], child.returncode) for child in children]
    assert [code for _, code in endings] == [0, 0], endings
    assert contents(out) == whole


def test_two_writers_without_a_gap_between_them_leave_one_result(brats_folder, tmp_path, whole):
    out, context = tmp_path / "store", get_context("fork")
    writers = [
        context.Process(target=run_prepare, args=([brats_folder], out, RECIPE)) for _ in range(3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert contents(out) == whole


@pytest.mark.parametrize("num_bytes", [100, 3000, 30_000])
def test_a_full_disk_ends_the_run_leaves_nothing_half_written_and_mends(
    brats_folder, tmp_path, whole, num_bytes
):
    out = tmp_path / "store"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
        with pytest.raises(RunError, match=r"cannot be written: File too large\. Free space"):
            run_prepare([brats_folder], out, RECIPE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(out.rglob("*.partial"))
    assert not (out / "store.json").exists()
    assert all(len(data) <= num_bytes for data in contents(out).values())
    run_prepare([brats_folder], out, RECIPE)
    assert contents(out) == whole
