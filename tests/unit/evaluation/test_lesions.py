import numpy as np
import pytest

from brainsegfounder.evaluation.lesions import find_lesions, match_by_overlap, match_one_to_one


def line(*spans, length=40):
    """Lesions along one axis, each from its first voxel to before its last."""
    mask = np.zeros((length, 3, 3), bool)
    for first, last in spans:
        mask[first:last, 1, 1] = True
    return mask


def matched(prediction, reference, min_iou=None):
    lesions = [find_lesions(line(*spans), 26) for spans in (prediction, reference)]
    if min_iou is None:
        return match_by_overlap(*lesions)
    return match_one_to_one(*lesions, min_iou)


def test_voxels_that_meet_at_a_corner_are_one_lesion_by_contact_and_two_by_faces():
    mask = np.zeros((4, 4, 4), bool)
    mask[1, 1, 1] = mask[2, 2, 2] = True
    assert len(find_lesions(mask, 26)) == 1
    assert len(find_lesions(mask, 6)) == 2
    assert find_lesions(mask, 6).sizes_vox.tolist() == [1, 1]


def test_one_voxel_is_enough_to_find_a_lesion_and_one_blob_can_find_many():
    found = matched([(0, 20)], [(0, 3), (10, 12), (19, 25), (30, 33)])
    assert (found.num_found, found.num_missed, found.num_false) == (3, 1, 0)
    assert found.f1 == pytest.approx(3 / 3.5)


def test_one_to_one_takes_each_lesion_once_from_the_largest_overlap_down():
    """One blob over two lesions: IoU 10/22 and 8/22; only the better one counts."""
    found = matched([(0, 22)], [(0, 10), (12, 20)], 0.25)
    assert found.found.tolist() == [True, False]
    assert (found.num_missed, found.num_false) == (1, 0)
    assert matched([(0, 22)], [(0, 10), (12, 20)]).num_found == 2


def test_one_to_one_needs_the_smallest_overlap_and_takes_it_when_just_met():
    assert matched([(0, 4)], [(3, 4)], 0.25).num_found == 1
    assert matched([(0, 5)], [(4, 5)], 0.25).num_found == 0


def test_no_lesion_on_either_side_is_perfect_and_any_lesion_alone_is_not():
    assert matched([], []).f1 == 1.0
    assert matched([(0, 1)], []).f1 == 0.0
    assert matched([], [(0, 1)], 0.25).f1 == 0.0


def test_lesions_are_counted_by_their_volume():
    found = matched([(0, 1), (20, 39)], [(0, 1), (4, 6), (8, 18), (20, 39)])
    assert found.by_size(voxel_ml=0.1) == {
        "lesions_under_0.1ml": 0, "found_under_0.1ml": 0,
        "lesions_0.1_to_1ml": 2, "found_0.1_to_1ml": 1,
        "lesions_1_to_10ml": 2, "found_1_to_10ml": 1,
        "lesions_from_10ml": 0, "found_from_10ml": 0,
    }  # fmt: skip
