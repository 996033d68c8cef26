"""Small DICOM series, made from code, to spoil."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason='pip install "brainsegfounder[dicom]"')
pytest.importorskip("dcm2niix", reason='pip install "brainsegfounder[dicom]"')

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, generate_uid  # noqa: E402

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
SHAPE = (20, 64, 48)  # slices, rows, columns
SPACING_MM = (4.0, 3.0, 3.5)
FIRST_MM = (-80.0, -90.0, -35.0)


def brain(num_slices: int = SHAPE[0], seed: int = 0) -> np.ndarray:
    """Stored pixels that differ in every slice, shape (slices, rows, columns)."""
    rng = np.random.default_rng(seed)
    planes, rows, columns = np.ogrid[:num_slices, : SHAPE[1], : SHAPE[2]]
    away = ((rows - 30) / 25) ** 2 + ((columns - 24) / 18) ** 2 + ((planes - 10) / 11) ** 2
    noise = rng.integers(0, 60, (num_slices, *SHAPE[1:]))
    return np.where(away < 1, 300 + 8 * planes + rows + noise, noise).astype(np.int16)


class Series:
    """A series of one file for each slice, and its folder.

    Attributes:
        folder: Where it will be written.
        slices: Its datasets, spoilt by tests before `write`.
        pixels: Stored values, shape (slices, rows, columns).
    """

    def __init__(self, folder: Path, description: str, patient: str, number: int, **tags: object):
        self.folder, self.pixels = folder, brain(seed=number)
        study = tags.pop("StudyInstanceUID", None) or generate_uid(entropy_srcs=[patient, "study"])
        series = generate_uid(entropy_srcs=[patient, str(study), str(number)])
        self.slices: list[Dataset] = []
        for index, plane in enumerate(self.pixels):
            one = FileDataset("", {}, preamble=b"\0" * 128)
            one.file_meta = FileMetaDataset()
            one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = MR_IMAGE
            uid = generate_uid(entropy_srcs=[str(series), str(index)])
            one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = uid
            one.Modality, one.PatientID, one.PatientName = "MR", patient, "Doe^Jane"
            one.StudyInstanceUID, one.SeriesInstanceUID = study, series
            one.StudyDate, one.StudyTime = "20200102", "101010"
            one.SeriesDescription, one.SeriesNumber = description, number
            one.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
            one.ScanningSequence, one.MRAcquisitionType = "SE", "2D"
            one.InstanceNumber = index + 1
            one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            one.ImagePositionPatient = [*FIRST_MM[:2], FIRST_MM[2] + SPACING_MM[0] * index]
            one.PixelSpacing, one.SliceThickness = list(SPACING_MM[1:]), SPACING_MM[0]
            one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
            one.Rows, one.Columns = SHAPE[1:]
            one.BitsAllocated, one.BitsStored, one.HighBit = 16, 16, 15
            one.PixelRepresentation = 1
            one.PixelData = plane.tobytes()
            one["PixelData"].VR = "OW"
            for name, value in tags.items():
                setattr(one, name, value)
            self.slices.append(one)

    def write(self, name: Callable[[int], str] = "{:03d}.dcm".format) -> Path:
        """The files; returns their folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for index, one in enumerate(self.slices):
            one.save_as(self.folder / name(index), enforce_file_format=True)
        return self.folder

    def keep(self, indices: Sequence[int]) -> None:
        """Only these slices."""
        self.slices = [self.slices[index] for index in indices]

    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """Stored values as (columns, rows, slices), and their affine by the tags, RAS."""
        lps = np.diag([SPACING_MM[2], SPACING_MM[1], SPACING_MM[0], 1.0])
        lps[:3, 3] = FIRST_MM
        return self.pixels.T, np.diag([-1, -1, 1, 1]) @ lps


class Bench:
    """A folder `input` to lay series in, and a folder `out` for what is made."""

    def __init__(self, root: Path):
        self.source, self.out = root / "input", root / "out"
        self.source.mkdir()

    def series(
        self,
        description: str = "t1_se_tra",
        *,
        patient: str = "p1",
        number: int = 1,
        **tags: object,
    ) -> Series:
        """A sound series of 20 slices."""
        return Series(self.source / f"s{patient}_{number}", description, patient, number, **tags)


@pytest.fixture
def scanner(tmp_path: Path) -> Bench:
    """See `Bench`."""
    return Bench(tmp_path)


@pytest.fixture
def enhanced() -> Callable[[Series], Dataset]:
    """One enhanced multi-frame dataset of a series."""
    return _enhanced


def _enhanced(series: Series) -> Dataset:
    first = series.slices[0]
    one = FileDataset("", {}, preamble=b"\0" * 128)
    one.update(first)
    one.file_meta = first.file_meta
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = f"{MR_IMAGE}.1"
    one.NumberOfFrames = len(series.slices)
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = first.PixelSpacing, first.SliceThickness
    orientation.ImageOrientationPatient = first.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    one.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for index, plane in enumerate(series.slices):
        frame, position, content = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = plane.ImagePositionPatient
        content.InStackPositionNumber, content.StackID = index + 1, "1"
        content.DimensionIndexValues = [1, index + 1]
        frame.PlanePositionSequence, frame.FrameContentSequence = [position], [content]
        frames.append(frame)
    one.PerFrameFunctionalGroupsSequence = frames
    for name in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"):
        delattr(one, name)
    one.PixelData = b"".join(plane.PixelData for plane in series.slices)
    return one
