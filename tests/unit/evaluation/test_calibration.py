import numpy as np
import pytest

from brainsegfounder.evaluation.calibration import (
    add_bins,
    average_precision,
    expected_calibration_error,
    score_probabilities,
)


def of(probabilities, reference):
    shape = (len(probabilities), 1, 1)
    return score_probabilities(
        np.array(probabilities, np.float32).reshape(shape), np.array(reference, bool).reshape(shape)
    )


def test_soft_dice_is_taken_on_probabilities_and_not_on_masks():
    found = of([0.8, 0.4, 0.2, 0.0], [1, 1, 0, 0])
    assert found.soft_dice == pytest.approx(2 * 1.2 / (1.4 + 2))


def test_an_empty_reference_has_no_soft_dice_and_no_average_precision():
    found = of([0.8, 0.4], [0, 0])
    assert (found.soft_dice, found.average_precision) == (None, None)
    assert found.brier == pytest.approx((0.64 + 0.16) / 2)


def test_average_precision_of_a_ranking_worked_by_hand():
    """Hits at ranks 1 and 3 of 4: (1/1 + 2/3) / 2."""
    found = average_precision(np.array([0.9, 0.8, 0.7, 0.1]), np.array([1, 0, 1, 0], bool))
    assert found == pytest.approx((1 + 2 / 3) / 2)


def test_equal_probabilities_are_one_step_in_whatever_order_they_stand():
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        p, r = np.array([0.5, 0.5, 0.5, 0.1])[order], np.array([1, 0, 0, 1], bool)[order]
        assert average_precision(p, r) == pytest.approx(0.5 / 3 + 0.5 * 2 / 4)


def test_a_voxel_of_the_reference_without_any_probability_is_found_last():
    assert of([0.9, 0.0, 0.0, 0.0], [1, 1, 0, 0]).average_precision == pytest.approx(
        0.5 * 1 + 0.5 * 2 / 4
    )
    assert of([0.0, 0.0], [1, 0]).average_precision == pytest.approx(0.5)


def test_calibration_error_of_bins_worked_by_hand():
    found = of([0.95, 0.95, 0.15, 0.15, 0.0], [1, 0, 0, 0, 0])
    assert found.ece == pytest.approx((abs(1.9 - 1) + abs(0.3 - 0)) / 5)
    assert [one.num_voxels for one in found.reliability] == [1, 2, 0, 0, 0, 0, 0, 0, 0, 2]


def test_a_calibrated_forecast_has_no_error():
    assert of([0.5] * 10 + [1.0], [1] * 5 + [0] * 5 + [1]).ece == pytest.approx(0.0)


def test_bins_of_two_cases_add_up():
    one, other = of([0.95, 0.15], [1, 0]), of([0.92, 0.55], [0, 1])
    bins = add_bins(one.reliability, other.reliability)
    assert bins[9].num_voxels == 2
    assert bins[9].num_positive == 1
    assert expected_calibration_error(bins) == pytest.approx((0.87 + 0.15 + 0.45) / 4)
