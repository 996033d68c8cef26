import numpy as np
import pytest

from brainsegfounder.evaluation import surfaces
from brainsegfounder.evaluation.surface_areas import areas_mm2
from brainsegfounder.evaluation.surfaces import (
    cell_labels,
    surface_elements,
    surface_pair,
    surface_voxels,
)


def ball(radius_mm, spacing_mm, size=32):
    grid = np.indices((size,) * 3).astype(float) - (size - 1) / 2
    away = np.sqrt(sum((axis * mm) ** 2 for axis, mm in zip(grid, spacing_mm, strict=True)))
    return away < radius_mm


def box(*spans, shape=(20, 20, 20)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in spans)] = True
    return mask


def test_the_area_of_a_cell_knows_no_direction_and_no_inside():
    areas = areas_mm2((1.0, 1.0, 1.0))
    assert areas[0] == areas[255] == 0
    assert np.allclose(areas, areas[::-1])
    assert areas[0b00001111] == areas[0b00110011] == areas[0b01010101] == 1.0
    assert len(np.unique(areas.round(9))) == 13


def test_the_area_of_a_cell_follows_its_sides():
    areas = areas_mm2((2.0, 3.0, 5.0))
    assert areas[0b00001111] == pytest.approx(15.0)
    assert areas[0b00110011] == pytest.approx(10.0)
    assert areas[0b01010101] == pytest.approx(6.0)


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (0.8, 1.2, 1.5)])
def test_the_surface_of_a_ball_is_about_that_of_a_ball(spacing_mm):
    area_mm2 = surface_elements(ball(11, spacing_mm), spacing_mm).weights.sum()
    # The steps of a binary mask make it a tenth larger than the ball's.
    assert area_mm2 == pytest.approx(1.1 * 4 * np.pi * 11**2, rel=0.02)


def test_masks_at_the_border_of_the_image_have_a_closed_surface():
    inside = surface_elements(box((5, 9), (5, 9), (5, 9)), (1, 1, 1)).weights.sum()
    corner = surface_elements(box((0, 4), (0, 4), (16, 20)), (1, 1, 1)).weights.sum()
    assert corner == pytest.approx(inside)
    assert len(surface_voxels(np.ones((4, 4, 4), bool), (1, 1, 1))) == 64 - 8


def test_planes_two_voxels_apart_are_two_spacings_apart():
    for axis, spacing_mm in enumerate((0.5, 2.0, 3.0)):
        spans = [(0, 20)] * 3
        near = box(*[(0, 8) if a == axis else s for a, s in enumerate(spans)])
        far = box(*[(0, 10) if a == axis else s for a, s in enumerate(spans)])
        pair = surface_pair(*(surface_elements(m, (0.5, 2.0, 3.0)) for m in (far, near)))
        middle_of_the_far_plane = (pair.predicted.points_vox == 10).all(axis=1)
        assert pair.there.mm[middle_of_the_far_plane] == pytest.approx(2 * spacing_mm)


def test_nsd_counts_area_and_not_points():
    """Of a cube moved by 1 along I, all but the two faces that moved, and their rims, is close."""
    first, second = box((5, 9), (5, 9), (5, 9)), box((6, 10), (5, 9), (5, 9))
    pair = surface_pair(*(surface_elements(mask, (1, 1, 1)) for mask in (first, second)))
    assert pair.dice(1.0) == 1.0
    total = pair.predicted.weights.sum()
    faces = total - (pair.there.weights * (pair.there.mm == 0)).sum()
    assert pair.dice(0.5) == pytest.approx(1 - faces / total)
    assert 0 < pair.mean_distance_mm < 1
    assert pair.hd95_mm == 1.0


def test_both_ways_to_find_the_nearest_point_give_the_same_distances(monkeypatch):
    rng = np.random.default_rng(0)
    masks = [rng.random((20, 18, 16)) < share for share in (0.02, 0.1)]
    spacing_mm = (0.9, 1.0, 2.5)
    one, other = (surface_elements(mask, spacing_mm) for mask in masks)
    found = []
    for dense in (0.0, 1.0):
        monkeypatch.setattr(surfaces, "DENSE", dense)
        found.append(surface_pair(one, other))
    assert np.array_equal(found[0].there.mm, found[1].there.mm)
    assert np.array_equal(found[0].back.mm, found[1].back.mm)


def test_an_element_belongs_to_the_component_that_its_cell_touches():
    labels = np.zeros((9, 4, 4), np.int32)
    labels[0, 0, 0], labels[4:6, 2:4, 3], labels[8, 3, 3] = 1, 2, 3
    surface = surface_elements(labels > 0, (1, 1, 1))
    found = cell_labels(surface, labels)
    assert set(found.tolist()) == {1, 2, 3}
    assert (found == 1).sum() == (found == 3).sum() == 8
    assert (surface.points_vox[found == 1] <= 1).all()
