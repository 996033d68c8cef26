"""Variance by fold, seed and subject, against a mixed model and against simulated truth."""

import warnings

import numpy as np
import pytest
from scipy import stats

from brainsegfounder.evaluation.sources import Cell, variance_sources


def simulated(random, folds, seeds, subjects, fold_sd, training_sd, subject_sd, rest_sd, mean=0.0):
    cells = []
    for fold in range(folds):
        of_fold = random.normal(0, fold_sd)
        of_subject = random.normal(0, subject_sd, subjects)
        for seed in range(seeds):
            of_training = random.normal(0, training_sd)
            for subject in range(subjects):
                value = mean + of_fold + of_training + of_subject[subject]
                name = f"{fold}-{subject}"
                cells.append(Cell(fold, seed, name, value + random.normal(0, rest_sd)))
    return cells


def test_balanced_components_are_those_of_a_mixed_model():
    mixed = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    random = np.random.default_rng(5)
    cells = simulated(random, 6, 3, 8, 0.5, 0.4, 0.6, 0.3)
    ours = variance_sources(cells)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pandas as pd

        table = pd.DataFrame(
            [(c.fold, c.seed, c.subject, c.difference) for c in cells],
            columns=["fold", "seed", "subject", "d"],
        )
        parts = {"seed": "0 + C(seed)", "subject": "0 + C(subject)"}
        model = mixed.MixedLM.from_formula(
            "d ~ 1", table, groups="fold", re_formula="1", vc_formula=parts
        )
        theirs = model.fit(reml=True)
    assert ours.fold_sd == pytest.approx(float(theirs.cov_re.iloc[0, 0]) ** 0.5, rel=1e-3)
    assert [ours.training_sd, ours.subject_sd] == pytest.approx(
        list(np.sqrt(theirs.vcomp)), rel=1e-3
    )
    assert ours.rest_sd == pytest.approx(theirs.scale**0.5, rel=1e-3)
    assert ours.mean == pytest.approx(float(theirs.params["Intercept"]), rel=1e-4)
    # The standard error of the intercept is that of the folds' means.
    half = (ours.interval.high - ours.interval.low) / 2
    error = half / stats.t.ppf(0.975, ours.degrees)
    assert error == pytest.approx(float(theirs.bse["Intercept"]), rel=1e-3)


@pytest.mark.parametrize(
    ("folds", "seeds", "fold_sd"), [(5, 1, 0.3), (5, 2, 0.3), (1, 4, 0.0), (5, 2, 0.0)]
)
def test_the_interval_covers_a_truth_that_trainings_hide(folds, seeds, fold_sd):
    random = np.random.default_rng(folds * 10 + seeds)
    covered = []
    for _ in range(400):
        cells = simulated(random, folds, seeds, 12, fold_sd, 0.5, 0.7, 0.4)
        interval = variance_sources(cells).interval
        covered.append(interval.low <= 0.0 <= interval.high)
    # Where the folds' own spread is nothing, the interval is on the safe side.
    assert 0.925 <= np.mean(covered) <= (0.985 if fold_sd or folds == 1 else 1.0)


def test_an_interval_over_subjects_alone_would_cover_too_seldom():
    random = np.random.default_rng(3)
    covered = []
    for _ in range(300):
        cells = simulated(random, 5, 1, 12, 0.3, 0.5, 0.7, 0.0)
        values = np.array([cell.difference for cell in cells])
        low, high = stats.ttest_1samp(values, 0).confidence_interval()
        covered.append(low <= 0 <= high)
    assert np.mean(covered) < 0.85


def test_one_training_has_no_sources():
    random = np.random.default_rng(0)
    assert variance_sources(simulated(random, 1, 1, 10, 0, 0, 1, 0)) is None
    assert variance_sources([]) is None


def test_one_subject_a_fold_has_no_sources():
    cells = [Cell(fold, 0, f"s{fold}", 0.1 * fold) for fold in range(5)]
    assert variance_sources(cells) is None


def test_with_one_seed_only_folds_and_subjects_are_parted():
    found = variance_sources(simulated(np.random.default_rng(1), 4, 1, 10, 0.2, 0, 1, 0))
    assert found.training_sd is None
    assert found.rest_sd is None
    assert found.degrees == 3
    assert found.fold_sd is not None


def test_subjects_that_a_seed_did_not_test_are_left_out():
    cells = simulated(np.random.default_rng(2), 1, 3, 10, 0, 0.3, 1, 0.2)
    fewer = [cell for cell in cells if (cell.seed, cell.subject) != (1, "0-4")]
    found = variance_sources(fewer)
    assert found.num_subjects == 9
    assert found == variance_sources([cell for cell in cells if cell.subject != "0-4"])


def test_seeds_that_a_fold_lacks_are_left_out():
    cells = simulated(np.random.default_rng(4), 3, 3, 6, 0.2, 0.3, 1, 0.2)
    found = variance_sources([cell for cell in cells if (cell.fold, cell.seed) != (1, 2)])
    assert found.num_seeds == 2
    assert found.num_folds == 3


def test_equal_methods_have_no_variance():
    cells = [Cell(None, seed, f"s{n}", 0.0) for seed in range(3) for n in range(4)]
    found = variance_sources(cells)
    assert (found.mean, found.interval.low, found.interval.high) == (0.0, 0.0, 0.0)
    assert found.training_sd == found.subject_sd == found.rest_sd == 0.0
