"""What the training loop is given: batches, a loss, a validation, and who is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from brainsegfounder.settings import StageSettings
from brainsegfounder.training.checkpoint import TrainingState
from brainsegfounder.training.losses import Losses


class BatchOnDevice(Protocol):
    """What the loop needs of a batch."""

    @property
    def cases(self) -> tuple[str, ...]:
        """Name of the case each patch came from."""
        ...

    @property
    def numbers(self) -> tuple[int, ...]:
        """Number of each patch in the run."""
        ...

    def to(self, device: torch.device) -> BatchOnDevice:
        """The same batch on a device."""
        ...


LossFunction = Callable[[nn.Module, BatchOnDevice, int], Losses]
"""Of network, batch and seed; what is drawn for a crop is a function of the seed and its number."""

BatchSource = Callable[[int], Iterator[BatchOnDevice]]
"""This process's batches of the run, from the sample (case) of a given number on."""


def _first(found: list[Any]) -> Mapping[str, float]:
    values: Mapping[str, float] = found[0]
    return values


Record = Mapping[str, float | int | str]
"""A flat record, a line of `metrics.jsonl`."""

Watch = Callable[[nn.Module, TrainingState, Callable[[], bool]], None]
"""Of network, where the run stands, and a question: is the run asked to stop, so be quick?"""


@dataclass(frozen=True, slots=True)
class Validation:
    """How the best model is chosen.

    Several processes measure a part each, as if they were alone.

    Attributes:
        measure: What this process finds of the network as it is, as JSON can hold it.
        key: Which of them decides.
        direction: Whether more or less of it is better.
        summarise: Named values of what all processes found, in the order of their ranks; without
            it, every process measures all, and the first is believed.
    """

    measure: Callable[[nn.Module], Any]
    key: str
    direction: Literal["max", "min"]
    summarise: Callable[[list[Any]], Mapping[str, float]] = _first

    def improves(self, value: float, best: float | None) -> bool:
        """Whether a value beats the best one so far; a value that is not a number never does."""
        if math.isnan(value):
            return False
        if best is None:
            return True
        return value > best if self.direction == "max" else value < best


@dataclass(frozen=True, slots=True)
class Job:
    """Everything the loop is given.

    Attributes:
        settings: Steps, optimiser, precision, intervals.
        seed: Of dropout, pretext tasks and views; step number and seed fix all randomness.
        loss: Of one batch.
        batches: Where batches come from.
        validation: How the best model is chosen, or None: then the last one is best.
        checkpoints: Folder of the checkpoints.
        bad_batches: File that names the batches of steps that ended a run as not finite.
        resumed: Called at the start with the step that the run goes on from.
        identity: Hashes that identify the run to its checkpoints.
        record: Receives one flat record per step, per validation and per start.
        keep_best: Called whenever the network is the best so far.
        advance: Called after every step with its number and loss, for a progress bar.
        watch: Called before the first step, and after every step once it is validated; it may put
            the network into evaluation mode and changes nothing else.
    """

    settings: StageSettings
    seed: int
    loss: LossFunction
    batches: BatchSource
    validation: Validation | None
    checkpoints: Path
    bad_batches: Path
    resumed: Callable[[int], None]
    identity: Mapping[str, str | None]
    record: Callable[[Record], None]
    keep_best: Callable[[nn.Module, int], None]
    advance: Callable[[int, float], None]
    watch: Watch = lambda *_: None
