"""BraTS 2023 worked by hand: cubes on a grid of 1 mm, where every number can be counted."""

import numpy as np
import pytest

from brainsegfounder.evaluation.conventions import convention
from brainsegfounder.evaluation.metrics import score_case
from brainsegfounder.volumes.volume import Volume

SHAPE = (60, 30, 30)


def cubes(*boxes):
    mask = np.zeros(SHAPE, bool)
    for i, j, k, *size in boxes:
        a, b, c = size if len(size) == 3 else size * 3
        mask[i : i + a, j : j + b, k : k + c] = True
    return mask


def scored(prediction, reference, tumour="glioma", spacing_mm=(1, 1, 1)):
    affine = np.diag([*spacing_mm, 1.0])
    volumes = [Volume(mask[None].astype(np.int16) * 3, affine) for mask in (prediction, reference)]
    rules = convention("brats-2023", tumour)
    [row] = score_case("c", *volumes, {"ET": (3, 4)}, convention=rules)
    return row


def test_a_found_a_missed_and_a_false_lesion_share_the_mean():
    reference = cubes((5, 5, 5, 4), (40, 5, 5, 5))
    row = scored(cubes((5, 5, 5, 4), (20, 22, 22, 3)), reference)
    assert (row.num_found, row.num_missed, row.num_false) == (1, 1, 1)
    assert row.dice == pytest.approx(1 / 3)
    assert row.hd95_mm == pytest.approx((0 + 374 + 374) / 3)
    assert row.lesion_f1 == pytest.approx(0.5)
    assert row.whole_dice == pytest.approx(2 * 64 / (64 + 27 + 64 + 125))


def test_lesions_are_one_where_their_dilations_touch_and_two_where_not():
    """Dilation by 3 closes a gap of 6 voxels and not one of 7; dilation by 1 one of 2."""
    for gap, num_glioma in ((5, 1), (6, 1), (7, 2)):
        reference = cubes((5, 5, 5, 5), (10 + gap, 5, 5, 5))
        row = scored(cubes((5, 5, 5, 5)), reference)
        assert row.num_reference_lesions == num_glioma
        # As one lesion of 250 voxels half is found; as two one is found and one missed.
        assert row.dice == pytest.approx(2 * 125 / 375 if num_glioma == 1 else 0.5)
        assert scored(reference, reference, "meningioma").num_reference_lesions == 2
    assert scored(*[cubes((5, 5, 5, 5), (12, 5, 5, 5))] * 2, "meningioma").num_lesions == 2
    assert scored(*[cubes((5, 5, 5, 5), (12, 5, 5, 5))] * 2, "meningioma").lesion_f1 == 1.0


def test_a_lesion_of_the_smallest_volume_is_left_out_and_so_is_what_touches_it():
    reference = cubes((5, 5, 5, 5, 5, 2))  # 50 mm³, not above 50
    for prediction in (cubes(), reference, cubes((11, 5, 5, 2))):
        row = scored(prediction, reference)
        assert (row.dice, row.hd95_mm, row.lesion_f1) == (1.0, 0.0, 1.0)
        assert (row.num_reference_lesions, row.num_false) == (0, 0)
    row = scored(cubes((40, 20, 20, 2)), reference)
    assert (row.dice, row.hd95_mm, row.num_false) == (0.0, 374.0, 1)
    assert scored(reference, reference, "metastasis").num_reference_lesions == 1


def test_the_smallest_volume_is_in_cubic_millimetres_and_not_in_voxels():
    reference = cubes((5, 5, 5, 3))  # 27 voxels
    assert scored(reference, reference).num_reference_lesions == 0
    assert scored(reference, reference, spacing_mm=(1, 1, 2)).num_reference_lesions == 1


def test_a_near_miss_is_found_with_dice_0_and_its_real_distance():
    """Two voxels away lies within the dilation of 3, but shares no voxel."""
    row = scored(cubes((11, 5, 5, 4)), cubes((5, 5, 5, 4)))
    assert (row.num_found, row.num_false, row.dice) == (1, 0, 0.0)
    assert row.hd95_mm == 6.0
    assert scored(cubes((13, 5, 5, 4)), cubes((5, 5, 5, 4))).num_false == 1


def test_one_blob_is_the_prediction_of_every_lesion_it_touches():
    reference = cubes((5, 5, 5, 5), (25, 5, 5, 5))
    blob = cubes((5, 5, 5, 25, 5, 5))
    row = scored(blob, reference)
    assert (row.num_lesions, row.num_found, row.num_missed, row.num_false) == (1, 2, 0, 0)
    assert row.dice == pytest.approx(2 * 125 / (125 + 625))
    assert row.hd95_mm > 15


def test_all_components_that_touch_a_lesion_are_its_prediction_together():
    halves = cubes((5, 5, 5, 2, 5, 5), (8, 5, 5, 2, 5, 5))  # a lesion with its middle left out
    row = scored(halves, cubes((5, 5, 5, 5)))
    assert (row.num_lesions, row.num_found, row.num_false) == (2, 1, 0)
    assert row.dice == pytest.approx(2 * 100 / 225)


def test_empty_masks_follow_the_rules_of_the_challenge():
    nothing, something = cubes(), cubes((5, 5, 5, 5))
    both = scored(nothing, nothing)
    assert (both.dice, both.hd95_mm, both.whole_dice, both.whole_hd95_mm) == (1.0, 0.0, 1.0, 0.0)
    assert both.sensitivity == 1.0
    for pair in ((nothing, something), (something, nothing)):
        row = scored(*pair)
        assert (row.dice, row.hd95_mm, row.whole_dice) == (0.0, 374.0, 0.0)
        assert (row.whole_hd95_mm, row.sensitivity) == (374.0, 0.0)


def test_lesions_that_touch_by_a_corner_only_are_one():
    reference = cubes((5, 5, 5, 4), (9, 9, 9, 4))
    row = scored(reference, reference, "metastasis")
    assert (row.num_lesions, row.num_reference_lesions, row.dice) == (1, 1, 1.0)
