"""Intervals, tests and effect sizes against scipy, statsmodels and hand-worked numbers."""

import numpy as np
import pytest
from scipy import stats

from brainsegfounder.evaluation import statistics
from brainsegfounder.evaluation.statistics import (
    bca_interval,
    compare_pairs,
    holm,
    non_inferiority,
    rank_biserial,
    sign_flip_test,
    student_interval,
    wilcoxon_test,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def drawn(num, seed=0, mean=0.3):
    return rng(seed).normal(mean, 1.0, num)


@pytest.mark.parametrize("num", [2, 5, 9, 13])
@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_every_pattern_of_signs_gives_scipys_exact_probability(num, alternative):
    values = np.round(drawn(num, seed=num), 1)  # ties and zeros among them
    ours, exact = sign_flip_test(values, rng(), alternative)
    theirs = stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative=alternative
    ).pvalue
    assert exact
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_random_signs_come_near_scipys_random_signs():
    values = drawn(40, mean=0.25)
    ours, exact = sign_flip_test(values, rng(1))
    theirs = stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=20_000, rng=rng(2)
    ).pvalue
    assert not exact
    assert ours == pytest.approx(theirs, abs=4 * np.sqrt(2 * theirs * (1 - theirs) / 20_000))


def test_random_signs_never_give_a_probability_of_zero():
    p, exact = sign_flip_test(np.full(30, 5.0) + drawn(30) * 0.01, rng())
    assert not exact
    assert p == 1 / 20_000


def test_five_pairs_cannot_go_below_one_in_sixteen():
    result = compare_pairs(np.array([1.0, 1.1, 0.9, 1.2, 0.8]), rng())
    assert result.p_permutation == result.p_smallest == 0.0625
    tied = compare_pairs(np.array([0.0, 1.1, 0.9, 1.2, 0.8]), rng())
    assert tied.p_permutation == tied.p_smallest == 0.125


def test_students_interval_is_scipys():
    values = drawn(12)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    ours = student_interval(values, 0.9)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert ours.kind == "student_t"


def test_the_bca_interval_is_that_of_its_definition():
    values = rng(3).exponential(1.0, 60)
    num = 20_000
    means = rng(4).choice(values, (num, len(values))).mean(axis=1)
    z0 = stats.norm.ppf(np.mean(means < values.mean()))
    left_out = (values.sum() - values) / (len(values) - 1)
    centred = left_out.mean() - left_out
    a = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5)
    z = z0 + stats.norm.ppf([0.025, 0.975])
    expected = np.quantile(means, stats.norm.cdf(z0 + z / (1 - a * z)))
    ours = bca_interval(values, rng(5))
    width = expected[1] - expected[0]
    assert np.abs(np.array([ours.low, ours.high]) - expected).max() < 0.04 * width
    # Skewed values give a skewed interval.
    assert ours.high - values.mean() > values.mean() - ours.low


def test_few_pairs_are_reported_by_student_and_many_by_the_bootstrap():
    few, many = compare_pairs(drawn(29), rng()), compare_pairs(drawn(30), rng())
    assert few.interval == few.student_t
    assert few.bca.kind == "bca"
    assert many.interval == many.bca


@pytest.mark.parametrize(
    ("num", "draw"),
    [
        (6, lambda r, n: r.normal(0.0, 1.0, n)),
        (30, lambda r, n: r.normal(0.0, 1.0, n)),
        (40, lambda r, n: r.exponential(1.0, n) - 1.0),
    ],
    ids=["6 normal, t", "30 normal, BCa", "40 skewed, BCa"],
)
def test_the_interval_covers_the_truth_about_as_often_as_it_says(num, draw, monkeypatch):
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 599)
    monkeypatch.setattr(statistics, "NUM_FLIPS", 9)
    random = rng(11)
    intervals = [compare_pairs(draw(random, num), random).interval for _ in range(400)]
    covered = np.mean([one.low <= 0.0 <= one.high for one in intervals])
    assert 0.90 <= covered <= 0.985


