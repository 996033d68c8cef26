"""Pictures of a comparison: they are drawn, say what they must, and are the same every time."""

import base64
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.axes import Axes

from brainsegfounder.evaluation.comparison import Settings, compare_methods
from brainsegfounder.evaluation.figures_lesions import calibration_curve, detection_by_size
from brainsegfounder.evaluation.figures_paired import (
    bland_altman,
    few_shot_curve,
    forest,
    paired_boxes,
)
from brainsegfounder.evaluation.lesion_counts import ProbabilityBin, SizeBin
from brainsegfounder.evaluation.pairing import Method
from brainsegfounder.evaluation.score_rows import Row


def made(num=12, levels=(None,), seeds=(None,), names=("base", "ours"), with_volumes=True):
    random = np.random.default_rng(0)
    methods = []
    for place, name in enumerate(names):
        rows = []
        for labels in levels:
            for seed in seeds:
                for n in range(num):
                    values = {"dice": 0.5 + 0.02 * n % 0.4 + 0.02 * place + random.normal(0, 0.01)}
                    if with_volumes:
                        values |= {
                            "volume_ml": n + random.normal(),
                            "reference_volume_ml": float(n),
                        }
                    rows.append(Row(f"c{n}", "WT", f"c{n}", None, seed, labels, values))
        methods.append(Method(name, rows))
    return methods


@pytest.fixture
def texts(monkeypatch):
    """All words put on axes, as a picture holds them as outlines only."""
    seen = []
    for name in ("set_xlabel", "set_ylabel", "set_title", "text"):
        original = getattr(Axes, name)

        def spy(self, *words, _original=original, **more):
            seen.extend(word for word in words if isinstance(word, str))
            return _original(self, *words, **more)

        monkeypatch.setattr(Axes, name, spy)
    for axis in ("set_yticks", "set_xticks"):
        original = getattr(Axes, axis)

        def ticks(self, places, labels=None, _original=original, **more):
            seen.extend(labels or [])
            return _original(self, places, labels, **more)

        monkeypatch.setattr(Axes, axis, ticks)
    return seen


def svg_of(uri):
    kind, content = uri.split(",", 1)
    assert kind == "data:image/svg+xml;base64"
    return ET.fromstring(base64.b64decode(content))


def paths_in(uri):
    return sum(1 for node in svg_of(uri).iter() if node.tag.endswith("}path"))


def test_a_forest_has_a_row_each_with_effect_interval_and_p(texts):
    compared = compare_methods(made(seeds=("0", "1")), ["dice"], Settings(margins={"dice": 0.01}))
    picture = forest(compared.comparisons, "Differences")
    assert paths_in(picture) > 5
    assert "difference of Dice: ours minus base, above zero is better" in texts
    one = compared.comparisons[0]
    (row,) = [text for text in texts if " to " in text]
    assert row.startswith(f"{one.result.mean:+.4f}")
    assert "p < 0.001" in row or "p = " in row
    assert picture == forest(compared.comparisons, "Differences")


def test_a_forest_of_a_length_names_its_unit_once(texts):
    methods = made()
    for method in methods:
        for row in method.rows:
            row.values["hd95_mm"] = 10 - 10 * row.values["dice"]
    compared = compare_methods(methods, ["hd95_mm"])
    forest(compared.comparisons)
    assert "difference of HD95 (mm): ours minus base, below zero is better" in texts


def test_boxes_join_pairs_by_lines_until_there_are_too_many(texts):
    few = paired_boxes(compare_methods(made(12), ["dice"]).comparisons)
    many = paired_boxes(compare_methods(made(90), ["dice"]).comparisons)

    def lines(uri):
        return sum(1 for node in svg_of(uri).iter() if node.get("id", "").startswith("line2d"))

    assert lines(few) - lines(many) >= 12
    assert "WT\nn = 12" in texts
    assert "WT\nn = 90" in texts


def test_volumes_are_drawn_with_bias_and_limits(texts):
    methods = made()
    assert paths_in(bland_altman(methods, "WT")) > 10
    errors = [r.values["volume_ml"] - r.values["reference_volume_ml"] for r in methods[0].rows]
    bias, spread = np.mean(errors), 1.96 * np.std(errors, ddof=1)
    expected = f"bias {bias:+.2f} mL\nlimits {bias - spread:.2f} to {bias + spread:.2f} mL"
    assert expected.replace("-", "−") in texts
    assert "mean of prediction and reference (mL)" in texts


def test_a_cases_trainings_are_one_dot_of_the_volumes(texts):
    bland_altman(made(seeds=("0", "1", "2")), "WT")
    assert "base, n = 12" in texts


def test_without_volumes_there_is_no_picture_of_them():
    assert bland_altman(made(with_volumes=False), "WT") is None
    assert bland_altman(made(), "ET") is None
    assert bland_altman(made(num=2), "WT") is None


@pytest.mark.parametrize("levels", [("5", "10", "40"), ("5 %", "40 %"), ("few", "many")])
def test_a_few_shot_curve_has_every_level_on_its_axis(texts, levels):
    compared = compare_methods(made(levels=levels), ["dice"])
    picture = few_shot_curve(compared.comparisons, "Fewer labels")
    assert paths_in(picture) > 6
    assert set(levels) <= set(texts)


def test_detection_says_how_many_lesions_and_where_there_are_none(texts):
    bins = [SizeBin("under 0.1 mL", 10, 3), SizeBin("from 10 mL", 0, 0)]
    picture = detection_by_size({"a": bins, "b": bins})
    assert paths_in(picture) > 4
    assert "under 0.1 mL\n10 lesions" in texts
    assert texts.count("none") == 2


def test_calibration_leaves_empty_bins_out():
    full = [ProbabilityBin(0.1, 0.0, 1000), ProbabilityBin(0.9, 0.8, 10)]
    with_empty = [full[0], ProbabilityBin(0.5, 0.5, 0), full[1]]
    assert calibration_curve({"a": full}) == calibration_curve({"a": with_empty})
