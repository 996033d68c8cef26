import hashlib
import json

import pytest

from brainsegfounder.data.folds import folds_of_data
from brainsegfounder.data.splits import split_subjects
from brainsegfounder.data.store import StoredCase
from brainsegfounder.errors import DataError, UsageError
from brainsegfounder.settings import SplitSettings

SUBJECTS = [f"sub-{n:02d}" for n in range(23)]


def parts(split):
    return [set(split.train), set(split.validation), set(split.test)]


def test_folds_are_disjoint_and_together_are_everyone():
    settings = SplitSettings(folds=4)
    tests = [set(split_subjects(SUBJECTS, settings, fold).test) for fold in range(4)]
    assert sum(map(len, tests)) == len(SUBJECTS)
    assert set.union(*tests) == set(SUBJECTS)
    assert max(map(len, tests)) - min(map(len, tests)) <= 1


@pytest.mark.parametrize("fold", [None, 0, 3])
def test_the_three_parts_of_a_fold_are_disjoint_and_complete(fold):
    split = split_subjects(SUBJECTS, SplitSettings(folds=4), fold)
    train, validation, test = parts(split)
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert train | validation | test == set(SUBJECTS)
    assert split.fold == fold


def test_repeated_visits_are_one_subject():
    visits = ["a", "b", "a", "c", "b", "a", "d"]
    settings = SplitSettings(folds=2)
    assert split_subjects(visits, settings, 0) == split_subjects(sorted("abcd"), settings, 0)


def test_the_order_of_the_cases_does_not_matter_and_the_seed_does():
    settings = SplitSettings(folds=4)
    assert split_subjects(SUBJECTS[::-1], settings, 1) == split_subjects(SUBJECTS, settings, 1)
    other = split_subjects(SUBJECTS, SplitSettings(folds=4, seed=1), 1)
    assert other.test != split_subjects(SUBJECTS, settings, 1).test


def test_the_fingerprint_follows_the_assignment():
    settings = SplitSettings(folds=4)
    one = split_subjects(SUBJECTS, settings, 1)
    assert one.sha256 == split_subjects(SUBJECTS, settings, 1).sha256
    assert one.sha256 != split_subjects(SUBJECTS, settings, 2).sha256


def test_named_subjects_are_the_test_part_when_no_fold_is_asked_for():
    settings = SplitSettings(test_subjects=("sub-03", "sub-20"))
    assert split_subjects(SUBJECTS, settings).test == ("sub-03", "sub-20")
    assert split_subjects(SUBJECTS, SplitSettings()).test == ()


def test_a_named_subject_that_is_absent_is_refused():
    settings = SplitSettings(test_subjects=("sub-03", "sub-99"))
    with pytest.raises(DataError, match=r"split\.test_subjects: sub-99 not among the 23 subjects"):
        split_subjects(SUBJECTS, settings)


@pytest.mark.parametrize("fold", [-1, 4])
def test_a_fold_out_of_range_is_refused(fold):
    with pytest.raises(UsageError, match=rf"--fold {fold}: expected 0 to 3"):
        split_subjects(SUBJECTS, SplitSettings(folds=4), fold)


def test_more_folds_than_subjects_are_refused():
    with pytest.raises(DataError, match=r"3 subjects for 5 folds.*Lower split\.folds"):
        split_subjects(SUBJECTS[:3], SplitSettings(folds=5), 0)


def test_validation_takes_its_share_and_at_least_one():
    def number(fraction, subjects=SUBJECTS):
        split = split_subjects(subjects, SplitSettings(validation_fraction=fraction))
        return len(split.validation)

    assert (number(0.0), number(0.25), number(0.001)) == (0, 6, 1)
    assert number(0.5, ["alone"]) == 0, "the last subject is trained on"


def test_a_split_with_nobody_to_train_on_is_refused():
    with pytest.raises(DataError, match="none is left to train on"):
        split_subjects(["a", "b"], SplitSettings(test_subjects=("a", "b")))


def stored(subject, fold=None, has_labels=True, visit=1):
    grid = [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]]
    shape = (8, 8, 8)
    return StoredCase(f"{subject}_{visit}", subject, str(visit), shape, grid, shape, grid,
                      has_labels, (), fold=fold)  # fmt: skip


def test_a_fold_of_the_data_is_tested_as_it_stands():
    cases = [stored(name, n % 3) for n, name in enumerate(SUBJECTS)]
    folds = folds_of_data(cases)
    for fold in range(3):
        split = split_subjects(SUBJECTS, SplitSettings(folds=5), fold, folds)
        assert split.test == tuple(SUBJECTS[fold::3])
        assert (split.fold, split.folds_from) == (fold, "data")
        train, validation, test = parts(split)
        assert train | validation | test == set(SUBJECTS)
        assert len(train) + len(validation) + len(test) == len(SUBJECTS)
        assert len(validation) == 2


def test_a_fold_that_the_data_do_not_have_is_refused_with_those_they_have():
    folds = folds_of_data([stored("a", 0), stored("b", 2), stored("c", 0)])
    with pytest.raises(UsageError, match=r"--fold 1: no subject is in it; .*own folds are 0, 2"):
        split_subjects(["a", "b", "c"], SplitSettings(), 1, folds)


def test_named_test_subjects_count_without_a_fold_whatever_the_data_say():
    settings = SplitSettings(test_subjects=("b",))
    split = split_subjects(["a", "b", "c"], settings, None, {"a": 0, "b": 1, "c": 2})
    assert (split.test, split.folds_from) == (("b",), "recipe")


def test_the_fingerprint_is_of_the_assignment_alone():
    split = split_subjects(["a", "b", "c", "d"], SplitSettings(folds=2), 1)
    parts_of_it = {"train": split.train, "validation": split.validation, "test": split.test}
    text = json.dumps({**parts_of_it, "fold": 1}, sort_keys=True)
    assert split.sha256 == hashlib.sha256(text.encode()).hexdigest()
