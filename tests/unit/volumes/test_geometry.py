import itertools

import numpy as np
import pytest

from brainsegfounder.volumes.geometry import (
    foreground_box,
    resample_labels_to,
    resample_to,
    same_grid,
    spaced_grid,
    to_ras,
)
from brainsegfounder.volumes.volume import Grid, Volume, crop

ORIENTATIONS = [
    (order, flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.chain.from_iterable(
        itertools.combinations(range(3), n) for n in range(4)
    )
]


def numbered(shape=(2, 4, 5, 6), spacing=(1.0, 2.0, 3.0)):
    voxels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-7, 11, 3)
    return Volume(voxels, affine)


def constant(value, shape=(5, 6, 7), spacing=(1.0, 1.0, 1.0)):
    return Volume(np.full((1, *shape), value, np.float32), np.diag([*spacing, 1.0]))


def faces_mm(grid, axis):
    """Where the outer faces of the first and last voxel lie along an axis of a diagonal grid."""
    first = grid.affine[axis, 3] - grid.spacing_mm[axis] / 2
    return first, first + grid.shape_vox[axis] * grid.spacing_mm[axis]


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_to_ras_brings_all_48_orientations_to_the_same_volume(turn, order, flips):
    volume = numbered()
    back = to_ras(turn(volume, order, flips))
    np.testing.assert_array_equal(back.voxels, volume.voxels)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-12)


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


def test_to_ras_leaves_an_oblique_volume_oblique(rotated):
    volume = Volume(numbered().voxels, rotated(numbered().affine, 20))
    turned = to_ras(volume)
    np.testing.assert_array_equal(turned.voxels, volume.voxels)
    np.testing.assert_array_equal(turned.affine, volume.affine)


def test_grids_within_half_a_voxel_are_the_same():
    grid = numbered().grid
    for shift_mm, same in [(0.0, True), (0.49, True), (0.51, False)]:
        moved = grid.affine.copy()
        moved[0, 3] += shift_mm
        assert same_grid(grid, Grid(grid.shape_vox, moved)) is same
    assert not same_grid(grid, Grid((4, 5, 7), grid.affine))


def test_a_spaced_grid_begins_at_the_same_face_and_ends_within_half_a_voxel():
    grid = numbered((1, 30, 41, 17)).grid
    for spacing in [(2.0, 2.0, 2.0), (0.7, 1.1, 5.0), (1.0, 2.0, 3.0)]:
        new = spaced_grid(grid, spacing)
        np.testing.assert_allclose(new.spacing_mm, spacing)
        for axis in range(3):
            assert faces_mm(new, axis)[0] == pytest.approx(faces_mm(grid, axis)[0])
            assert abs(faces_mm(new, axis)[1] - faces_mm(grid, axis)[1]) <= spacing[axis] / 2


def test_a_spaced_grid_has_at_least_one_voxel():
    assert spaced_grid(Grid((2, 2, 2), np.eye(4)), (9.0, 9.0, 9.0)).shape_vox == (1, 1, 1)


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS[::5])
def test_moving_whole_axes_copies_every_voxel_exactly(turn, order, flips):
    volume = numbered()
    volume.voxels[...] = np.random.default_rng(0).normal(size=volume.voxels.shape)
    turned = turn(volume, order, flips)
    back = resample_to(turned, volume.grid)
    np.testing.assert_array_equal(back.voxels, volume.voxels)


def test_a_crop_returns_to_its_place_with_zeros_around_it():
    volume = numbered()
    back = resample_to(crop(volume, (1, 1, 2), (2, 3, 3)), volume.grid)
    expected = np.zeros_like(volume.voxels)
    expected[:, 1:3, 1:4, 2:5] = volume.voxels[:, 1:3, 1:4, 2:5]
    np.testing.assert_array_equal(back.voxels, expected)


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (2.0, 2.0, 2.0), (0.8, 1.7, 3.0)])
def test_a_constant_volume_stays_constant_up_to_its_faces_at_any_spacing(spacing):
    volume = constant(3.0, (6, 7, 9))
    resampled = resample_to(volume, spaced_grid(volume.grid, spacing))
    np.testing.assert_allclose(resampled.voxels, 3.0, rtol=1e-6)


def test_outside_the_volume_the_result_is_0():
    volume = constant(3.0, (4, 4, 4))
    affine = np.eye(4)
    affine[:3, 3] = -3.25
    wide = resample_to(volume, Grid((10, 10, 10), affine))
    places = np.arange(10) - 3.25
    inside = (places >= -0.5) & (places <= 3.5)
    expected = 3.0 * inside[:, None, None] * inside[:, None] * inside
    np.testing.assert_allclose(wide.voxels[0], expected, rtol=1e-6)


