"""A file while it is read: what is allowed of it, and what was noticed so far."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from brainsegfounder.errors import Problem
from brainsegfounder.settings import ReadingSettings
from brainsegfounder.volumes.findings import Finding

log = logging.getLogger(__name__)

Kind = Literal["note", "repair", "warning"]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file while it is read.

    Attributes:
        path: Where it is, as the user gave it.
        reading: What is allowed of it.
        findings: What was noticed so far.
    """

    path: Path
    reading: ReadingSettings
    findings: list[Finding] = field(default_factory=list)

    def notice(self, kind: Kind, code: str, message: str) -> None:
        """Keep a finding, and log it; the same one only once."""
        finding = Finding(code, str(self.path), message, kind)
        if finding not in self.findings:
            self.findings.append(finding)
            level = logging.INFO if kind == "note" else logging.WARNING
            log.log(level, "%s: %s", self.path, message)

    def problem(
        self, code: str, found: str, expected: str, advice: str, header_field: str = ""
    ) -> Problem:
        """What stops the reading of this file."""
        return Problem(code, str(self.path), found, expected, advice, header_field)

    def beside(self, path: Path) -> SourceFile:
        """Another file of the same image; findings are kept together."""
        return SourceFile(path, self.reading, self.findings)
