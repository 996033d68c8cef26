"""A real oblique series: the volume agrees with its slices, and the affine with the tags."""

from __future__ import annotations

import tarfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainsegfounder.volumes.dicom.importer import ImportedDicom, import_dicom
from brainsegfounder.volumes.geometry import to_ras
from brainsegfounder.volumes.nifti import read_nifti

pydicom = pytest.importorskip("pydicom", reason='pip install "brainsegfounder[dicom]"')
pytest.importorskip("dcm2niix", reason='pip install "brainsegfounder[dicom]"')

pytestmark = [pytest.mark.real_data, pytest.mark.slow]


@pytest.fixture(scope="module")
def archive(real_data: Path) -> Path:
    return real_data / "dicom" / "example-dicom-structural.tar.xz"


@pytest.fixture(scope="module")
def imported(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> ImportedDicom:
    return import_dicom(archive, tmp_path_factory.mktemp("imported"))


@pytest.fixture(scope="module")
def slices(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> list[pydicom.Dataset]:
    """The files as pydicom reads them, in the order of their names."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]


def test_the_real_series_is_one_t1w_of_384_slices(imported: ImportedDicom) -> None:
    (series,) = imported.series
    assert (series.contrast, series.num_slices, series.outcome) == ("T1w", 384, "converted")
    assert series.spacing_mm == pytest.approx((0.699988, 0.666667, 0.666667), abs=1e-5)
    assert not imported.problems


def test_real_slices_are_found_at_their_millimetres(
    imported: ImportedDicom, slices: list[pydicom.Dataset]
) -> None:
    ((path,),) = (contrasts.values() for contrasts in imported.cases.values())
    volume = read_nifti(path)
    to_index = np.linalg.inv(volume.affine)
    for one in (slices[n] for n in (0, 1, 57, 191, 192, 300, 383)):
        pixels = one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept)
        row, column = np.reshape(np.array(one.ImageOrientationPatient, float), (2, 3))
        between_rows, between_columns = np.array(one.PixelSpacing, float)
        rows, columns = np.mgrid[: one.Rows, : one.Columns]
        lps = (
            np.array(one.ImagePositionPatient, float)
            + columns[..., None] * row * between_columns
            + rows[..., None] * column * between_rows
        )
        index = lps * [-1, -1, 1] @ to_index[:3, :3].T + to_index[:3, 3]
        nearest = np.rint(index).astype(int)
        # The affine agrees with the tags: each pixel's centre is a voxel's centre.
        assert np.abs(index - nearest).max() * 0.7 < 1e-3
        np.testing.assert_allclose(volume.voxels[0][tuple(np.moveaxis(nearest, -1, 0))], pixels)


def test_the_real_volume_lies_the_right_way_round(
    imported: ImportedDicom, slices: list[pydicom.Dataset]
) -> None:
    ((path,),) = (contrasts.values() for contrasts in imported.cases.values())
    affine = to_ras(read_nifti(path)).affine
    assert nib.aff2axcodes(affine) == ("R", "A", "S")
    assert np.linalg.det(affine) > 0
    heights = [float(one.ImagePositionPatient[2]) for one in slices]
    assert max(heights) - min(heights) == pytest.approx(affine[2, 2] * 383, rel=1e-3)


def test_nothing_of_the_real_header_survives(
    imported: ImportedDicom, slices: list[pydicom.Dataset]
) -> None:
    ((path,),) = (contrasts.values() for contrasts in imported.cases.values())
    content = nib.load(path).header.binaryblock + str(imported).encode()
    for name in ("PatientName", "StudyDescription", "StudyDate", "StudyInstanceUID", "StudyID"):
        assert str(slices[0][name].value).encode() not in content, name
