"""Lesions of hand-made masks, each number known beforehand."""

from itertools import combinations

import numpy as np
import pytest
from scipy import ndimage

from brainsegfounder.evaluation.lesion_table import (
    COLUMNS,
    largest_diameter_mm,
    lesion_table,
    region_sizes,
)
from brainsegfounder.volumes.volume import Volume

AFFINE = np.array([[-2.0, 0, 0, 60], [0, 3.0, 0, -40], [0, 0, 1.5, 10], [0, 0, 0, 1]])


def labels_with(*boxes, shape=(20, 22, 24), affine=AFFINE):
    """A map with a value in each box of (value, start, stop)."""
    voxels = np.zeros((1, *shape), dtype=np.int16)
    for value, start, stop in boxes:
        voxels[(0, *(slice(a, b) for a, b in zip(start, stop, strict=True)))] = value
    return Volume(voxels, affine)


def test_volume_centre_and_diameter_of_a_box_are_those_of_the_box():
    labels = labels_with((1, (2, 3, 4), (6, 5, 7)))
    (lesion,) = lesion_table(labels, {"lesion": (1,)})
    assert lesion.num_voxels == 4 * 2 * 3
    assert lesion.volume_ml == pytest.approx(24 * 9.0 / 1000)
    assert lesion.centre_mm == pytest.approx((60 - 2 * 3.5, -40 + 3 * 3.5, 10 + 1.5 * 5))
    assert lesion.diameter_mm == pytest.approx(np.sqrt((3 * 2) ** 2 + 3**2 + (2 * 1.5) ** 2))
    assert lesion.location is None


def test_voxels_that_touch_by_a_corner_are_one_lesion_and_others_are_two():
    corner = labels_with((1, (2, 2, 2), (3, 3, 3)), (1, (3, 3, 3), (4, 4, 4)))
    apart = labels_with((1, (2, 2, 2), (3, 3, 3)), (1, (4, 4, 4), (5, 5, 5)))
    assert len(lesion_table(corner, {"lesion": (1,)})) == 1
    assert len(lesion_table(apart, {"lesion": (1,)})) == 2


def test_lesions_are_numbered_from_the_largest_in_each_region_anew():
    labels = labels_with(
        (1, (1, 1, 1), (2, 2, 2)), (2, (5, 5, 5), (8, 8, 8)), (1, (12, 12, 12), (14, 14, 14))
    )
    table = lesion_table(labels, {"all": (1, 2), "core": (1,), "none": (7,)})
    found = [(one.region, one.number, one.num_voxels) for one in table]
    assert found == [("all", 1, 27), ("all", 2, 8), ("all", 3, 1), ("core", 1, 8), ("core", 2, 1)]
    sizes = region_sizes(labels, {"all": (1, 2), "core": (1,), "none": (7,)}, table)
    assert [one.num_lesions for one in sizes] == [3, 2, 0]
    assert [one.volume_ml for one in sizes] == pytest.approx([36 * 0.009, 9 * 0.009, 0])


def test_the_largest_diameter_is_that_of_all_pairs():
    rng = np.random.default_rng(3)
    noise = ndimage.gaussian_filter(rng.normal(size=(24, 24, 24)), 2)
    places = np.argwhere(noise > 0.09)
    points = places @ AFFINE[:3, :3].T
    few = points[rng.choice(len(points), 300, replace=False)]
    brute = max(np.linalg.norm(a - b) for a, b in combinations(few, 2))
    assert largest_diameter_mm(few) == pytest.approx(brute)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 100), (1, 12, 12), (9, 9, 9)])
def test_flat_and_thin_lesions_have_a_diameter_too(shape):
    points = np.argwhere(np.ones(shape)) @ AFFINE[:3, :3].T
    expected = np.linalg.norm((np.array(shape) - 1) * [2.0, 3.0, 1.5])
    assert largest_diameter_mm(points.astype(float)) == pytest.approx(expected)


def test_a_registered_lesion_is_located_and_the_row_says_where():
    affine = np.eye(4)
    affine[:3, 3] = (-20.0, 10.0, 20.0)  # in the left white matter of MNI152
    labels = labels_with((1, (2, 2, 2), (5, 5, 5)), affine=np.diag([1.0, 1, 1, 1]))
    (lesion,) = lesion_table(labels, {"lesion": (1,)}, affine)
    row = lesion.row()
    assert tuple(row) == COLUMNS
    assert (row["mni_x_mm"], row["mni_y_mm"], row["mni_z_mm"]) == (-17.0, 13.0, 23.0)
    assert str(row["location"]).startswith("left, ")
    assert (row["x_mm"], row["y_mm"], row["z_mm"]) == (3.0, 3.0, 3.0)
