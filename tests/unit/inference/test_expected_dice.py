import math

import numpy as np
import pytest

from brainsegfounder.inference.expected_dice import (
    estimate_dice,
    expect_dice,
    fit_line,
    fit_lines,
)
from brainsegfounder.inference.model_config import DiceLine, config_of
from brainsegfounder.recipes import load_recipe


def config(target="regions"):
    return config_of(load_recipe("open-glioma", [f"finetune.target={target}"]), "segmentation", {})


def test_sure_and_whole_regions_are_expected_to_be_right():
    probabilities = np.zeros((3, 4, 1, 1), np.float32)
    probabilities[:, :2] = 1.0
    assert estimate_dice(probabilities, config()) == {"TC": 1.0, "WT": 1.0, "ET": 1.0}


def test_the_estimate_is_the_overlap_that_the_probabilities_promise():
    probabilities = np.zeros((3, 3, 1, 1), np.float32)
    probabilities[1, :, 0, 0] = 0.8, 0.6, 0.4
    # Marked are two voxels; shared are 1.4; probably there are 1.8.
    found = estimate_dice(probabilities, config())
    assert found["WT"] == pytest.approx(2 * 1.4 / (2 + 1.8))
    assert found["TC"] is None


def test_promised_overlap_is_the_mean_dice_of_references_drawn_from_the_probabilities():
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 1, 4000).astype(np.float32)
    probabilities = np.zeros((3, 4000, 1, 1), np.float32)
    probabilities[1, :, 0, 0] = values
    marked = values > 0.5
    dice = []
    for _ in range(50):
        truth = rng.uniform(size=4000) < values
        dice.append(2 * (truth & marked).sum() / (truth.sum() + marked.sum()))
    assert estimate_dice(probabilities, config())["WT"] == pytest.approx(np.mean(dice), abs=0.005)


def test_a_region_of_several_classes_adds_their_probabilities():
    probabilities = np.zeros((4, 2, 1, 1), np.float32)
    probabilities[:, 0, 0, 0] = 0.1, 0.5, 0.2, 0.2
    probabilities[0, 1] = 1.0
    found = estimate_dice(probabilities, config("classes"))
    assert found["WT"] == pytest.approx(2 * 0.9 / (1 + 0.9))
    assert found["ET"] is None


def test_a_line_through_points_on_a_line_is_that_line():
    x = np.linspace(0.5, 0.9, 12)
    line = fit_line(x, 2 * x - 0.9)
    assert (line.slope, line.intercept) == (pytest.approx(2), pytest.approx(-0.9))
    expected = expect_dice(line, 0.8)
    assert (expected.dice, expected.num_cases) == (pytest.approx(0.7), 12)
    assert (expected.low, expected.high) == (pytest.approx(0.7), pytest.approx(0.7))


def test_the_interval_holds_as_many_new_cases_as_it_says():
    rng = np.random.default_rng(1)
    held = []
    for _ in range(300):
        x = rng.uniform(0.4, 0.9, 21)
        y = np.clip(0.8 * x + 0.1 + rng.normal(0, 0.05, 21), 0, 1)
        expected = expect_dice(fit_line(x[:-1], y[:-1]), x[-1])
        held.append(expected.low <= y[-1] <= expected.high)
    spread = math.sqrt(0.9 * 0.1 / 300)
    assert 0.9 - 3 * spread < np.mean(held) <= 1


def test_too_few_cases_give_no_interval_and_fewer_no_line():
    line = DiceLine(slope=1, intercept=0, misses=(0.01,) * 8)
    assert expect_dice(line, 0.8)[1:3] == (0.0, 1.0)
    assert fit_line([0.5, 0.6, 0.7, 0.8], [0.5, 0.6, 0.7, 0.8]) is None


def test_a_better_estimate_never_means_a_worse_dice():
    line = fit_line([0.5, 0.6, 0.7, 0.8, 0.9], [0.9, 0.8, 0.7, 0.6, 0.5])
    assert line.slope == 0
    assert expect_dice(line, 0.9).dice == pytest.approx(0.7)


def test_lines_are_fitted_over_the_cases_that_have_both_and_found_something():
    estimates = {"WT": {f"c{n}": 0.5 + n / 20 for n in range(7)} | {"c7": None}}
    truths = {"WT": {f"c{n}": 0.4 + n / 20 for n in range(8)}, "ET": {"c0": 1.0}}
    lines = fit_lines(estimates, truths)
    assert list(lines) == ["WT"]
    assert len(lines["WT"].misses) == 7
