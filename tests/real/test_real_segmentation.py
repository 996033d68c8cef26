"""A segmentation of a real oblique series: every voxel comes back to its millimetres."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from brainsegfounder.volumes.dicom.importer import import_dicom
from brainsegfounder.volumes.dicom.segmentation import write_segmentation
from brainsegfounder.volumes.nifti import read_nifti
from brainsegfounder.volumes.volume import Volume

highdicom = pytest.importorskip("highdicom", reason='pip install "brainsegfounder[dicom]"')
pytest.importorskip("dcm2niix", reason='pip install "brainsegfounder[dicom]"')
pytestmark = [pytest.mark.real_data, pytest.mark.slow]

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def test_labels_on_384_oblique_slices_come_back_to_their_millimetres(
    real_data: Path, tmp_path: Path
) -> None:
    archive = real_data / "dicom" / "example-dicom-structural.tar.xz"
    imported = import_dicom(archive, tmp_path / "scans")
    path, source = next(iter(imported.sources.items()))
    image = read_nifti(path)
    i, j, k = np.indices(image.shape_vox) - (np.array(image.shape_vox) / 2)[:, None, None, None]
    labels = ((i / 20) ** 2 + (j / 35) ** 2 + ((k - 5) / 28) ** 2 < 1).astype(np.int16)
    labels[(i > 0) & (labels > 0)] = 2
    drawn = Volume(labels[None], image.affine, "labels")
    out = tmp_path / "seg.dcm"
    assert write_segmentation(
        out, drawn, {"necrosis": 1, "oedema": 2}, source, model="m", version="1"
    )
    read = highdicom.seg.segread(out)
    assert read.number_of_segments == 2
    volume = read.get_volume(combine_segments=True)
    places = LPS @ volume.affine
    for number in (1, 2):
        found = np.argwhere(volume.array == number) @ places[:3, :3].T + places[:3, 3]
        wanted = np.argwhere(labels == number) @ image.affine[:3, :3].T + image.affine[:3, 3]
        assert len(found) == len(wanted)
        assert cKDTree(found).query(wanted)[0].max() < 0.02
