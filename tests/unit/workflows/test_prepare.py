import hashlib
import json
import os
import shutil
from dataclasses import replace

import nibabel as nib
import pytest

from brainsegfounder.cli import app
from brainsegfounder.data.disk_preflight import expected_bytes
from brainsegfounder.data.layouts import read_cases
from brainsegfounder.data.manifest import read_manifest
from brainsegfounder.data.splits import folds_of_data
from brainsegfounder.data.store import open_store
from brainsegfounder.errors import (
    LabelError,
    OutputExistsError,
    Problem,
    RunError,
    StoreError,
)
from brainsegfounder.recipes import load_recipe
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.workflows import prepare as verb
from brainsegfounder.workflows.prepare import run_prepare
from brainsegfounder.workflows.prepare_case import CaseDone, problem_of
from brainsegfounder.workflows.prepare_report import PAGE

RECIPE = load_recipe("demo-target", ["preparation.spacing_mm=null"])


@pytest.fixture
def scans(brats_folder, tmp_path):
    """Two cases that a test may spoil."""
    return shutil.copytree(brats_folder, tmp_path / "scans")


def content(folder):
    """Every file's bytes and times."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def contents(folder):
    """Every file's bytes but the page's, which says how long it took."""
    return {name: data for name, (data, _) in content(folder).items() if name != PAGE}


def test_the_same_command_again_changes_nothing(scans, tmp_path, monkeypatch):
    out = tmp_path / "store"
    first = run_prepare([scans], out, RECIPE)
    assert (first.found, first.reused) == (2, [])
    before = content(out)
    monkeypatch.setattr(verb, "do_case", lambda job: pytest.fail("a case was done again"))
    again = run_prepare([scans], out, RECIPE)
    assert content(out) == before
    assert again.cases == again.reused == first.cases == ["Brats18_A_1", "Brats18_B_1"]


def test_a_touched_file_is_read_again_but_not_prepared_again(scans, tmp_path, monkeypatch):
    out = tmp_path / "store"
    run_prepare([scans], out, RECIPE)
    before = content(out / "cases")
    for path in scans.rglob("*_A_1_t1.nii.gz"):
        os.utime(path)
    called = "brainsegfounder.workflows.prepare_case.prepare_case"
    monkeypatch.setattr(called, lambda *a, **k: pytest.fail("prepared again"))
    assert len(run_prepare([scans], out, RECIPE).reused) == 2
    assert content(out / "cases") == before


def test_without_its_hashes_a_store_is_known_by_reading_the_files(scans, tmp_path):
    out = tmp_path / "store"
    run_prepare([scans], out, RECIPE)
    before = contents(out)
    (out / "hashes.json").unlink()
    assert len(run_prepare([scans], out, RECIPE).reused) == 2
    assert contents(out) == before


def test_a_changed_scan_is_prepared_again_and_the_other_is_not(scans, tmp_path):
    out = tmp_path / "store"
    run_prepare([scans], out, RECIPE)
    before = content(out / "cases")
    a, b = scans / "Brats18_A_1", scans / "Brats18_B_1"
    shutil.copyfile(b / "Brats18_B_1_t2.nii.gz", a / "Brats18_A_1_t2.nii.gz")
    done = run_prepare([scans], out, RECIPE)
    assert done.reused == ["Brats18_B_1"]
    changed = {name for name, entry in content(out / "cases").items() if entry != before[name]}
    assert "Brats18_A_1.image.b2nd" in changed
    assert not [name for name in changed if name.startswith("Brats18_B_1")]
    fresh = tmp_path / "fresh"
    run_prepare([scans], fresh, RECIPE)
    assert contents(out) == contents(fresh)


def test_a_lost_file_of_the_store_is_made_again(scans, tmp_path):
    out = tmp_path / "store"
    run_prepare([scans], out, RECIPE)
    before = contents(out)
    (out / "cases" / "Brats18_A_1.labels.b2nd").unlink()
    (out / "cases" / "Brats18_B_1.image.b2nd").write_bytes(b"cut")
    assert run_prepare([scans], out, RECIPE).reused == []
    assert contents(out) == before


def test_new_cases_are_added_and_vanished_ones_are_listed_no_more(scans, tmp_path):
    out, aside = tmp_path / "store", tmp_path / "aside"
    whole = tmp_path / "whole"
    run_prepare([scans], whole, RECIPE)
    (scans / "Brats18_A_1").rename(aside)
    run_prepare([scans], out, RECIPE)
    aside.rename(scans / "Brats18_A_1")
    done = run_prepare([scans], out, RECIPE)
    assert (done.cases, done.reused) == (["Brats18_A_1", "Brats18_B_1"], ["Brats18_B_1"])
    same = set(contents(whole)) - {"hashes.json"}
    assert {name: contents(out)[name] for name in same} == {n: contents(whole)[n] for n in same}
    shutil.rmtree(scans / "Brats18_A_1")
    done = run_prepare([scans], out, RECIPE)
    assert (done.cases, done.no_longer_found) == (["Brats18_B_1"], ["Brats18_A_1"])
    assert [case.case for case in open_store(out).cases] == ["Brats18_B_1"]
    assert (out / "cases" / "Brats18_A_1.image.b2nd").is_file(), "days of work are not deleted"


@pytest.mark.parametrize(
    ("recipe", "options", "field"),
    [
        (["preparation.margin_mm=9"], {}, r"preparation\.margin_mm = 3\.0; expected 9\.0"),
        (["reading.strict=true"], {}, r"reading\.strict = False; expected True"),
        (["data.contrasts=[T1w]"], {}, r"contrasts = \['T1w', .*\]; expected \['T1w'\]"),
        ([], {"array_format": "npy"}, "array_format = blosc2; expected npy"),
    ],
)
def test_other_settings_into_the_same_store_are_refused(scans, tmp_path, recipe, options, field):
    out = tmp_path / "store"
    run_prepare([scans], out, RECIPE)
    before = content(out)
    other = load_recipe("demo-target", ["preparation.spacing_mm=null", *recipe])
    with pytest.raises(OutputExistsError, match=f"exists already, a store prepared with {field}"):
        run_prepare([scans], out, other, **options)
    assert content(out) == before


def test_a_store_of_an_older_format_is_refused(scans, tmp_path):
    (tmp_path / "store.json").write_text('{"format": 1, "contrasts": ["T1w"], "cases": []}')
    with pytest.raises(StoreError, match=r"format 1; expected 2\. Prepare again"):
        run_prepare([scans], tmp_path, RECIPE)


def test_any_number_of_processes_gives_the_same_bytes_in_the_same_order(scans, tmp_path):
    (scans / "Brats18_A_1" / "Brats18_A_1_t2.nii.gz").write_bytes(b"no image")
    here = run_prepare([scans], tmp_path / "here", RECIPE)
    there = run_prepare([scans], tmp_path / "there", RECIPE, jobs=2)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    assert here.cases == there.cases == ["Brats18_B_1"]
    assert list(there.refused) == ["Brats18_A_1"]
    assert here.refused == there.refused


def test_npy_stores_train_like_the_others(scans, tmp_path):
    plain = run_prepare([scans], tmp_path / "npy", RECIPE, array_format="npy")
    assert plain.cases == ["Brats18_A_1", "Brats18_B_1"]
    run_prepare([scans], tmp_path / "b2nd", RECIPE)
    one, other = (open_store(tmp_path / name) for name in ("npy", "b2nd"))
    for left, right in zip(one.cases, other.cases, strict=True):
        assert (one.image(left)[:] == other.image(right)[:]).all()
        assert (one.reference(left).voxels == other.reference(right).voxels).all()


def test_what_was_refused_is_written_down_without_folders(scans, tmp_path):
    bad = scans / "Brats18_A_1" / "Brats18_A_1_t2.nii.gz"
    bad.write_bytes(b"no image")
    done = run_prepare([scans], tmp_path / "store", RECIPE)
    assert isinstance(done.refused["Brats18_A_1"], Problem)
    assert str(bad) in str(done.refused["Brats18_A_1"])
    record = json.loads((tmp_path / "store" / "refused.json").read_text())
    assert record["Brats18_A_1"]["file"] == bad.name
    provenance = json.loads((tmp_path / "store" / "provenance.json").read_text())
    assert provenance["refused"] == ["Brats18_A_1"]
    assert provenance["settings"]["preparation"]["margin_mm"] == 3.0
    assert provenance["versions"]["numpy"]
    for path in (tmp_path / "store").rglob("*.*"):
        assert str(tmp_path).encode() not in path.read_bytes(), path


def test_findings_are_handed_on_and_kept(scans, tmp_path, monkeypatch):
    called = "brainsegfounder.workflows.prepare_case.prepare_case"
    real, finding = verb.do_case.__globals__["prepare_case"], Finding("x", "a", "b.", "warning")

    def with_finding(*arguments, **options):
        return replace(real(*arguments, **options), findings=(finding,))

    monkeypatch.setattr(called, with_finding)
    for _ in range(2):
        done = run_prepare([scans], tmp_path / "store", RECIPE)
        assert done.findings == {"Brats18_A_1": (finding,), "Brats18_B_1": (finding,)}
    record = json.loads((tmp_path / "store" / "provenance.json").read_text())
    assert record["findings"]["Brats18_A_1"][0]["code"] == "x"


def test_an_error_of_ours_on_one_case_costs_only_that_case(scans, tmp_path, monkeypatch, caplog):
    called = "brainsegfounder.workflows.prepare_case.prepare_case"
    real = verb.do_case.__globals__["prepare_case"]

    def fails(case, *arguments, **options):
        if case == "Brats18_A_1":
            raise ZeroDivisionError("oops")
        return real(case, *arguments, **options)

    monkeypatch.setattr(called, fails)
    done = run_prepare([scans], tmp_path / "store", RECIPE)
    assert done.cases == ["Brats18_B_1"]
    assert done.refused["Brats18_A_1"].code == "internal_error"
    assert "ZeroDivisionError: oops" in caplog.text


def test_what_is_no_case_of_its_own_ends_the_run(scans, tmp_path, monkeypatch):
    monkeypatch.setattr(verb, "do_case", lambda job: CaseDone(fatal=RunError("disk full")))
    with pytest.raises(RunError, match="disk full"):
        run_prepare([scans], tmp_path / "store", RECIPE)
    assert not (tmp_path / "store" / "store.json").exists()


def test_a_disk_too_small_is_refused_with_both_numbers_before_anything(
    scans, tmp_path, monkeypatch
):
    monkeypatch.setattr("brainsegfounder.data.disk_preflight.free_bytes", lambda path: 1000)
    with pytest.raises(RunError, match=r"about 0\.\d+ GB needed for 2 cases, 1e-06 GB free"):
        run_prepare([scans], tmp_path / "store", RECIPE)
    assert not (tmp_path / "store").exists()


def test_the_disk_a_store_takes_is_not_more_than_was_expected(scans, tmp_path):
    for array_format in ("blosc2", "npy"):
        out = tmp_path / array_format
        run_prepare([scans], out, RECIPE, array_format=array_format)
        taken = sum(p.stat().st_size for p in out.glob("cases/*"))
        expected = expected_bytes(read_cases([scans]), open_store(out).plan)
        assert 0 < taken <= expected


def test_an_error_in_words_becomes_a_problem_that_says_the_same():
    problem = problem_of(LabelError("a.nii: something went wrong."), "a")
    assert (problem.code, problem.file) == ("unfit", "a")
    assert str(problem).startswith("a: a.nii: something went wrong; expected")


def test_the_command_prints_what_machines_read_and_ends_with_3(scans, tmp_path, capsys):
    (scans / "Brats18_A_1" / "Brats18_A_1_t2.nii.gz").write_bytes(b"no image")
    words = ["prepare", str(scans), "--out", str(tmp_path / "s"), "--recipe", "demo-target"]
    with pytest.raises(SystemExit) as ended:
        app([*words, "--jobs", "0", "--json"])
    assert ended.value.code == 3
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    assert record["cases"] == ["Brats18_B_1"]
    assert record["refused"]["Brats18_A_1"]["code"]
    assert "refused Brats18_A_1: " in printed.err


def test_every_scan_of_a_store_has_a_row_of_the_manifest(scans, tmp_path):
    out = tmp_path / "store"
    run_prepare([scans], out, RECIPE)
    rows = read_manifest(out / "scans.csv")
    assert sorted(row.contrast for row in rows[:4]) == ["FLAIR", "T1ce", "T1w", "T2w"]
    for row in rows:
        content = (scans / row.path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row.sha256
        assert nib.load(scans / row.path).shape == row.shape
        assert (scans / row.label).is_file()
        axes = nib.aff2axcodes(nib.load(scans / row.path).affine)
        assert row.orientation == "".join(axes)


def test_folds_of_a_list_reach_the_store_and_follow_it_without_preparing_anew(
    scans, tmp_path, monkeypatch
):
    out, names = tmp_path / "store", ("Brats18_A_1", "Brats18_B_1")

    def prepared(folds):
        entries = [
            {"image": [f"{n}/{n}_{e}.nii.gz" for e in ("flair", "t1ce", "t1", "t2")], "fold": fold,
             "label": f"{n}/{n}_seg.nii.gz"}
            for n, fold in zip(names, folds, strict=True)
        ]  # fmt: skip
        (scans / "folds.json").write_text(json.dumps({"training": entries}))
        return run_prepare([scans / "folds.json"], out, RECIPE)

    prepared((0, 1))
    assert folds_of_data(open_store(out).cases) == dict(zip(names, (0, 1), strict=True))
    monkeypatch.setattr(
        "brainsegfounder.workflows.prepare_case.prepare_case",
        lambda *a, **k: pytest.fail("prepared again"),
    )
    assert prepared((3, 2)).reused == list(names)
    assert folds_of_data(open_store(out).cases) == dict(zip(names, (3, 2), strict=True))
    rows = read_manifest(out / "scans.csv")
    assert {(row.case, row.fold) for row in rows} == set(zip(names, (3, 2), strict=True))
