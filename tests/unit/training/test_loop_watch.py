"""The loop's watcher: when it is called, and that it may be interrupted."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brainsegfounder.errors import Interrupted
from brainsegfounder.settings import StageSettings
from brainsegfounder.training.checkpoint import committed
from brainsegfounder.training.loop import Job, Validation, train
from brainsegfounder.training.losses import Losses

CPU = torch.device("cpu")


@dataclass(frozen=True)
class ToyBatch:
    image: Tensor
    cases: tuple[str, ...] = ("a", "b", "c")
    numbers: tuple[int, ...] = (0, 1, 2)

    def to(self, device: torch.device) -> "ToyBatch":
        return self


class Killed(BaseException):
    """Ends a run without a word."""


def job(folder: Path, events: list[Any], watch: Any, steps: int = 4) -> Job:
    def source(first: int) -> Any:
        while True:
            yield ToyBatch(torch.randn(3, 4, generator=torch.Generator().manual_seed(first)))
            first += 1

    def loss(model: nn.Module, batch: Any, seed: int) -> Losses:
        return Losses({"error": model(batch.image).square().mean()})

    settings = {"steps": steps, "checkpoint_every": 2, "validate_every": 2}
    return Job(
        settings=StageSettings.model_validate({**settings, "optimizer": {"accumulation": 2}}),
        seed=7,
        loss=loss,
        batches=source,
        validation=Validation(lambda _: {"loss": 1.0}, "loss", "min"),
        checkpoints=folder / "checkpoints",
        resumed=lambda _: None,
        identity={"recipe": "same"},
        bad_batches=folder / "bad_batches.json",
        record=lambda record: events.append(dict(record)),
        keep_best=lambda *_: None,
        advance=lambda *_: None,
        watch=watch,
    )


def test_it_is_called_first_and_after_every_step_once_validated_and_before_the_checkpoint(
    tmp_path: Path,
) -> None:
    events: list[Any] = []

    def watch(model: nn.Module, state: Any, stop: Any) -> None:
        saved = [path.name for path in committed(tmp_path / "checkpoints")]
        events.append({"kind": "watch", "step": state.step, "saved": saved, "stop": stop()})

    train(nn.Linear(4, 1), job(tmp_path, events, watch), CPU)
    told = [(event["kind"], event["step"]) for event in events]
    assert told == [
        ("watch", 0),
        ("train", 1), ("watch", 1),
        ("train", 2), ("validation", 2), ("watch", 2),
        ("train", 3), ("watch", 3),
        ("train", 4), ("validation", 4), ("watch", 4),
    ]  # fmt: skip
    watched = [event for event in events if event["kind"] == "watch"]
    assert [event["saved"] for event in watched[2:4]] == [[], ["step-00000002"]]
    assert not any(event["stop"] for event in watched)


def test_every_step_says_its_time_how_much_of_it_was_waiting_and_its_crops(tmp_path: Path) -> None:
    events: list[Any] = []
    train(nn.Linear(4, 1), job(tmp_path, events, lambda *_: None), CPU)
    for record in events:
        if record["kind"] == "train":
            assert 0 <= record["data_wait_s"] < record["step_s"] <= record["time_s"]
            assert record["crops_per_s"] == pytest.approx(6 / record["step_s"])


def test_a_signal_while_it_looks_is_told_to_it_and_a_checkpoint_is_saved(tmp_path: Path) -> None:
    answers = []

    def watch(model: nn.Module, state: Any, stop: Any) -> None:
        if state.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            answers.append(stop())

    with pytest.raises(Interrupted):
        train(nn.Linear(4, 1), job(tmp_path, [], watch, steps=9), CPU)
    assert answers == [True]
    assert committed(tmp_path / "checkpoints")[-1].name == "step-00000003"


def test_a_run_that_goes_on_is_not_looked_at_before_its_next_step(tmp_path: Path) -> None:
    steps: list[int] = []

    def watch(model: nn.Module, state: Any, stop: Any) -> None:
        steps.append(state.step)
        if state.step == 3 and len(steps) < 5:
            raise Killed

    with pytest.raises(Killed):
        train(nn.Linear(4, 1), job(tmp_path, [], watch), CPU)
    train(nn.Linear(4, 1), job(tmp_path, [], watch), CPU)
    assert steps == [0, 1, 2, 3, 3, 4]
