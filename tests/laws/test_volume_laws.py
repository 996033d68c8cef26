import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from brainsegfounder.settings import PreparationSettings
from brainsegfounder.volumes.geometry import resample_labels_to, resample_to, spaced_grid, to_ras
from brainsegfounder.volumes.preparation import prepare, undo_labels
from brainsegfounder.volumes.volume import Volume, crop, pad

orders = st.permutations(range(3))
flips = st.sets(st.integers(0, 2))
widths = st.tuples(*[st.integers(0, 5)] * 3)
shapes = st.tuples(*[st.integers(1, 7)] * 3)
angles = st.floats(-40, 40)
spacings = st.tuples(*[st.floats(0.6, 4.0)] * 3)
seeds = st.integers(0, 2**16)


def random_volume(shape, seed, channels=2):
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3] = rng.normal(size=(3, 4)) + 3 * np.eye(3, 4)
    return Volume(rng.normal(size=(channels, *shape)).astype(np.float32), affine)


@given(shapes, widths, widths, seeds)
def test_crop_undoes_pad(shape, before, after, seed):
    volume = random_volume(shape, seed)
    back = crop(pad(volume, before, after), before, volume.shape_vox)
    np.testing.assert_array_equal(back.voxels, volume.voxels)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-9)


@given(shapes, orders, flips, seeds)
def test_to_ras_changes_no_voxel_and_no_place(turn, shape, order, flips, seed):
    rng = np.random.default_rng(seed)
    volume = turn(Volume(rng.normal(size=(1, *shape)), np.diag([1.0, 2, 3, 1])), order, flips)
    turned = to_ras(volume)
    place_of = {
        float(volume.voxels[0][index]): volume.affine @ [*index, 1]
        for index in itertools.product(*map(range, volume.shape_vox))
    }
    for index in itertools.product(*map(range, turned.shape_vox)):
        here = turned.affine @ [*index, 1]
        np.testing.assert_allclose(here, place_of[float(turned.voxels[0][index])], atol=1e-9)
    again = to_ras(turned)
    np.testing.assert_array_equal(again.voxels, turned.voxels)


@given(orders, flips, angles, seeds)
def test_undo_returns_every_label_at_the_scans_own_spacing(
    draw_brain, turn, rotated, order, flips, angle, seed
):
    image, labels = draw_brain((20, 24, 18), (2.0, 2.4, 2.8), seed=seed)
    affine = rotated(image.affine, angle)
    image, labels = (turn(Volume(v.voxels, affine), order, flips) for v in (image, labels))
    prepared = prepare(image, PreparationSettings(spacing_mm=None, margin_mm=0.0), labels)
    back = undo_labels(prepared.labels, prepared.source_grid)
    np.testing.assert_array_equal(back.voxels, labels.voxels)
    np.testing.assert_array_equal(back.affine, labels.affine)


@given(st.tuples(*[st.integers(2, 7)] * 3), spacings, st.floats(-100, 100))
def test_a_constant_stays_constant_at_any_spacing(shape, spacing, value):
    volume = Volume(np.full((1, *shape), value, np.float32), np.diag([1.0, 2.0, 1.5, 1.0]))
    moved = resample_to(volume, spaced_grid(volume.grid, spacing))
    np.testing.assert_allclose(moved.voxels, value, rtol=1e-5, atol=1e-6)


@given(spacings, angles, seeds)
def test_labels_never_take_a_new_value(rotated, spacing, angle, seed):
    rng = np.random.default_rng(seed)
    labels = Volume(rng.choice([0, 3, 7, -2], (1, 6, 7, 8)).astype(np.int16), np.eye(4))
    grid = spaced_grid(Volume(labels.voxels, rotated(labels.affine, angle)).grid, spacing)
    carried = resample_labels_to(labels, grid)
    assert set(np.unique(carried.voxels)) <= {0, 3, 7, -2}