def test_the_permutation_test_rejects_equal_methods_as_seldom_as_it_says():
    random = rng(12)
    rejected = [sign_flip_test(random.normal(0, 1, 8), random)[0] <= 0.05 for _ in range(600)]
    assert 0.02 <= np.mean(rejected) <= 0.075


def test_wilcoxon_is_scipys_and_leaves_equal_pairs_out():
    values = np.array([0.0, 0.0, 0.4, -0.1, 0.7, 0.9, 0.3, -0.2])
    assert wilcoxon_test(values) == stats.wilcoxon(values[2:]).pvalue
    assert wilcoxon_test(np.zeros(4)) == 1.0


def test_rank_biserial_is_that_of_the_two_rank_sums():
    # Ranks of 1, 2, 3, 4: the negative one has rank 3, so (1+2+4-3)/10.
    assert rank_biserial(np.array([0.1, 0.2, -0.3, 0.4])) == pytest.approx(0.4)
    assert rank_biserial(np.array([0.1, 0.2])) == 1.0
    assert rank_biserial(np.zeros(3)) == 0.0


def test_holm_is_that_of_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    random = rng(6)
    for num in (1, 2, 7, 30):
        p = random.uniform(0, 0.2, num)
        p[: num // 3] = p[0]  # ties
        assert holm(list(p)) == pytest.approx(list(multitest.multipletests(p, method="holm")[1]))


def test_holm_of_nothing_is_nothing():
    assert holm([]) == []


def test_cohens_dz_is_mean_over_standard_deviation():
    result = compare_pairs(np.array([1.0, 2.0, 3.0]), rng())
    assert result.cohen_dz == pytest.approx(2.0)
    assert (result.num_higher, result.num_equal, result.num_lower) == (3, 0, 0)


def test_equal_methods_have_no_difference_and_a_probability_of_one():
    result = compare_pairs(np.zeros(30), rng())
    assert (result.mean, result.interval.low, result.interval.high) == (0.0, 0.0, 0.0)
    assert result.interval.kind == "constant"
    assert result.p_permutation == result.p_wilcoxon == 1.0
    assert result.cohen_dz is None


def test_a_constant_difference_has_an_interval_without_width():
    result = compare_pairs(np.full(25, 0.1) + 1e-15, rng())
    assert result.interval.low == result.interval.high == pytest.approx(0.1)
    assert result.cohen_dz is None
    assert result.p_permutation < 0.001


def test_differences_that_are_equal_on_paper_are_ties():
    values = np.array([0.8981 - 0.8981, 0.3 - 0.2 - 0.1, 0.05])
    assert compare_pairs(values, rng()).num_equal == 2


def test_the_same_seed_gives_the_same_numbers():
    values = drawn(50)
    assert compare_pairs(values, rng(7)) == compare_pairs(values, rng(7))
    assert compare_pairs(values, rng(7)).bca != compare_pairs(values, rng(8)).bca


@pytest.mark.parametrize("values", [[0.1], [0.1, np.nan], [0.1, np.inf], [[0.1, 0.2]]])
def test_what_is_no_set_of_pairs_is_refused(values):
    with pytest.raises(ValueError, match="two or more finite numbers"):
        compare_pairs(np.array(values), rng())


def test_non_inferiority_needs_the_interval_and_the_test():
    gains = rng(9).normal(0.0, 0.01, 60)
    interval = compare_pairs(gains, rng()).interval
    safe = non_inferiority(gains, 0.02, interval, rng())
    assert safe.shown
    assert safe.bound == interval.low
    assert safe.p < 0.001
    tight = non_inferiority(gains, abs(interval.low) * 0.9, interval, rng())
    assert not tight.shown
    # Four pairs cannot go below 1/16 on one side, whatever the interval.
    few = np.array([0.01, 0.0101, 0.0099, 0.01])
    refused = non_inferiority(few, 0.02, student_interval(few), rng())
    assert refused.bound > -0.02
    assert refused.p == 1 / 16
    assert not refused.shown
