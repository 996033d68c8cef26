"""One DICOM file's header, read within limits: what kind of image, whose, where its slices lie.

A header is parsed by pydicom, but only the tags named here, up to the pixels, and from a stream
that was inflated within a budget first. Nothing of a file is trusted before `series` has
checked it; text of a header never leaves this room except as a contrast (`contrast`).
"""

from __future__ import annotations

import importlib
import io
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from brainsegfounder.errors import BrainSegFounderError, UsageError, VolumeError
from brainsegfounder.volumes.dicom.slice import (
    GE_B,
    SIEMENS_B,
    Header,
    Slice,
    file_error,
    frames_of,
    header_of,
    slice_of,
)
from brainsegfounder.volumes.dicom.tags import Syntax, syntax_of, text

PREAMBLE_BYTES = 132
MAX_FILE_BYTES = 4 << 30
# A deflated file may grow by this factor, and always to this size. Real scans stay under 20.
MAX_INFLATION = 100
INFLATION_FLOOR_BYTES = 16 << 20
MAX_DEPTH = 32
PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
UNDEFINED_LENGTH = 0xFFFFFFFF
WANTED = (
    "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyDate", "StudyTime", "Modality",
    "SeriesDescription",
    "ScanningSequence", "MRAcquisitionType", "SequenceName", "RepetitionTime",
    "EchoTime", "InversionTime", "FlipAngle", "ContrastBolusAgent", "ProtocolName",
    "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "InstanceNumber",
    "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel", "NumberOfFrames",
    "Rows", "Columns", "PixelSpacing", "BitsAllocated", "PixelRepresentation",
    "RescaleIntercept", "RescaleSlope",
    "BurnedInAnnotation", "DiffusionBValue", "LossyImageCompression", "ImagesInAcquisition",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "BodyPartExamined",
    "PulseSequenceName", "AcquisitionContrast",
)  # fmt: skip


class NotDicomError(Exception):
    """The file does not begin as DICOM does; it is left aside."""


def pydicom_module(name: str = "pydicom") -> ModuleType:
    """A module of pydicom, imported when it is needed.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            'reading DICOM needs pydicom and dcm2niix: pip install "brainsegfounder[dicom]"'
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom from warning and logging, since it quotes what stands in the file."""
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def looks_like_dicom(head: bytes) -> bool:
    """Whether a file's first 132 bytes are DICOM's, with its preamble or without.

    Without the preamble a file must begin with an element of group 2 or 8 of plausible length.
    """
    if head[128:PREAMBLE_BYTES] == b"DICM":
        return True
    if len(head) < 16 or head[1:2] != b"\0" or head[0] not in (2, 8):
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    length = int.from_bytes(head[6:8] if explicit else head[4:8], "little")
    return (explicit or head[0] == 8) and length <= 256


def read_slices(path: Path, order: int) -> list[Slice]:
    """Read a file's header; no pixel is touched and nothing is allocated for them.

    Args:
        path: The file.
        order: Its place among all files, which stands for its name in messages.

    Returns:
        Its slices; one whose header says `skip` where it is no MR image.

    Raises:
        NotDicomError: It is something else.
        VolumeError: It is DICOM, but hostile or damaged.
    """
    try:
        with quiet(), path.open("rb") as file:
            return _parsed(path, order, file)
    except RecursionError:
        raise file_error(
            order, "too_deep", "sequences nested too deep", f"{MAX_DEPTH} levels"
        ) from None
    except (NotDicomError, BrainSegFounderError):
        raise
    except Exception as error:  # pydicom on hostile bytes raises anything
        found = f"a header that cannot be read ({type(error).__name__})"
        raise file_error(order, "header_broken", found, "a whole DICOM file") from None


def stream_of(header: Header) -> BinaryIO:
    """The file as it is parsed: inflated where it was deflated."""
    file = header.path.open("rb")
    if not header.syntax.deflated:
        return file
    with file:
        file.seek(header.body)
        return _inflated(file, header.order)


