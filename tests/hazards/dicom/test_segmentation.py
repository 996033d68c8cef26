"""Labels written back as DICOM segmentations lie where the NIfTI labels lie, to the millimetre."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import generate_uid
from scipy.spatial import cKDTree

from brainsegfounder.errors import UsageError, VolumeError
from brainsegfounder.volumes.dicom import segmentation
from brainsegfounder.volumes.dicom.importer import import_dicom
from brainsegfounder.volumes.dicom.segmentation import on_slices, write_segmentation
from brainsegfounder.volumes.nifti import read_nifti
from brainsegfounder.volumes.volume import Volume

pydicom = pytest.importorskip("pydicom")
NAMES = {"necrosis": 1, "oedema": 2, "enhancing": 4, "absent": 7}
LPS = np.diag([-1.0, -1.0, 1.0])


@pytest.fixture
def highdicom():
    return pytest.importorskip("highdicom", reason='pip install "brainsegfounder[dicom]"')


def labels_on(path: Path) -> Volume:
    """Three labels that differ along every axis, on a converted volume's grid."""
    image = read_nifti(path)
    i, j, k = np.indices(image.shape_vox)
    labels = np.zeros(image.shape_vox, dtype=np.int16)
    labels[(i > 10) & (i < 30) & (j > 15) & (j < 50) & (k > 3) & (k < 9)] = 2
    labels[(i > 12) & (i < 20) & (j > 20) & (j < 30) & (k > 4) & (k < 8)] = 1
    labels[i + 2 * j + 3 * k < 40] = 4
    return Volume(labels[None], image.affine, "labels")


def places_of_seg(path: Path) -> dict[str, np.ndarray]:
    """The RAS millimetres of every voxel of every segment, by the tags of the file alone."""
    one = pydicom.dcmread(path)
    shared = one.SharedFunctionalGroupsSequence[0]
    row, column = np.reshape(
        [float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient], (2, 3)
    )
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    names = {int(s.SegmentNumber): s.SegmentLabel for s in one.SegmentSequence}
    found: dict[str, list[np.ndarray]] = {name: [] for name in names.values()}
    frames = one.pixel_array.reshape(-1, one.Rows, one.Columns)
    for frame, groups in zip(frames, one.PerFrameFunctionalGroupsSequence, strict=True):
        name = names[int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]
        first = [float(v) for v in groups.PlanePositionSequence[0].ImagePositionPatient]
        r, c = np.nonzero(frame)
        lps = first + np.outer(c * between_columns, row) + np.outer(r * between_rows, column)
        found[name].append(lps @ LPS)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def places_of_labels(labels: Volume, value: int) -> np.ndarray:
    places = np.argwhere(labels.voxels[0] == value)
    return places @ labels.affine[:3, :3].T + labels.affine[:3, 3]


def apart_mm(one: np.ndarray, other: np.ndarray) -> float:
    """Largest distance of a point of either set from the other set; the sets are as large."""
    assert len(one) == len(other)
    return max(cKDTree(one).query(other)[0].max(), cKDTree(other).query(one)[0].max())


def tilt(series) -> None:
    """Turn the series about an oblique axis."""
    turn = np.linalg.qr(np.array([[1, 0.2, -0.1], [-0.15, 1, 0.3], [0.1, -0.25, 1.0]]))[0]
    turn *= np.sign(np.diag(turn))
    for one in series.slices:
        cosines = np.reshape([float(v) for v in one.ImageOrientationPatient], (2, 3)) @ turn.T
        one.ImageOrientationPatient = [round(v, 9) for v in cosines.ravel()]
        position = turn @ [float(v) for v in one.ImagePositionPatient]
        one.ImagePositionPatient = [round(v, 6) for v in position]


def export(labels: Volume, imported, path: Path, out: Path) -> bool:
    source = imported.sources[path]
    return write_segmentation(out, labels, NAMES, source, model="glioma", version="1.0")


