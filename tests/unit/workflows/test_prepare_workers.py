"""Work in processes. Workers find a function by its module, so these are of the library."""

import signal
import time

import pytest

from brainsegfounder.errors import RunError
from brainsegfounder.recipes import load_recipe
from brainsegfounder.workflows import prepare as verb
from brainsegfounder.workflows.prepare import run_prepare
from brainsegfounder.workflows.worker_pool import Lost, work_in_processes

KILLER = """
import os, signal
from brainsegfounder.workflows.prepare_case import do_case

def work(job):
    if job.case.case.endswith("A_1"):
        os.kill(os.getpid(), signal.SIGKILL)
    return do_case(job)
"""


def test_every_item_is_done_once():
    words = ["a", "bb", "ccc", "dddd", "eeeee"]
    assert dict(work_in_processes(len, words, 2)) == dict(enumerate(map(len, words)))
    assert list(work_in_processes(len, [], 2)) == []


def test_a_killed_worker_costs_only_its_item():
    # The system sends SIGKILL to what takes too much memory; SIGCONT does nothing.
    items = [signal.SIGCONT, signal.SIGKILL, signal.SIGCONT]
    answers = dict(work_in_processes(signal.raise_signal, items, 1))
    assert answers == {0: None, 1: Lost(-9), 2: None}
    assert "ended by SIGKILL, as systems do that run out of memory" in str(answers[1])


def test_a_worker_that_cannot_start_ends_the_work(tmp_path, monkeypatch):
    module = tmp_path / "gone_when_workers_look.py"
    module.write_text("def work(item):\n    return item\n")
    monkeypatch.syspath_prepend(tmp_path)
    import gone_when_workers_look

    module.unlink()
    with pytest.raises(RunError, match=r"a worker process could not start \(.* code 1\)"):
        list(work_in_processes(gone_when_workers_look.work, ["a"], 1))


def test_ending_early_ends_the_workers():
    began_s = time.monotonic()
    answers = work_in_processes(time.sleep, [0.0, 60.0, 60.0], 2)
    assert next(answers) == (0, None)
    answers.close()
    assert time.monotonic() - began_s < 20


def test_a_case_whose_worker_is_killed_is_refused_and_the_others_are_stored(
    brats_folder, tmp_path, monkeypatch
):
    (tmp_path / "killer_of_workers.py").write_text(KILLER)
    monkeypatch.syspath_prepend(tmp_path)
    import killer_of_workers

    monkeypatch.setattr(verb, "do_case", killer_of_workers.work)
    recipe = load_recipe("demo-target", ["preparation.spacing_mm=null"])
    done = run_prepare([brats_folder], tmp_path / "store", recipe, jobs=1)
    assert done.cases == ["Brats18_B_1"]
    problem = done.refused["Brats18_A_1"]
    assert problem.code == "worker_lost"
    assert "fewer --jobs; what is done is kept" in problem.advice
