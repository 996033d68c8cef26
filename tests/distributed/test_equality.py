"""Two processes compute what one does with their batches joined, to rounding in float64."""

from __future__ import annotations

import pytest

EXACT = 1e-10


@pytest.mark.parametrize("kind", ["mae", "finetune", "three-task-fixed"])
def test_loss_and_gradients_are_those_of_the_joined_batch(equality, kind):
    found = equality[f"{kind} none"]
    assert found["loss"] < EXACT
    assert found["gradient"] < EXACT
    assert found["largest"] > 0.01


def test_three_tasks_are_the_mean_of_two_half_batches_with_their_own_negatives(equality):
    found = equality["three-task none"]
    assert found["loss"] < EXACT
    assert found["gradient"] < EXACT
    assert found["largest"] > 0.01


def test_sharded_blocks_have_the_gradients_of_whole_ones(equality):
    found = equality["three-task-fixed blocks"]
    assert found["loss"] < EXACT
    assert found["gradient"] < EXACT
