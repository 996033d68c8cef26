"""There and back again: 48 orientations x 3 anisotropies x 2 obliques, none of them special."""

import itertools

import numpy as np
import pytest

from brainsegfounder.settings import PreparationSettings
from brainsegfounder.volumes.geometry import to_ras
from brainsegfounder.volumes.preparation import prepare, undo, undo_labels
from brainsegfounder.volumes.session import InputGrid
from brainsegfounder.volumes.volume import Volume

ORIENTATIONS = [
    (order, flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.chain.from_iterable(
        itertools.combinations(range(3), n) for n in range(4)
    )
]
SPACINGS_MM = [(2.0, 2.0, 2.0), (1.8, 2.4, 3.0), (3.2, 2.0, 1.7)]
ANGLES = [0, 17]


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
@pytest.mark.parametrize("degrees", ANGLES)
@pytest.mark.parametrize("kept", [None, (2.0, 2.0, 2.0)], ids=["own spacing", "2 mm"])
def test_every_orientation_comes_back_on_its_own_grid_with_left_left(
    draw_brain, turn, rotated, spacing_mm, degrees, kept
):
    shape = tuple(int(np.ceil(44 / mm)) for mm in spacing_mm)
    image, labels = draw_brain(shape, spacing_mm)
    affine = rotated(image.affine, degrees)
    image, labels = Volume(image.voxels, affine), Volume(labels.voxels, affine)
    upright = to_ras(labels).voxels[0] > 0
    settings = PreparationSettings(spacing_mm=kept)
    for order, flips in ORIENTATIONS:
        one, marks = turn(image, order, flips), turn(labels, order, flips)
        prepared = prepare(one, settings, marks)
        back = undo_labels(prepared.labels, prepared.source_grid)
        assert back.shape_vox == one.shape_vox
        np.testing.assert_array_equal(back.affine, one.affine)
        there = to_ras(back).voxels[0] > 0
        if kept is None:
            np.testing.assert_array_equal(back.voxels, marks.voxels)
        assert dice(there, upright) > 0.75
        assert dice(there, upright[::-1]) < 0.5, "left and right are swapped"
        right = np.argwhere(prepared.labels.voxels[0] > 0).mean(axis=0)[0]
        assert right > prepared.image.shape_vox[0] / 2, "the lesion is on the right"


@pytest.mark.parametrize("seed", range(6))
def test_a_file_that_was_moved_in_space_is_found_again_through_its_matrix(draw_brain, seed):
    image, labels = draw_brain()
    prepared = prepare(image, PreparationSettings(spacing_mm=None, margin_mm=0.0), labels)
    rng = np.random.default_rng(seed)
    move = np.eye(4)
    move[:3] += 0.2 * rng.normal(size=(3, 4)) * [1, 1, 1, 100]
    elsewhere = np.linalg.inv(move) @ image.affine
    file = InputGrid(Volume(image.voxels, elsewhere).grid, move)
    back = undo_labels(prepared.labels, file)
    np.testing.assert_array_equal(back.affine, elsewhere)
    np.testing.assert_array_equal(back.voxels, labels.voxels)
    there = undo(Volume((prepared.labels.voxels == 2) * 1.0, prepared.labels.affine), file)
    np.testing.assert_array_equal(there.voxels > 0.5, labels.voxels == 2)
