import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainsegfounder.data.cases import Case
from brainsegfounder.data.pseudonyms import Pseudonyms
from brainsegfounder.data.splits import folds_of_data
from brainsegfounder.data.store import open_store
from brainsegfounder.errors import DataError, OutputExistsError, UsageError
from brainsegfounder.evaluation.participants import read_participants
from brainsegfounder.recipes import load_recipe
from brainsegfounder.volumes.analyze import is_oasis
from brainsegfounder.volumes.nifti import read_nifti
from brainsegfounder.workflows import prepare as verb
from brainsegfounder.workflows import prepare_pseudonyms as hiding
from brainsegfounder.workflows.prepare import run_prepare

RECIPE = load_recipe("demo-target", ["preparation.spacing_mm=null"])


@pytest.fixture
def scans(brats_folder, tmp_path):
    """Two cases that a test may spoil."""
    return shutil.copytree(brats_folder, tmp_path / "scans")


@pytest.fixture
def table(tmp_path):
    """Where the table of pseudonyms goes."""
    return tmp_path / "private" / "who.csv"


def names(table, kind="subject"):
    """The pseudonym of each name."""
    with table.open(newline="", encoding="utf-8") as file:
        return {
            row["name"]: row["pseudonym"] for row in csv.DictReader(file) if row["kind"] == kind
        }


