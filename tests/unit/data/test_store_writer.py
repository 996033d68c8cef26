import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from brainsegfounder.data.manifest import Case
from brainsegfounder.data.source_hashes import (
    check_unchanged,
    hash_sources,
    is_unchanged,
    read_hashes,
    write_hashes,
)
from brainsegfounder.data.store import StorePlan, check_store, open_store
from brainsegfounder.data.store_arrays import open_array, write_array
from brainsegfounder.data.store_writer import (
    begin_store,
    case_key,
    finish_store,
    planned,
    source_files,
    whole_case,
    write_case,
)
from brainsegfounder.errors import DataError, StoreError
from brainsegfounder.recipes import load_recipe
from brainsegfounder.settings import PreparationSettings, ReadingSettings
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.preparation import prepare

SETTINGS = PreparationSettings(spacing_mm=None)
PLAN = StorePlan(("T1w",), SETTINGS)


@pytest.fixture
def prepared(draw_brain):
    image, labels = draw_brain()
    return prepare(image, SETTINGS, labels)


@pytest.mark.parametrize("array_format", ["blosc2", "npy"])
def test_both_formats_hold_the_same_arrays(tmp_path, prepared, array_format):
    plan = replace(PLAN, array_format=array_format)
    case = Case("a", "a", {})
    write_case(tmp_path, case, prepared, array_format=array_format)
    finish_store(tmp_path, [case], plan)
    store = open_store(tmp_path)
    assert store.plan == plan
    (stored,) = store.cases
    box = (slice(None), slice(2, 7), slice(3, 5), slice(1, 9))
    wanted = prepared.image.voxels.astype(np.float16)
    np.testing.assert_array_equal(store.image(stored)[box], wanted[box])
    np.testing.assert_array_equal(store.labels(stored)[:], prepared.labels.voxels)
    suffix = {"blosc2": ".b2nd", "npy": ".npy"}[array_format]
    assert (tmp_path / "cases" / f"a.image{suffix}").is_file()


def test_masks_findings_steps_site_and_licence_come_back(tmp_path, prepared):
    rng = np.random.default_rng(0)
    deface = rng.random(prepared.image.shape_vox) < 0.5
    finding = Finding("offset_in_header", "a_T1w.nii", "Ünusual offset.", "repair")
    prepared = replace(
        prepared,
        masks={"deface": deface, "anatomy": ~deface},
        findings=(finding,),
        steps={"brain": {"tier": "given"}, "resampled": [1.0, 2]},
    )
    case = Case("a", "s", {}, site="Guys", licence="CC-BY-4.0")
    write_case(tmp_path, case, prepared)
    finish_store(tmp_path, [case], PLAN)
    store = open_store(tmp_path)
    (stored,) = store.cases
    assert (stored.site, stored.licence) == ("Guys", "CC-BY-4.0")
    assert stored.findings == (finding,)
    assert stored.steps == {"brain": {"tier": "given"}, "resampled": [1.0, 2]}
    assert stored.masks == ("deface", "anatomy")
    np.testing.assert_array_equal(store.mask(stored, "deface")[0], deface)
    np.testing.assert_array_equal(store.mask(stored, "anatomy")[:, 2:4], ~deface[None, 2:4])


def test_a_record_names_files_without_the_folders_of_this_machine(tmp_path, prepared):
    path = tmp_path / 'priv"ate' / "a_T1w.nii.gz"
    finding = Finding("x", str(path), f"{path} was repaired.", "repair")
    prepared = replace(prepared, findings=(finding,), steps={"first": str(path)})
    stored = write_case(tmp_path, Case("a", "a", {"T1w": path}), prepared)
    assert stored.findings == (Finding("x", path.name, "a_T1w.nii.gz was repaired.", "repair"),)
    assert stored.steps == {"first": "a_T1w.nii.gz"}
    assert "private" not in (tmp_path / "cases" / "a.json").read_text().replace('\\"', "")


