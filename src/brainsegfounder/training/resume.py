"""Where a run goes on: the newest checkpoint that is whole, by step."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from brainsegfounder.errors import CheckpointError
from brainsegfounder.training.checkpoint import (
    TrainingState,
    check_identity,
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
    for path in reversed(committed(folder)):
        try:
            state, tensors = read_checkpoint(path)
        except CheckpointError as error:
            log.warning("%s Trying the one before.", error)
            passed_over.append(str(error))
            continue
        check_identity(path, state.identity, identity)
        fill(learner, tensors, path)
        log.info("going on from step %d (%s)", state.step, path)
        return Start(state, tuple(passed_over))
    if passed_over:
        raise CheckpointError(
            f"{folder}: none of {len(passed_over)} checkpoints is whole ({passed_over[0]}). Copy "
            "one back from elsewhere, or remove them to begin anew."
        )
    return Start(TrainingState(identity=dict(identity)))
