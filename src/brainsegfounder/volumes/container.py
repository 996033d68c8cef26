"""A file on disk and the bytes in it: opened with care, read within a budget, checked for length.

A gzip stream is read through to its end, so a truncated or flipped stream is an error and never a
volume with zeros at its end. How long the data may be is said by the caller, who has seen the
header (`read_head`) by then.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from brainsegfounder.errors import VolumeError
from brainsegfounder.volumes.gzip_stream import GZIP_MAGIC, inflated
from brainsegfounder.volumes.source_file import SourceFile

MAX_FILE_BYTES = 4 << 30
# What may follow the voxels: padding, tags, a signature; more is something else.
MAX_TRAILING_BYTES = 64 << 10
# Enough for every header we read: NIfTI-1 has 348 bytes, NIfTI-2 540, MGH 284, DICOM's mark 132.
HEAD_BYTES = 640
# The compressed bytes among which a head is looked for.
PEEK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a file's data.

    Attributes:
        content: The first bytes, inflated; fewer than `HEAD_BYTES` only where there are no more.
        compressed: Whether the file is a gzip stream.
        status: The file's state when this was read, which must not change.
    """

    content: bytes
    compressed: bool
    status: os.stat_result


def read_head(file: SourceFile) -> Head:
    """Look at the first bytes of a file, and read no more than that.

    Raises:
        VolumeError: There is no such file, it is no regular file, cannot be opened, is larger
            than 4 GiB, or its gzip stream is damaged right away.
    """
    status = _status(file)
    try:
        with file.path.open("rb") as stream:
            stored = stream.read(HEAD_BYTES)
            compressed = stored.startswith(GZIP_MAGIC)
            if compressed:
                stored += stream.read(PEEK_BYTES)
    except OSError as error:
        raise _unreadable(file, error) from error
    if compressed:
        stored = _first(stored, file)
    _check_name(file, compressed)
    return Head(stored, compressed, status)


def read_content(file: SourceFile, head: Head, promised_bytes: int, trailing_bytes: int) -> bytes:
    """All data of a file whose head has been looked at.

    Args:
        file: The file.
        head: What `read_head` gave.
        promised_bytes: How long the data are by their header.
        trailing_bytes: How much may follow them.

    Raises:
        VolumeError: The data are shorter or longer than that, a checksum is wrong, or the file
            was changed since its head was read.
    """
    limit = promised_bytes + trailing_bytes
    there = head.status.st_size
    try:
        with file.path.open("rb") as stream:
            stored = stream.read(1 + (there if head.compressed else min(there, limit)))
    except OSError as error:
        raise _unreadable(file, error) from error
    _check_unchanged(file, head, len(stored), limit)
    content = b"".join(inflated(stored, file, limit)) if head.compressed else stored
    if len(content) > limit:
        raise _too_long(file, promised_bytes, trailing_bytes)
    if len(content) < promised_bytes:
        raise VolumeError(
            file.problem(
                "file_too_short",
                f"{len(content)} bytes, but its header promises {promised_bytes}",
                "a whole file",
                "Copy it again.",
            )
        )
    return content


def _status(file: SourceFile) -> os.stat_result:
    """What the file system says, before anything is opened that might hang."""
    try:
        status = file.path.stat()
    except OSError as error:
        raise _unreadable(file, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise VolumeError(
            file.problem(
                "not_a_file",
                "not a regular file",
                "a .nii or .nii.gz image",
                "Give the image itself, not a folder, pipe or device.",
            )
        )
    if status.st_size == 0:
        raise VolumeError(
            file.problem("empty", "the file is empty", "a NIfTI image", "Copy it again.")
        )
    if status.st_size > MAX_FILE_BYTES:
        raise VolumeError(
            file.problem(
                "file_too_large",
                f"{status.st_size} bytes, larger than any head scan",
                f"at most {MAX_FILE_BYTES} bytes",
                "Resample it, or split a series into volumes.",
            )
        )
    return status


def _unreadable(file: SourceFile, error: OSError) -> VolumeError:
    if error.errno == errno.ENOENT:
        code, found = "missing", "no such file"
    else:
        code, found = "unreadable", f"cannot be read: {error.strerror or error}"
    return VolumeError(
        file.problem(code, found, "a .nii or .nii.gz image", "Check its name and permissions.")
    )


def _check_name(file: SourceFile, compressed: bool) -> None:
    """A wrong suffix changes nothing, since the content tells; it is recorded."""
    name = file.path.name.lower()
    if compressed != name.endswith((".gz", ".mgz")) and name.endswith((".nii", ".gz", ".mgz")):
        state = "compressed" if compressed else "not compressed"
        file.notice("repair", "misnamed", f"the file is {state}, against its name; read as it is")


def _check_unchanged(file: SourceFile, head: Head, num_bytes: int, limit: int) -> None:
    try:
        now = file.path.stat()
    except OSError:
        now = None
    before = head.status
    known = (before.st_ino, before.st_size, before.st_mtime_ns)
    expected_bytes = before.st_size if head.compressed else min(before.st_size, limit + 1)
    if (
        now is None
        or (now.st_ino, now.st_size, now.st_mtime_ns) != known
        or num_bytes != expected_bytes
    ):
        raise VolumeError(
            file.problem(
                "changed_during_read",
                "the file was changed while it was read",
                "a file at rest",
                "Wait until it is complete, then run again.",
            )
        )


def _too_long(file: SourceFile, promised_bytes: int, trailing_bytes: int) -> VolumeError:
    return VolumeError(
        file.problem(
            "trailing_data",
            f"more than {trailing_bytes} bytes beyond what its header promises ({promised_bytes})",
            "one image",
            "Convert it again.",
        )
    )


def _first(stored: bytes, file: SourceFile) -> bytes:
    """The first bytes of the data in a gzip stream, without its end being checked."""
    content = b""
    for piece in inflated(stored, file, HEAD_BYTES):
        content += piece
        if len(content) >= HEAD_BYTES:
            break
    return content