@pytest.mark.parametrize("name", ["../a", "a/b", "", ".a", "a" * 300, "a\\b"])
def test_a_name_that_would_leave_the_store_is_refused(tmp_path, prepared, name):
    with pytest.raises(DataError, match="a name that no file can have"):
        write_case(tmp_path / "store", Case(name, "a", {}), prepared)
    masked = replace(prepared, masks={f"x/{name}": prepared.brain})
    with pytest.raises(DataError, match="a name that no file can have"):
        write_case(tmp_path / "store", Case("a", "a", {}), masked)
    assert not list(tmp_path.rglob("*.b2nd"))


def test_the_same_case_gives_the_same_bytes(tmp_path, prepared):
    for folder in ("x", "y"):
        write_case(tmp_path / folder, Case("a", "a", {}), prepared)
    x, y = (sorted((tmp_path / folder / "cases").iterdir()) for folder in ("x", "y"))
    assert [path.name for path in x] == [path.name for path in y]
    assert [path.read_bytes() for path in x] == [path.read_bytes() for path in y]
    assert len(x) == 5


@pytest.mark.parametrize("suffix", [".b2nd", ".npy"])
def test_an_array_larger_than_a_chunk_is_read_in_parts(tmp_path, suffix):
    array = np.random.default_rng(0).normal(size=(2, 70, 65, 130)).astype(np.float16)
    write_array(tmp_path / f"a{suffix}", array)
    opened = open_array(tmp_path / f"a{suffix}")
    assert opened.shape == array.shape
    np.testing.assert_array_equal(opened[:, 60:70, 10:65, 100:130], array[:, 60:, 10:, 100:])


# --- keys


def test_a_key_tells_settings_files_and_versions_apart(monkeypatch):
    keys = [
        case_key(PLAN, {"T1w": "1"}),
        case_key(PLAN, {"T1w": "2"}),
        case_key(PLAN, {"T1w": "1", "label": "3"}),
        case_key(replace(PLAN, contrasts=("T2w",)), {"T1w": "1"}),
        case_key(replace(PLAN, preparation=PreparationSettings()), {"T1w": "1"}),
        case_key(replace(PLAN, reading=ReadingSettings(strict=True)), {"T1w": "1"}),
        case_key(replace(PLAN, labels=()), {"T1w": "1"}),
        case_key(replace(PLAN, array_format="npy"), {"T1w": "1"}),
    ]
    monkeypatch.setattr("brainsegfounder.data.store_writer.PREPARATION_VERSION", 3)
    keys.append(case_key(PLAN, {"T1w": "1"}))
    assert len(set(keys)) == len(keys)
    assert case_key(PLAN, {"a": "1", "b": "2"}) == case_key(PLAN, {"b": "2", "a": "1"})


def test_only_files_that_matter_are_the_source_of_a_case():
    case = Case(
        "a",
        "a",
        {"T1w": Path("1"), "T2w": Path("2")},
        label=Path("3"),
        masks={"deface": Path("4")},
    )
    everything = {"T1w": Path("1"), "label": Path("3"), "mask-deface": Path("4")}
    assert source_files(case, PLAN) == everything
    assert "label" not in source_files(case, replace(PLAN, labels=()))


def test_a_stored_case_is_whole_if_key_and_files_agree(tmp_path, prepared):
    case = Case("a", "a", {})
    write_case(tmp_path, case, prepared, key="k")
    assert whole_case(tmp_path, case, "k").case == "a"
    assert whole_case(tmp_path, case, "other") is None
    assert whole_case(tmp_path, Case("b", "b", {}), "k") is None
    record = tmp_path / "cases" / "a.json"
    text = record.read_text()
    record.write_text(text[:100])
    assert whole_case(tmp_path, case, "k") is None
    record.write_text(text)
    (tmp_path / "cases" / "a.labels.b2nd").write_bytes(b"")
    assert whole_case(tmp_path, case, "k") is None


def test_what_the_manifest_says_is_brought_up_to_date_without_preparing(tmp_path, prepared):
    write_case(tmp_path, Case("a", "a", {}), prepared, key="k")
    image = tmp_path / "cases" / "a.image.b2nd"
    before = image.stat()
    now = Case("a", "b", {}, session="2", site="HH", licence="CC0-1.0")
    assert whole_case(tmp_path, now, "k").subject == "b"
    finish_store(tmp_path, [now], PLAN)
    (stored,) = open_store(tmp_path).cases
    assert (stored.subject, stored.session, stored.site) == ("b", "2", "HH")
    assert image.stat() == before


