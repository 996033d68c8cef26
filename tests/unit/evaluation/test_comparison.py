"""Comparisons and their sentences; the published numbers give the fact sheet's own conclusions."""

import numpy as np
import pytest
from scipy import stats

from brainsegfounder.errors import DataError
from brainsegfounder.evaluation.comparison import Settings, compare_methods
from brainsegfounder.evaluation.pairing import Method
from brainsegfounder.evaluation.score_rows import Row, subject_of
from brainsegfounder.evaluation.verdicts import probability, sentence, short_verdict, summary

# The paper's Table 9: Dice of BrainSegFounder / SwinUNETR in five repeats at each share of labels.
FEW_SHOT = {
    "5 %": ".7810/.7437 .7912/.7899 .7797/.7886 .8071/.7966 .7758/.7893",
    "10 %": ".8771/.8594 .8764/.8553 .8683/.8812 .8705/.8735 .8869/.8656",
    "20 %": ".8893/.8837 .8814/.8834 .8901/.8869 .8911/.8844 .8895/.8860",
    "40 %": ".8949/.8885 .8981/.8981 .8906/.8956 .9048/.8938 .8857/.8938",
}
# Its Table 8: Dice of five folds, with stage 2 and without, for three scales.
SCALES = {
    "62M": ("0.9027 0.9181 0.9102 0.9103 0.9139", "0.9019 0.9188 0.9119 0.9107 0.9132"),
    "64M": ("0.9032 0.9182 0.9121 0.9100 0.9141", "0.8994 0.9186 0.9125 0.9133 0.9114"),
    "69M": ("0.9014 0.9164 0.9097 0.9070 0.9101", "0.8999 0.9055 0.9002 0.9109 0.9103"),
}
# Its Table 5: T1w only.
ONE_CONTRAST = ("0.718 0.721 0.707 0.731 0.725", "0.700 0.672 0.657 0.686 0.676")


def rows_of(values, region="all", labels=None, fold=None, seed=None):
    return [
        Row(f"case-{n}", region, f"case-{n}", fold, seed, labels, {"dice": float(value)})
        for n, value in enumerate(values)
    ]


def methods(*pairs):
    """Baseline first; each pair is a name and its rows."""
    return [Method(name, rows) for name, rows in pairs]


@pytest.fixture(scope="module")
def few_shot():
    sides = [[], []]
    for labels, text in FEW_SHOT.items():
        table = [pair.split("/") for pair in text.split()]
        for side, column in zip(sides, zip(*table, strict=True), strict=True):
            side += rows_of(column, labels=labels)
    found = compare_methods(
        methods(("SwinUNETR", sides[1]), ("BrainSegFounder", sides[0])),
        ["dice"],
        Settings(unit="repeat"),
    )
    return {one.labels: one for one in found.comparisons}


@pytest.fixture(scope="module")
def stages():
    sides = [[], []]
    for scale, texts in SCALES.items():
        for side, text in zip(sides, texts, strict=True):
            side += rows_of(text.split(), region=scale)
    found = compare_methods(
        methods(("one stage", sides[1]), ("two stages", sides[0])), ["dice"], Settings(unit="fold")
    )
    return {one.region: one for one in found.comparisons}


def test_no_published_few_shot_level_shows_a_difference(few_shot):
    assert list(few_shot) == ["5 %", "10 %", "20 %", "40 %"]
    assert not any(one.shown for one in few_shot.values())
    assert summary(list(few_shot.values()), "dice") == (
        "None of 4 comparisons of Dice shows a difference."
    )
    for one in few_shot.values():
        assert one.result.interval.low < 0 < one.result.interval.high
        assert "The data do not show that BrainSegFounder and SwinUNETR differ" in sentence(one)
        assert "With 5 repeats the test cannot go below p = " in sentence(one)


@pytest.mark.parametrize(
    ("labels", "t", "p", "wins"),
    [("5 %", 0.59, 0.69, 3), ("10 %", 1.25, 0.25, 3), ("20 %", 2.27, 0.13, 4),
     ("40 %", 0.24, 0.88, 2)],
)  # fmt: skip
def test_published_few_shot_numbers_give_the_sheets_t_p_and_wins(few_shot, labels, t, p, wins):
    result = few_shot[labels].result
    assert result.mean / result.sd * 5**0.5 == pytest.approx(t, abs=0.006)
    assert result.p_permutation == pytest.approx(p, abs=0.0051)
    assert result.exact
    assert result.num_higher == wins
    assert result.num_equal == (1 if labels == "40 %" else 0)


@pytest.mark.parametrize(
    ("scale", "gain", "t"), [("62M", -0.0003, -0.56), ("64M", 0.0005, 0.38), ("69M", 0.0036, 1.25)]
)
def test_the_published_second_stage_adds_next_to_nothing(stages, scale, gain, t):
    one = stages[scale]
    assert one.result.mean == pytest.approx(gain, abs=0.00006)
    assert one.result.mean / one.result.sd * 5**0.5 == pytest.approx(t, abs=0.006)
    assert not one.shown
    if scale in ("62M", "64M"):
        assert one.result.mean < 0.00055
        assert "do not show" in sentence(one)