def test_outside_an_oblique_volume_the_result_is_0(rotated):
    volume = Volume(np.ones((1, 8, 8, 8), np.float32), rotated(np.eye(4), 30))
    grid = Grid((30, 30, 30), np.array(np.eye(4) + np.outer([1, 1, 1, 0], [0, 0, 0, -11])))
    carried = resample_to(volume, grid)
    index = np.linalg.inv(volume.affine) @ grid.affine
    places = np.einsum("ab,bijk->aijk", index[:3, :3], np.indices(grid.shape_vox))
    places += index[:3, 3, None, None, None]
    inside = ((places >= -0.5) & (places <= 7.5)).all(axis=0)
    assert 0 < inside.sum() < inside.size
    np.testing.assert_allclose(carried.voxels[0], inside, atol=1e-5)


def test_a_linear_ramp_is_interpolated_exactly_between_centres():
    volume = numbered((1, 8, 8, 8), (1.0, 1.0, 1.0))
    affine = volume.affine.copy()
    affine[:3, 3] += (0.25, 0.5, 0.75)
    moved = resample_to(volume, Grid((7, 7, 7), affine))
    expected = volume.voxels[0, :7, :7, :7] + 0.25 * 64 + 0.5 * 8 + 0.75
    np.testing.assert_allclose(moved.voxels[0], expected, rtol=1e-5)


def test_fine_detail_does_not_alias_on_a_coarser_grid():
    checks = np.indices((24, 24, 24)).sum(axis=0) % 2 * 2.0 - 1.0
    volume = Volume(checks[None].astype(np.float32), np.eye(4))
    odd = np.diag([3.0, 3.0, 3.0, 1.0])
    coarse = resample_to(volume, Grid((8, 8, 8), odd))
    # Plain sampling would alternate between -1 and 1.
    assert np.abs(coarse.voxels[0, 1:-1, 1:-1, 1:-1]).max() < 0.05


def test_a_finer_grid_is_not_smoothed():
    volume = numbered()
    fine = spaced_grid(volume.grid, (0.5, 1.0, 1.5))
    at_centres = resample_to(volume, Grid(volume.shape_vox, volume.affine))
    np.testing.assert_array_equal(at_centres.voxels, volume.voxels)
    assert resample_to(volume, fine).voxels.max() == volume.voxels.max()


def test_labels_take_no_new_values_at_any_spacing(draw_brain, rotated):
    labels = draw_brain()[1]
    grids = [spaced_grid(labels.grid, s) for s in [(1.0, 1.5, 3.0), (4.0, 4.0, 4.0)]]
    grids.append(Grid(labels.shape_vox, rotated(labels.affine, 15)))
    for grid in grids:
        carried = resample_labels_to(labels, grid)
        assert carried.voxels.dtype == labels.voxels.dtype
        assert carried.shape_vox == grid.shape_vox
        assert set(np.unique(carried.voxels)) <= {0, 1, 2, 4}


def test_labels_keep_their_volume_at_another_spacing(draw_brain):
    labels = draw_brain((40, 44, 36), (1.0, 1.0, 1.0))[1]
    coarse = resample_labels_to(labels, spaced_grid(labels.grid, (1.6, 1.6, 1.6)))
    for value in (1, 2, 4):
        before = (labels.voxels == value).sum() * labels.grid.voxel_volume_ml
        after = (coarse.voxels == value).sum() * coarse.grid.voxel_volume_ml
        assert after == pytest.approx(before, rel=0.15)


def test_labels_at_the_border_survive_a_finer_grid_and_are_0_outside():
    labels = Volume(np.full((1, 4, 4, 4), 4, np.int16), np.diag([2.0, 2.0, 2.0, 1.0]))
    fine = spaced_grid(labels.grid, (1.0, 1.0, 1.0))
    assert (resample_labels_to(labels, fine).voxels == 4).all()
    affine = fine.affine.copy()
    affine[:3, 3] -= 3.0
    wide = resample_labels_to(labels, Grid((14, 14, 14), affine)).voxels[0]
    assert (wide == 4).sum() == 8**3
    assert (wide[3:11, 3:11, 3:11] == 4).all()


def test_labels_move_exactly_with_whole_axes(turn, draw_brain):
    labels = draw_brain()[1]
    turned = turn(labels, (2, 0, 1), (0, 2))
    np.testing.assert_array_equal(resample_labels_to(turned, labels.grid).voxels, labels.voxels)


def test_the_foreground_box_is_tight_and_widened_within_the_border():
    mask = np.zeros((10, 12, 14), dtype=bool)
    mask[2:5, 6, 11:13] = True
    assert foreground_box(mask, (0, 0, 0)) == ((2, 6, 11), (3, 1, 2))
    assert foreground_box(mask, (3, 1, 5)) == ((0, 5, 6), (8, 3, 8))


def test_an_empty_foreground_keeps_the_whole_volume():
    assert foreground_box(np.zeros((3, 4, 5), bool), (1, 1, 1)) == ((0, 0, 0), (3, 4, 5))
