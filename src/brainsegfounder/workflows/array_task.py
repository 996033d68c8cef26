"""One task of a job array: a command that submitit starts, warns and puts back into the queue.

It imports nothing of this package, as submitit loads it before anything else is there.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

ASK_EVERY_S = 0.5


class Task:
    """A command that goes on where it stopped when it is called again.

    Args:
        words: The command.
        saving_s: How long it may take to save after a warning.
    """

    def __init__(self, words: Sequence[str], saving_s: int) -> None:
        self.words = tuple(words)
        self.saving_s = saving_s
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Run the command to its end.

        Raises:
            CalledProcessError: It failed.
        """
        self._process = subprocess.Popen(self.words, preexec_fn=_ignore_warning)
        # `wait` would hold a lock that `checkpoint` needs, which runs in between.
        while (code := self._process.poll()) is None:
            time.sleep(ASK_EVERY_S)
        if code:
            raise subprocess.CalledProcessError(code, self.words)

    def checkpoint(self) -> Any:
        """Called by submitit at Slurm's warning: let the command save, and ask to be run again."""
        import submitit

        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(self.saving_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return submitit.helpers.DelayedSubmission(Task(self.words, self.saving_s))


def _ignore_warning() -> None:
    """The warning is for submitit; Slurm may send it to all processes of the task."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
