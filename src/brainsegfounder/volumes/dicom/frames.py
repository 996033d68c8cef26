"""Whether compressed pixels are whole, which decoders do not always say.

A cut JPEG 2000 frame makes the converter fail, but it fills a cut run-length frame with zeros. So
the structure is walked here first: the fragments to their delimiter, a JPEG frame to its end
marker, the runs of a run-length frame until every pixel is there. Nothing is decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO

from brainsegfounder.volumes.dicom.header import stream_of
from brainsegfounder.volumes.dicom.slice import Header

RUN_LENGTH = "1.2.840.10008.1.2.5"
JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
RUN_LENGTH_HEADER = struct.Struct("<16I")
ITEM = 0xE000FFFE
END_OF_JPEG = b"\xff\xd9"


def frames_are_whole(header: Header) -> bool:
    """Whether a file's compressed frames are all there, as far as their structure shows."""
    with stream_of(header) as stream:
        fragments = [content for content in _fragments(stream, header.pixel_offset) if content]
    if header.syntax.uid in JPEG_2000:
        return bool(fragments)
    if header.syntax.uid == RUN_LENGTH:
        num_frames, rows, columns = header.shape
        return len(fragments) == num_frames and all(
            _runs_are_whole(content, rows * columns, header.bits // 8) for content in fragments
        )
    return bool(fragments) and fragments[-1].rstrip(b"\0").endswith(END_OF_JPEG)


def _fragments(stream: BinaryIO, offset: int) -> Iterator[bytes]:
    """The fragments after the table of offsets."""
    stream.seek(offset)
    is_table = True
    while len(head := stream.read(8)) == 8:
        tag, size = struct.unpack("<II", head)
        if tag != ITEM:
            return
        content = stream.read(size)
        if not is_table:
            yield content
        is_table = False


def _runs_are_whole(frame: bytes, num_pixels: int, bytes_per_pixel: int) -> bool:
    """A frame has a segment of runs for each byte of a pixel; its header says where they begin."""
    if len(frame) < RUN_LENGTH_HEADER.size:
        return False
    count, *starts = RUN_LENGTH_HEADER.unpack_from(frame)
    if count != bytes_per_pixel or count > len(starts):
        return False
    bounds = [*starts[:count], len(frame)]
    return all(_reaches(frame[start:stop], num_pixels) for start, stop in pairwise(bounds))


def _reaches(segment: bytes, num_pixels: int) -> bool:
    """Whether the runs of a segment (PackBits) give so many bytes before it ends."""
    place, made = 0, 0
    while place < len(segment) and made < num_pixels:
        control = segment[place]
        if control < 128:  # so many bytes and one as they stand
            made += control + 1
            place += control + 2
        elif control > 128:  # the next byte again and again
            made += 257 - control
            place += 2
        else:
            place += 1
    return made >= num_pixels and place <= len(segment)
