"""Numbers that are none, and memory that is too small: nothing learnt is spoilt."""

import json
import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from brainsegfounder.errors import TrainingError, WeightsError
from brainsegfounder.models.weights import load_state, save_state
from brainsegfounder.settings import StageSettings
from brainsegfounder.training.checkpoint import collect, committed, read_checkpoint
from brainsegfounder.training.job import Validation
from brainsegfounder.training.loop import train
from brainsegfounder.training.losses import Losses
from brainsegfounder.training.optim import Learner

OFTEN = {"steps": 12, "checkpoint_every": 1, "validate_every": 100}


class _Spoilt(torch.autograd.Function):
    """Passes a number on; its gradient is another one."""

    @staticmethod
    def forward(ctx, value, gradient):
        ctx.gradient = gradient
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.gradient, None


def spoilt_loss(harness, kind, numbers):
    """The toy's loss, but not for some batches."""

    def loss(model, batch, seed):
        error = harness.toy_loss(model, batch, seed).parts["error"]
        if batch.numbers[0] in numbers:
            where, value = kind
            error = _Spoilt.apply(error, value) if where == "gradient" else error * value
        return Losses({"error": error})

    return loss


KINDS = [("loss", math.nan), ("loss", math.inf), ("gradient", math.nan), ("gradient", -math.inf)]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_F13_a_step_that_is_not_finite_changes_no_bit_and_the_counters_go_on(
    harness, tmp_path, monkeypatch, kind, caplog
):
    """Batch 6 is spoilt; batches, step number and learning rate go on without it."""
    seen, learners, records = {}, [], []
    step = Learner.step

    def spied(self, rate):
        learners.append(self)
        step(self, rate)

    monkeypatch.setattr(Learner, "step", spied)

    def advance(number, loss):
        tensors = collect(learners[0])
        seen[number] = {f: {n: v.clone() for n, v in t.items()} for f, t in tensors.items()}

    job = harness.toy_job(
        tmp_path, OFTEN, loss=spoilt_loss(harness, kind, [6]), advance=advance,
        record=records.append,
    )  # fmt: skip
    state = train(harness.toy_network(), job, harness.CPU)
    assert state.step == 12
    assert state.skipped_in_a_row == 0
    for file, tensors in seen[6].items():
        assert all(torch.equal(value, seen[7][file][name]) for name, value in tensors.items()), file
        assert not all(torch.equal(value, seen[8][file][name]) for name, value in tensors.items())
    steps = [record for record in records if record["kind"] == "train"]
    assert [record["skipped"] for record in steps] == [0.0] * 6 + [1.0] + [0.0] * 5
    assert steps[7]["lr"] < steps[6]["lr"] < steps[5]["lr"]
    assert caplog.text.count("step skipped") == 1


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_F13_ten_in_a_row_stop_the_run_and_a_file_names_their_batches(harness, tmp_path, kind):
    loss = spoilt_loss(harness, kind, range(3, 100))
    settings = {**OFTEN, "steps": 60, "optimizer": {"accumulation": 2, "ema_decay": 0.5}}
    with pytest.raises(TrainingError, match=r"step 11: .*10 times in a row .*bad_batches\.json"):
        train(harness.toy_network(), harness.toy_job(tmp_path, settings, loss=loss), harness.CPU)
    listed = json.loads((tmp_path / "bad_batches.json").read_text())
    # Step 2 has the batches 2 and 3, of which one is spoilt.
    assert [batch["step"] for batch in listed] == [s for s in range(2, 12) for _ in range(2)]
    assert [batch["numbers"] for batch in listed] == [[number] for number in range(2, 22)]
    assert listed[0]["cases"] == ["case-2"]


