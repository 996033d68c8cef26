"""F11, F12: a signal saves a checkpoint and ends the run, whatever it is doing."""

import os
import signal
import stat
import subprocess
import sys
import time

import pytest
import torch

from brainsegfounder.errors import Interrupted
from brainsegfounder.runs import Run
from brainsegfounder.training import checkpoint, signals
from brainsegfounder.training.job import Validation
from brainsegfounder.training.loop import train
from brainsegfounder.training.losses import Losses

LIMIT_S = 30
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}
OFTEN = {"steps": 12, "checkpoint_every": 100, "validate_every": 4}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(checkpoint, "_flush", lambda path: None)


@pytest.fixture(params=list(CODES), ids=lambda number: number.name)
def number(request):
    return request.param


def send(number):
    os.kill(os.getpid(), number)


def stopped(harness, job):
    """Train until a signal ends it; gives the exit code."""
    handlers = {number: signal.getsignal(number) for number in CODES}
    began_s = time.monotonic()
    with pytest.raises(Interrupted) as told:
        train(harness.toy_network(), job, harness.CPU)
    assert time.monotonic() - began_s < LIMIT_S
    assert {number: signal.getsignal(number) for number in CODES} == handlers
    assert "--resume" in str(told.value)
    return told.value.exit_code


def resumed_like_whole(harness, folder):
    """Go on; whether the end is that of a run that no signal reached."""
    job = harness.toy_job(folder, OFTEN)
    train(harness.toy_network(), job, harness.CPU)
    train(harness.toy_network(), harness.toy_job(folder / "whole", OFTEN), harness.CPU)
    one, other = (
        checkpoint.read_checkpoint(checkpoint.committed(place / "checkpoints")[-1])
        for place in (folder, folder / "whole")
    )
    same = all(
        torch.equal(value, other[1][file][name])
        for file, tensors in one[1].items()
        for name, value in tensors.items()
    )
    return same and (one[0].best_value, one[0].best_step) == (
        other[0].best_value,
        other[0].best_step,
    )


def test_F11_within_a_step_it_ends_at_once_and_nothing_of_the_step_is_kept(
    harness, tmp_path, number
):
    def loss(model, batch, seed):
        if batch.numbers[0] == 5:
            send(number)
            time.sleep(LIMIT_S)  # a step of a large network
        return harness.toy_loss(model, batch, seed)

    job = harness.toy_job(tmp_path, OFTEN, loss=loss)
    assert stopped(harness, job) == CODES[number]
    assert harness.good_steps(job.checkpoints) == [5]
    assert resumed_like_whole(harness, tmp_path)


def test_F11_waiting_for_data_it_ends_at_once(harness, tmp_path, number):
    def source(first):
        for batch in harness.toy_batches(first):
            if batch.numbers[0] == 5:
                send(number)
                time.sleep(LIMIT_S)  # a drive that does not answer
            yield batch

    job = harness.toy_job(tmp_path, OFTEN, batches=source)
    assert stopped(harness, job) == CODES[number]
    assert harness.good_steps(job.checkpoints) == [5]
    assert resumed_like_whole(harness, tmp_path)


def test_F11_within_the_backward_pass_it_ends_and_nothing_of_the_step_is_kept(
    harness, tmp_path, number
):
    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, gradient):
            send(number)
            time.sleep(LIMIT_S)
            return gradient

    def loss(model, batch, seed):
        error = harness.toy_loss(model, batch, seed).parts["error"]
        return Losses({"error": Slow.apply(error) if batch.numbers[0] == 5 else error})

    job = harness.toy_job(tmp_path, OFTEN, loss=loss)
    assert stopped(harness, job) == CODES[number]
    assert harness.good_steps(job.checkpoints) == [5]
    assert resumed_like_whole(harness, tmp_path)


