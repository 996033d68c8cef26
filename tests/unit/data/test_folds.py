import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from brainsegfounder.data.folds import (
    folds_of_data,
    folds_of_list,
    folds_of_load,
    folds_of_sites,
    lesion_load_ml,
)
from brainsegfounder.data.layouts.fold_lists import read_folds
from brainsegfounder.data.splits import split_cases, split_subjects
from brainsegfounder.data.store import StoredCase
from brainsegfounder.errors import DataError
from brainsegfounder.settings import SplitSettings


def stored(subject, fold=None, has_labels=True, visit=1):
    grid = [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]]
    shape = (8, 8, 8)
    return StoredCase(f"{subject}_{visit}", subject, str(visit), shape, grid, shape, grid,
                      has_labels, (), fold=fold)  # fmt: skip


def test_data_with_a_labelled_case_in_no_fold_get_the_folds_of_the_recipe(caplog):
    assert folds_of_data([stored("a", 0), stored("b"), stored("c", 1)]) == {}
    assert "1 of 3 cases have no fold of the data set's own (b_1, ...)" in caplog.text
    caplog.clear()
    assert folds_of_data([stored("a"), stored("b")]) == {}
    assert caplog.text == ""


def test_cases_without_labels_need_no_fold_and_are_never_tested():
    cases = [stored("a", 0), stored("b", 1), stored("new", has_labels=False)]
    folds = folds_of_data(cases)
    assert folds == {"a": 0, "b": 1}
    settings = SplitSettings(validation_fraction=0.0)
    assert split_subjects([c.subject for c in cases], settings, 1, folds).train == ("a", "new")


def test_data_without_labels_have_folds_only_if_every_case_has():
    cases = [stored("a", 0, has_labels=False), stored("b", 1, has_labels=False)]
    assert folds_of_data(cases) == {"a": 0, "b": 1}
    assert folds_of_data([*cases, stored("c", has_labels=False)]) == {}


def test_a_visit_without_a_fold_follows_its_subject():
    cases = [stored("a", 0), stored("a", visit=2), stored("b", 1)]
    assert folds_of_data(cases) == {"a": 0, "b": 1}


def test_a_subject_in_two_folds_is_refused():
    cases = [stored("a", 0), stored("b", 1), stored("a", 1, visit=2)]
    with pytest.raises(DataError, match=r"a_2: in fold 1, another case of subject a in fold 0"):
        folds_of_data(cases)


def at_sites(**subjects_of):
    return [
        replace(stored(subject), site=site)
        for site, subjects in subjects_of.items()
        for subject in subjects.split()
    ]


def test_folds_of_sites_part_no_site_and_fill_evenly():
    cases = at_sites(Oslo="a b c d e", USC="f g h", Seoul="i j", Leeds="k")
    folds = folds_of_sites(cases, 2)
    by_site = {
        case.site: {folds[c.subject] for c in cases if c.site == case.site} for case in cases
    }
    assert by_site == {"Oslo": {0}, "USC": {1}, "Seoul": {1}, "Leeds": {0}}
    assert len(set(folds_of_sites(cases, 4).values())) == 4
    assert folds_of_sites(cases[::-1], 2) == folds
    split = split_subjects(list(folds), SplitSettings(folds=2), 1, folds)
    assert split.test == ("f", "g", "h", "i", "j")


@pytest.mark.parametrize(
    ("cases", "num_folds", "told"),
    [
        (at_sites(Oslo="a b", USC="c"), 3, "2 sites .*for 3 folds"),
        ([*at_sites(Oslo="a"), stored("b")], 2, "no site"),
        (at_sites(Oslo="a", USC="a b"), 2, "at another site"),
    ],
)
def test_sites_that_make_no_folds_are_refused(cases, num_folds, told):
    with pytest.raises(DataError, match=told):
        folds_of_sites(cases, num_folds)


def with_load(subject, voxels, **facts):
    return replace(stored(subject, **facts), label_voxels=None if voxels is None else {"1": voxels})


