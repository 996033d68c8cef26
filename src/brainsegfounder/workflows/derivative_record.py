"""The last file of a case in a derivative: what it lists, and whether all of that is there."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brainsegfounder.files import sha256, write_text

# Roles of files, as the last file lists them; those of several of a kind end in a name.
LABELS, LABEL_TABLE, VOLUMES, LESIONS = "labels", "label table", "volumes", "lesions"
SEGMENTATION = "DICOM segmentation"
PROBABILITY, MAP, ON_GRID = "probability of ", "map of ", "labels on "
MAX_RECORD_BYTES = 64 << 20
PLAIN_NAME = re.compile(r"[0-9a-zA-Z][0-9a-zA-Z_.+-]*")


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """A case that is whole in the tree.

    Attributes:
        sidecar: The file that says so.
        files: All others by their role, such as `labels` or `map of entropy`.
        record: What the sidecar says: `Key`, `Volumes`, `Flags`, `Provenance` and more.
    """

    sidecar: Path
    files: Mapping[str, Path]
    record: Mapping[str, Any]

    @property
    def labels(self) -> Path:
        """The label map."""
        return self.files[LABELS]


def read_case(sidecar: Path) -> CaseFiles | None:
    """A case by the sidecar of its labels; None where it is not whole, or not of this package."""
    record = _read_record(sidecar)
    listed = record.get("Files")
    if not isinstance(listed, dict) or LABELS not in listed or not isinstance(record["Key"], str):
        return None
    files = {}
    for role, entry in listed.items():
        path = _listed_path(sidecar, entry)
        if path is None or not path.is_file() or path.stat().st_size != entry.get("bytes"):
            return None
        files[str(role)] = path
    return CaseFiles(sidecar, files, record)


def remove_case(sidecar: Path) -> None:
    """Take away an older result of the case, its last file first."""
    listed = _read_record(sidecar).get("Files")
    with contextlib.suppress(OSError):
        sidecar.unlink(missing_ok=True)
    for entry in listed.values() if isinstance(listed, dict) else ():
        path = _listed_path(sidecar, entry)
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _read_record(sidecar: Path) -> dict[str, Any]:
    """A sidecar's content; nothing where there is none or it is broken."""
    try:
        if sidecar.stat().st_size > MAX_RECORD_BYTES:
            return {}
        record = json.loads(sidecar.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return {"Key": None, **record} if isinstance(record, dict) else {}


def listed_file(path: Path) -> dict[str, Any]:
    """How a sidecar lists a file: name, size and fingerprint."""
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def _listed_path(sidecar: Path, entry: Any) -> Path | None:
    """A file that a sidecar lists: always one of its own folder."""
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not PLAIN_NAME.fullmatch(name):
        return None
    return sidecar.with_name(name)


def printable(text: str) -> str:
    """A name that may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def json_text(record: Mapping[str, Any]) -> str:
    """A record as JSON; numbers that are not finite are a mistake of ours."""
    return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record beside its place, then rename it there.

    Raises:
        RunError: It cannot be written.
    """
    write_text(path, printable(json_text(record)) + "\n")
