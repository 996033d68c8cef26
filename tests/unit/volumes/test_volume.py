import numpy as np
import pytest

from brainsegfounder.errors import VolumeError
from brainsegfounder.volumes.volume import Grid, Volume, crop, pad

OBLIQUE = np.array([[1.5, 0.2, 0, -9], [-0.2, 2, 0.3, 4], [0, -0.3, 3, 7], [0, 0, 0, 1.0]])


def numbered(shape=(2, 5, 6, 7), affine=OBLIQUE):
    return Volume(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), affine.copy())


def millimetres(volume, index):
    return volume.affine @ [*index, 1]


def test_crop_keeps_every_voxel_at_its_millimetres():
    whole = numbered()
    part = crop(whole, (1, 2, 3), (2, 3, 4))
    assert part.voxels.shape == (2, 2, 3, 4)
    np.testing.assert_array_equal(part.voxels, whole.voxels[:, 1:3, 2:5, 3:7])
    for index in [(0, 0, 0), (1, 2, 3)]:
        there = np.add(index, (1, 2, 3))
        np.testing.assert_allclose(millimetres(part, index), millimetres(whole, there))


def test_crop_is_a_view_and_leaves_the_volume_as_it_was():
    whole = numbered()
    part = crop(whole, (1, 1, 1), (2, 2, 2))
    assert np.shares_memory(part.voxels, whole.voxels)
    np.testing.assert_array_equal(whole.affine, OBLIQUE)


@pytest.mark.parametrize(
    ("start", "size"), [((-1, 0, 0), (2, 2, 2)), ((0, 0, 4), (5, 6, 4)), ((5, 0, 0), (1, 1, 1))]
)
def test_crop_outside_the_volume_is_refused_with_both_shapes(start, size):
    with pytest.raises(VolumeError, match=r"<memory>.*cannot crop.*\(5, 6, 7\)"):
        crop(numbered(), start, size)


def test_pad_keeps_every_voxel_at_its_millimetres_and_adds_zeros():
    small = numbered()
    wide = pad(small, (1, 0, 2), (0, 3, 1))
    assert wide.shape_vox == (6, 9, 10)
    np.testing.assert_array_equal(wide.voxels[:, 1:, :6, 2:9], small.voxels)
    assert wide.voxels.sum() == small.voxels.sum()
    np.testing.assert_allclose(millimetres(wide, (1, 0, 2)), millimetres(small, (0, 0, 0)))


def test_voxels_without_a_channel_axis_are_refused():
    with pytest.raises(VolumeError, match=r"expected \(C, I, J, K\) and \(4, 4\)"):
        Volume(np.zeros((3, 3, 3)), np.eye(4), "a.nii")


def test_an_affine_of_three_rows_is_refused():
    with pytest.raises(VolumeError, match=r"a\.nii.*\(3, 4\)"):
        Volume(np.zeros((1, 3, 3, 3)), np.eye(4)[:3], "a.nii")


def test_spacing_is_the_length_of_a_step_along_each_axis():
    np.testing.assert_allclose(
        numbered().spacing_mm, [np.hypot(1.5, 0.2), np.sqrt(0.04 + 4 + 0.09), np.hypot(0.3, 3)]
    )


def test_a_voxel_of_2_by_2_by_5_mm_has_20_microlitres_however_it_is_turned():
    grid = Grid((4, 4, 4), np.diag([-2.0, 2.0, 5.0, 1.0])[[1, 0, 2, 3]])
    assert grid.voxel_volume_ml == pytest.approx(0.020)


def test_the_diagonal_spans_the_whole_field_of_view():
    assert Grid((30, 40, 120), np.diag([1.0, 1.0, 1.0, 1.0])).diagonal_mm == pytest.approx(130)


def test_corner_shift_is_zero_for_one_grid_and_counts_voxels_of_the_first():
    one = Grid((10, 10, 10), np.diag([2.0, 2.0, 4.0, 1.0]))
    moved = one.affine.copy()
    moved[2, 3] += 3.0
    assert one.corner_shift_vox(one) == 0
    assert one.corner_shift_vox(Grid(one.shape_vox, moved)) == pytest.approx(1.5)


def test_corner_shift_sees_a_rotation_that_leaves_the_first_voxel_in_place():
    one = Grid((101, 101, 101), np.eye(4))
    stretched = np.diag([1.02, 1.0, 1.0, 1.0])
    assert one.corner_shift_vox(Grid(one.shape_vox, stretched)) == pytest.approx(2.0)
