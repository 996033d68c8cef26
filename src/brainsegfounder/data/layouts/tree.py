"""A folder as layouts see it: names, and small text files; never an image.

The folder is walked once, without asking the file system about each file, so that a cohort of
40,000 subjects is listed in about a second.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from brainsegfounder.errors import DataError, Problem
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.nifti import SUFFIXES

# A list of 114,000 images with their descriptions is about 150 MB; a sidecar is a few kB.
MAX_LIST_BYTES = 256 << 20
MAX_SIDECAR_BYTES = 1 << 20
MAX_DEPTH = 32
HEAD_BYTES = 4096
DESCRIPTION = "dataset_description.json"
DAY = re.compile(r"(?<!\d)(19|20)\d\d([-_]?)[01]\d\2[0-3]\d[\d_.]*")


@dataclass
class Tree:
    """A folder, walked once.

    Attributes:
        folder: Where it is.
        given: Files named by the user, relative to the folder; the rest of it is not looked at.
        walked: All names, where a walk of a folder above has found them.
        findings: What was noticed on the way: folders and sidecars that cannot be read.
    """

    folder: Path
    given: tuple[str, ...] = ()
    walked: tuple[str, ...] = ()
    findings: list[Finding] = field(default_factory=list)

    @cached_property
    def names(self) -> list[str]:
        """Every file, relative to the folder, in order of names; hidden ones are passed over."""
        return list(self.given or self.walked or self._walk("", 0, frozenset()))

    @cached_property
    def scans(self) -> list[Path]:
        """Every NIfTI file."""
        return [self.folder / name for name in self.scan_names]

    @cached_property
    def scan_names(self) -> list[str]:
        """Every NIfTI file, relative to the folder."""
        return [name for name in self.names if name.lower().endswith(SUFFIXES)]

    @cached_property
    def known(self) -> frozenset[str]:
        """All names, to look one up."""
        return frozenset(self.names)

    @cached_property
    def _has_json(self) -> bool:
        return any(name.endswith(".json") for name in self.names if name != DESCRIPTION)

    def relative(self, path: Path) -> str:
        """A path in the folder, relative to it; of any other path its name."""
        head = "" if self.folder == Path() else self.folder.as_posix().rstrip("/") + "/"
        return path.as_posix().removeprefix(head) if path.as_posix().startswith(head) else path.name

    def told(self, path: Path) -> str:
        """As `relative`, for reports: a day in the name, which dates a visit, stays unsaid."""
        return DAY.sub("DATE", self.relative(path))

    def sidecar(self, path: Path) -> dict[str, Any]:
        """The JSON file beside a scan, or nothing where there is none or it is broken."""
        if not self._has_json:
            return {}
        name = re.sub(r"\.nii(\.gz)?$", ".json", self.relative(path), flags=re.IGNORECASE)
        return self.small_json(name)

    def small_json(self, name: str) -> dict[str, Any]:
        """A small JSON file of this folder; a broken one is a finding, and as good as none."""
        if name not in self.known:
            return {}
        try:
            content = read_json(self.folder / name, MAX_SIDECAR_BYTES)
        except DataError as error:
            found = error.problem.found if error.problem else str(error)
            message = f"{found}; nothing is taken from it"
            self.findings.append(Finding("json_unreadable", name, message, "warning"))
            return {}
        return content if isinstance(content, dict) else {}

    def licence(self) -> str:
        """The data set's licence, by its BIDS description or the head of its README."""
        told = str(self.small_json(DESCRIPTION).get("License") or "")
        if not told and "README.md" in self.known:
            with (self.folder / "README.md").open("rb") as file:
                head = file.read(HEAD_BYTES).decode("utf-8", "replace")
            match = re.search(r"^license:\s*([\w.+-]+)\s*$", head, re.MULTILINE)
            told = match[1] if match else ""
        return told.strip()[:80]

    def _walk(self, within: str, depth: int, above: frozenset[str]) -> Iterator[str]:
        """Depth first; a folder that is a link to one of those above it is not entered again."""
        try:
            with os.scandir(self.folder / within) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            reason = f"cannot be listed: {error.strerror or error}; left aside"
            self.findings.append(Finding("folder_unreadable", within or ".", reason, "warning"))
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = f"{within}/{entry.name}" if within else entry.name
            if not _is_folder(entry):
                yield name
            elif depth < MAX_DEPTH:
                target = os.path.realpath(entry.path) if entry.is_symlink() else ""
                if not target:
                    yield from self._walk(name, depth + 1, above)
                elif target not in above and not self._is_below(within, target):
                    yield from self._walk(name, depth + 1, above | {target})

    def _is_below(self, within: str, target: str) -> bool:
        """Whether a folder of the walk lies in another one, or is it."""
        return f"{os.path.realpath(self.folder / within)}/".startswith(f"{target}/")


def read_json(path: Path, max_bytes: int = MAX_LIST_BYTES) -> Any:
    """A JSON file of bounded size and depth.

    Raises:
        DataError: It is no file, too large, no JSON, or nested too deeply.
    """
    _check_size(path, max_bytes)
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise DataError(_broken(path, "nested too deeply")) from error
    except (OSError, ValueError) as error:
        raise DataError(_broken(path, f"no JSON ({error})")) from error


def read_rows(path: Path) -> list[dict[str, str]]:
    """A CSV or TSV file with a header; a cell that is missing is empty.

    Raises:
        DataError: It is no file, too large, or no table.
    """
    _check_size(path, MAX_LIST_BYTES)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            file.seek(0)
            delimiter = max("\t;,", key=head.count)
            reader = csv.DictReader(file, delimiter=delimiter, restkey="", restval="")
            return [{k: v for k, v in row.items() if k and isinstance(v, str)} for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(_broken(path, f"no table ({error})")) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links: a file that cannot be read, which reading will say
        return False


def _check_size(path: Path, max_bytes: int) -> None:
    if not path.is_file():
        raise DataError(_broken(path, "no regular file"))
    if path.stat().st_size > max_bytes:
        raise DataError(_broken(path, f"larger than {max_bytes >> 20} MiB"))


def _broken(path: Path, found: str) -> Problem:
    return Problem(
        code="list_unreadable",
        file=str(path),
        found=found,
        expected="a text file of the data set",
        advice="Copy it again, or choose another --layout.",
    )
