"""One loop for every stage: what differs between stages is a loss function and a validation.

Between two steps, everything a run is stands in its `Learner` and its `TrainingState`; both are in
a checkpoint, and all randomness is a function of seed and step. So a resumed run is the same run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from brainsegfounder.distributed import (
    alone,
    gather_records,
    largest,
    means,
    num_processes,
    rank,
    slurm_job,
)
from brainsegfounder.errors import Interrupted, SaveError, TrainingError
from brainsegfounder.files import write_text
from brainsegfounder.settings import StageSettings
from brainsegfounder.training.checkpoint import (
    TrainingState,
    check_room,
    clean,
    collect,
    committed,
    write_checkpoint,
)
from brainsegfounder.training.job import (
    BatchOnDevice,
    BatchSource,
    Job,
    LossFunction,
    Record,
    Validation,
    Watch,
)
from brainsegfounder.training.optim import Learner, learning_rate, make_learner
from brainsegfounder.training.parallel import clip_gradients, is_finite
from brainsegfounder.training.randomness import mixed
from brainsegfounder.training.resume import resume
from brainsegfounder.training.saving import Saver, Tell
from brainsegfounder.training.signals import Signals, Stop, requeue

__all__ = [
    "BatchOnDevice",
    "BatchSource",
    "Job",
    "LossFunction",
    "Record",
    "Validation",
    "Watch",
    "train",
]

log = logging.getLogger(__name__)

MAX_SKIPPED_IN_A_ROW = 10


def train(model: nn.Module, job: Job, device: torch.device) -> TrainingState:
    """Train to the last step, from the newest checkpoint that is whole, where there is one.

    Args:
        model: On the device; changed in place.
        job: What to do.
        device: Where to compute.

    Returns:
        The final state.

    Raises:
        TrainingError: Ten steps in a row had a loss or gradient that is not finite, the weights
            are not finite, or the device has too little memory.
        CheckpointError: None of the checkpoints is whole, or they belong to another run.
        SaveError: The disk is too small, or nothing can be saved time after time.
        Interrupted: SIGINT, SIGTERM or SIGUSR1 came; a checkpoint is saved.
    """
    learner = make_learner(model, job.settings.optimizer, job.settings.sharding)
    is_main = rank() == 0
    tell = _Telling(
        Tell(job.record if is_main else _to_nobody, "the record of metrics"),
        Tell(job.advance if is_main else _to_nobody, "the progress bar"),
        Tell(job.watch if is_main else _to_nobody, "the page of the run"),
    )
    with Signals() as signals:
        if is_main:
            clean(job.checkpoints)
            check_room(job.checkpoints, learner)
        start = resume(job.checkpoints, learner, job.identity)
        if is_main:
            Tell(job.resumed, "the record of metrics")(start.state.step)
        if start.state.step > 0:
            tell.record({"kind": "resume", "step": start.state.step, **start.told()})
        return _Session(job, learner, device, signals, tell, start.state).run()


def _to_nobody(*_: object) -> None:
    """What a process that is not the main one has to tell."""


@dataclass(frozen=True, slots=True)
class _Telling:
    record: Tell
    advance: Tell
    watch: Tell


@dataclass(slots=True)
class _Session:
    """One process's part of a run, from its start or a resume to the end or a signal."""

    job: Job
    learner: Learner
    device: torch.device
    signals: Signals
    tell: _Telling
    state: TrainingState
    saver: Saver = field(default_factory=Saver)
    saved: TrainingState | None = None
    bad_batches: list[dict[str, Any]] = field(default_factory=list)
    zero_s: float = 0.0

    def run(self) -> TrainingState:
        """Make all steps that are missing."""
        self.saved = self.state if self.state.step else None
        self.zero_s = time.monotonic() - self.state.elapsed_s
        try:
            if self.state.validation_due:
                self._validate()
            self._make_steps()
            self._stop_together()
            return self.state
        except Stop:
            raise self._stopped() from None
        except torch.OutOfMemoryError as error:
            raise TrainingError(_out_of_memory(self.job.settings, self.state.step, error)) from None

    def _make_steps(self) -> None:
        settings = self.job.settings
        if self.state.step < settings.steps:
            batches = self.job.batches(self.state.samples)
            if self.state.step == 0:
                self._watch()
            while self.state.step < settings.steps:
                self._stop_together()
                self._step(batches)
                if self.state.validation_due:
                    self._validate()
                self._watch()
                if self._is_last or self.state.step % settings.checkpoint_every == 0:
                    self._save()
        self._save()

    def _stop_together(self) -> None:
        """End here, and in every process alike, where any of them has received a signal.

        Raises:
            Stop: One has.
        """
        received = largest(self.signals.received or 0)
        if received:
            self.signals.received = signal.Signals(received)
            raise Stop

    def _interruptible(self) -> contextlib.AbstractContextManager[None]:
        """Work that a signal ends at once; not where other processes would wait for its result."""
        return self.signals.interruptible() if num_processes() == 1 else contextlib.nullcontext()

    @property
    def _num_samples(self) -> int:
        """Cases that all processes together see in a step."""
        settings = self.job.settings
        return settings.batch_size * settings.optimizer.accumulation * num_processes()

    @property
    def _is_last(self) -> bool:
        return self.state.step >= self.job.settings.steps

    def _step(self, batches: Iterator[BatchOnDevice]) -> None:
        """One optimiser step; nothing that is learnt changes where something is not finite.

        A signal ends it where nothing has changed yet, so none of a step's work can be half done.
        """
        settings, step = self.job.settings, self.state.step + 1
        micro_batches, values = self._gradients(batches)
        values["lr"] = learning_rate(step - 1, settings.steps, settings.optimizer)
        is_finite = math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])
        if is_finite:
            self.learner.step(values["lr"])
        self.state = replace(
            self.state,
            step=step,
            elapsed_s=time.monotonic() - self.zero_s,
            samples=self.state.samples + self._num_samples,
            num_processes=num_processes(),
            skipped_in_a_row=0 if is_finite else self.state.skipped_in_a_row + 1,
            validation_due=step == settings.steps or step % settings.validate_every == 0,
        )
        values["skipped"] = float(not is_finite)
        self.tell.record({"kind": "train", "step": step, "time_s": self.state.elapsed_s, **values})
        self.tell.advance(step, values["loss"])
        self._watch_skips(micro_batches, values)

    def _gradients(
        self, batches: Iterator[BatchOnDevice]
    ) -> tuple[list[BatchOnDevice], dict[str, float]]:
        """The batches of a step and its losses by name; the gradients are then in the network."""
        began_s, count = time.monotonic(), self.job.settings.optimizer.accumulation
        try:
            with self._interruptible():
                micro_batches = [next(batches).to(self.device) for _ in range(count)]
                waited_s = time.monotonic() - began_s
                values = _backward(self.learner, self.job, micro_batches, self.state.step)
                pace = _pace(micro_batches, waited_s, time.monotonic() - began_s)
                return micro_batches, {**values, **pace}
        except torch.OutOfMemoryError:
            if not self.learner.spread.is_sharded:  # then others would have to take part
                self._save()  # nothing has changed since the step before
            raise

    def _watch_skips(self, micro_batches: list[BatchOnDevice], values: Mapping[str, float]) -> None:
        """End the run after ten steps in a row that were skipped, naming their batches."""
        if self.state.skipped_in_a_row == 0:
            self.bad_batches.clear()
            return
        self.bad_batches += [
            {"step": self.state.step, "cases": list(batch.cases), "numbers": list(batch.numbers)}
            for batch in micro_batches
        ]
        log.warning(
            "step %d: loss %s, gradient norm %s; step skipped",
            self.state.step,
            values["loss"],
            values["gradient_norm"],
        )
        if self.state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            self.bad_batches = gather_records(self.bad_batches)
            listed = partial(
                write_text, self.job.bad_batches, json.dumps(self.bad_batches, indent=1)
            )
            if rank() == 0:
                Tell(listed, "the list of bad batches")()
            raise TrainingError(self._not_finite())

    def _validate(self) -> None:
        """Measure, and keep the network where it is the best so far."""
        job, state = self.job, replace(self.state, validation_due=False)
        self.learner.model.eval()
        with self.learner.at_best(), self.learner.spread.whole() as model:
            if job.validation is not None:
                values = self._measured(job.validation, model)
                self.tell.record({"kind": "validation", "step": state.step, **values})
                value: float | None = values[job.validation.key]
                improves = job.validation.improves(values[job.validation.key], state.best_value)
            else:
                value, improves = None, True
            if improves and self._keep(model):
                state = replace(state, best_value=value, best_step=state.step)
        self.state = state

    def _watch(self) -> None:
        if self.signals.received is None:
            model, signals = self.learner.model, self.signals
            with alone():
                self.tell.watch(model, self.state, lambda: signals.received is not None)

    def _measured(self, validation: Validation, model: nn.Module) -> Mapping[str, float]:
        """What all processes find; each measures its part alone, so that none waits meanwhile."""
        found = None
        with contextlib.suppress(Stop), alone(), self.signals.interruptible():
            found = validation.measure(model)
        self._stop_together()
        return validation.summarise(gather_records([found]))

    def _keep(self, model: nn.Module) -> bool:
        """Keep the network as the best; one that is not finite never is."""
        step = self.state.step
        if not is_finite(model):
            log.warning("step %d: weights are not finite; not kept as the best", step)
            return False
        return self._written(partial(self.job.keep_best, model, step))

    def _written(self, write: Callable[[], object]) -> bool:
        """Whether the main process, which alone writes, could write something."""
        is_written = rank() != 0 or self.saver.save(write, is_last=self._is_last)
        return largest(int(not is_written)) == 0

    def _save(self) -> None:
        """Commit a checkpoint of where the run stands, unless that is the newest one."""
        if self.state.step == 0 or self.state == self.saved:
            return
        if not is_finite(self.learner.model):
            raise TrainingError(
                f"step {self.state.step}: weights are not finite; expected numbers. Earlier "
                f"checkpoints are kept in {self.job.checkpoints}. Lower optimizer.peak_lr."
            )
        tensors = collect(self.learner)
        write = partial(write_checkpoint, self.job.checkpoints, tensors, self.state)
        if self._written(write):
            self.saved = self.state

    def _stopped(self) -> Interrupted:
        """Save a checkpoint and say how to go on; under Slurm, ask to be started again."""
        try:
            self._save()
        except (SaveError, TrainingError) as error:
            log.warning("%s", error)
        found = committed(self.job.checkpoints)
        kept = f"the newest checkpoint is {found[-1]}" if found else "there is no checkpoint yet"
        told = f"after step {self.state.step}; {kept}. Go on with the same command and --resume."
        job = slurm_job()
        if rank() == 0 and job is not None and self.signals.received == signal.SIGUSR1:
            requeue(job)
        return self.signals.interrupted(told)

    def _not_finite(self) -> str:
        found = sorted({case for batch in self.bad_batches for case in batch["cases"]})
        cases = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        return (
            f"step {self.state.step}: loss or gradient was not finite {MAX_SKIPPED_IN_A_ROW} times "
            f"in a row (cases: {cases}); expected numbers. Lower optimizer.peak_lr, or look at "
            f"these cases; their batches are listed in {self.job.bad_batches}."
        )