def test_a_case_made_anew_without_a_mask_leaves_none_of_the_old_one(tmp_path, prepared):
    write_case(tmp_path, Case("a", "a", {}), prepared, key="k")
    write_case(tmp_path, Case("a", "a", {}), replace(prepared, labels=None), key="l")
    assert sorted(p.name for p in (tmp_path / "cases").iterdir()) == ["a.image.b2nd", "a.json"]


# --- the store


def test_a_store_says_what_it_is_for_before_it_is_finished(tmp_path, prepared):
    assert planned(tmp_path) is None
    begin_store(tmp_path, PLAN)
    assert planned(tmp_path) == PLAN
    with pytest.raises(StoreError, match=r"no store\.json"):
        open_store(tmp_path)
    write_case(tmp_path, Case("a", "a", {}), prepared)
    assert finish_store(tmp_path, [Case("a", "a", {})], PLAN)
    assert planned(tmp_path) == open_store(tmp_path).plan == PLAN
    assert not (tmp_path / "unfinished").exists()
    assert not finish_store(tmp_path, [Case("a", "a", {})], PLAN), "nothing to say"


def test_a_store_of_an_older_preparation_is_refused_for_training(tmp_path, prepared, monkeypatch):
    recipe = load_recipe(
        "open-stage1", ["preparation.spacing_mm=null", "preparation.margin_mm=4.0"]
    )
    write_case(tmp_path, Case("a", "a", {}), prepared)
    finish_store(tmp_path, [Case("a", "a", {})], StorePlan(("T1w",), recipe.preparation))
    check_store(open_store(tmp_path), recipe)
    monkeypatch.setattr("brainsegfounder.data.store.PREPARATION_VERSION", 3)
    with pytest.raises(StoreError, match="prepared by version 2 of the preparation; expected 3"):
        check_store(open_store(tmp_path), recipe)


# --- source files


def test_a_file_that_did_not_change_is_known_without_reading_it(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"brain")
    (known,) = hash_sources({"T1w": path}).values()
    assert is_unchanged(path, known)
    assert not is_unchanged(path, None)
    write_hashes(tmp_path, {"a": {"T1w": known}})
    assert read_hashes(tmp_path) == {"a": {"T1w": known}}
    path.write_bytes(b"other")
    assert not is_unchanged(path, known), "same size, another time"
    path.unlink()
    assert not is_unchanged(path, known)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": {"T1w": [1]}}', '{"a": 3}'])
def test_damaged_hashes_are_read_as_none(tmp_path, text):
    (tmp_path / "hashes.json").write_text(text)
    assert read_hashes(tmp_path) == {}


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"brain")
    known = hash_sources({"T1w": path})
    check_unchanged({"T1w": path}, known)
    path.write_bytes(b"brain and more")
    with pytest.raises(DataError, match="changed or went away while it was read"):
        check_unchanged({"T1w": path}, known)


def test_how_old_a_stroke_was_comes_back_and_is_brought_up_to_date(tmp_path, prepared):
    case = Case("a", "a", {}, chronicity="acute", days=2.5)
    stored = write_case(tmp_path, case, prepared, key="k")
    assert (stored.chronicity, stored.days) == ("acute", 2.5)
    later = whole_case(tmp_path, replace(case, chronicity="chronic", days=400.0), "k")
    assert (later.chronicity, later.days) == ("chronic", 400.0)
    assert whole_case(tmp_path, replace(case, days=400.0), "k").days == 400.0


def test_labels_are_counted_and_a_case_from_before_is_made_anew(tmp_path, prepared):
    case = Case("a", "a", {})
    stored = write_case(tmp_path, case, prepared, key="k")
    values, numbers = np.unique(prepared.labels.voxels, return_counts=True)
    counts = dict(zip(map(str, values.tolist()), numbers.tolist(), strict=True))
    del counts["0"]
    assert stored.label_voxels == counts
    assert counts
    assert whole_case(tmp_path, case, "k") == stored
    record = tmp_path / "cases" / "a.json"
    content = json.loads(record.read_text())
    del content["label_voxels"]
    record.write_text(json.dumps(content))
    assert whole_case(tmp_path, case, "k") is None
