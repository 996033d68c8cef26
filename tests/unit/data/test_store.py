import json

import numpy as np
import pytest

from brainsegfounder.data.layouts import read_cases
from brainsegfounder.data.manifest import Case
from brainsegfounder.data.store import StorePlan, check_store, open_store
from brainsegfounder.data.store_writer import MAX_FOREGROUND_VOXELS, finish_store, write_case
from brainsegfounder.errors import LabelError, StoreError
from brainsegfounder.recipes import load_recipe
from brainsegfounder.settings import PreparationSettings
from brainsegfounder.volumes.preparation import Prepared, prepare, prepare_case
from brainsegfounder.volumes.volume import Volume

CONTRASTS = ("T1w", "T1ce", "T2w", "FLAIR")
SETTINGS = PreparationSettings(spacing_mm=(2.5, 2.5, 2.5))
LABELS = {"necrosis": 1, "oedema": 2, "enhancing": 4}


@pytest.fixture(scope="module")
def made(brats_folder, tmp_path_factory):
    """A finished store and the prepared cases that went in."""
    folder = tmp_path_factory.mktemp("store")
    cases = read_cases([brats_folder])
    prepared = {}
    for case in cases:
        prepared[case.case] = prepare_case(
            case.case, case.contrasts, CONTRASTS, SETTINGS, label=case.label
        )
        write_case(folder, case, prepared[case.case], LABELS)
    finish_store(folder, cases, StorePlan(CONTRASTS, SETTINGS))
    return open_store(folder), prepared


@pytest.fixture
def one_case(draw_brain):
    image, labels = draw_brain()
    return Case("a", "a", {}, label=None), prepare(image, SETTINGS, labels)


def test_a_stored_case_comes_back_as_it_was_prepared(made):
    store, prepared = made
    assert [case.case for case in store.cases] == list(prepared)
    for case in store.cases:
        wanted = prepared[case.case]
        assert case.shape_vox == wanted.image.shape_vox
        np.testing.assert_allclose(store.image(case)[:], wanted.image.voxels, atol=2e-3)
        np.testing.assert_array_equal(store.labels(case)[:], wanted.labels.voxels)
        np.testing.assert_array_equal(store.reference(case).voxels, wanted.reference.voxels)
        np.testing.assert_array_equal(case.grid.affine, wanted.image.affine)
        np.testing.assert_array_equal(case.source_grid.affine, wanted.source_grid.affine)
        assert case.source_grid.shape_vox == wanted.source_grid.shape_vox


def test_the_stored_background_is_exactly_0(made):
    store, prepared = made
    for case in store.cases:
        assert not store.image(case)[:][:, ~prepared[case.case].brain].any()


def test_a_part_is_read_without_reading_the_case(made):
    store, prepared = made
    case = store.cases[0]
    box = (slice(None), slice(2, 7), slice(3, 5), slice(1, 9))
    part = store.image(case)[box]
    np.testing.assert_allclose(part, prepared[case.case].image.voxels[box], atol=2e-3)


def test_contrasts_are_returned_in_the_order_asked_for(made):
    store, prepared = made
    case = store.cases[1]
    image = store.prepared_image(case, ["FLAIR", "T1w"])
    assert image.voxels.dtype == np.float32
    wanted = prepared[case.case].image.voxels[[3, 0]]
    np.testing.assert_allclose(image.voxels, wanted, atol=2e-3)
    np.testing.assert_array_equal(image.affine, case.grid.affine)


def test_foreground_voxels_are_labelled_and_every_label_is_among_them(made):
    store, prepared = made
    for case in store.cases:
        rows = store.foreground(case)
        labels = prepared[case.case].labels.voxels[0]
        np.testing.assert_array_equal(labels[tuple(rows[:, 1:].T)], rows[:, 0])
        assert set(rows[:, 0]) == set(np.unique(labels)) - {0}


def test_a_large_lesion_is_sampled_all_over(tmp_path):
    labels = np.ones((1, 30, 30, 30), np.int16)
    labels[0, 0, 0, 0] = 2
    image = Volume(np.random.default_rng(0).normal(size=labels.shape).astype("f4"), np.eye(4))
    volume = Volume(labels, np.eye(4))
    prepared = Prepared(image, volume, volume, np.ones((30, 30, 30), bool), image.grid, ("print",))
    write_case(tmp_path, Case("a", "a", {}), prepared)
    finish_store(tmp_path, [Case("a", "a", {})], StorePlan(("T1w",), SETTINGS))
    store = open_store(tmp_path)
    rows = store.foreground(store.cases[0])
    assert (rows[:, 0] == 1).sum() == MAX_FOREGROUND_VOXELS
    assert (rows[:, 0] == 2).sum() == 1
    assert (rows[:, 1:].max(axis=0) >= 27).all()