def test_F13_a_streak_is_counted_on_after_a_resume(harness, tmp_path):
    loss = spoilt_loss(harness, ("loss", math.nan), range(2, 100))

    def die(step, loss):
        if step == 8:
            raise KeyboardInterrupt

    settings = {**OFTEN, "steps": 60}
    job = harness.toy_job(tmp_path, settings, loss=loss, advance=die)
    with pytest.raises(KeyboardInterrupt):
        train(harness.toy_network(), job, harness.CPU)
    assert read_checkpoint(committed(job.checkpoints)[-1])[0].skipped_in_a_row == 5
    with pytest.raises(TrainingError, match="step 12"):
        train(harness.toy_network(), harness.toy_job(tmp_path, settings, loss=loss), harness.CPU)


def test_F13_nine_in_a_row_do_not_stop_it(harness, tmp_path):
    loss = spoilt_loss(harness, ("gradient", math.nan), range(2, 11))
    job = harness.toy_job(tmp_path, {**OFTEN, "steps": 14}, loss=loss)
    assert train(harness.toy_network(), job, harness.CPU).step == 14
    assert not job.bad_batches.exists()


def test_F14_there_is_no_precision_that_needs_a_loss_scaler():
    """bfloat16 has the range of float32, so there is no scaler that could overflow or be lost."""
    with pytest.raises(ValidationError, match="float16"):
        StageSettings.model_validate({"precision": "float16"})


@pytest.mark.parametrize("validated", [True, False])
def test_F15_weights_that_are_not_finite_are_neither_kept_as_best_nor_saved(
    harness, tmp_path, validated, caplog
):
    network, kept = harness.toy_network(), []

    def spoil(step, loss):
        if step == 3:
            with torch.no_grad():
                network[0].weight[0, 0] = math.nan

    validation = Validation(lambda model: {"error": 0.0}, "error", "min") if validated else None
    job = harness.toy_job(
        tmp_path,
        {**OFTEN, "validate_every": 1, "optimizer": {"ema_decay": None}},
        advance=spoil,
        validation=validation,
        keep_best=lambda model, step: kept.append(step),
    )
    with pytest.raises(TrainingError, match=r"step 3: weights are not finite.*Earlier checkpoints"):
        train(network, job, harness.CPU)
    assert kept == ([1] if validated else [1, 2])
    assert harness.good_steps(job.checkpoints) == [1, 2]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_F15_weights_that_are_not_finite_are_neither_written_nor_loaded_for_inference(
    tmp_path, value, monkeypatch
):
    state = {"good": torch.ones(2), "bad": torch.tensor([1.0, value])}
    with pytest.raises(WeightsError, match=r"not written.*bad"):
        save_state(tmp_path / "model.safetensors", state)
    assert not (tmp_path / "model.safetensors").exists()
    monkeypatch.setattr("brainsegfounder.models.weights._check_finite", lambda state, refusal: None)
    save_state(tmp_path / "model.safetensors", state)
    monkeypatch.undo()
    with pytest.raises(WeightsError, match=r"not loaded.*bad"):
        load_state(tmp_path / "model.safetensors")


def test_F22_a_device_with_too_little_memory_ends_with_advice_and_a_checkpoint(harness, tmp_path):
    def loss(model, batch, seed):
        if batch.numbers[0] == 7:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nMore.")
        return harness.toy_loss(model, batch, seed)

    job = harness.toy_job(tmp_path, {**OFTEN, "checkpoint_every": 5}, loss=loss)
    with pytest.raises(TrainingError) as told:
        train(harness.toy_network(), job, harness.CPU)
    for words in ("step 8", "batch_size 2", "patch_size_vox 96 x 96 x 96", "20 GiB", "Halve",
                  "optimizer.accumulation", "model.checkpointing"):  # fmt: skip
        assert words in str(told.value)
    assert harness.good_steps(job.checkpoints) == [5, 7]


def test_F22_too_little_memory_in_the_validation_keeps_what_was_saved(harness, tmp_path):
    def measure(model: nn.Module) -> dict[str, float]:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    validation = Validation(measure, "error", "min")
    job = harness.toy_job(tmp_path, {**OFTEN, "validate_every": 4}, validation=validation)
    with pytest.raises(TrainingError, match="too little memory"):
        train(harness.toy_network(), job, harness.CPU)
    assert harness.good_steps(job.checkpoints) == [2, 3]
