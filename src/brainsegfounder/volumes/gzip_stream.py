"""Gzip streams, inflated in pieces and within a budget; every member's checksum is checked.

The members are taken apart here, not by zlib, so that a stream whose data are whole but whose
checksum is wrong can be read where that is asked for.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from brainsegfounder.errors import VolumeError
from brainsegfounder.volumes.source_file import SourceFile

GZIP_MAGIC = b"\x1f\x8b"
FEED_BYTES = 1 << 18
PIECE_BYTES = 1 << 20
TRAILER = struct.Struct("<II")
# Flags of a member (RFC 1952), and the one method there is.
FHCRC, FEXTRA, FNAME, FCOMMENT, RESERVED = 2, 4, 8, 16, 0xE0
DEFLATED = 8


def inflated(stored: bytes, file: SourceFile, limit: int) -> Iterator[bytes]:
    """The data of all members in turn, until there is more than the limit."""
    at = total = 0
    while stored[at : at + 2] == GZIP_MAGIC and total <= limit:
        member = _Member(stored, _deflate_start(stored, at, file), file)
        for piece in member.pieces():
            total += len(piece)
            yield piece
            if total > limit:
                return
        at = member.end
    if at < len(stored) and total <= limit:
        file.notice(
            "repair",
            "trailing_garbage",
            f"{len(stored) - at} bytes follow the gzip stream, which is whole; ignored",
        )


def _deflate_start(stored: bytes, at: int, file: SourceFile) -> int:
    """Where the compressed data of the member at this place begins."""
    header = stored[at : at + 10]
    if len(header) < 10:
        raise _truncated(file)
    flags = header[3]
    if header[2] != DEFLATED or flags & RESERVED:
        raise _damaged(file, "its header is none")
    at += 10
    if flags & FEXTRA:
        at += 2 + int.from_bytes(stored[at : at + 2], "little")
    for flag in (FNAME, FCOMMENT):
        if flags & flag:
            at = stored.find(b"\0", at) + 1
            if at == 0:
                raise _truncated(file)
    return at + 2 if flags & FHCRC else at


class _Member:
    """One member of a gzip stream, inflated piece by piece.

    Attributes:
        end: Where the next member begins, once all pieces were taken.
    """

    def __init__(self, stored: bytes, start: int, file: SourceFile) -> None:
        self.end = start
        self._stored = memoryview(stored)
        self._file = file

    def pieces(self) -> Iterator[bytes]:
        inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        checksum = length = 0
        feed: bytes | memoryview = b""
        while not inflater.eof:
            if not feed:
                feed = self._stored[self.end : self.end + FEED_BYTES]
                self.end += len(feed)
            try:
                piece = inflater.decompress(feed, PIECE_BYTES)
            except zlib.error as error:
                raise _damaged(self._file, str(error)) from error
            if not piece and not feed and not inflater.eof:
                raise _truncated(self._file)
            feed = inflater.unconsumed_tail
            checksum, length = zlib.crc32(piece, checksum), length + len(piece)
            yield piece
        self.end -= len(inflater.unused_data)
        self._check_trailer(checksum, length)

    def _check_trailer(self, checksum: int, length: int) -> None:
        trailer = self._stored[self.end : self.end + TRAILER.size]
        if len(trailer) < TRAILER.size:
            raise _truncated(self._file)
        self.end += TRAILER.size
        stored_checksum, stored_length = TRAILER.unpack(trailer)
        if stored_length != length & 0xFFFFFFFF:
            raise _damaged(self._file, "its length is not the one it names")
        if stored_checksum == checksum:
            return
        if not self._file.reading.accept_bad_crc:
            raise _damaged(self._file, "its checksum is wrong")
        self._file.notice(
            "repair", "gz_crc", "the checksum of the gzip stream is wrong; read as asked for"
        )


def _truncated(file: SourceFile) -> VolumeError:
    return VolumeError(
        file.problem(
            "gz_truncated",
            "damaged gzip stream (it ends too early)",
            "a whole file",
            "Copy it again.",
        )
    )


def _damaged(file: SourceFile, reason: str) -> VolumeError:
    return VolumeError(
        file.problem("gz_crc", f"damaged gzip stream ({reason})", "a whole file", "Copy it again.")
    )
