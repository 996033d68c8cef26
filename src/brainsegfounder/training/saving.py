"""Saves that may fail: tried again, then gone without for a while, in the end given up.

A disk that is full for an hour must not cost a week of training; one that stays full must not go
unnoticed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from brainsegfounder.errors import RunError, SaveError

log = logging.getLogger(__name__)

# Between the three tries of a save; short, as a signal may be waiting.
WAITS_S = (0.5, 2.0)
MAX_FAILED_SAVES = 3


@dataclass(slots=True)
class Saver:
    """Counts saves that failed in a row.

    Attributes:
        num_failed: How many, up to now.
    """

    num_failed: int = 0

    def save(self, write: Callable[[], object], *, is_last: bool = False) -> bool:
        """Try to write something three times.

        Args:
            write: Raises `OSError` or `RunError` where it fails.
            is_last: There will be no later chance.

        Returns:
            Whether it is written.

        Raises:
            SaveError: It failed as the last save, or as the third one in a row.
        """
        try:
            _try_again(write)
        except (OSError, RunError) as error:
            self.num_failed += 1
            if is_last or self.num_failed >= MAX_FAILED_SAVES:
                raise SaveError(
                    f"{error} Tried {len(WAITS_S) + 1} times in each of {self.num_failed} saves; "
                    "what was saved before is kept. Free space there, or mend the disk, and go on "
                    "with the same command and --resume."
                ) from error
            log.warning(
                "not saved (%d of %d in a row before the run stops): %s What was saved before is "
                "kept, and the run goes on.",
                self.num_failed,
                MAX_FAILED_SAVES,
                error,
            )
            return False
        self.num_failed = 0
        return True


def _try_again(write: Callable[[], object]) -> None:
    for wait_s in WAITS_S:
        try:
            write()
        except (OSError, RunError):
            time.sleep(wait_s)
        else:
            return
    write()


class Tell:
    """Calls a listener of a run, whose failures never touch the training.

    The first failure is a warning; further ones of the same listener are not worth a line each.
    """

    def __init__(self, listener: Callable[..., object], what: str) -> None:
        self._listener = listener
        self._what = what
        self._failed = False

    def __call__(self, *values: Any) -> None:
        """Pass the values on."""
        try:
            self._listener(*values)
        except Exception as error:
            if not self._failed:
                log.warning("%s does not work (%s); training goes on without", self._what, error)
            self._failed = True
