"""What a result must know of the DICOM series it goes back to: whose, and where each slice lies.

It is kept in memory only, from the import to the writing of a DICOM segmentation, which by its
nature belongs to the patient and says so. Nothing else may be made of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from brainsegfounder.errors import Problem, VolumeError
from brainsegfounder.volumes.dicom.header import pydicom_module, quiet, stream_of
from brainsegfounder.volumes.dicom.series import Stack, affine_of
from brainsegfounder.volumes.dicom.slice import Header
from brainsegfounder.volumes.volume import Affine, Triple

# Of patient, study and frame of reference: what a segmentation is filed under.
CARRIED = (
    "SpecificCharacterSet", "SOPClassUID", "StudyDate", "StudyTime", "AccessionNumber", "Modality",
    "ReferringPhysicianName", "StudyDescription", "PatientName", "PatientID",
    "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
    "SeriesInstanceUID", "StudyID", "FrameOfReferenceUID", "PositionReferenceIndicator",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SourceSlice:
    """One slice of the series.

    Attributes:
        instance: SOPInstanceUID of its file.
        frame: Its place in that file, from 0.
        position: Centre of its first pixel, LPS millimetres.
    """

    instance: str
    frame: int
    position: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SourceSeries:
    """The series that a converted volume comes from.

    Attributes:
        common: Tags of patient and study; never shown.
        slices: In the order of the stack.
        orientation: Directions of growing column and row index, six cosines.
        spacing_mm: Between rows, between columns.
        series_number: As counted by the scanner, or 0.
        shape: Columns, rows, slices.
        affine: From index (column, row, slice, 1) to RAS+ millimetres.
        num_frames: Frames of each file; 0 for classic files of one slice.
    """

    common: Any = field(repr=False)
    slices: tuple[SourceSlice, ...] = field(repr=False)
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    series_number: int
    shape: Triple
    affine: Affine
    num_frames: int


def source_of(stack: Stack, name: str) -> SourceSeries:
    """What is carried along of a checked stack; the header of its first file is read once more.

    Args:
        stack: From `series.checked`.
        name: What to call it in messages.

    Raises:
        VolumeError: The header cannot be read.
    """
    first = stack.first
    _, rows, columns = first.header.shape
    return SourceSeries(
        common=_common(first.header, name),
        slices=tuple(
            SourceSlice(one.header.instance_uid, one.frame, one.position or ())
            for one in stack.slices
        ),
        orientation=first.orientation or (),
        spacing_mm=first.spacing_mm or (),
        series_number=first.header.series_number or 0,
        shape=(columns, rows, len(stack.slices)),
        affine=affine_of(stack),
        num_frames=first.header.shape[0] if first.tags.is_enhanced else 0,
    )


def _common(header: Header, name: str) -> Any:
    to_tag = pydicom_module("pydicom.tag").Tag
    try:
        with quiet(), stream_of(header) as stream:
            stream.seek(0 if header.syntax.deflated else header.body)
            dataset = pydicom_module("pydicom.filereader").read_dataset(
                stream,
                header.syntax.implicit,
                not header.syntax.big_endian,
                stop_when=lambda tag, *_: tag >> 16 > 0x0020,
                specific_tags=[to_tag(tag) for tag in CARRIED],
            )
            dataset.decode()
            return dataset
    except Exception as error:  # pydicom on hostile bytes raises anything
        found = f"a header that cannot be read again ({type(error).__name__})"
        advice = "Export the series again."
        raise VolumeError(
            Problem("dicom_header_broken", name, found, "a whole DICOM file", advice)
        ) from None
