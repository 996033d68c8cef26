import nibabel as nib
import numpy as np
import pytest

from brainsegfounder.errors import VolumeError
from brainsegfounder.volumes import analyze
from brainsegfounder.volumes.analyze import is_oasis, read_oasis

SUBJECT_SPACE = "OAS1_0001_MR1_mpr_n4_anon_sbj_111"
ATLAS_SPACE = "OAS1_0001_MR1_mpr_n4_anon_111_t88_gfc"


def written(folder, name, shape, orient=0):
    """A pair as OASIS-1 writes it: big-endian int16, with a fourth axis of one."""
    voxels = np.zeros((*shape, 1), dtype=">i2")
    voxels[3, 5, 7] = 1000
    image = nib.AnalyzeImage(voxels, None, nib.AnalyzeHeader(endianness=">"))
    image.header.set_zooms((1.0, 1.0, 1.0, 1.0))
    nib.AnalyzeImage.to_filename(image, str(folder / f"{name}.img"))
    header = bytearray((folder / f"{name}.hdr").read_bytes())
    header[252] = orient
    (folder / f"{name}.hdr").write_bytes(header)
    return folder / f"{name}.img"


@pytest.mark.parametrize(
    ("name", "shape", "point_mm"),
    [
        (SUBJECT_SPACE, (256, 256, 160), (80 - 7, 3 - 128, 5 - 128)),
        (ATLAS_SPACE, (176, 208, 176), (88 - 3, 5 - 104, 7 - 88)),
    ],
)
def test_a_bright_voxel_lies_where_the_documentation_says(tmp_path, name, shape, point_mm):
    volume = read_oasis(written(tmp_path, name, shape))
    (index,) = np.argwhere(volume.voxels[0] == 1000)
    np.testing.assert_allclose((volume.affine @ [*index, 1])[:3], point_mm)
    assert volume.voxels.shape == (1, *shape)
    assert volume.voxels.dtype == np.float32
    assert [finding.code for finding in volume.findings] == ["orientation_by_documentation"]


def test_the_affine_in_subject_space_is_that_of_freesurfers_conversion(tmp_path):
    volume = read_oasis(written(tmp_path, SUBJECT_SPACE, (256, 256, 160), orient=2))
    expected = [[0, 0, -1, 80], [1, 0, 0, -128], [0, 1, 0, -128], [0, 0, 0, 1]]
    np.testing.assert_array_equal(volume.affine, expected)
    assert len(volume.findings) == 1


def test_a_header_that_says_otherwise_is_a_warning(tmp_path):
    volume = read_oasis(written(tmp_path, SUBJECT_SPACE, (256, 256, 160), orient=3))
    assert [finding.kind for finding in volume.findings] == ["note", "warning"]


def test_another_shape_than_the_names_is_refused(tmp_path):
    path = written(tmp_path, SUBJECT_SPACE, (176, 208, 176))
    with pytest.raises(
        VolumeError, match=r"\(176, 208, 176\) voxels .* expected \(256, 256, 160\)"
    ):
        read_oasis(path)


def test_analyze_of_any_other_name_is_refused(tmp_path):
    path = written(tmp_path, "brain", (256, 256, 160))
    assert not is_oasis(path)
    with pytest.raises(VolumeError, match="Analyze does not say left from right"):
        read_oasis(path)


def test_half_a_pair_and_a_cut_file_are_refused(tmp_path):
    path = written(tmp_path, SUBJECT_SPACE, (256, 256, 160))
    assert is_oasis(path)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(VolumeError, match=r"expected a whole \.hdr and \.img"):
        read_oasis(path)
    path.with_suffix(".hdr").unlink()
    with pytest.raises(VolumeError, match=r"\.hdr is missing"):
        read_oasis(path)
    path.write_bytes(b"")
    path.with_suffix(".hdr").write_bytes(b"\0" * (analyze.MAX_HEADER_BYTES + 1))
    with pytest.raises(VolumeError, match="is larger than"):
        read_oasis(path)
