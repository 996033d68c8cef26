import numpy as np
import pytest
from scipy import stats

from brainsegfounder.inference.uncertainty import entropy


def test_entropy_of_regions_is_that_of_the_least_decided_one_in_bits():
    probabilities = np.array([[0.5, 0.0, 0.9], [1.0, 1.0, 0.2]], np.float32).reshape(2, 3, 1, 1)
    found = entropy(probabilities, "regions").ravel()
    assert found[:2] == pytest.approx([1.0, 0.0], abs=1e-5)
    assert found[2] == pytest.approx(stats.entropy([0.2, 0.8], base=2), abs=1e-5)


def test_entropy_of_classes_is_a_share_of_the_most_there_can_be():
    told = np.array([[1 / 3, 0.7, 0.0], [1 / 3, 0.2, 0.0], [1 / 3, 0.1, 0.0]], np.float32)
    found = entropy(told.reshape(3, 3, 1, 1), "classes").ravel()
    expected = stats.entropy([0.7, 0.2, 0.1], base=2) / np.log2(3)
    assert found == pytest.approx([1.0, expected, 0.0], abs=1e-5)