def _parsed(path: Path, order: int, file: BinaryIO) -> list[Slice]:
    head = file.read(PREAMBLE_BYTES)
    if not looks_like_dicom(head):
        raise NotDicomError
    if path.stat().st_size > MAX_FILE_BYTES:
        raise file_error(order, "file_too_large", "more than 4 GiB", "one image")
    has_preamble = head[128:] == b"DICM"
    file.seek(PREAMBLE_BYTES if has_preamble else 0)
    syntax = _syntax(file, order, head)
    body = file.tell()
    stream = _inflated(file, order) if syntax.deflated else file
    dataset, pixels = _dataset(stream, syntax)
    header = header_of(dataset, path, order, syntax)
    offset, length = pixels or (0, 0)
    header = replace(
        header,
        body=body,
        has_preamble=has_preamble,
        pixel_offset=offset,
        pixel_bytes=None if length == UNDEFINED_LENGTH else length,
        is_whole=bool(pixels) and _is_whole(stream, offset, length),
    )
    _check_depth(dataset, order)
    if header.skip or not header.tags.is_enhanced:
        return [slice_of(header, dataset, 0, ())]
    return frames_of(header, dataset)


def _syntax(file: BinaryIO, order: int, head: bytes) -> Syntax:
    """The transfer syntax of the file's meta group, or what its first element looks like."""
    start = file.tell()
    group = file.read(2)
    file.seek(start)
    if group != b"\x02\0":
        explicit = head[4:6].isalpha()
        return syntax_of("1.2.840.10008.1.2.1" if explicit else "1.2.840.10008.1.2")
    meta = pydicom_module("pydicom.filereader").read_dataset(
        file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2
    )
    uid = text(meta, "TransferSyntaxUID")
    try:
        return syntax_of(uid)
    except KeyError:
        found, wanted = "an unknown encoding", "a still image that dcm2niix decodes"
        raise file_error(order, "unknown_syntax", found, wanted, "TransferSyntaxUID") from None


def _inflated(file: BinaryIO, order: int) -> io.BytesIO:
    content = file.read()
    limit = max(INFLATION_FLOOR_BYTES, MAX_INFLATION * len(content))
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflate.decompress(content, min(limit, MAX_FILE_BYTES) + 1)
    except zlib.error:
        raise file_error(
            order, "deflate_broken", "a damaged deflated stream", "a whole one"
        ) from None
    if len(data) > limit:
        raise file_error(
            order, "deflate_bomb", f"more than {limit} bytes once inflated", "an image"
        )
    if not inflate.eof:
        raise file_error(order, "deflate_broken", "a deflated stream cut short", "a whole one")
    return io.BytesIO(data)


def _dataset(stream: BinaryIO, syntax: Syntax) -> tuple[Any, tuple[int, int] | None]:
    """The wanted tags, and offset and length of the pixels."""
    pixels: list[tuple[int, int]] = []

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        del vr
        if tag in PIXEL_TAGS:
            pixels.append((stream.tell(), length))
        return tag in PIXEL_TAGS

    to_tag = pydicom_module("pydicom.tag").Tag
    private = [tag for pair in (SIEMENS_B, GE_B) for tag in pair[:2]]
    dataset = pydicom_module("pydicom.filereader").read_dataset(
        stream,
        syntax.implicit,
        not syntax.big_endian,
        stop_when=at_pixels,
        specific_tags=[to_tag(tag) for tag in (*WANTED, *private)],
    )
    return dataset, pixels[0] if pixels else None


def _is_whole(stream: BinaryIO, offset: int, length: int) -> bool:
    """Whether the pixel bytes are all there; fragments must end with their delimiter."""
    end = stream.seek(0, io.SEEK_END)
    if length != UNDEFINED_LENGTH:
        return offset + length <= end
    while offset + 8 <= end:
        stream.seek(offset)
        tag, size = struct.unpack("<II", stream.read(8))
        if tag == 0xE0DDFFFE:
            return True
        if tag != 0xE000FFFE:
            return False
        offset += 8 + size
    return False


def _check_depth(dataset: Any, order: int, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise _too_deep(order)
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                _check_depth(item, order, depth + 1)


def _too_deep(order: int) -> VolumeError:
    found = "sequences nested too deep"
    return file_error(order, "too_deep", found, f"at most {MAX_DEPTH} levels")