def test_a_case_without_a_lesion_is_stored_and_has_no_foreground(tmp_path, draw_brain):
    image, labels = draw_brain()
    labels.voxels[...] = 0
    case = Case("a", "a", {})
    assert write_case(tmp_path, case, prepare(image, SETTINGS, labels), LABELS).has_labels
    finish_store(tmp_path, [case], StorePlan(("T1w",), SETTINGS))
    store = open_store(tmp_path)
    assert store.foreground(store.cases[0]).shape == (0, 4)


def test_a_label_outside_the_recipe_is_refused_and_listed(tmp_path, one_case):
    case, prepared = one_case
    with pytest.raises(LabelError, match=r"label values \[4\] found; expected 0, 1 core, 2 oedema"):
        write_case(tmp_path, case, prepared, {"core": 1, "oedema": 2})
    assert not list(tmp_path.rglob("*.b2nd"))


def test_no_labels_in_the_recipe_store_no_mask_and_none_takes_any(tmp_path, one_case):
    case, prepared = one_case
    assert not write_case(tmp_path / "x", case, prepared, {}).has_labels
    assert not list(tmp_path.rglob("*.labels.b2nd"))
    assert write_case(tmp_path / "y", case, prepared, None).has_labels


def test_a_store_that_fits_the_recipe_is_accepted(made):
    recipe = load_recipe("open-glioma", ["preparation.spacing_mm=[2.5, 2.5, 2.5]"])
    check_store(made[0], recipe)
    fewer = load_recipe(
        "open-glioma", ["preparation.spacing_mm=[2.5, 2.5, 2.5]", "data.contrasts=[FLAIR]"]
    )
    check_store(made[0], fewer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("preparation.margin_mm=9", r"preparation\.margin_mm = 4\.0, but the recipe says 9\.0"),
        ("preparation.spacing_mm=null", r"preparation\.spacing_mm = .*2\.5.* says None"),
        ("data.contrasts=[T1w, PDw]", r"data\.contrasts = .*'FLAIR'.* says \['T1w', 'PDw'\]"),
    ],
)
def test_a_store_prepared_otherwise_is_refused_naming_the_field(made, change, message):
    recipe = load_recipe("open-glioma", ["preparation.spacing_mm=[2.5, 2.5, 2.5]", change])
    with pytest.raises(StoreError, match=message):
        check_store(made[0], recipe)


def test_an_unfinished_store_is_refused(tmp_path, one_case):
    write_case(tmp_path, *one_case)
    with pytest.raises(StoreError, match=r"no store\.json found; expected a finished store"):
        open_store(tmp_path)


@pytest.mark.parametrize("number", [1, 99])
def test_a_store_of_another_format_is_refused(tmp_path, made, number):
    store, _ = made
    record = json.loads((store.folder / "store.json").read_text())
    (tmp_path / "store.json").write_text(json.dumps({**record, "format": number}))
    with pytest.raises(StoreError, match=rf"format {number}; expected 2\. Prepare again"):
        open_store(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2, "cases": ["gone"]}'])
def test_a_damaged_store_is_refused(tmp_path, content):
    (tmp_path / "store.json").write_text(content)
    with pytest.raises(StoreError, match="the store is damaged"):
        open_store(tmp_path)


def test_a_damaged_array_is_refused_by_name(tmp_path, one_case):
    case, prepared = one_case
    write_case(tmp_path, case, prepared)
    finish_store(tmp_path, [case], StorePlan(("T1w",), SETTINGS))
    array = tmp_path / "cases" / "a.image.b2nd"
    num_bytes = array.stat().st_size
    store = open_store(tmp_path)
    assert store.damaged(store.cases[0]) == []
    array.write_bytes(b"x" * num_bytes)
    with pytest.raises(StoreError, match=r"a\.image\.b2nd: cannot be opened"):
        store.image(store.cases[0])
    assert store.damaged(store.cases[0]) == ["a.image.b2nd"]
    array.write_bytes(b"cut")
    with pytest.raises(StoreError, match=rf"b2nd: 3 bytes found; expected {num_bytes} bytes"):
        store.image(store.cases[0])
    array.unlink()
    with pytest.raises(StoreError, match=r"a\.image\.b2nd: cannot be opened"):
        store.image(store.cases[0])


def test_writing_a_case_again_replaces_it_and_leaves_nothing_half_done(tmp_path, one_case):
    case, prepared = one_case
    write_case(tmp_path, case, prepared)
    before = sorted(p.name for p in (tmp_path / "cases").iterdir())
    write_case(tmp_path, case, prepared)
    assert sorted(p.name for p in (tmp_path / "cases").iterdir()) == before
    assert not [name for name in before if "partial" in name]