def test_the_best_two_stage_model_is_two_ten_thousandths_above_the_best_one_stage(stages):
    best_two = max(one.method_mean for one in stages.values())
    best_one = max(one.baseline_mean for one in stages.values())
    assert best_two - best_one == pytest.approx(0.0002, abs=0.00005)


def test_even_the_clearest_published_effect_cannot_pass_with_five_folds():
    sides = [rows_of(text.split()) for text in ONE_CONTRAST]
    found = compare_methods(methods(("scratch", sides[1]), ("pretrained", sides[0])), ["dice"])
    one = found.comparisons[0]
    assert one.result.mean == pytest.approx(0.0422, abs=0.0001)
    assert one.result.interval.low > 0
    assert one.result.p_permutation == 0.0625
    assert not one.shown


def test_a_difference_is_shown_by_interval_and_corrected_test_together():
    random = np.random.default_rng(0)
    base = random.uniform(0.5, 0.9, 40)
    better = rows_of(base + random.normal(0.03, 0.02, 40))
    same = rows_of(base + random.normal(0.0, 0.02, 40))
    found = compare_methods(
        methods(("base", rows_of(base)), ("better", better), ("same", same)), ["dice"]
    )
    shown = {one.method: one for one in found.comparisons}
    assert shown["better"].shown
    assert short_verdict(shown["better"]) == "better"
    assert "The data show that better is better" in sentence(shown["better"])
    assert not shown["same"].shown
    assert shown["better"].num_family == 2
    assert summary(found.comparisons, "dice") == (
        "1 of 2 comparisons of Dice shows a difference: better better in all."
    )
    assert summary([shown["better"]], "dice") == (
        "The one comparison of Dice shows a difference: better better in all."
    )
    p = [shown[name].result.p_permutation for name in ("better", "same")]
    assert [shown[name].p_holm for name in ("better", "same")] == [2 * p[0], max(2 * p[0], p[1])]


@pytest.mark.parametrize(
    ("gains", "word", "told"),
    [
        # Few-shot curves of real runs look so: every subject gains, and no two trainings agree.
        (
            (-0.01, 0.06, 0.0),
            "better, these trainings only",
            "not for other trainings: b better in WT.",
        ),
        (
            (0.060, 0.061, 0.059),
            "better",
            "a difference, for other trainings, too: b better in WT.",
        ),
    ],
)
def test_what_holds_for_these_trainings_only_is_said_so(gains, word, told):
    random = np.random.default_rng(0)
    base = random.uniform(0.5, 0.9, 30)
    sides = [[], []]
    for seed, gain in enumerate(gains):
        trained = base + random.normal(0, 0.002, 30)
        for side, values in zip(sides, (trained, trained + gain), strict=True):
            side += [
                Row(f"c{n}", "WT", f"c{n}", None, str(seed), None, {"dice": float(value)})
                for n, value in enumerate(values)
            ]
    found = compare_methods(methods(("a", sides[0]), ("b", sides[1])), ["dice"]).comparisons
    assert found[0].shown
    assert short_verdict(found[0]) == word
    assert summary(found, "dice").endswith(told)
    assert ("do not show it for other trainings" in sentence(found[0])) == ("only" in word)


def test_a_summary_names_a_few_and_counts_the_others():
    base = np.random.default_rng(0).uniform(0.5, 0.8, 30)
    sides = [
        [row for n in range(9) for row in rows_of(base + up * (1 + base), region=f"r{n}")]
        for up in (0.0, 0.05)
    ]
    found = compare_methods(methods(("a", sides[0]), ("b", sides[1])), ["dice"]).comparisons
    text = summary(found, "dice")
    assert text.startswith("9 of 9 comparisons of Dice show a difference: b better in r0; ")
    assert text.endswith("b better in r5; and 3 more.")


def test_lower_is_better_where_the_metric_says_so():
    rows = [
        [
            Row(f"c{n}", "WT", f"c{n}", None, None, None, {"hd95_mm": 5.0 + n % 7 + shift})
            for n in range(30)
        ]
        for shift in (0.0, 2.0)
    ]
    for place, row in enumerate(rows[1]):
        row.values["hd95_mm"] += 0.01 * place
    settings = Settings(margins={"hd95_mm": 1.0})
    found = compare_methods(methods(("a", rows[0]), ("b", rows[1])), ["hd95_mm"], settings)
    one = found.comparisons[0]
    assert one.result.mean > 2
    assert short_verdict(one) == "worse"
    assert one.non_inferiority.bound == pytest.approx(-one.result.interval.high)
    assert not one.non_inferiority.shown
    assert "A loss of 1.00 mm or more is not excluded" in sentence(one)


