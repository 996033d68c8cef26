from hypothesis import given
from hypothesis import strategies as st

from brainsegfounder.data.splits import split_subjects
from brainsegfounder.settings import SplitSettings

cohorts = st.lists(st.text("abc01-_", min_size=1, max_size=4), min_size=6, max_size=40).filter(
    lambda names: len(set(names)) >= 6
)


@given(cohorts, st.integers(2, 5), st.integers(0, 2**32), st.floats(0.0, 0.4))
def test_folds_part_subjects_and_never_share_one(cases, folds, seed, fraction):
    settings = SplitSettings(folds=folds, seed=seed, validation_fraction=fraction)
    tested = []
    for fold in range(folds):
        split = split_subjects(cases, settings, fold)
        assert len({*split.train, *split.validation, *split.test}) == len(set(cases))
        assert len(split.train) + len(split.validation) + len(split.test) == len(set(cases))
        tested += split.test
    assert sorted(tested) == sorted(set(cases))