def test_F11_within_a_validation_it_ends_at_once_and_the_validation_is_made_after_the_resume(
    harness, tmp_path, number
):
    whole = harness.toy_validation()
    weights = []

    def measure(model):
        weights.append([value.clone() for value in model.parameters()])
        send(number)
        time.sleep(LIMIT_S)
        return whole.measure(model)

    kept, records = [], []
    job = harness.toy_job(tmp_path, OFTEN, validation=Validation(measure, "error", "min"))
    assert stopped(harness, job) == CODES[number]
    state, tensors = checkpoint.read_checkpoint(checkpoint.committed(job.checkpoints)[-1])
    assert (state.step, state.validation_due) == (4, True)
    # What was validated are the averages; what is saved are the weights themselves.
    assert not torch.equal(tensors["model.safetensors"]["0.weight"], weights[0][0])
    assert torch.equal(tensors["ema.safetensors"]["0.weight"], weights[0][0])

    job = harness.toy_job(
        tmp_path, {**OFTEN, "steps": 5}, keep_best=lambda model, step: kept.append(step),
        record=records.append,
    )  # fmt: skip
    train(harness.toy_network(), job, harness.CPU)
    assert kept[0] == 4
    assert [(r["kind"], r["step"]) for r in records[:3]] == [
        ("resume", 4), ("validation", 4), ("train", 5),
    ]  # fmt: skip


def test_F11_after_an_interrupted_validation_the_best_is_that_of_the_whole_run(
    harness, tmp_path, number
):
    whole, calls = harness.toy_validation(), []

    def measure(model):
        calls.append(1)
        if len(calls) == 2:
            send(number)
        return whole.measure(model)

    job = harness.toy_job(tmp_path, OFTEN, validation=Validation(measure, "error", "min"))
    assert stopped(harness, job) == CODES[number]
    assert resumed_like_whole(harness, tmp_path)


@pytest.mark.parametrize("point", ["begun", "written model.safetensors", "renamed", "verified"])
def test_F11_within_a_save_it_ends_after_that_save(harness, tmp_path, number, point, monkeypatch):
    saves = []

    def reached(name):
        if name == "begun":
            saves.append(name)
        if name == point:
            send(number)

    monkeypatch.setattr(checkpoint, "reached", reached)
    job = harness.toy_job(tmp_path, {**OFTEN, "checkpoint_every": 3})
    assert stopped(harness, job) == CODES[number]
    assert harness.good_steps(job.checkpoints) == [3]
    assert len(saves) == 1


def test_F11_before_the_first_step_is_done_there_is_nothing_to_save(harness, tmp_path, number):
    def source(first):
        send(number)
        yield from harness.toy_batches(first)

    with pytest.raises(Interrupted, match="there is no checkpoint yet") as told:
        train(harness.toy_network(), harness.toy_job(tmp_path, OFTEN, batches=source), harness.CPU)
    assert told.value.exit_code == CODES[number]


def test_F11_after_the_last_step_it_still_ends_with_its_code(harness, tmp_path, number):
    job = harness.toy_job(
        tmp_path, OFTEN, advance=lambda step, loss: send(number) if step == 12 else None
    )
    assert stopped(harness, job) == CODES[number]
    assert harness.good_steps(job.checkpoints) == [12]


def test_F11_a_second_signal_aborts_at_once(harness, tmp_path, number, monkeypatch):
    monkeypatch.setattr(signals, "SAME_MOMENT_S", 0.0)

    def reached(name):
        if name in ("begun", "written model.safetensors"):
            send(number)

    monkeypatch.setattr(checkpoint, "reached", reached)
    job = harness.toy_job(tmp_path, {**OFTEN, "checkpoint_every": 3})
    with pytest.raises(Interrupted, match="aborted at once") as told:
        train(harness.toy_network(), job, harness.CPU)
    assert told.value.exit_code == CODES[number]
    assert harness.good_steps(job.checkpoints) == []


def test_F11_one_ctrl_c_that_comes_twice_is_one(harness, tmp_path):
    def advance(step, loss):
        if step == 5:
            send(signal.SIGINT)
            send(signal.SIGTERM)

    assert stopped(harness, harness.toy_job(tmp_path, OFTEN, advance=advance)) == 130
    assert harness.good_steps(tmp_path / "checkpoints") == [5]


