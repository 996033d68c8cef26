"""What a DICOM header says, as typed records: a file, and each of its slices.

Numbers that are absent are None, broken ones NaN: what may be made of them is for `series`
to say. Ids, dates and names are kept to group by and never shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from brainsegfounder.errors import Problem, VolumeError
from brainsegfounder.volumes.dicom.contrast import SeriesTags
from brainsegfounder.volumes.dicom.tags import Syntax, number, numbers, text, words

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = (f"{MR_IMAGE}.1", f"{MR_IMAGE}.4")
SKIPPED_CLASSES = {
    "1.2.840.10008.1.3.10": "an index (DICOMDIR)",
    f"{MR_IMAGE}.2": "MR spectroscopy",
    f"{MR_IMAGE}.3": "an enhanced colour image",
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation (SEG)",
    "1.2.840.10008.5.1.4.1.1.104.1": "a document (PDF)",
}
SKIPPED_FAMILIES = {
    "1.2.840.10008.5.1.4.1.1.7": "a screenshot (secondary capture), which may show names",
    "1.2.840.10008.5.1.4.1.1.88.": "a report (SR)",
    "1.2.840.10008.5.1.4.1.1.11.": "a presentation state",
    "1.2.840.10008.5.1.4.1.1.66": "raw data",
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.128": "PET",
}
SIEMENS_B = ((0x0019, 0x0010), (0x0019, 0x100C), "SIEMENS MR HEADER")
GE_B = ((0x0043, 0x0010), (0x0043, 0x1039), "GEMS_PARM_01")


Triplet = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """What one file says of itself; numbers that are absent are None, broken ones NaN.

    Attributes:
        path: The file; its name is never shown.
        order: Its place among all files, which may be shown.
        skip: Why it is no MR image, or empty.
        syntax: How it is encoded.
        body: Where the dataset begins in the file (in the inflated stream: 0).
        has_preamble: Whether the file begins as the standard asks.
        patient: Its id, or empty. Never shown.
        study: Of the StudyInstanceUID. Never shown.
        date: Date and time of the study, for the order of visits. Never shown.
        series: Of the SeriesInstanceUID. Never shown.
        series_number: As counted by the scanner.
        instance: InstanceNumber.
        shape: Frames, rows, columns.
        bits: Bits of a pixel in the file.
        signed: Whether pixels may be negative.
        pixel_offset: Where the pixels begin in the (inflated) file; 0 where there are none.
        pixel_bytes: How many bytes follow; None where they are compressed.
        is_whole: Whether all pixel bytes are there.
        lossy: Whether it was compressed with loss.
        expected_images: ImagesInAcquisition.
        tags: What tells its contrast.
        instance_uid: Of the SOPInstanceUID. Never shown.
    """

    path: Path
    order: int
    skip: str
    syntax: Syntax
    body: int
    has_preamble: bool
    patient: str
    study: str
    date: str
    series: str
    series_number: int | None
    instance: int
    shape: tuple[int, int, int]
    bits: int
    signed: bool
    pixel_offset: int
    pixel_bytes: int | None
    is_whole: bool
    lossy: bool
    expected_images: int | None
    tags: SeriesTags = field(repr=False)
    instance_uid: str = ""


@dataclass(frozen=True, slots=True)
class Slice:
    """One plane of pixels: a classic file, or a frame of an enhanced one.

    Attributes:
        header: Of its file.
        frame: Its place in the file.
        position: Centre of the first pixel, LPS millimetres; None where absent.
        orientation: Directions of growing column and row index, six cosines.
        spacing_mm: Distance between rows and between columns.
        slope: Of the rescaling.
        intercept: Of the rescaling.
        tags: What tells its contrast.
    """

    header: Header
    frame: int
    position: Triplet | None
    orientation: Triplet | None
    spacing_mm: Triplet | None
    slope: float
    intercept: float
    tags: SeriesTags = field(repr=False)


def header_of(dataset: Any, path: Path, order: int, syntax: Syntax) -> Header:
    """A file's header, as yet without its pixels' place."""
    study = text(dataset, "StudyInstanceUID")
    return Header(
        path=path,
        order=order,
        skip=_why_skipped(dataset),
        syntax=syntax,
        body=0,
        has_preamble=True,
        patient=text(dataset, "PatientID"),
        study=study,
        date=text(dataset, "StudyDate") + text(dataset, "StudyTime"),
        series=text(dataset, "SeriesInstanceUID"),
        series_number=_whole(dataset, "SeriesNumber"),
        instance=_whole(dataset, "InstanceNumber") or 0,
        shape=tuple(
            1 if name not in dataset else _whole(dataset, name) or 0
            for name in ("NumberOfFrames", "Rows", "Columns")
        ),  # type: ignore[arg-type]
        bits=_whole(dataset, "BitsAllocated") or 0,
        signed=_whole(dataset, "PixelRepresentation") == 1,
        pixel_offset=0,
        pixel_bytes=None,
        is_whole=False,
        lossy=text(dataset, "LossyImageCompression") == "01",
        expected_images=_whole(dataset, "ImagesInAcquisition"),
        tags=_tags(dataset),
        instance_uid=text(dataset, "SOPInstanceUID"),
    )


def _why_skipped(dataset: Any) -> str:
    sop_class, modality = text(dataset, "SOPClassUID"), text(dataset, "Modality")
    if sop_class in SKIPPED_CLASSES:
        return SKIPPED_CLASSES[sop_class]
    for family, what in SKIPPED_FAMILIES.items():
        if sop_class.startswith(family):
            return what
    if sop_class != MR_IMAGE and sop_class not in ENHANCED_MR:
        return "no MR image"
    if modality not in ("MR", ""):
        return "of another modality"
    if text(dataset, "BurnedInAnnotation").upper() == "YES":
        return "an image with text burned in, which may show names"
    if (_whole(dataset, "SamplesPerPixel") or 1) != 1:
        return "a colour picture"
    return ""


def _tags(dataset: Any) -> SeriesTags:
    return SeriesTags(
        description=text(dataset, "SeriesDescription"),
        protocol=text(dataset, "ProtocolName"),
        sequence_name=text(dataset, "SequenceName") or text(dataset, "PulseSequenceName"),
        image_type=words(dataset, "ImageType"),
        scanning_sequence=words(dataset, "ScanningSequence"),
        acquisition_type=text(dataset, "MRAcquisitionType"),
        contrast_agent=text(dataset, "ContrastBolusAgent"),
        body_part=text(dataset, "BodyPartExamined"),
        acquisition_contrast=text(dataset, "AcquisitionContrast"),
        echo_time_ms=number(dataset, "EchoTime"),
        repetition_time_ms=number(dataset, "RepetitionTime"),
        inversion_time_ms=number(dataset, "InversionTime"),
        flip_angle_deg=number(dataset, "FlipAngle"),
        b_value=_b_value(dataset),
        is_enhanced=text(dataset, "SOPClassUID") in ENHANCED_MR,
    )


def _b_value(dataset: Any) -> float | None:
    """The b-value in s/mm², from the standard's tag or that of two makers."""
    if (b := number(dataset, "DiffusionBValue")) is not None:
        return b
    for creator, tag, name in (SIEMENS_B, GE_B):
        if text(dataset, creator).startswith(name) and (found := words(dataset, tag)):
            with suppress(ValueError):
                return float(found[0]) % 1e9  # GE adds a flag of 1e9
    return None


