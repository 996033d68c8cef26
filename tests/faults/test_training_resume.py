"""F08: a run cut off after any step and resumed is the run that was never cut off, bit for bit.

Weights, moments, moving average, schedule, best value, which patches of which cases come, how they
are augmented, what is drawn for a loss, dropout, and every number in the record.
"""

import shutil
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from brainsegfounder.data.loader import PatchDataset, PatchSampling, batches
from brainsegfounder.data.store import open_store
from brainsegfounder.settings import AugmentSettings, ThreeTaskSettings
from brainsegfounder.training import checkpoint
from brainsegfounder.training.checkpoint import committed, read_checkpoint
from brainsegfounder.training.loop import train
from brainsegfounder.training.losses import Losses
from brainsegfounder.training.randomness import generators
from brainsegfounder.workflows.objectives import ask, build_pretraining_network

CPU = torch.device("cpu")
STEPS = 50
TIMES = {"time_s", "step_s", "data_wait_s", "crops_per_s"}
EVERY_STEP = {"steps": STEPS, "checkpoint_every": 1, "validate_every": 7}
ONCE = {**EVERY_STEP, "checkpoint_every": STEPS}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """Nothing dies here: what is not flushed is not lost."""
    monkeypatch.setattr(checkpoint, "_flush", lambda path: None)


def listeners(records):
    """Where the loop tells what it does, without how long it took."""

    def record(values):
        if values["kind"] != "resume":
            records.append({k: v for k, v in values.items() if k not in TIMES})

    def keep_best(model, step):
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        records.append({"kind": "kept", "step": step, "weights": weights})

    def rewind(step):
        records[:] = [record for record in records if record["step"] <= step]

    return {"record": record, "keep_best": keep_best, "resumed": rewind}


def cut_everywhere(make_network, make_job, folder, monkeypatch):
    """Train once, keeping the checkpoint of every step; gives the folders of these."""
    snapshots = {}

    def snapshot(point):
        if point == "verified":
            newest = committed(folder / "whole" / "checkpoints")[-1]
            step = int(newest.name.removeprefix("step-"))
            snapshots[step] = folder / f"cut-{step}"
            shutil.copytree(newest, snapshots[step] / "checkpoints" / newest.name)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "reached", snapshot)
        train(make_network(), make_job(folder / "whole"), CPU)
    return snapshots


def differences(one, other):
    """What is not bit for bit the same in two checkpoints."""
    (state, tensors), (other_state, other_tensors) = read_checkpoint(one), read_checkpoint(other)
    different = [
        f"{file}: {name}"
        for file in tensors.keys() | other_tensors.keys()
        for name in tensors[file].keys() | other_tensors[file].keys()
        if not torch.equal(tensors[file][name], other_tensors[file][name])
    ]
    for name in ("step", "best_value", "best_step", "skipped_in_a_row", "validation_due"):
        if getattr(state, name) != getattr(other_state, name):
            different.append(name)
    return different


def same_records(one, other):
    """Whether two records say the same, bit for bit; a value that is not a number equals itself."""
    if len(one) != len(other):
        return False
    for left, right in zip(one, other, strict=True):
        weights, other_weights = left.get("weights", {}), right.get("weights", {})
        if not all(torch.equal(weights[name], other_weights[name]) for name in weights):
            return False
        rest = [{k: repr(v) for k, v in r.items() if k != "weights"} for r in (left, right)]
        if rest[0] != rest[1]:
            return False
    return True


