import numpy as np
import pytest

from brainsegfounder.evaluation.probe import probe_classes, probe_number, ridge


def subjects(number):
    return [f"sub-{i:03d}" for i in range(number)]


def test_ridge_finds_what_is_linear_and_ignores_scale_and_shift():
    rng = np.random.default_rng(0)
    features, weights = rng.normal(size=(80, 5)), np.arange(1.0, 6.0)
    values = features @ weights + 40
    other = rng.normal(size=(9, 5))
    expected = other @ weights + 40
    assert ridge(features, values, other) == pytest.approx(expected, abs=0.05)
    stretched = [1e3, 1e-3, 1, 7, 1]
    again = ridge(features * stretched + 9, values, other * stretched + 9)
    assert again == pytest.approx(ridge(features, values, other), abs=1e-6)


def test_the_strength_is_the_one_whose_left_out_error_is_least():
    """Against refitting without each image in turn, over the same strengths."""
    from brainsegfounder.evaluation import probe

    rng = np.random.default_rng(1)
    features = rng.normal(size=(24, 40))
    features = (features - features.mean(0)) / features.std(0)
    values = features[:, 0] + rng.normal(size=24)
    errors = []
    for strength in probe.STRENGTHS:
        penalty = strength * np.square(np.linalg.svd(features)[1][:23]).mean()
        wrong = []
        for left in range(24):
            rest = np.arange(24) != left
            design = np.c_[features, np.ones(24)]
            gram = design[rest].T @ design[rest] + penalty * np.diag([1.0] * 40 + [0.0])
            wrong.append(design[left] @ np.linalg.solve(gram, design[rest].T @ values[rest]))
        errors.append(np.square(np.array(wrong) - values).mean())
    best = probe.STRENGTHS[int(np.argmin(errors))]
    penalty = best * np.square(np.linalg.svd(features)[1][:23]).mean()
    weights = np.linalg.solve(
        features.T @ features + penalty * np.eye(40), features.T @ (values - values.mean())
    )
    other = rng.normal(size=(6, 40))
    assert ridge(features, values, other) == pytest.approx(values.mean() + other @ weights, 1e-6)


def test_a_number_in_the_features_is_read_off_and_one_that_is_not_is_left_at_chance():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(100, 60))
    age = 50 + 10 * features[:, 3] + rng.normal(size=100)
    found = probe_number(features, age, subjects(100))
    assert found.r2 > 0.8
    assert found.mae < 0.5 * found.chance_mae
    assert found.chance_mae == pytest.approx(8, abs=2)
    nothing = probe_number(features, rng.normal(size=100), subjects(100))
    assert nothing.r2 < 0.1
    assert nothing.num_images == 100


def test_two_classes_are_told_apart_where_they_differ_and_at_chance_where_they_do_not():
    rng = np.random.default_rng(3)
    features, first = rng.normal(size=(90, 30)), (np.arange(90) % 3 == 0).astype(float)
    features[:, 4] += 4 * first
    found = probe_classes(features, first, subjects(90))
    assert found.auc > 0.95
    assert found.accuracy > 0.85
    assert found.chance_accuracy == pytest.approx(2 / 3)
    drawn = [
        probe_classes(np.random.default_rng(seed).normal(size=(90, 30)), first, subjects(90)).auc
        for seed in range(12)
    ]
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.05)


def test_a_subject_is_never_on_both_sides():
    """Twice the same image tells everything about itself; only other subjects may be asked."""
    rng = np.random.default_rng(4)
    features = np.repeat(rng.normal(size=(40, 200)), 2, axis=0)
    noise = np.repeat(rng.normal(size=40), 2)
    twice = [name for name in subjects(40) for _ in range(2)]
    apart = probe_number(features, noise, twice)
    mixed = probe_number(features, noise, subjects(80))
    assert apart.r2 < 0.2
    assert mixed.r2 > 0.6


def test_unknown_values_are_left_out_and_too_few_give_nothing():
    rng = np.random.default_rng(5)
    features, values = rng.normal(size=(50, 8)), rng.normal(size=50)
    values[:15] = np.nan
    assert probe_number(features, values, subjects(50)).num_images == 35
    values[:31] = np.nan
    assert probe_number(features, values, subjects(50)) is None
    assert probe_number(features, np.ones(50), subjects(50)) is None
    sex = np.r_[np.zeros(44), np.ones(6)]
    assert probe_classes(features, sex, subjects(50)) is None


def test_features_that_have_collapsed_are_at_chance():
    values = np.random.default_rng(6).normal(size=40)
    found = probe_number(np.ones((40, 16)), values, subjects(40))
    assert found.r2 == pytest.approx(0.0, abs=1e-9)
    assert found.mae == pytest.approx(found.chance_mae)
    classes = probe_classes(np.ones((40, 16)), (values > 0).astype(float), subjects(40))
    assert classes.auc == pytest.approx(0.5)
