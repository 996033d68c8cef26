import base64
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from brainsegfounder.evaluation.histograms import (
    FEWEST_CASES,
    MAX_VOXELS,
    RANGE_SD,
    histogram_figure,
    intensity_profile,
    unusual_cases,
)


def normal(seed, num_voxels=20_000):
    return np.random.default_rng(seed).normal(0, 1, num_voxels)


def cohort(number):
    return {f"case-{seed}": intensity_profile(normal(seed)) for seed in range(number)}


def test_a_profile_is_a_density_and_its_percentiles():
    profile = intensity_profile(normal(0).reshape(20, 10, 100))
    width = (RANGE_SD[1] - RANGE_SD[0]) / len(profile.density)
    assert profile.density.sum() * width == pytest.approx(1.0)
    assert profile.percentiles[[15, 49, 83]] == pytest.approx([-1, 0, 1], abs=0.05)


def test_values_beyond_the_range_and_no_values_do_no_harm():
    wild = np.array([-1e9, 1e9, np.nan, np.inf, 0.0])
    assert np.isfinite(intensity_profile(wild).density).all()
    assert intensity_profile(np.array([])).density.sum() == 0


def test_of_many_voxels_some_are_looked_at_from_all_parts():
    ramp = np.linspace(-1, 1, 5 * MAX_VOXELS + 3)
    profile = intensity_profile(ramp)
    assert profile.percentiles[[0, 49, 98]] == pytest.approx([-0.98, 0, 0.98], abs=0.001)


def test_a_skewed_case_is_named_and_the_others_are_not():
    profiles = cohort(30)
    profiles["skewed"] = intensity_profile(np.random.default_rng(0).gamma(2, 1, 20_000) - 2)
    assert list(unusual_cases(profiles)) == ["skewed"]


def test_the_most_unusual_case_comes_first():
    profiles = cohort(30)
    profiles["near"] = intensity_profile(normal(1) + 0.5)
    profiles["far"] = intensity_profile(normal(1) + 2.0)
    unusual = unusual_cases(profiles)
    assert list(unusual) == ["far", "near"]
    assert unusual["far"] == pytest.approx(2.0, abs=0.05)


def test_cases_that_are_nearly_equal_are_not_told_apart():
    values = normal(0)
    profiles = {f"case-{n}": intensity_profile(values + 1e-6 * n) for n in range(20)}
    profiles["a hair apart"] = intensity_profile(values + 0.05)
    assert unusual_cases(profiles) == {}


def test_of_few_cases_none_is_named():
    profiles = cohort(FEWEST_CASES - 2)
    profiles["far"] = intensity_profile(normal(1) + 3)
    assert unusual_cases(profiles) == {}


def test_the_picture_is_an_svg_that_is_the_same_each_time():
    profiles = cohort(9)
    names = ["case-1", "case-2", "case-3", "case-4", "case-5"]
    uri = histogram_figure(profiles, names, "T1w $x$ <i>")
    kind, content = uri.split(",", 1)
    assert kind == "data:image/svg+xml;base64"
    assert ET.fromstring(base64.b64decode(content)).tag.endswith("svg")
    assert uri == histogram_figure(profiles, names, "T1w $x$ <i>")
    assert uri != histogram_figure(profiles, [], "T1w $x$ <i>")


def test_one_case_without_spread_can_be_drawn():
    flat = {"flat": intensity_profile(np.zeros(10))}
    assert histogram_figure(flat).startswith("data:image/svg+xml")
