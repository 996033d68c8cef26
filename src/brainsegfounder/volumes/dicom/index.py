"""What a DICOMDIR says about its folder; it is an index, checked and never followed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from brainsegfounder.volumes.dicom.header import pydicom_module, quiet
from brainsegfounder.volumes.dicom.tags import words
from brainsegfounder.volumes.findings import Finding

MAX_INDEX_BYTES = 64 << 20


def index_findings(index: Path, files: Sequence[Path]) -> list[Finding]:
    """Files that a DICOMDIR names but that are not there, or that lie outside its folder.

    Args:
        index: The DICOMDIR.
        files: All files found below the source.
    """
    try:
        named = _named(index)
    except Exception:  # pydicom on hostile bytes raises anything
        message = "the DICOMDIR cannot be read; its folder was searched without it"
        return [Finding("dicomdir_broken", "DICOMDIR", message, "warning")]
    outside = [parts for parts in named if _leaves(parts)]
    there = {str(path).lower() for path in files}
    inside = [index.parent.joinpath(*parts) for parts in named if not _leaves(parts)]
    absent = [path for path in inside if str(path).lower() not in there]
    found = []
    if outside:
        message = f"the DICOMDIR names {len(outside)} files outside its folder; none was opened"
        found.append(Finding("dicomdir_outside", "DICOMDIR", message, "warning"))
    if absent:
        message = f"the DICOMDIR names {len(absent)} files that are not there; copy the disc again"
        found.append(Finding("dicomdir_incomplete", "DICOMDIR", message, "warning"))
    return found


def _named(index: Path) -> list[tuple[str, ...]]:
    if index.stat().st_size > MAX_INDEX_BYTES:
        raise ValueError("an index larger than any real one")
    with quiet():
        dataset = pydicom_module().dcmread(index, specific_tags=["DirectoryRecordSequence"])
        records = dataset.get("DirectoryRecordSequence") or ()
        return [parts for record in records if (parts := words(record, "ReferencedFileID"))]


def _leaves(parts: Sequence[str]) -> bool:
    return any(
        part in ("", ".", "..") or PurePosixPath(part).name != part or "\\" in part or ":" in part
        for part in parts
    )