def _backward(
    learner: Learner, job: Job, batches: list[BatchOnDevice], step: int
) -> dict[str, float]:
    """Losses and gradients of one step, which change neither weights nor optimiser.

    Both are means over all processes, so these decide alike what to do with them.
    """
    model, spread = learner.model, learner.spread
    model.train()
    model.zero_grad(set_to_none=True)
    totals: dict[str, float] = {}
    watched: dict[str, float] = {}
    for number, batch in enumerate(batches):
        # Dropout draws from the global generator: its state is a function of the step.
        torch.manual_seed(mixed(job.seed, step, number * num_processes() + rank()))
        with spread.collecting(is_last=number == len(batches) - 1):
            with autocast(job.settings.precision, next(model.parameters()).device):
                losses = job.loss(spread.forward, batch, job.seed + 1)
                loss = torch.stack(list(losses.parts.values())).sum() / len(batches)
            loss.backward()  # type: ignore[no-untyped-call]
        for sums, values in ((totals, losses.parts), (watched, losses.watched)):
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / len(batches)
    clip_norm = job.settings.optimizer.clip_norm or math.inf
    norm = clip_gradients(model, clip_norm)
    return {**means({"loss": sum(totals.values()), **totals, **watched}), "gradient_norm": norm}


def _pace(batches: list[BatchOnDevice], waited_s: float, step_s: float) -> dict[str, float]:
    """How fast a step was: its time, the part of it that data were waited for, crops a second."""
    num_crops = num_processes() * sum(len(batch.cases) for batch in batches)
    return {"step_s": step_s, "data_wait_s": waited_s, "crops_per_s": num_crops / step_s}


def _out_of_memory(settings: StageSettings, step: int, error: Exception) -> str:
    size = " x ".join(map(str, settings.patch_size_vox))
    first_line = str(error).partition("\n")[0]
    return (
        f"step {step + 1}: the device has too little memory for batch_size {settings.batch_size}, "
        f"crops_per_case {settings.crops_per_case}, patch_size_vox {size} ({first_line}). Halve "
        "batch_size and double optimizer.accumulation, make patches smaller, or set "
        "model.checkpointing. Checkpoints are kept."
    )


def autocast(precision: str, device: torch.device) -> torch.autocast:
    wanted = precision == "bfloat16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)