def resumed_everywhere(make_network, make_job, folder, monkeypatch, every=1):
    """Cut a run after each of its steps and resume; gives the steps where anything differs."""
    whole: list[dict] = []
    every_step = partial(make_job, settings=EVERY_STEP, listeners=listeners(whole))
    snapshots = cut_everywhere(make_network, every_step, folder, monkeypatch)
    assert sorted(snapshots) == list(range(1, STEPS + 1))
    wrong = {}
    end = committed(folder / "whole" / "checkpoints")[-1]
    for step in range(every, STEPS + 1, every):
        cut = snapshots[step]
        records = [record for record in whole if record["step"] <= step]
        job = make_job(cut, settings=ONCE, listeners=listeners(records))
        train(make_network(), job, CPU)
        different = differences(committed(cut / "checkpoints")[-1], end)
        if not same_records(records, whole):
            different.append("records")
        if different:
            wrong[step] = different
        shutil.rmtree(cut)
    return wrong


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_F08_a_run_cut_after_each_of_50_steps_goes_on_bit_for_bit(
    harness, tmp_path, monkeypatch, precision
):
    def loss(model, batch, seed):
        if batch.numbers[0] in (11, 12, 30):  # steps that are skipped are resumed as well
            return Losses({"error": model(batch.image).sum() * torch.nan})
        return harness.toy_loss(model, batch, seed)

    def make_job(folder, settings, listeners):
        optimizer = {"peak_lr": 0.01, "warmup_steps": 5, "accumulation": 2, "ema_decay": 0.9}
        changed = {**settings, "precision": precision, "optimizer": optimizer}
        return harness.toy_job(folder, changed, loss=loss, **listeners)

    wrong = resumed_everywhere(harness.toy_network, make_job, tmp_path, monkeypatch)
    assert wrong == {}


def test_F08_patches_and_their_augmentation_go_on_where_they_stood(
    harness, cohort, tmp_path, monkeypatch
):
    store = open_store(cohort)
    sampling = PatchSampling((8, 8, 8), 2, 0.5, AugmentSettings(noise=0.3), with_labels=True)
    dataset = PatchDataset(store, store.cases, ("T1w", "FLAIR"), sampling, seed=3)

    def source(first):
        return batches(
            dataset, first_batch=first, num_batches=STEPS - first, batch_size=1, num_workers=0
        )

    def network():
        torch.manual_seed(0)
        return nn.Conv3d(2, 1, 3, padding=1)

    def loss(model, batch, seed):
        noise = torch.stack([torch.rand(1, generator=g) for g in generators(seed, batch.numbers)])
        wanted = (batch.labels > 0).float() * noise.mean()
        return Losses({"error": functional.mse_loss(model(batch.image), wanted)})

    def make_job(folder, settings, listeners):
        optimizer = {"peak_lr": 0.01, "warmup_steps": 5}
        changed = {**settings, "batch_size": 1, "optimizer": optimizer}
        values = {"loss": loss, "batches": source, "validation": None}
        return harness.toy_job(folder, changed, **values, **listeners)

    wrong = resumed_everywhere(network, make_job, tmp_path, monkeypatch)
    assert wrong == {}


def test_F08_the_check_sees_a_run_that_is_not_the_same(harness, tmp_path, monkeypatch):
    def make_job(folder, settings, listeners):
        seed = 7 if settings is EVERY_STEP else 8
        return harness.toy_job(folder, settings, seed=seed, **listeners)

    wrong = resumed_everywhere(harness.toy_network, make_job, tmp_path, monkeypatch, every=10)
    assert sorted(wrong) == [10, 20, 30, 40]


@pytest.mark.slow
def test_F08_the_network_of_pretraining_goes_on_bit_for_bit(harness, tmp_path, monkeypatch):
    objective = ThreeTaskSettings()

    def network():
        torch.manual_seed(0)
        rates = {"dropout": 0.1, "drop_path": 0.1, "checkpointing": False}
        return build_pretraining_network(objective, 1, "nano", "complete", **rates)

    def source(first):
        for number in range(first, 2):
            generator = torch.Generator().manual_seed(number)
            yield Patches(torch.randn(1, 1, 64, 64, 64, generator=generator), ("a",), (number,))

    class Patches(harness.ToyBatch):
        subjects = ("a",)
        valid = None
        labels = None

    def make_job(folder, **changes):
        settings = {"steps": 2, "batch_size": 1, "checkpoint_every": 1, "validate_every": 2}
        values = {"loss": ask(objective).loss, "batches": source, "validation": None}
        return harness.toy_job(folder, settings, **values, **changes)

    snapshots = cut_everywhere(network, make_job, tmp_path, monkeypatch)
    train(network(), make_job(snapshots[1]), CPU)
    ends = [committed(tmp_path / name / "checkpoints")[-1] for name in ("whole", "cut-1")]
    assert differences(*ends) == []
