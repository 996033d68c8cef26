import math
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brainsegfounder.errors import CheckpointError, Interrupted, TrainingError
from brainsegfounder.settings import StageSettings
from brainsegfounder.training.checkpoint import committed
from brainsegfounder.training.loop import Job, Validation, train
from brainsegfounder.training.losses import Losses
from brainsegfounder.training.randomness import generators

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushes of the disk, which test_checkpoint looks at, take most of the time here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@dataclass(frozen=True)
class ToyBatch:
    image: Tensor
    cases: tuple[str, ...] = ("toy",)
    numbers: tuple[int, ...] = (0,)

    def to(self, device: torch.device) -> "ToyBatch":
        return self


@dataclass
class Ear:
    """Collects what the loop tells."""

    records: list[dict[str, Any]] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    losses: dict[int, float] = field(default_factory=dict)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))


def _batches(first: int) -> Iterator[ToyBatch]:
    number = first // 2  # the settings say two samples a batch
    while True:
        image = torch.randn(6, 4, generator=torch.Generator().manual_seed(number))
        yield ToyBatch(image, numbers=(number,))
        number += 1


def _loss(model: nn.Module, batch: Any, seed: int) -> Losses:
    noise = torch.randn(6, 1, generator=generators(seed, batch.numbers)[0])
    wanted = batch.image.sum(1, keepdim=True) + noise
    return Losses({"error": (model(batch.image) - wanted).square().mean()})


def _job(folder: Path, ear: Ear, steps: int = 12, **changes: Any) -> Job:
    settings = StageSettings.model_validate(
        {
            "steps": steps,
            "checkpoint_every": 1,
            "validate_every": 4,
            "optimizer": {"peak_lr": 0.01, "warmup_steps": 2, "accumulation": 2},
        }
    )
    values: dict[str, Any] = {
        "settings": settings,
        "seed": 7,
        "loss": _loss,
        "batches": _batches,
        "validation": None,
        "checkpoints": folder / "checkpoints",
        "bad_batches": folder / "bad_batches.json",
        "resumed": lambda _: None,
        "identity": {"recipe": "same", "manifest": "m" * 64},
        "record": lambda record: ear.records.append(dict(record)),
        "keep_best": lambda _, step: ear.kept.append(step),
        "advance": ear.losses.__setitem__,
    }
    return Job(**{**values, **changes})


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("stop_after", range(1, 12))
def test_a_run_killed_after_any_step_resumes_bit_for_bit(tmp_path: Path, stop_after: int) -> None:
    whole, whole_ear = _network(), Ear()
    train(whole, _job(tmp_path / "whole", whole_ear), CPU)

    cut_ear = Ear()

    def stop(step: int, loss: float) -> None:
        # The checkpoint of this step is not yet written: it is made again.
        if step == stop_after + 1:
            raise _Killed
        cut_ear.losses[step] = loss

    with pytest.raises(_Killed):
        train(_network(), _job(tmp_path / "cut", cut_ear, advance=stop), CPU)
    resumed = _network()
    train(resumed, _job(tmp_path / "cut", cut_ear), CPU)

    assert cut_ear.losses == whole_ear.losses
    for one, other in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_loss_that_is_not_a_number_changes_nothing_and_ten_end_the_run(tmp_path: Path) -> None:
    network, ear = _network(), Ear()
    before = [p.clone() for p in network.parameters()]

    def broken(model: nn.Module, batch: Any, seed: int) -> Losses:
        return Losses({"error": _loss(model, batch, seed).parts["error"] * math.nan})

    with pytest.raises(TrainingError, match=r"10 times in a row .*toy.*peak_lr"):
        train(network, _job(tmp_path, ear, loss=broken), CPU)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_and_ends_with_its_exit_code(
    tmp_path: Path, number: signal.Signals
) -> None:
    ear = Ear()

    def interrupt(step: int, _: float) -> None:
        if step == 5:
            os.kill(os.getpid(), number)

    job = _job(tmp_path, ear, advance=interrupt)
    with pytest.raises(Interrupted) as stopped:
        train(_network(), job, CPU)
    assert stopped.value.exit_code == 128 + number
    assert committed(tmp_path / "checkpoints")[-1].name == "step-00000005"
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)


def test_the_best_validation_value_decides_which_model_is_kept(tmp_path: Path) -> None:
    values = iter([0.3, math.nan, 0.7])
    ear = Ear()
    validation = Validation(lambda _: {"dice": next(values)}, "dice", "max")
    state = train(_network(), _job(tmp_path, ear, validation=validation), CPU)
    assert ear.kept == [4, 12]
    assert (state.best_value, state.best_step) == (0.7, 12)


def test_without_validation_the_last_model_is_kept(tmp_path: Path) -> None:
    ear = Ear()
    assert train(_network(), _job(tmp_path, ear), CPU).best_step == 12
    assert ear.kept[-1] == 12


def test_two_checkpoints_are_kept_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    job = _job(tmp_path, Ear())
    train(_network(), job, CPU)
    newest = committed(job.checkpoints)
    assert [path.name for path in newest] == ["step-00000011", "step-00000012"]
    weights = newest[-1] / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    gone_on: list[int] = []
    train(_network(), _job(tmp_path, Ear(), resumed=gone_on.append), CPU)
    assert gone_on == [11]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    train(_network(), _job(tmp_path, Ear(), steps=2), CPU)
    with pytest.raises(CheckpointError, match="another recipe, data set or start weights"):
        train(_network(), _job(tmp_path, Ear(), identity={"recipe": "other"}), CPU)


def test_the_parts_of_the_loss_are_recorded_with_rate_and_gradient(tmp_path: Path) -> None:
    ear = Ear()
    train(_network(), _job(tmp_path, ear), CPU)
    first = ear.records[0]
    assert first["kind"] == "train"
    assert first["loss"] == pytest.approx(first["error"])
    assert first["lr"] == pytest.approx(0.005)
    assert first["gradient_norm"] > 0