def test_non_inferiority_is_said_with_its_margin():
    random = np.random.default_rng(1)
    base = random.uniform(0.5, 0.9, 50)
    found = compare_methods(
        methods(("a", rows_of(base)), ("b", rows_of(base + random.normal(0, 0.01, 50)))),
        ["dice"],
        Settings(margins={"dice": 0.01}),
    )
    one = found.comparisons[0]
    assert one.non_inferiority.shown
    assert "A loss of 0.0100 or more is excluded: not inferior (p < 0.001)" in sentence(one)


def test_identical_runs_are_said_to_be_identical():
    rows = rows_of([0.5, 0.6, 0.7])
    one = compare_methods(methods(("a", rows), ("b", rows)), ["dice"]).comparisons[0]
    assert one.result.p_permutation == 1.0
    assert not one.shown
    assert short_verdict(one) == "identical"
    assert "exactly the same in all 3 subjects" in sentence(one)


def test_nothing_in_common_names_cases_of_both_sides():
    mine = rows_of([0.5, 0.6])
    theirs = [Row("other-1", "WT", "other-1", None, None, None, {"dice": 0.5})]
    with pytest.raises(DataError, match="no subject in common") as error:
        compare_methods(methods(("a", mine), ("b", theirs)), ["dice"])
    assert "b against a" in str(error.value)
    assert "a has cases case-0, case-1 and regions all" in str(error.value)
    assert "b has cases other-1 and regions WT" in str(error.value)


def test_one_case_only_is_refused_with_its_values():
    with pytest.raises(DataError, match=r"one subject in common \(case-0: 0.6 against 0.5\)"):
        compare_methods(methods(("a", rows_of([0.5])), ("b", rows_of([0.6]))), ["dice"])


def test_two_visits_of_one_subject_are_one_subject():
    rows = [
        [
            Row(f"sub-1_ses-{n}", "WT", subject_of(f"sub-1_ses-{n}"), None, None, None, {"dice": v})
            for n in (1, 2)
        ]
        for v in (0.5, 0.6)
    ]
    with pytest.raises(DataError, match="one subject in common"):
        compare_methods(methods(("a", rows[0]), ("b", rows[1])), ["dice"])


def test_a_region_with_one_case_is_left_untested_and_the_others_go_on():
    mine, theirs = rows_of([0.5, 0.6, 0.7]), rows_of([0.5, 0.7, 0.8])
    mine += rows_of([0.1], region="ET")
    theirs += rows_of([0.2], region="ET")
    found = compare_methods(methods(("a", mine), ("b", theirs)), ["dice"])
    assert [one.region for one in found.comparisons] == ["all"]
    assert [(one.region, "one subject in common" in one.reason) for one in found.untested] == [
        ("ET", True)
    ]


def test_the_order_of_methods_and_regions_changes_no_number():
    random = np.random.default_rng(3)
    parts = {name: random.uniform(0.5, 0.9, 25) for name in ("x", "y", "z")}
    one = compare_methods(methods(*((n, rows_of(v)) for n, v in parts.items())), ["dice"])
    swapped = ["x", "z", "y"]
    other = compare_methods(methods(*((n, rows_of(parts[n])) for n in swapped)), ["dice"])
    numbers = [{c.method: c.result for c in found.comparisons} for found in (one, other)]
    assert numbers[0] == numbers[1]


def test_trainings_are_said_with_their_own_interval():
    random = np.random.default_rng(4)
    base = random.uniform(0.5, 0.9, 20)
    sides = [[], []]
    for seed in range(3):
        shift = (0.06, 0.0, 0.02)[seed]
        sides[0] += rows_of(base, seed=str(seed))
        sides[1] += rows_of(base + shift + random.normal(0, 0.01, 20), seed=str(seed))
    one = compare_methods(methods(("a", sides[0]), ("b", sides[1])), ["dice"]).comparisons[0]
    assert one.shown
    assert one.sources.num_seeds == 3
    assert one.sources.interval.low < 0 < one.sources.interval.high
    assert "They do not show it for other trainings" in sentence(one)
    assert "3 trainings, Student's t" in sentence(one)


def test_every_probability_stands_with_effect_and_interval(few_shot, stages):
    for one in [*few_shot.values(), *stages.values()]:
        text = sentence(one)
        assert "difference" in text
        assert "95 % interval" in text
        assert text.index("interval") < text.index("p ")
        assert "nan" not in text


def test_a_probability_beside_one_in_twenty_shows_its_side():
    assert probability(0.0502) == "= 0.05020"
    assert probability(0.05) == "= 0.050"
    assert probability(0.0004) == "< 0.001"


def test_the_sheets_t_is_scipys(few_shot):
    pairs = few_shot["20 %"].pairs.units()
    t = stats.ttest_rel([u.method for u in pairs], [u.baseline for u in pairs])
    assert t.pvalue == pytest.approx(0.09, abs=0.005)
    interval = t.confidence_interval()
    ours = few_shot["20 %"].result.student_t
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))