def test_F11_a_disk_that_refuses_is_told_and_the_code_is_still_that_of_the_signal(
    harness, tmp_path, number, monkeypatch, caplog
):
    monkeypatch.setattr("brainsegfounder.training.saving.WAITS_S", (0.0, 0.0))

    def reached(name):
        if name == "begun":
            raise OSError("no")

    def advance(step, loss):
        if step == 5:
            monkeypatch.setattr(checkpoint, "reached", reached)
            send(number)

    job = harness.toy_job(tmp_path, {**OFTEN, "checkpoint_every": 2}, advance=advance)
    with pytest.raises(Interrupted, match=r"newest checkpoint is .*step-00000004") as told:
        train(harness.toy_network(), job, harness.CPU)
    assert told.value.exit_code == CODES[number]
    assert "not saved" in caplog.text


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A `scontrol` that keeps what it is called with, and a Slurm job."""
    folder = tmp_path / "bin"
    folder.mkdir()
    called = folder / "called"
    program = folder / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >> {called}\n[ ! -e {folder}/refuses ]\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    return called


def at_step_5(number):
    return lambda step, loss: send(number) if step == 5 else None


def test_F12_slurm_is_asked_once_to_start_the_job_again_which_goes_on_at_the_same_step(
    harness, tmp_path, scontrol
):
    starts = []
    job = harness.toy_job(tmp_path, OFTEN, advance=at_step_5(signal.SIGUSR1))
    assert stopped(harness, job) == 143
    assert scontrol.read_text() == "requeue 4711\n"
    train(
        harness.toy_network(), harness.toy_job(tmp_path, OFTEN, resumed=starts.append), harness.CPU
    )
    assert starts == [5]
    assert scontrol.read_text() == "requeue 4711\n"


@pytest.mark.parametrize("other", [signal.SIGTERM, signal.SIGINT])
def test_F12_a_job_that_is_to_end_is_not_started_again(harness, tmp_path, scontrol, other):
    assert stopped(harness, harness.toy_job(tmp_path, OFTEN, advance=at_step_5(other)))
    assert not scontrol.exists()


def test_F12_outside_slurm_the_warning_only_saves(harness, tmp_path, scontrol, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID")
    job = harness.toy_job(tmp_path, OFTEN, advance=at_step_5(signal.SIGUSR1))
    assert stopped(harness, job) == 143
    assert not scontrol.exists()


@pytest.mark.parametrize("how", ["refuses", "absent"])
def test_F12_where_slurm_does_not_start_it_again_that_is_told(
    harness, tmp_path, scontrol, how, monkeypatch, caplog
):
    if how == "refuses":
        scontrol.with_name("refuses").touch()
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
    job = harness.toy_job(tmp_path, OFTEN, advance=at_step_5(signal.SIGUSR1))
    assert stopped(harness, job) == 143
    assert "scontrol requeue 4711 failed" in caplog.text
    assert harness.good_steps(job.checkpoints) == [5]


@pytest.mark.slow
def test_F11_the_command_line_ends_with_143_and_goes_on_with_resume(cohort, tmp_path):
    out = tmp_path / "run"
    words = [
        sys.executable, "-m", "brainsegfounder", "pretrain", "demo-target", "--data", str(cohort),
        "--out", str(out), "--fold", "0", "--resume", "--set", "pretrain.steps=2",
        "--set", "pretrain.batch_size=1", "--set", "pretrain.checkpoint_every=100",
    ]  # fmt: skip
    child = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    deadline_s = time.monotonic() + 120
    while not Run(out).records("train") and child.poll() is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    told = child.communicate(timeout=LIMIT_S)[1]
    assert child.returncode == 143, told
    assert "Traceback" not in told
    assert "--resume" in told
    words += ["--set", "pretrain.num_workers=1"]
    refused = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert refused.returncode == 2
    assert "pretrain.num_workers was 0, now 1" in refused.stderr
    words += ["--allow-config-change", "pretrain.num_workers"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stderr
