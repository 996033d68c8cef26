"""Fingerprints of source files, and knowing a file again without reading it.

A store remembers, with each file's SHA-256, its size and its times of change. A file in which
none of these differ is taken to be the same, as git does; any other is read again. The second
time (ctime) is set by the system alone, so a copy that keeps its date is still noticed.
"""

from __future__ import annotations

import contextlib
import json
import stat
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from brainsegfounder.errors import DataError, Problem
from brainsegfounder.files import sha256, write_changed


@dataclass(frozen=True, slots=True)
class SourceHash:
    """A file's fingerprint, and what it looked like from outside when it was taken."""

    num_bytes: int
    mtime_ns: int
    ctime_ns: int
    sha256: str


SourceHashes = dict[str, SourceHash]


def hash_sources(paths: Mapping[str, Path]) -> SourceHashes:
    """Read and fingerprint files.

    Raises:
        DataError: One cannot be read, or is no regular file (a pipe would be waited on for ever).
    """
    return {role: _hash(path) for role, path in paths.items()}


def is_unchanged(path: Path, known: SourceHash | None) -> bool:
    """Whether a file looks from outside as it did when it was fingerprinted."""
    try:
        return known is not None and _outside(path) == astuple(known)[:3]
    except OSError:
        return False


def check_unchanged(paths: Mapping[str, Path], hashes: SourceHashes) -> None:
    """Refuse files that changed since they were fingerprinted.

    Raises:
        DataError: One changed or went away.
    """
    for role, path in paths.items():
        if not is_unchanged(path, hashes.get(role)):
            raise DataError(
                Problem(
                    code="changed_during_read",
                    file=str(path),
                    found="changed or went away while it was read",
                    expected="a file that stays as it is",
                    advice="Wait until it is copied, then give the same command again.",
                )
            )


def read_hashes(folder: Path) -> dict[str, SourceHashes]:
    """Fingerprints by case, as a store remembers them; empty where it does not."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        cases = json.loads((folder / "hashes.json").read_text(encoding="utf-8"))
        return {
            case: {role: SourceHash(*values) for role, values in files.items()}
            for case, files in cases.items()
        }
    return {}


def write_hashes(folder: Path, cases: Mapping[str, SourceHashes]) -> None:
    """Let a store remember fingerprints; the file may be deleted at any time."""
    lines = [
        f"{json.dumps(case, ensure_ascii=False)}: "
        + json.dumps({role: astuple(known) for role, known in hashes.items()}, ensure_ascii=False)
        for case, hashes in cases.items()
    ]
    write_changed(folder / "hashes.json", "{\n" + ",\n".join(lines) + "\n}\n")


def _hash(path: Path) -> SourceHash:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(
                Problem(
                    code="not_a_file",
                    file=str(path),
                    found="not a regular file",
                    expected="a file",
                    advice="Give the scan itself.",
                )
            )
        before = _outside(path)
        return SourceHash(*before, sha256(path))
    except OSError as error:
        raise DataError(
            Problem(
                code="unreadable",
                file=str(path),
                found=f"cannot be read: {error.strerror or error}",
                expected="a readable file",
                advice="Check that it is there and that you may read it.",
            )
        ) from error


def _outside(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns
