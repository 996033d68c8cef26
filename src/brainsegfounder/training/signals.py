"""Signals that ask for the end: the first saves a checkpoint, a second one aborts at once.

SIGINT is Ctrl-C, SIGTERM a scheduler's end of the job, SIGUSR1 Slurm's warning before it
(`sbatch --signal=USR1@120`), after which the job is put back into the queue.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import time
from collections.abc import Iterator
from types import FrameType

from brainsegfounder.errors import Interrupted

log = logging.getLogger(__name__)

# Not every system has the last one.
CAUGHT = [s for s in signal.Signals if s.name in ("SIGINT", "SIGTERM", "SIGUSR1")]
# A terminal and a launcher may both pass on one Ctrl-C.
SAME_MOMENT_S = 1.0
REQUEUE_LIMIT_S = 20


class Stop(BaseException):
    """Ends an interruptible piece of work, of which nothing is kept."""


class Signals:
    """Catches the signals of a training run while it is entered.

    Attributes:
        received: The first that came, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._since_s = 0.0
        self._interruptible = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Signals:
        for number in CAUGHT:
            try:
                self._before[number] = signal.signal(number, self._receive)
            except ValueError:  # not in the main thread: signals are the caller's business
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """A piece of work that a signal ends at once, as nothing is lost with it.

        Raises:
            Stop: A signal came, before it or meanwhile.
        """
        self._interruptible = True
        try:
            if self.received is not None:
                raise Stop
            yield
        finally:
            self._interruptible = False

    def interrupted(self, told: str) -> Interrupted:
        """What to raise after a signal; its exit code is 130 for SIGINT and 143 for the others."""
        number = self.received or signal.SIGTERM
        code = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
        return Interrupted(f"stopped by {number.name} {told}", code)

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.received is None:
            self.received, self._since_s = signal.Signals(number), time.monotonic()
            log.warning("%s: saving a checkpoint, then ending", self.received.name)
            if self._interruptible:
                raise Stop
        elif time.monotonic() - self._since_s > SAME_MOMENT_S:
            raise self.interrupted("and a second signal: aborted at once")


def requeue(job: str) -> bool:
    """Put a Slurm job back into the queue.

    Returns:
        Whether Slurm agreed.
    """
    words = ["scontrol", "requeue", job]
    try:
        subprocess.run(words, capture_output=True, text=True, check=True, timeout=REQUEUE_LIMIT_S)
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        log.warning("%s failed: %s Submit the job again yourself.", " ".join(words), told.strip())
        return False
    log.info("job %s is back in the queue", job)
    return True
