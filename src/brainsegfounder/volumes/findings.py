"""What was noticed about a scan without stopping: noted, repaired, or doubtful.

A finding travels with its volume into the store, the provenance and the report. What stops a case
is no finding but an error with a `Problem`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a file that did not stop it.

    Attributes:
        code: A short name that stays the same, such as `offset_in_header`.
        file: The file or case it is about.
        message: What was found and what was done, as a sentence.
        kind: note: worth knowing; repair: changed while reading; warning: look at this scan.
    """

    code: str
    file: str
    message: str
    kind: Literal["note", "repair", "warning"]
