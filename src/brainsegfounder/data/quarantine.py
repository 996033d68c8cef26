"""Cases of a run that could not be read: who they are and why; too many of them end the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from brainsegfounder.errors import DataError
from brainsegfounder.files import write_text

log = logging.getLogger(__name__)

# Where a run lists them, in its folder.
QUARANTINE_NAME = "quarantine.json"
# Share of a run's cases that may be unreadable; one always may.
MAX_SHARE = 0.01


class Quarantine:
    """Cases that were replaced by others, by name, with the first reason found.

    Args:
        num_cases: How many cases the run has.
        file: Where they are listed, and read again when a run goes on; None: nowhere.
    """

    def __init__(self, num_cases: int, file: Path | None = None) -> None:
        self.limit = max(1, int(MAX_SHARE * num_cases))
        self.num_cases = num_cases
        self.file = file
        self.reasons: dict[str, str] = read_quarantine(file) if file else {}

    def add(self, found: Iterable[tuple[str, str]]) -> None:
        """Note cases and why they could not be read; those that are known already change nothing.

        Raises:
            DataError: There are more than the limit; names them.
            RunError: The list cannot be written.
        """
        reasons = dict(found)
        new = {case: reason for case, reason in reasons.items() if case not in self.reasons}
        self.reasons |= new
        for case, reason in new.items():
            log.warning("case '%s' is left out, another takes its place: %s", case, reason)
        if new and self.file is not None:
            write_text(self.file, json.dumps(self.reasons, indent=1, ensure_ascii=False) + "\n")
        if reasons and len(self.reasons) > self.limit:
            raise DataError(
                f"{len(self.reasons)} of {self.num_cases} cases cannot be read "
                f"({', '.join(self.reasons)}); expected at most {self.limit}. Last reason: "
                f"{list(reasons.values())[-1]} Then go on with --resume."
            )


def read_quarantine(file: Path) -> dict[str, str]:
    """Reasons by case, as a run listed them; none where it listed none."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