@pytest.mark.parametrize("kind", ["plain", "tilted", "backwards", "zipped", "multi-frame"])
def test_each_voxel_comes_back_to_its_millimetres(scanner, enhanced, highdicom, tmp_path, kind):
    series = scanner.series(FrameOfReferenceUID=generate_uid(entropy_srcs=["frame"]))
    if kind == "tilted":
        tilt(series)
    if kind == "backwards":
        for one in series.slices:
            one.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
        series.slices.reverse()
    source = scanner.source
    if kind == "multi-frame":
        one = enhanced(series)
        source = tmp_path / "one.dcm"
        one.save_as(source, enforce_file_format=True)
    else:
        series.write()
    if kind == "zipped":
        source = tmp_path / "export.zip"
        with zipfile.ZipFile(source, "w") as packed:
            for path in series.folder.iterdir():
                packed.write(path, path.name)
    imported = import_dicom(source, scanner.out)
    (path,) = imported.sources
    labels = labels_on(path)
    out = tmp_path / "x_seg.dcm"
    assert export(labels, imported, path, out)
    found = places_of_seg(out)
    assert set(found) == {"necrosis", "oedema", "enhancing"}
    for name, places in found.items():
        assert apart_mm(places, places_of_labels(labels, NAMES[name])) < 1e-3
    whole = highdicom.seg.segread(out).get_volume(combine_segments=True, skip_overlap_checks=True)
    assert np.count_nonzero(whole.array) == np.count_nonzero(labels.voxels)


def test_what_the_segments_are_and_who_made_them_is_said(scanner, highdicom, tmp_path):
    series = scanner.series()
    series.write()
    imported = import_dicom(scanner.source, scanner.out)
    (path,) = imported.sources
    out = tmp_path / "seg.dcm"
    export(labels_on(path), imported, path, out)
    one = highdicom.seg.segread(out)
    kinds = {s.SegmentLabel: s.SegmentedPropertyTypeCodeSequence[0] for s in one.SegmentSequence}
    assert (kinds["necrosis"].CodeValue, kinds["necrosis"].CodingSchemeDesignator) == (
        "6574001", "SCT",
    )  # fmt: skip
    assert kinds["oedema"].CodeValue == "79654002"
    assert kinds["enhancing"].CodingSchemeDesignator == "99BSF"
    algorithm = one.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (
        "brainsegfounder glioma",
        "1.0",
    )
    assert one.SeriesDescription == "RESEARCH glioma segmentation"
    assert one.ContentDescription == "Research use only. Not a medical device."
    first = series.slices[0]
    assert (one.PatientID, one.StudyInstanceUID) == (first.PatientID, first.StudyInstanceUID)
    assert one.SeriesInstanceUID != first.SeriesInstanceUID
    referenced = one.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == first.SeriesInstanceUID
    known = {s.SOPInstanceUID for s in series.slices}
    assert {r.ReferencedSOPInstanceUID for r in referenced.ReferencedInstanceSequence} == known


def test_labels_of_another_grid_are_refused_and_empty_ones_make_no_file(
    scanner, highdicom, tmp_path
):
    scanner.series().write()
    imported = import_dicom(scanner.source, scanner.out)
    (path,) = imported.sources
    labels, out = labels_on(path), tmp_path / "seg.dcm"
    moved = labels.affine.copy()
    moved[0, 3] += 5
    with pytest.raises(VolumeError, match="voxels away from the series"):
        export(Volume(labels.voxels, moved, "labels"), imported, path, out)
    with pytest.raises(VolumeError, match="as the series has"):
        export(Volume(labels.voxels[:, :-1], labels.affine, "labels"), imported, path, out)
    assert not export(Volume(labels.voxels * 0, labels.affine, "labels"), imported, path, out)
    assert not out.exists()


def test_planes_are_the_slices_of_the_series(scanner):
    series = scanner.series()
    series.write()
    imported = import_dicom(scanner.source, scanner.out)
    (path,) = imported.sources
    image = read_nifti(path)
    np.testing.assert_array_equal(on_slices(image, imported.sources[path]), series.pixels)


def test_without_highdicom_the_extra_is_named(scanner, tmp_path, monkeypatch):
    scanner.series().write()
    imported = import_dicom(scanner.source, scanner.out)
    (path,) = imported.sources

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(segmentation.importlib, "import_module", absent)
    with pytest.raises(UsageError, match=r"brainsegfounder\[dicom\]"):
        export(labels_on(path), imported, path, tmp_path / "seg.dcm")


def test_what_is_carried_along_is_shown_nowhere(scanner):
    series = scanner.series()
    for one in series.slices:
        one.PatientName, one.AccessionNumber = "CANARY^ONE", "CANARY2"
    series.write()
    imported = import_dicom(scanner.source, scanner.out)
    (source,) = imported.sources.values()
    assert "CANARY" in str(source.common.PatientName)
    assert "CANARY" not in repr(imported)
    assert "CANARY" not in repr(source)
    (path,) = imported.sources
    assert b"CANARY" not in gzip.decompress(path.read_bytes())
