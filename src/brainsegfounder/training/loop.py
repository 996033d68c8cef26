"""One loop for every stage: what differs between stages is a loss function and a validation."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Literal, Protocol

import torch
from torch import nn

from brainsegfounder.distributed import world
from brainsegfounder.errors import CheckpointError, Interrupted, TrainingError
from brainsegfounder.settings import StageSettings
from brainsegfounder.training.checkpoint import (
    TrainingState,
    committed,
    load_checkpoint,
    save_checkpoint,
)
from brainsegfounder.training.losses import Losses
from brainsegfounder.training.optim import learning_rate, make_optimizer
from brainsegfounder.training.randomness import mixed

log = logging.getLogger(__name__)

MAX_SKIPPED_IN_A_ROW = 10


class BatchOnDevice(Protocol):
    """What the loop needs of a batch."""

    @property
    def cases(self) -> tuple[str, ...]:
        """Name of the case each patch came from."""
        ...

    def to(self, device: torch.device) -> BatchOnDevice:
        """The same batch on a device."""
        ...


LossFunction = Callable[[nn.Module, BatchOnDevice, int], Losses]
"""Of network, batch and seed; what is drawn for a crop is a function of the seed and its number."""

BatchSource = Callable[[int], Iterator[BatchOnDevice]]
"""Batches of the run from a given number on."""

Record = Mapping[str, float | int | str]
"""A flat record, a line of `metrics.jsonl`."""

Watch = Callable[[nn.Module, TrainingState, Callable[[], bool]], None]
"""Of network, where the run stands, and a question: is the run asked to stop, so be quick?"""


@dataclass(frozen=True, slots=True)
class Validation:
    """How the best model is chosen.

    Attributes:
        measure: Named values of the network as it is.
        key: Which of them decides.
        direction: Whether more or less of it is better.
    """

    measure: Callable[[nn.Module], Mapping[str, float]]
    key: str
    direction: Literal["max", "min"]

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
        resumed: Called with the step that a resumed run goes on from.
        fingerprint: Identifies the run to its checkpoints.
        record: Receives one flat record per step and per validation.
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
    resumed: Callable[[int], None]
    fingerprint: str
    record: Callable[[Record], None]
    keep_best: Callable[[nn.Module, int], None]
    advance: Callable[[int, float], None]
    watch: Watch = lambda *_: None


def train(model: nn.Module, job: Job, device: torch.device) -> TrainingState:
    """Train to the last step, from the newest good checkpoint where there is one.

    Args:
        model: On the device; changed in place.
        job: What to do.
        device: Where to compute.

    Returns:
        The final state.

    Raises:
        TrainingError: Ten steps in a row had a loss or gradient that is not finite.
        CheckpointError: A checkpoint cannot be written, or belongs to another run.
        Interrupted: SIGINT or SIGTERM came; a checkpoint is saved.
    """
    optimizer = make_optimizer(model, job.settings.optimizer)
    state = _resume(model, optimizer, job)
    if state.step >= job.settings.steps:
        return state
    accumulation = job.settings.optimizer.accumulation
    batches = job.batches(state.step * accumulation)
    skipped, started_s = 0, time.monotonic() - state.elapsed_s
    with _CatchSignals() as signals:
        if state.step == 0:
            job.watch(model, state, lambda: signals.received is not None)
        for step in range(state.step, job.settings.steps):
            asked_s = time.monotonic()
            micro_batches = [next(batches).to(device) for _ in range(accumulation)]
            waited_s = time.monotonic() - asked_s
            values = _step(model, optimizer, job, micro_batches, step, device)
            skipped = 0 if values["skipped"] == 0 else skipped + 1
            if skipped >= MAX_SKIPPED_IN_A_ROW:
                raise TrainingError(_not_finite(step, micro_batches))
            elapsed_s = time.monotonic() - started_s
            values |= _pace(micro_batches, waited_s, time.monotonic() - asked_s)
            state = replace(state, step=step + 1, elapsed_s=elapsed_s)
            job.record({"kind": "train", "step": state.step, "time_s": elapsed_s, **values})
            job.advance(state.step, values["loss"])
            state = _after_step(model, optimizer, job, state, signals)
            if signals.received is not None:
                name = signal.Signals(signals.received).name
                raise Interrupted(
                    f"stopped by {name} after step {state.step}; a checkpoint is saved. "
                    "Go on with the same command and --resume.",
                    signals.received,
                )
    return state


def _after_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    job: Job,
    state: TrainingState,
    signals: _CatchSignals,
) -> TrainingState:
    """Validate, let watch, and save where the intervals, the end or a signal ask for it."""
    is_last = state.step == job.settings.steps
    if signals.received is None:
        if is_last or state.step % job.settings.validate_every == 0:
            state = _validate(model, job, state)
        job.watch(model, state, lambda: signals.received is not None)
    if is_last or signals.received is not None or state.step % job.settings.checkpoint_every == 0:
        save_checkpoint(job.checkpoints, model, optimizer, state)
    return state


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    job: Job,
    batches: list[BatchOnDevice],
    step: int,
    device: torch.device,
) -> dict[str, float]:
    """One optimiser step; nothing changes where loss or gradient is not finite."""
    model.train()
    rate = learning_rate(step, job.settings.steps, job.settings.optimizer)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    totals: dict[str, float] = {}
    watched: dict[str, float] = {}
    for number, batch in enumerate(batches):
        # Dropout draws from the global generator: its state is a function of the step.
        torch.manual_seed(mixed(job.seed, step, number))
        with _autocast(job.settings.precision, device):
            losses = job.loss(model, batch, job.seed + 1)
            loss = torch.stack(list(losses.parts.values())).sum() / len(batches)
        loss.backward()  # type: ignore[no-untyped-call]
        for sums, values in ((totals, losses.parts), (watched, losses.watched)):
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / len(batches)
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), _clip(job.settings)))
    total = sum(totals.values())
    finite = math.isfinite(total) and math.isfinite(norm)
    if finite:
        optimizer.step()
    else:
        log.warning("step %d: loss %s, gradient norm %s; step skipped", step + 1, total, norm)
    state = {"gradient_norm": norm, "lr": rate, "skipped": float(not finite)}
    return {"loss": total, **totals, **watched, **state}


def _pace(batches: list[BatchOnDevice], waited_s: float, step_s: float) -> dict[str, float]:
    """How fast a step was: its time, the part of it that data were waited for, crops a second."""
    num_crops = world().size * sum(len(batch.cases) for batch in batches)
    return {"step_s": step_s, "data_wait_s": waited_s, "crops_per_s": num_crops / step_s}


def _validate(model: nn.Module, job: Job, state: TrainingState) -> TrainingState:
    if job.validation is None:
        job.keep_best(model, state.step)
        return replace(state, best_step=state.step)
    model.eval()
    values = job.validation.measure(model)
    job.record({"kind": "validation", "step": state.step, **values})
    value = values[job.validation.key]
    if not job.validation.improves(value, state.best_value):
        return state
    job.keep_best(model, state.step)
    return replace(state, best_value=value, best_step=state.step)


def _resume(model: nn.Module, optimizer: torch.optim.Optimizer, job: Job) -> TrainingState:
    for path in reversed(committed(job.checkpoints)):
        try:
            state = load_checkpoint(path, model, optimizer, job.fingerprint)
        except CheckpointError as error:
            if "belongs to another" in str(error):
                raise
            log.warning("%s Trying the one before.", error)
            continue
        log.info("going on from step %d (%s)", state.step, path)
        job.resumed(state.step)
        return state
    return TrainingState(0, None, None, job.fingerprint, 0.0)


def _not_finite(step: int, batches: list[BatchOnDevice]) -> str:
    cases = ", ".join(sorted({case for batch in batches for case in batch.cases}))
    return (
        f"step {step + 1}: loss or gradient was not finite {MAX_SKIPPED_IN_A_ROW} times in a row "
        f"(last cases: {cases}); expected numbers. Lower optimizer.peak_lr, or look at these cases."
    )


def _clip(settings: StageSettings) -> float:
    return settings.optimizer.clip_norm or math.inf


def _autocast(precision: str, device: torch.device) -> torch.autocast:
    wanted = precision == "bfloat16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)


class _CatchSignals:
    """Turns the first SIGINT or SIGTERM into a request; the second one aborts at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> _CatchSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._receive)
            except ValueError:  # not in the main thread: signals are the caller's business
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        log.warning("%s: saving a checkpoint after this step", signal.Signals(number).name)
        self.received = number
