"""The verb audit: parts of every sort, planted leaks, and what it writes."""

import csv
import gzip
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from brainsegfounder.cli import app
from brainsegfounder.data.splits import Split
from brainsegfounder.errors import DataError, UsageError
from brainsegfounder.volumes.geometry import to_ras
from brainsegfounder.volumes.intensity import fingerprint
from brainsegfounder.volumes.nifti import read_nifti, write_nifti
from brainsegfounder.volumes.phantom import draw_subject
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.audit import Part, parse_part, run_audit
from brainsegfounder.workflows.evaluate import run_evaluate
from brainsegfounder.workflows.prepare import run_prepare

PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Three drawn brains as files of their own."""
    folder = tmp_path_factory.mktemp("scans")
    for n in range(3):
        subject = draw_subject(n, seed=9, lesion="stroke", contrasts=["T1w"], spacing_mm=3.0)
        write_nifti(folder / f"brain{n}_T1w.nii.gz", subject.volumes["T1w"])
    return folder


@pytest.fixture
def train(scans, tmp_path):
    return shutil.copytree(scans, tmp_path / "train")


@pytest.fixture
def held_out(tmp_path):
    folder = tmp_path / "test"
    folder.mkdir()
    return folder


def audited(tmp_path, *folders):
    parts = [Part(folder.name, folder) for folder in folders]
    return run_audit(parts, tmp_path / "audit")


def rezipped(source, target):
    target.write_bytes(gzip.compress(gzip.decompress(source.read_bytes()), 1))


def reoriented(source, target):
    image = nib.load(source)
    turn = nib.orientations.axcodes2ornt(("P", "S", "R"))
    nib.save(image.as_reoriented(turn), target)


def noisy(source, target):
    image = nib.load(source)
    voxels = np.asarray(image.dataobj, np.float32)
    noise = np.random.default_rng(1).normal(size=voxels.shape) * 0.05 * voxels.max()
    nib.save(nib.Nifti1Image(np.where(voxels, voxels + noise, 0), image.affine), target)


def test_L03_L04_each_planted_scan_is_found_and_nothing_else(train, held_out, tmp_path):
    for n, harm in enumerate((rezipped, reoriented, noisy)):
        harm(train / f"brain{n}_T1w.nii.gz", held_out / f"someone{n}_T1w.nii.gz")
    found = audited(tmp_path, train, held_out)
    rows = list(csv.DictReader((tmp_path / "audit" / "audit.csv").read_text().splitlines()))
    assert [(row["kind"], row["case"], row["other_case"]) for row in rows] == [
        ("same_voxels", "brain0", "someone0"),
        ("same_voxels", "brain1", "someone1"),
        ("same_brain", "brain2", "someone2"),
    ]
    assert [row["is_leak"] for row in rows] == ["True"] * 3
    assert not found.is_clean
    page = (tmp_path / "audit" / "report.html").read_text()
    assert page.count("data:image/png") == 3
    assert "brain2 and someone2" in page


def test_parts_without_a_leak_are_clean_and_the_verb_ends_with_0(train, held_out, tmp_path):
    (train / "brain1_T1w.nii.gz").rename(held_out / "brain1_T1w.nii.gz")
    words = ["audit", str(train), f"held-out={held_out}", "--out", str(tmp_path / "a")]
    ended = CliRunner().invoke(app, [*words, "--jobs", "0", "--json"])
    assert ended.exit_code == 0, ended.output
    record = json.loads((tmp_path / "a" / "audit.json").read_text())
    assert record["is_clean"] is True
    assert record["parts"] == {"train": 2, "held-out": 1}
    assert record["overlaps"] == []


def test_an_unreadable_scan_is_named_and_the_rest_is_compared(train, held_out, tmp_path):
    shutil.copyfile(train / "brain0_T1w.nii.gz", held_out / "copy_T1w.nii.gz")
    (held_out / "torn_T1w.nii.gz").write_bytes(b"no image")
    words = ["audit", str(train), str(held_out), "--out", str(tmp_path / "a"), "--jobs", "0"]
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 3
    assert "LEAK same_voxels" in ended.output
    assert "refused test: torn" in ended.output


def test_a_store_is_compared_with_the_scans_it_was_made_from(scans, tmp_path):
    run_prepare([scans], tmp_path / "store", page=False)
    parts = [Part("store", tmp_path / "store"), Part("raw", scans)]
    found = run_audit(parts, tmp_path / "audit")
    pairs = {frozenset({o.one.subject, o.other.subject}) for o in found.leaks}
    assert {str(o.kind) for o in found.leaks} == {"same_voxels"}
    assert len(pairs) == len(found.leaks) == found.parts["store"]


def run_folder(folder, *, train=("a", "b"), test=("c",), choices=None, edit=False, openings=1):
    folder.mkdir()
    split = Split(tuple(train), ("v",), tuple(test), 0)
    facts = {f"{part}_subjects": list(getattr(split, part)) for part in PARTS}
    facts |= {"fold": 0, "sha256": {"split": split.sha256}, "seen_scans": ["0123456789abcdef"]}
    facts["choices"] = choices or {"best_model": "validation_subjects"}
    if edit:
        facts["test_subjects"] = ["d"]
    (folder / "provenance.json").write_text(json.dumps(facts))
    rows = [json.dumps({"weights_sha256": str(n)}) for n in range(openings)]
    (folder / "test_openings.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def broken(tmp_path, **facts):
    found = run_audit([Part("run", run_folder(tmp_path / "run", **facts))], tmp_path / "audit")
    return [(check.code, check.sentence) for check in found.checks if not check.is_met]


def test_an_honest_run_meets_every_check(tmp_path):
    assert broken(tmp_path) == []


def test_L01_a_run_with_a_subject_in_two_parts_is_broken(tmp_path):
    [(code, sentence)] = broken(tmp_path, train=("a", "sub-C"))
    assert (code, sentence) == ("parts_disjoint", "Subjects: in two parts: c (train, test).")


@pytest.mark.parametrize("basis", ["test_subjects", ["a", "c"]])
def test_L06_a_choice_made_on_the_test_part_is_broken(tmp_path, basis):
    [(code, sentence)] = broken(tmp_path, choices={"threshold": basis})
    assert (code, sentence) == ("choices", "threshold was chosen on 1 test subjects.")


def test_L07_a_second_opening_of_the_test_part_is_flagged(tmp_path):
    [(code, sentence)] = broken(tmp_path, openings=2)
    assert code == "test_opened_once"
    assert "scored 2 times, with 2 different weights" in sentence


def test_a_second_opening_with_fewer_contrasts_is_another_question_to_be_asked_once(tmp_path):
    run = run_folder(tmp_path / "run")
    lines = [{"weights_sha256": "0"}] + [
        {"weights_sha256": "0", "contrasts": seen} for seen in ("T1w", "T1w, FLAIR")
    ]
    (run / "test_openings.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    checks = run_audit([Part("run", run)], tmp_path / "audit").checks
    [opened] = [check for check in checks if check.code == "test_opened_once"]
    assert opened.is_met
    assert opened.sentence.endswith("once, and once with only each of T1w; T1w, FLAIR.")
    (run / "test_openings.jsonl").write_text("\n".join(map(json.dumps, [*lines, lines[1]])))
    again = run_audit([Part("run", run)], tmp_path / "again").checks
    assert [check.code for check in again if not check.is_met] == ["test_opened_once"]


def test_L08_an_edited_split_is_noticed(tmp_path):
    [(code, sentence)] = broken(tmp_path, edit=True)
    assert code == "split_unchanged"
    assert "the lists of subjects are not those it was trained with" in sentence


def test_L05_a_test_scan_in_what_a_model_has_seen_is_a_leak(tmp_path, train, held_out):
    mark = fingerprint(to_ras(read_nifti(train / "brain2_T1w.nii.gz")).voxels[0])
    run = run_folder(tmp_path / "run")
    facts = json.loads((run / "provenance.json").read_text())
    (run / "provenance.json").write_text(json.dumps({**facts, "seen_scans": [mark]}))
    shutil.copyfile(train / "brain2_T1w.nii.gz", held_out / "new_T1w.nii.gz")
    found = audited(tmp_path, run, held_out)
    assert [(str(o.kind), o.other.case) for o in found.leaks] == [("same_voxels", "new")]


def test_parts_have_names_and_must_exist(tmp_path):
    (tmp_path / "x").mkdir()
    assert parse_part(f"mine={tmp_path / 'x'}") == Part("mine", tmp_path / "x")
    assert parse_part(str(tmp_path / "x")).name == "x"
    with pytest.raises(UsageError, match="no such file or folder; expected a folder of scans"):
        run_audit([Part("y", tmp_path / "y")], tmp_path / "out")
    with pytest.raises(UsageError, match="x: the name of two parts"):
        run_audit([Part("x", tmp_path / "x")] * 2, tmp_path / "out")


def test_a_provenance_that_is_none_is_refused(tmp_path):
    run = run_folder(tmp_path / "run")
    (run / "provenance.json").write_text("[]")
    with pytest.raises(DataError, match=r"run/provenance\.json: list; expected what a run wrote"):
        run_audit([Part("run", run)], tmp_path / "out")


def label_folder(folder, *cases):
    folder.mkdir()
    voxels = np.zeros((1, 8, 8, 8), np.int16)
    voxels[0, 2:5, 2:5, 2:5] = 1
    for case in cases:
        write_nifti(folder / f"{case}_seg.nii.gz", Volume(voxels, np.eye(4)))
    return folder


def test_L08_evaluation_in_a_runs_name_refuses_what_it_has_seen_and_an_edited_split(tmp_path):
    honest = label_folder(tmp_path / "honest", "c")
    leaked = label_folder(tmp_path / "leaked", "c", "sub-B_visit2")
    run = run_folder(tmp_path / "run")
    run_evaluate(honest, honest, tmp_path / "out", run=run)
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    split = json.loads((run / "provenance.json").read_text())["sha256"]["split"]
    assert (record["split_sha256"], record["fold"]) == (split, 0)
    with pytest.raises(DataError, match="sub-B_visit2: seen in training or in the choice"):
        run_evaluate(leaked, leaked, tmp_path / "out2", run=run)
    edited = run_folder(tmp_path / "edited", edit=True)
    with pytest.raises(DataError, match="the lists of subjects are not those it was trained with"):
        run_evaluate(honest, honest, tmp_path / "out3", run=edited)
