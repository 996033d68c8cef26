"""Where a run goes on: the newest checkpoint that is whole, by step."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from brainsegfounder.distributed import largest, num_processes, rank
from brainsegfounder.errors import CheckpointError
from brainsegfounder.training.checkpoint import (
    Tensors,
    TrainingState,
    check_identity,
    checkpoint_at,
    committed,
    fill,
    read_checkpoint,
)
from brainsegfounder.training.optim import Learner

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run goes on.

    Attributes:
        state: Step 0, or what the checkpoint says.
        passed_over: Why newer checkpoints were not taken, newest first.
    """

    state: TrainingState
    passed_over: tuple[str, ...] = ()

    def told(self) -> dict[str, str]:
        """The same for the record of metrics."""
        return {"passed_over": " ".join(self.passed_over)} if self.passed_over else {}


def resume(folder: Path, learner: Learner, identity: Mapping[str, str | None]) -> Start:
    """Fill a learner from the newest checkpoint that is whole.

    Args:
        folder: The run's `checkpoints` folder, which need not exist.
        learner: Left as it is where there is no checkpoint.
        identity: Of the run.

    Raises:
        OtherRunError: The checkpoint is of another run.
        CheckpointError: There are checkpoints, and none of them is whole.
    """
    passed_over: list[str] = []
    found = _newest(folder, passed_over) if rank() == 0 else None
    # All processes go on from the one that the main process has found.
    step = largest(-1 if found is None else found[0].step)
    if step < 0:
        return Start(TrainingState(identity=dict(identity)))
    path = checkpoint_at(folder, step)
    state, tensors = found or read_checkpoint(path)
    check_identity(path, state.identity, identity)
    fill(learner, tensors, path)
    if rank() == 0:
        log.info("going on from step %d (%s)", state.step, path)
        _tell_other_size(state)
    return Start(state, tuple(passed_over))


def _newest(folder: Path, passed_over: list[str]) -> tuple[TrainingState, Tensors] | None:
    """The newest checkpoint that is whole; why newer ones are not taken is added to a list."""
    for path in reversed(committed(folder)):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            log.warning("%s Trying the one before.", error)
            passed_over.append(str(error))
    if passed_over:
        raise CheckpointError(
            f"{folder}: none of {len(passed_over)} checkpoints is whole ({passed_over[0]}). Copy "
            "one back from elsewhere, or remove them to begin anew."
        )
    return None


def _tell_other_size(state: TrainingState) -> None:
    if state.num_processes != num_processes():
        log.warning(
            "step %d was made by %d processes, the next one is by %d: a step now sees that many "
            "times the recipe's batch_size, at the same learning rate. No case is left out and "
            "none is seen twice in an epoch.",
            state.step,
            state.num_processes,
            num_processes(),
        )