def slice_of(header: Header, dataset: Any, frame: int, groups: Sequence[Any]) -> Slice:
    """A slice whose geometry stands in functional groups, or else in the dataset itself."""

    def first(sequence: str, keyword: str, count: int) -> Triplet | None:
        for group in groups:
            if sequence in group and len(group[sequence].value):
                return numbers(group[sequence].value[0], keyword, count)
        return numbers(dataset, keyword, count)

    slope = first("PixelValueTransformationSequence", "RescaleSlope", 1)
    intercept = first("PixelValueTransformationSequence", "RescaleIntercept", 1)
    return Slice(
        header=header,
        frame=frame,
        position=first("PlanePositionSequence", "ImagePositionPatient", 3),
        orientation=first("PlaneOrientationSequence", "ImageOrientationPatient", 6),
        spacing_mm=first("PixelMeasuresSequence", "PixelSpacing", 2),
        slope=1.0 if slope is None else slope[0],
        intercept=0.0 if intercept is None else intercept[0],
        tags=header.tags if not groups else _frame_tags(header.tags, groups),
    )


def frames_of(header: Header, dataset: Any) -> list[Slice]:
    """The slices of an enhanced multi-frame file."""
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or ())[:1]
    frames = list(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    if not frames or len(frames) != header.shape[0]:
        found = f"{header.shape[0]} frames of which {len(frames)} are described"
        raise file_error(header.order, "frames_missing", found, "a description of each")
    return [
        slice_of(header, dataset, index, (frame, *shared)) for index, frame in enumerate(frames)
    ]


def _frame_tags(tags: SeriesTags, groups: Sequence[Any]) -> SeriesTags:
    """The tags with what the functional groups of an enhanced frame say."""

    def first(sequence: str, keyword: str) -> float | None:
        items = [g[sequence].value[0] for g in groups if sequence in g and len(g[sequence].value)]
        return next((n for item in items if (n := number(item, keyword)) is not None), None)

    timing = "MRTimingAndRelatedParametersSequence"
    echo_ms = first("MREchoSequence", "EffectiveEchoTime")
    inversion_ms = first("MRModifierSequence", "InversionTimes")
    repetition_ms = first(timing, "RepetitionTime")
    b_value = first("MRDiffusionSequence", "DiffusionBValue")
    flip_deg = first(timing, "FlipAngle")
    return replace(
        tags,
        echo_time_ms=tags.echo_time_ms if echo_ms is None else echo_ms,
        repetition_time_ms=tags.repetition_time_ms if repetition_ms is None else repetition_ms,
        inversion_time_ms=tags.inversion_time_ms if inversion_ms is None else inversion_ms,
        flip_angle_deg=tags.flip_angle_deg if flip_deg is None else flip_deg,
        b_value=tags.b_value if b_value is None else b_value,
    )


def _whole(dataset: Any, name: str) -> int | None:
    value = number(dataset, name)
    if value is None or not abs(value) < 2**31:
        return None
    return int(value)


def file_error(order: int, code: str, found: str, expected: str, tag: str = "") -> VolumeError:
    """What is wrong with one file, which is named by its place among the files only."""
    advice = "Export it again, or take it out of the folder."
    return VolumeError(Problem(f"dicom_{code}", f"file {order}", found, expected, advice, tag))
