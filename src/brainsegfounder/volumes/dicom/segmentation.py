"""Labels back onto the slices they came from, as a DICOM segmentation (SEG).

The labels lie on the grid of the volume that was converted from the series, so that each of their
planes is one of its slices: axes may be turned round, but nothing is resampled. The file is filed
under the patient and the study of the series, as the archive needs it: it holds the patient's name
and is to be kept as the series is.
"""

from __future__ import annotations

import copy
import importlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.errors import BrainSegFounderError, Problem, UsageError, VolumeError
from brainsegfounder.files import write_bytes
from brainsegfounder.volumes.dicom.header import quiet
from brainsegfounder.volumes.dicom.source import SourceSeries
from brainsegfounder.volumes.label_image import colours_of
from brainsegfounder.volumes.volume import Grid, Volume

RESEARCH = "RESEARCH"
NOTICE = "Research use only. Not a medical device."
MANUFACTURER = "brainsegfounder"
# Codes of our own, for what we know no code of SNOMED CT for.
PRIVATE_SCHEME = "99BSF"
# Names of labels, and the keyword of their code in DICOM's own table of SNOMED CT: first what is
# abnormal, then parts of the brain.
ABNORMAL = {"necrosis": "Necrosis", "oedema": "Edema", "edema": "Edema", "lesion": "Lesion",
            "tumour": "Neoplasm", "tumor": "Neoplasm"}  # fmt: skip
ABNORMAL_WITHOUT_CODE = {"enhancing", "wt", "tc", "et"}
ANATOMY = {
    "ventricles": "BrainVentricle", "brainstem": "BrainStem", "cerebellum": "Cerebellum",
    "thalamus": "Thalamus", "caudate": "CaudateNucleus", "putamen": "Putamen",
    "pallidum": "GlobusPallidus", "hippocampus": "Hippocampus", "amygdala": "Amygdala",
    "cortex": "CerebralCortex", "white_matter": "WhiteMatter",
}  # fmt: skip
MAX_LABEL = 64
MAX_OFF_VOX = 0.5
SERIES_NUMBERS = 9000


def write_segmentation(
    path: Path,
    labels: Volume,
    label_names: Mapping[str, int],
    source: SourceSeries,
    *,
    model: str,
    version: str,
) -> bool:
    """Write labels as a DICOM segmentation of the series that their volume was converted from.

    Args:
        path: A `.dcm` file.
        labels: On the grid of the converted volume, shape (1, I, J, K).
        label_names: Value of each label by its name; a label without voxels gets no segment.
        source: From `ImportedDicom.sources`.
        model: The model's name.
        version: Of this package.

    Returns:
        Whether it was written: there is none without any voxel.

    Raises:
        UsageError: highdicom is not installed.
        VolumeError: The labels do not lie on the series' grid, or the series cannot have one.
        RunError: The file cannot be written.
    """
    planes = on_slices(labels, source)
    present = {name: value for name, value in label_names.items() if (planes == value).any()}
    if not present:
        return False
    highdicom = _highdicom()
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = _segmentation(highdicom, planes, present, label_names, source, model, version)
            write_bytes(path, _content(dataset))
    except BrainSegFounderError:
        raise
    except Exception as error:  # of highdicom and pydicom, on what stands in a foreign header
        raise _problem(
            labels.source,
            f"the header of the series allows no segmentation ({type(error).__name__})",
            "patient, study and geometry as the standard asks",
        ) from error
    return True


def on_slices(labels: Volume, source: SourceSeries) -> NDArray[Any]:
    """The labels in the order of the slices, shape (slices, rows, columns).

    Raises:
        VolumeError: They lie on another grid.
    """
    expected = Grid(source.shape, source.affine)
    if labels.shape_vox != source.shape:
        found = f"labels of shape {labels.shape_vox}"
        raise _problem(labels.source, found, f"{source.shape}, as the series has")
    cosines = np.sum(labels.affine[:3, :3] * source.affine[:3, :3], axis=0)
    flips = [axis for axis in range(3) if cosines[axis] < 0]
    affine = labels.affine.copy()
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (source.shape[axis] - 1)
        affine[:3, axis] *= -1
    off_vox = expected.corner_shift_vox(Grid(source.shape, affine))
    if not off_vox <= MAX_OFF_VOX:
        found = f"labels that lie {off_vox:.1f} voxels away from the series"
        raise _problem(labels.source, found, "labels on the grid of the series")
    return np.ascontiguousarray(np.flip(labels.voxels[0], tuple(flips)).T)


def _segmentation(
    highdicom: ModuleType,
    planes: NDArray[Any],
    present: Mapping[str, int],
    label_names: Mapping[str, int],
    source: SourceSeries,
    model: str,
    version: str,
) -> Any:
    numbers = np.zeros(planes.shape, dtype=np.uint8 if len(present) < 256 else np.uint16)
    for number, value in enumerate(present.values(), start=1):
        numbers[planes == value] = number
    colours = colours_of(label_names)
    segments = [
        _segment(highdicom, number, name, colours[value], model, version)
        for number, (name, value) in enumerate(present.items(), start=1)
    ]
    dataset = highdicom.seg.Segmentation(
        source_images=_images(source),
        pixel_array=_in_frame_order(numbers, source),
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBERS + source.series_number % 1000,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=model[:MAX_LABEL],
        software_versions=version[:MAX_LABEL],
        device_serial_number=RESEARCH,
        content_label=RESEARCH,
        content_description=NOTICE,
    )
    dataset.SeriesDescription = f"{RESEARCH} {model} segmentation"[:MAX_LABEL]
    return dataset