def content(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def test_the_same_command_again_changes_neither_store_nor_table(
    scans, table, tmp_path, monkeypatch
):
    out = tmp_path / "store"
    first = run_prepare([scans], out, RECIPE, pseudonyms=table, page=False)
    before = content(out) | content(table.parent)
    monkeypatch.setattr(verb, "do_case", lambda job: pytest.fail("a case was done again"))
    again = run_prepare([scans], out, RECIPE, pseudonyms=table, page=False)
    assert content(out) | content(table.parent) == before
    assert again.cases == again.reused == first.cases == [*names(table, "case").values()]


def test_a_subject_that_is_added_leaves_the_others_their_pseudonyms(scans, table, tmp_path):
    out = tmp_path / "store"
    hidden = tmp_path / "Brats18_A_1"
    (scans / "Brats18_A_1").rename(hidden)
    [old] = run_prepare([scans], out, RECIPE, pseudonyms=table, page=False).cases
    hidden.rename(scans / "Brats18_A_1")
    done = run_prepare([scans], out, RECIPE, pseudonyms=table, page=False)
    assert done.reused == [old]
    assert len(done.cases) == 2
    assert done.no_longer_found == []


def test_two_stores_know_a_subject_by_one_pseudonym(scans, table, tmp_path):
    stores = [tmp_path / "first", tmp_path / "second"]
    done = [run_prepare([scans], out, RECIPE, pseudonyms=table, page=False).cases for out in stores]
    assert done[0] == done[1]


def test_a_store_of_names_is_not_continued_with_pseudonyms(scans, table, tmp_path):
    out = tmp_path / "store"
    run_prepare([scans], out, RECIPE)
    before = content(out)
    with pytest.raises(OutputExistsError, match=r"a store with the names of the data.*Leave"):
        run_prepare([scans], out, RECIPE, pseudonyms=table, page=False)
    assert content(out) == before
    assert not table.exists()


def test_a_store_of_pseudonyms_is_not_continued_with_names(scans, table, tmp_path):
    out = tmp_path / "store"
    run_prepare([scans], out, RECIPE, pseudonyms=table, page=False)
    before = content(out)
    with pytest.raises(OutputExistsError, match=r"a store with pseudonyms.*Add --pseudonyms"):
        run_prepare([scans], out, RECIPE)
    assert content(out) == before


def test_nor_with_another_table(scans, table, tmp_path):
    out = tmp_path / "store"
    run_prepare([scans], out, RECIPE, pseudonyms=table, page=False)
    before = content(out)
    with pytest.raises(OutputExistsError, match=r"2 of its cases \(sub-\w{8}, ...\) do not stand"):
        run_prepare([scans], out, RECIPE, pseudonyms=tmp_path / "another.csv")
    assert content(out) == before


def test_the_table_lies_neither_in_the_store_nor_in_the_scans(scans, tmp_path):
    out = tmp_path / "store"
    for place, where in ((out / "who.csv", "in the store"), (scans / "who.csv", "in an input")):
        with pytest.raises(UsageError, match=where):
            run_prepare([scans], out, RECIPE, pseudonyms=place)
    with pytest.raises(UsageError, match=r"ends in \.csv"):
        run_prepare([scans], out, RECIPE, pseudonyms=tmp_path / "who.xlsx")
    assert not out.exists()


def test_pseudonyms_written_by_hand_are_used(scans, table, tmp_path):
    table.parent.mkdir()
    table.write_text("kind,name,pseudonym\nsubject,Brats18_A_1,P001\n")
    done = run_prepare([scans], tmp_path / "store", RECIPE, pseudonyms=table, page=False)
    assert "P001" in done.cases
    assert (done.store / "cases" / "P001.json").is_file()


def test_a_subject_is_excluded_by_its_name_or_its_pseudonym(scans, table, tmp_path):
    def excluding(name):
        data = RECIPE.data.model_copy(update={"exclude_subjects": (name,)})
        recipe = RECIPE.model_copy(update={"data": data})
        return run_prepare([scans], tmp_path / name, recipe, pseudonyms=table, page=False)

    by_name = excluding("Brats18_A_1")
    pseudonym = names(table)["Brats18_A_1"]
    assert by_name.excluded == [pseudonym]
    assert pseudonym not in by_name.cases
    assert excluding(pseudonym).cases == by_name.cases


def test_folds_of_the_data_stay_with_their_subjects(scans, table, tmp_path):
    entries = [
        {"image": [f"{n}/{n}_{e}.nii.gz" for e in ("flair", "t1ce", "t1", "t2")], "fold": fold,
         "label": f"{n}/{n}_seg.nii.gz"}
        for n, fold in (("Brats18_A_1", 1), ("Brats18_B_1", 0))
    ]  # fmt: skip
    (scans / "folds.json").write_text(json.dumps({"training": entries}))
    done = run_prepare(
        [scans / "folds.json"], tmp_path / "store", RECIPE, pseudonyms=table, page=False
    )
    known = names(table)
    folds = folds_of_data(open_store(done.store).cases)
    assert folds == {known["Brats18_A_1"]: 1, known["Brats18_B_1"]: 0}


def test_participants_are_found_by_their_pseudonyms_and_sites_are_renamed(tmp_path):
    path = tmp_path / "participants.tsv"
    path.write_text("participant_id\tage\tsite\nsub-Anna\t40\tGuys\nsub-Zoe\t50\tHH\n")
    known = Pseudonyms({("subject", "sub-Anna"): "P1", ("site", "HH"): "site-1"})
    people = hiding._renamed_people(read_participants(path), known)
    assert people.rows["p1"] == {"age": "40.0", "site": "site-2"}
    assert [values["site"] for values in people.rows.values()] == ["site-2", "site-1"]


def test_the_page_counts_participants_under_pseudonyms(scans, table, tmp_path):
    people = tmp_path / "people.tsv"
    people.write_text("participant_id\tage\nBrats18_A_1\t40\nBrats18_B_1\t50\n")
    done = run_prepare([scans], tmp_path / "store", RECIPE, participants=people, pseudonyms=table)
    page = (done.store / "report.html").read_text(encoding="utf-8")
    assert "2 of the 2 subjects in the store stand in the table of participants" in page
    people.write_text("nothing\n")
    again = run_prepare([scans], tmp_path / "again", RECIPE, participants=people, pseudonyms=table)
    assert "participants_unreadable" in {finding.code for finding in again.noticed}


def test_links_keep_what_reading_asks_of_names(tmp_path, bench_pair):
    oasis = tmp_path / "OAS1_0345_MR2_mpr_n4_anon_sbj_111"
    for suffix in (".img", ".hdr"):
        oasis.with_name(oasis.name + suffix).touch()
    case = Case(
        "P1", "P1", {"T1w": oasis.with_name(oasis.name + ".img"), "T2w": bench_pair / "Anna.img"}
    )
    room = tmp_path / "room"
    room.mkdir()
    linked = hiding._linked(case, room).contrasts
    assert is_oasis(linked["T1w"])
    assert "0345" not in str(linked["T1w"])
    assert linked["T1w"].with_suffix(".hdr").is_file()
    assert linked["T2w"] == room / "P1_T2w.img"
    assert read_nifti(linked["T2w"]).voxels.sum() == 24**3


@pytest.fixture
def bench_pair(tmp_path):
    """A folder with a NIfTI pair."""
    folder = tmp_path / "pair"
    folder.mkdir()
    pair = nib.Nifti1Pair(np.ones((24, 24, 24), np.float32), np.diag([4.0, 4.0, 4.0, 1.0]))
    nib.save(pair, folder / "Anna.img")
    return folder


def test_where_links_are_forbidden_they_are_hard_ones(tmp_path, monkeypatch):
    def forbidden(*_):
        raise OSError("a privilege is not held")

    monkeypatch.setattr(Path, "symlink_to", forbidden)
    (tmp_path / "Anna.nii").write_bytes(b"x")
    link = hiding._link(tmp_path / "Anna.nii", tmp_path, "P1")
    assert not link.is_symlink()
    assert link.samefile(tmp_path / "Anna.nii")


def test_an_input_that_is_not_there_is_told_as_it_was_typed(table, tmp_path):
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        run_prepare(
            [tmp_path / "nowhere"], tmp_path / "store", RECIPE, pseudonyms=table, page=False
        )
    assert not table.exists()


def test_a_table_serves_a_case_whose_name_changes_with_its_inputs():
    known = Pseudonyms()
    case = Case("A_1", "A", {"T1w": Path("a.nii")})
    first = known.case(case)
    second = known.case(replace(case, case="folder_A_1"))
    assert second.subject == first.subject
    assert second.case == f"{first.case}_2"
