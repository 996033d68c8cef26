"""Which score stands beside which, and what is left out."""

import numpy as np

from brainsegfounder.evaluation.pairing import Method, levels_of, pair_up, reasons_counted
from brainsegfounder.evaluation.score_rows import Row, subject_of


def row(case, value, fold=None, seed=None, labels=None, region="WT", metric="dice", **more):
    values = {metric: value, **more}
    return Row(case, region, subject_of(case), fold, seed, labels, values)


def differences(method, baseline, metric="dice", labels=None):
    pairs = pair_up(Method("m", method), Method("b", baseline), metric, "WT", labels)
    return pairs, list(np.round(pairs.differences(), 9))


def test_scores_are_paired_by_case_whatever_their_order():
    method = [row("a", 0.5), row("b", 0.7)]
    _, found = differences(method, [row("b", 0.6), row("a", 0.5)])
    assert found == [0.0, 0.1]


def test_what_has_no_partner_or_no_number_is_listed_with_its_reason():
    method = [row("a", 0.5), row("b", 0.7), row("c", float("nan"))]
    baseline = [row("b", 0.6), row("c", 0.5), row("d", 0.5)]
    pairs, found = differences(method, baseline)
    assert found == [0.1]
    assert {one.case: one.reason for one in pairs.unmatched} == {
        "a": "not scored by b",
        "c": "no number (nan) by m",
        "d": "not scored by m",
    }
    assert dict(reasons_counted(pairs.unmatched))["not scored by b"] == 1


def test_visits_of_a_subject_are_one_unit():
    method = [row("sub-1_ses-1", 0.5), row("sub-1_ses-2", 0.7), row("sub-2", 0.9)]
    baseline = [row("sub-1_ses-1", 0.4), row("sub-1_ses-2", 0.4), row("sub-2", 0.9)]
    pairs, found = differences(method, baseline)
    assert [unit.subject for unit in pairs.units()] == ["sub-1", "sub-2"]
    assert found == [0.2, 0.0]


def test_seeds_are_paired_where_both_have_the_same():
    method = [row("a", 0.5, seed="0"), row("a", 0.7, seed="1")]
    baseline = [row("a", 0.4, seed="0"), row("a", 0.4, seed="1")]
    pairs, found = differences(method, baseline)
    assert found == [0.2]
    assert [(cell.seed, round(cell.difference, 9)) for cell in pairs.cells()] == [
        ("0", 0.1),
        ("1", 0.3),
    ]


def test_other_seeds_are_averaged_before_pairing():
    method = [row("a", 0.5, seed="0"), row("a", 0.7, seed="1")]
    pairs, found = differences(method, [row("a", 0.4, seed="7")])
    assert found == [0.2]
    assert [cell.seed for cell in pairs.cells()] == [None]


def test_folds_named_on_one_side_hold_for_the_other():
    method = [row("a", 0.5, fold="0"), row("b", 0.7, fold="1")]
    pairs, found = differences(method, [row("a", 0.4), row("b", 0.4)])
    assert found == [0.1, 0.3]
    assert [cell.fold for cell in pairs.cells()] == ["0", "1"]
    other_folds = [row("a", 0.4, fold="3"), row("b", 0.4, fold="4")]
    pairs, found = differences(method, other_folds)
    assert found == [0.1, 0.3]
    assert [cell.fold for cell in pairs.cells()] == ["3", "4"]


def test_models_of_all_folds_on_one_test_set_are_trainings_like_seeds():
    method = [row(case, 0.5 + 0.1 * f, fold=str(f)) for case in "ab" for f in range(2)]
    baseline = [row(case, 0.5, fold=str(f)) for case in "ab" for f in range(2)]
    pairs, found = differences(method, baseline)
    assert found == [0.05, 0.05]
    assert {cell.fold for cell in pairs.cells()} == {None}
    assert len({cell.seed for cell in pairs.cells()}) == 2


def test_a_signed_error_is_compared_by_its_size():
    name = "volume_difference_ml"
    method = [row("a", -3.0, metric=name)]
    _, found = differences(method, [row("a", 2.0, metric=name)], metric=name)
    assert found == [1.0]


def test_the_references_volume_travels_with_the_unit():
    method = [row("a", 0.5, reference_volume_ml=7.0)]
    pairs, _ = differences(method, [row("a", 0.4)])
    assert pairs.units()[0].reference_ml == 7.0


def test_levels_are_those_all_methods_have_from_few_to_many():
    def method(name, levels):
        return Method(name, [row("a", 0.5, labels=level) for level in levels])

    many = method("x", ["40 %", "5 %", "10 %"])
    assert levels_of([many, method("y", ["10 %", "5 %"])]) == ["5 %", "10 %"]
    assert levels_of([method("x", ["50"]), method("y", ["51"])]) == [None]
    assert levels_of([method("x", [None]), method("y", [None])]) == [None]


def test_only_rows_of_the_level_are_paired():
    method = [row("a", 0.5, labels="5"), row("a", 0.9, labels="10")]
    baseline = [row("a", 0.4, labels="5"), row("a", 0.6, labels="10")]
    _, found = differences(method, baseline, labels="10")
    assert found == [0.3]
