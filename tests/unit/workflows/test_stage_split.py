"""A stage holds out the folds of the data set's own lists, where it has them."""

from dataclasses import replace
from pathlib import Path

import pytest

from brainsegfounder.data.store import Store, open_store
from brainsegfounder.errors import DataError
from brainsegfounder.recipes import load_recipe
from brainsegfounder.workflows.stage import split_of


@pytest.fixture
def store(cohort: Path) -> Store:
    """A store whose first two cases are of fold 1 and whose others are of fold 0."""
    opened = open_store(cohort)
    cases = [replace(case, fold=int(n < 2)) for n, case in enumerate(opened.cases)]
    return replace(opened, cases=tuple(cases))


def test_the_folds_of_the_data_are_held_out(store: Store) -> None:
    split = split_of(store, load_recipe("demo-target"), 1)
    assert set(split.test) == {case.subject for case in store.cases[:2]}
    assert split.folds_from == "data"


def test_named_test_subjects_count_where_no_fold_is_asked_for(store: Store) -> None:
    named = store.cases[-1].subject
    recipe = load_recipe("demo-target", [f"split.test_subjects=[{named}]"])
    split = split_of(store, recipe, None)
    assert split.test == (named,)
    assert split.folds_from == "recipe"


def test_a_subject_in_two_folds_is_refused(store: Store) -> None:
    twin = replace(store.cases[0], case="another-visit", fold=0)
    with pytest.raises(DataError, match="another case of subject"):
        split_of(replace(store, cases=(*store.cases, twin)), load_recipe("demo-target"), 1)


def test_folds_of_sites_test_all_subjects_of_a_site(store: Store) -> None:
    sites = ("north", "south", "north", "south", "east", "north")
    cases = [replace(case, site=site) for case, site in zip(store.cases, sites, strict=False)]
    recipe = load_recipe("demo-target", ["split.by=site", "split.folds=3"])
    split = split_of(replace(store, cases=tuple(cases)), recipe, 0)
    assert set(split.test) == {case.subject for case in cases if case.site == "north"}
    assert split.folds_from == "sites"
