"""Others who are told what a run records, beside `metrics.jsonl`: TensorBoard."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from brainsegfounder.errors import UsageError
from brainsegfounder.training.loop import Record

log = logging.getLogger(__name__)


class Tracker:
    """Somebody who is told every record, until he fails once; training never notices.

    Args:
        name: For the warning.
        tell: Takes a record.
        close: Called at the end.
    """

    def __init__(
        self, name: str, tell: Callable[[Record], None], close: Callable[[], None]
    ) -> None:
        self._name = name
        self._tell = tell
        self._close = close
        self._failed = False

    def __call__(self, record: Record) -> None:
        """Tell one record."""
        if not self._failed:
            self._failed = True
            with undisturbed(f"{self._name}: it is told no more"):
                self._tell(record)
                self._failed = False

    def close(self) -> None:
        """Tell him that this was all."""
        with undisturbed(self._name):
            self._close()


def tensorboard_tracker(folder: Path) -> Tracker:
    """A tracker that writes every number of a record as `KIND/NAME` for TensorBoard.

    Args:
        folder: Where event files go; made with the first record.

    Raises:
        UsageError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "--tensorboard: the package tensorboard is not installed; expected it. "
            'Install it: pip install "brainsegfounder[track]", or leave the option out; '
            "metrics.jsonl and report.html are written without it."
        ) from error
    writers: list[SummaryWriter] = []

    def tell(record: Record) -> None:
        if not writers:
            # What a run that was cut off has told beyond its checkpoint is told again.
            writers.append(SummaryWriter(str(folder), purge_step=int(record["step"])))
        for name, value in record.items():
            if name not in ("kind", "step") and not isinstance(value, str):
                writers[0].add_scalar(f"{record['kind']}/{name}", value, int(record["step"]))

    def close() -> None:
        for writer in writers:
            writer.close()

    return Tracker("TensorBoard", tell, close)


@contextlib.contextmanager
def undisturbed(what: str) -> Iterator[None]:
    """Let training go on where something beside it fails, and say so."""
    try:
        yield
    except Exception as error:
        log.warning("%s (%s: %s); training goes on", what, type(error).__name__, error)