def _segment(
    highdicom: ModuleType, number: int, name: str, colour: str, model: str, version: str
) -> Any:
    codes = importlib.import_module("pydicom.sr.codedict").codes
    category, kind = _codes(highdicom, codes, name)
    red, green, blue = (int(colour[n : n + 2], 16) for n in (1, 3, 5))
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:MAX_LABEL],
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=f"{MANUFACTURER} {model}"[:MAX_LABEL],
            family=codes.DCM.ArtificialIntelligence,
            version=version[:MAX_LABEL],
        ),
        anatomic_regions=[codes.SCT.Brain],
        display_color=highdicom.color.CIELabColor.from_rgb(red, green, blue),
    )


def _codes(highdicom: ModuleType, codes: Any, name: str) -> tuple[Any, Any]:
    """What kind of thing a label is, and which; by a private code where none is certain."""
    known = name.lower()
    private = highdicom.sr.CodedConcept(
        value=f"L-{known}"[:16], scheme_designator=PRIVATE_SCHEME, meaning=name[:MAX_LABEL]
    )
    if known in ABNORMAL:
        return codes.SCT.MorphologicallyAbnormalStructure, getattr(codes.SCT, ABNORMAL[known])
    if known in ABNORMAL_WITHOUT_CODE:
        return codes.SCT.MorphologicallyAbnormalStructure, private
    if known in ANATOMY:
        return codes.SCT.AnatomicalStructure, getattr(codes.SCT, ANATOMY[known])
    return codes.SCT.Tissue, private


def _images(source: SourceSeries) -> list[Any]:
    """Headers of the source's images with what a segmentation takes from them, and no more."""
    if not source.num_frames:
        return [_classic(source, index) for index in range(len(source.slices))]
    if len({one.instance for one in source.slices}) > 1:
        raise _problem("DICOM input", "a series of several multi-frame files", "one such file")
    return [_enhanced(source)]


def _blank(source: SourceSeries, instance: str) -> Any:
    """Patient, study and size; what the standard requires and the series lacks is empty."""
    dataset = copy.deepcopy(source.common)
    uid = importlib.import_module("pydicom.uid")
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber",
                 "StudyID", "StudyDate", "StudyTime"):  # fmt: skip
        if name not in dataset:
            setattr(dataset, name, "")
    if not dataset.get("FrameOfReferenceUID"):
        # The same for all results of the series, so that they lie together.
        dataset.FrameOfReferenceUID = uid.generate_uid(
            entropy_srcs=[str(dataset.SeriesInstanceUID), "frame of reference"]
        )
    dataset.Modality = dataset.get("Modality") or "MR"
    dataset.SOPInstanceUID = instance
    dataset.Columns, dataset.Rows, _ = source.shape
    dataset.file_meta = importlib.import_module("pydicom.dataset").FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    return dataset


def _classic(source: SourceSeries, index: int) -> Any:
    one = source.slices[index]
    dataset = _blank(source, one.instance)
    dataset.ImagePositionPatient = _decimals(one.position)
    dataset.ImageOrientationPatient = _decimals(source.orientation)
    dataset.PixelSpacing = _decimals(source.spacing_mm)
    dataset.SliceThickness = _decimals([_gap_mm(source)])[0]
    return dataset


def _enhanced(source: SourceSeries) -> Any:
    dataset_of = importlib.import_module("pydicom.dataset").Dataset
    dataset = _blank(source, source.slices[0].instance)
    dataset.NumberOfFrames = source.num_frames
    measures, orientation, shared = dataset_of(), dataset_of(), dataset_of()
    measures.PixelSpacing = _decimals(source.spacing_mm)
    measures.SliceThickness = _decimals([_gap_mm(source)])[0]
    orientation.ImageOrientationPatient = _decimals(source.orientation)
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    frames = []
    for one in sorted(source.slices, key=lambda one: one.frame):
        frame, position = dataset_of(), dataset_of()
        position.ImagePositionPatient = _decimals(one.position)
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = frames
    return dataset


def _in_frame_order(planes: NDArray[Any], source: SourceSeries) -> NDArray[Any]:
    """Planes in the order of the file's frames, where the file has several."""
    if not source.num_frames:
        return planes
    order = sorted(range(len(source.slices)), key=lambda index: source.slices[index].frame)
    return planes[order]


def _gap_mm(source: SourceSeries) -> float:
    return float(np.linalg.norm(source.affine[:3, 2]))


def _decimals(values: Any) -> list[Any]:
    """Numbers as DICOM writes them, in at most 16 characters."""
    decimal = importlib.import_module("pydicom.valuerep").DSfloat
    return [decimal(float(value), auto_format=True) for value in values]


def _content(dataset: Any) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    content: bytes = buffer.getvalue()
    return content


def _highdicom() -> ModuleType:
    try:
        for part in ("highdicom.seg", "highdicom.sr", "highdicom.color"):
            importlib.import_module(part)
        return importlib.import_module("highdicom")
    except ImportError as error:
        raise UsageError(
            'writing DICOM segmentations needs highdicom: pip install "brainsegfounder[dicom]"'
        ) from error


def _problem(place: str, found: str, expected: str) -> VolumeError:
    advice = "The label map as NIfTI is not concerned."
    return VolumeError(Problem("dicom_segmentation", place, found, expected, advice))