def test_folds_of_load_give_every_fold_small_and_large_lesions():
    drawn = np.random.default_rng(0).lognormal(8, 2, 60).astype(int)
    cases = [with_load(f"s{n:02d}", int(voxels)) for n, voxels in enumerate(drawn)]
    folds = folds_of_load(cases, 5, seed=0)
    assert sorted(folds) == [case.subject for case in cases]
    by_size = sorted(range(60), key=lambda n: drawn[n])
    ranks = {f"s{n:02d}": rank for rank, n in enumerate(by_size)}
    for fold in range(5):
        found = sorted(ranks[s] // 5 for s, of in folds.items() if of == fold)
        assert found == list(range(12)), "one of every five neighbours"
    assert folds_of_load(cases[::-1], 5, seed=0) == folds
    assert folds_of_load(cases, 5, seed=1) != folds


def test_the_load_of_a_subject_is_the_mean_of_its_visits_and_unlabelled_ones_come_last():
    cases = [with_load("a", 0), with_load("b", 100), with_load("b", 300, visit=2)]
    cases += [with_load("c", 150), with_load("d", 400)]
    cases += [stored("x", has_labels=False), stored("y", has_labels=False)]
    folds = folds_of_load(cases, 2, seed=0)
    for pair in ("ac", "bd", "xy"):
        assert {folds[subject] for subject in pair} == {0, 1}, pair


def test_the_lesion_load_counts_all_labels_in_ml():
    case = replace(stored("a"), label_voxels={"1": 1500, "4": 500})
    assert lesion_load_ml(case) == pytest.approx(2.0)
    with pytest.raises(DataError, match=r"a_1: no number of labelled voxels.*prepare"):
        lesion_load_ml(stored("a"))
    with pytest.raises(DataError, match="2 subjects for 3 folds"):
        folds_of_load([with_load("a", 1), with_load("b", 2)], 3, seed=0)


DATALIST = {
    "training": [
        {"fold": 0, "image": [f"TrainingData/BraTS2021_00000/BraTS2021_00000_{c}.nii.gz"
                              for c in ("flair", "t1ce", "t1", "t2")],
         "label": "TrainingData/BraTS2021_00000/BraTS2021_00000_seg.nii.gz"},
        {"fold": 1, "image": ["TrainingData/BraTS2021_00002/BraTS2021_00002_flair.nii.gz"]},
        {"fold": 4, "image": "TrainingData/BraTS2021_00003/BraTS2021_00003_flair.nii.gz"},
    ],
    "testing": [{"image": ["x_flair.nii.gz"]}],
}  # fmt: skip
NAMES = {"BraTS2021_00000": 0, "BraTS2021_00002": 1, "BraTS2021_00003": 4}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("brats21_folds.json", json.dumps(DATALIST), NAMES),
        ("splits_final.json", '[{"train": ["b"], "val": ["a"]}, {"train": ["a"], "val": ["b"]}]',
         {"a": 0, "b": 1}),
        ("one.json", '[{"val": "abc"}, {"val": ["b", 4]}]', {"abc": 0, "b": 1}),
        ("participants.tsv", "participant_id\tage\tfold\nsub-01\t60\t2\nsub-02\t61\tn/a\n",
         {"sub-01": 2}),
        ("folds.csv", "case,fold\na,0\nb,1\n", {"a": 0, "b": 1}),
    ],
)  # fmt: skip
def test_lists_of_folds_of_others_are_read(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert read_folds(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.json", '{"test": []}', "neither a list nor `training`"),
        ("a.json", "[]", "no fold"),
        ("a.json", '[{"val": 3}, {"val": {"a": 1}}, {"val": null}, 7]', "no fold"),
        ("a.json", '[{"val": ["a"]}, {"val": ["a"]}]', "a is tested in folds 0 and 1"),
        ("a.json", "{", "no JSON"),
        ("a.csv", "case,age\na,3\n", "the columns case, age"),
        ("a.csv", "case,fold\na,train\nb,test\n", "no fold"),
    ],
)
def test_a_list_without_folds_is_refused_with_what_it_should_be(tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=told):
        read_folds(tmp_path / name)


def test_a_list_is_matched_by_case_or_subject_and_unused_names_are_told(tmp_path, caplog):
    path = tmp_path / "folds.csv"
    path.write_text("case,fold\nb_1,1\nsub-A,0\nother,2\n")
    cases = [stored("a"), stored("a", visit=2), stored("b"), stored("free", has_labels=False)]
    with caplog.at_level(logging.WARNING):
        assert folds_of_list(cases, path) == {"a": 0, "b": 1}
    assert "1 names have no case (other, ...)" in caplog.text


def test_a_list_that_leaves_out_or_parts_a_subject_is_refused(tmp_path):
    path = tmp_path / "folds.csv"
    path.write_text("case,fold\na,0\n")
    with pytest.raises(DataError, match=r"2 subjects with labels are in no fold \(b, c\); 1 are"):
        folds_of_list([stored("a"), stored("b"), stored("c")], path)
    path.write_text("case,fold\na_1,0\na_2,1\n")
    with pytest.raises(DataError, match="a is tested in folds 0 and 1"):
        folds_of_list([stored("a"), stored("a", visit=2)], path)


@pytest.mark.parametrize(
    ("way", "told"),
    [({}, "data"), ({"by": "site"}, "sites"), ({"stratify": "lesion-load"}, "lesion-load"),
     ({"folds_file": "folds.csv"}, "list")],
)  # fmt: skip
def test_a_split_says_what_made_its_folds(tmp_path, monkeypatch, way, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folds.csv").write_text("case,fold\na,0\nb,0\nc,1\nd,1\n")
    names = {"a": 1, "b": 0, "c": 1, "d": 0}
    cases = [
        replace(with_load(name, 100 * fold), fold=fold, site="XY"[name in "ab"])
        for name, fold in names.items()
    ]
    settings = SplitSettings(folds=2, validation_fraction=0.0, **way)
    splits = [split_cases(cases, settings, fold) for fold in (0, 1)]
    assert [split.folds_from for split in splits] == [told] * 2
    assert sorted(splits[0].test + splits[1].test) == list("abcd")
    assert all(not set(split.test) & set(split.train) for split in splits)


def test_two_ways_to_make_folds_are_refused():
    with pytest.raises(ValueError, match=r"by: site and stratify: lesion-load: .* choose one"):
        SplitSettings(by="site", stratify="lesion-load")
