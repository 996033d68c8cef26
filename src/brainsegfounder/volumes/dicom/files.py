"""The files of a DICOM export: a folder, a zip or tar archive, or one file.

An archive is unpacked under names of our own into a folder that goes away again, within limits on
members, bytes and inflation; a member's name is looked at only to refuse hostile ones. A DICOMDIR
is never followed: the folder is searched whole, and what the index names beyond it is reported.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from brainsegfounder.errors import DataError, Problem
from brainsegfounder.volumes.dicom.header import PREAMBLE_BYTES, looks_like_dicom

MAX_FILES = 1_000_000
MAX_TOTAL_BYTES = 64 << 30
MAX_MEMBER_BYTES = 4 << 30
# An archive may grow by this factor, and always to this size. Real scans stay under 20.
MAX_RATIO = 200
RATIO_FLOOR_BYTES = 64 << 20
# A tar header is small; one that asks for more at once is hostile.
MAX_READ_BYTES = 1 << 20
MAX_LZMA_BYTES = 256 << 20
COPY_BYTES = 1 << 20
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
ARCHIVE_ERRORS = (
    EOFError, LookupError, NotImplementedError, OSError, RuntimeError, ValueError,
    lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
OPENERS: dict[bytes, Callable[[BinaryIO], BinaryIO]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),  # type: ignore[dict-item,return-value]
    b"BZh": lambda file: bz2.BZ2File(file),  # type: ignore[dict-item,return-value]
    b"\xfd7zXZ\0": lambda file: lzma.LZMAFile(file),  # type: ignore[dict-item,return-value] # noqa: SIM115
}


def dicom_files(source: Path, room: Path) -> tuple[list[Path], list[Problem]]:
    """The files to look at, in the order of their names.

    Args:
        source: A folder of any depth, in which archives are opened, a DICOMDIR, a `.zip` or
            `.tar*` archive, or one file.
        room: An empty folder for what is unpacked.

    Returns:
        Files, and a problem for each kind of archive member that was refused.

    Raises:
        DataError: There is nothing, or the archive is damaged or a bomb.
    """
    if not source.exists():
        raise _refused(source, "no_such_file", "no such file or folder", "a DICOM folder or zip")
    if source.is_file() and source.name.upper() == "DICOMDIR":
        source = source.parent
    if source.is_dir():
        return _opened_archives(_walked(source), room)
    return _one(source, room)


def _opened_archives(files: list[Path], room: Path) -> tuple[list[Path], list[Problem]]:
    """Archives among the files of a folder are replaced by what is in them.

    In problems they are named by their place in the order of names: a name may be a patient's.
    """
    archives = [path for path in files if path.name.lower().endswith(ARCHIVES)]
    found = [path for path in files if not path.name.lower().endswith(ARCHIVES)]
    problems: list[Problem] = []
    for number, path in enumerate(archives, start=1):
        inner = room / f"archive-{number}"
        inner.mkdir()
        try:
            inside, refused = _one(path, inner)
        except DataError as error:
            inside, refused = [], [error.problem] if error.problem else []
        found += inside
        problems += [replace(problem, file=inner.name) for problem in refused]
    return found, problems


def _one(source: Path, room: Path) -> tuple[list[Path], list[Problem]]:
    """The members of an archive, or a file itself."""
    if not stat.S_ISREG(source.stat().st_mode):
        raise _refused(source, "not_a_file", "neither folder nor regular file", "a DICOM folder")
    try:
        with source.open("rb") as file:
            head = file.read(PREAMBLE_BYTES)
        if head.startswith(b"PK"):
            return _unpacked(source, room, _zip_members)
        if looks_like_dicom(head):
            return [source], []
        return _unpacked(source, room, _tar_members)
    except ARCHIVE_ERRORS as error:
        found = f"neither DICOM nor a whole archive ({type(error).__name__})"
        raise _refused(source, "archive_broken", found, "a DICOM folder, zip or tar") from None


def _walked(folder: Path) -> list[Path]:
    """All regular files below a folder; links are followed, loops are not."""
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        found += [path for name in names if (path := Path(place, name)).is_file()]
        if len(found) > MAX_FILES:
            raise _refused(folder, "too_many_files", f"more than {MAX_FILES} files", "one export")
    return sorted(found)


Member = tuple[str, int, Callable[[], IO[bytes] | None]]


def _unpacked(
    source: Path, room: Path, members: Callable[[Path], Iterator[Member]]
) -> tuple[list[Path], list[Problem]]:
    limit = min(MAX_TOTAL_BYTES, max(RATIO_FLOOR_BYTES, MAX_RATIO * source.stat().st_size))
    found: list[Path] = []
    refused: dict[str, int] = {}
    for number, (why, size, opened) in enumerate(members(source), start=1):
        limit -= size
        if number > MAX_FILES or limit < 0 or size > MAX_MEMBER_BYTES:
            raise _refused(
                source, "archive_bomb", "an archive that grows beyond reason", "one export"
            )
        stream = None if why else opened()
        if why:
            refused[why] = refused.get(why, 0) + 1
        elif stream is not None:
            with stream:
                found += _kept(stream, room / f"{number:07d}.dcm", size)
    problems = [
        Problem(
            "archive_member",
            str(source),
            f"{count} members that are {why}; they were left aside",
            "plain files inside the archive",
            "Ask where this archive comes from.",
        )
        for why, count in refused.items()
    ]
    return found, problems


def _kept(stream: IO[bytes], path: Path, size: int) -> list[Path]:
    """Write a member that begins like DICOM, no more of it than was promised."""
    head = stream.read(PREAMBLE_BYTES)
    if not looks_like_dicom(head):
        return []
    with path.open("wb") as file:
        file.write(head)
        left = size - len(head)
        while left > 0 and (part := stream.read(min(left, COPY_BYTES))):
            file.write(part)
            left -= len(part)
    return [path]


def _zip_members(source: Path) -> Iterator[Member]:
    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            why = _hostile(info.filename) or _special(info.external_attr >> 16)
            if not why and info.flag_bits & 1:
                why = "encrypted"
            if info.file_size > max(RATIO_FLOOR_BYTES, MAX_RATIO * info.compress_size):
                yield "", MAX_MEMBER_BYTES + 1, lambda: None
            yield why, info.file_size, partial(archive.open, info)


def _special(mode: int) -> str:
    kind = stat.S_IFMT(mode)
    return "" if kind in (0, stat.S_IFREG) else "links or devices"


def _hostile(name: str) -> str:
    parts = PurePosixPath(name.replace("\\", "/"))
    if (
        parts.is_absolute()
        or ".." in parts.parts
        or (parts.parts[:1] and ":" in parts.parts[0][1:2])
    ):
        return "named outside the archive"
    return ""


def _tar_members(source: Path) -> Iterator[Member]:
    limit = min(MAX_TOTAL_BYTES, max(RATIO_FLOOR_BYTES, MAX_RATIO * source.stat().st_size))
    with source.open("rb") as file, _opened(file) as inner:
        metered = _Metered(inner, source, limit)
        with tarfile.open(fileobj=metered, mode="r:") as archive:
            for info in archive:
                archive.members = []  # type: ignore[attr-defined]  # else all are kept
                if info.isdir():
                    continue
                why = _hostile(info.name)
                if not why and (not info.isreg() or info.issparse()):
                    why = "links or devices"
                size = 0 if why else info.size
                yield why, size, partial(archive.extractfile, info)


def _opened(file: BinaryIO) -> BinaryIO:
    head = file.read(PREAMBLE_BYTES)
    file.seek(0)
    if head.startswith(b"\xfd7zXZ\0"):
        _check_lzma(file)
    for magic, opener in OPENERS.items():
        if head.startswith(magic):
            return opener(file)
    return file


def _check_lzma(file: BinaryIO) -> None:
    """Refuse a stream that asks for a dictionary of gigabytes."""
    lzma.LZMADecompressor(memlimit=MAX_LZMA_BYTES).decompress(file.read(COPY_BYTES), max_length=1)
    file.seek(0)


class _Metered(io.RawIOBase):
    """A stream that reads forward only, in sane pieces, up to a limit."""

    def __init__(self, stream: BinaryIO, source: Path, limit: int) -> None:
        super().__init__()
        self._stream, self._source, self._limit, self._place = stream, source, limit, 0

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_READ_BYTES:
            raise ValueError("a tar header larger than any real one")
        content = self._stream.read(size)
        self._place += len(content)
        if self._place > self._limit:
            raise _refused(
                self._source, "archive_bomb", "an archive that grows beyond reason", "one export"
            )
        return content

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        del whence
        if place < self._place:
            raise ValueError("a tar archive whose parts point backwards")
        while self._place < place and self.read(min(place - self._place, MAX_READ_BYTES)):
            pass
        return self._place

    def tell(self) -> int:
        return self._place


def _refused(source: Path, code: str, found: str, expected: str) -> DataError:
    return DataError(Problem(code, str(source), found, expected, "Export or pack it again."))
