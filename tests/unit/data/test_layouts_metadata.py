"""Centre, chronicity and days of ATLAS R3.0 (ISLES'26), from a table beside the scans."""

import re

import pytest

from brainsegfounder.data.layouts import find_cases
from brainsegfounder.data.layouts.metadata import chronicity_of, days_of
from brainsegfounder.data.manifest import manifest_rows, read_manifest, write_manifest

HEAD = "participant_id\tcentre\tchronicity\tdays_post_stroke"


@pytest.fixture
def isles(tree):
    """Four sessions of three subjects of two cohorts, and a table of these lines."""

    def make(*lines, name="participants.tsv"):
        scans = []
        visits = ("r048s001", 1), ("r048s001", 2), ("r048s002", 1), ("r052s001", 1)
        for subject, session in visits:
            stem = f"sub-{subject}/ses-{session}/anat/sub-{subject}_ses-{session}"
            scans += [f"{stem}_T1w.nii.gz", f"{stem}_label-lesion_mask.nii.gz"]
        return tree(*scans, texts={name: "\n".join(lines)} if lines else {})

    return make


def told(found):
    return {c.case[4:]: (c.site, c.chronicity, c.days) for c in found.cases}


def doubts(found):
    return {finding.code: finding.message for finding in found.findings}


def test_centre_chronicity_and_days_reach_cases_and_manifest(isles, tmp_path):
    lines = ("sub-r048s001\tUSC\tChronic\t400", "sub-r048s002\tUSC\tacute\t3",
             "sub-r052s001\tOslo\tsub-acute\t30.5")  # fmt: skip
    found = find_cases([isles(HEAD, *lines)])
    assert set(found.layouts.values()) == {"isles26"}
    assert told(found) == {
        "r048s001_ses-1": ("USC", "chronic", 400.0),
        "r048s001_ses-2": ("USC", "chronic", 400.0),
        "r048s002_ses-1": ("USC", "acute", 3.0),
        "r052s001_ses-1": ("Oslo", "subacute", 30.5),
    }
    assert doubts(found) == {}
    rows = manifest_rows(found.cases)
    write_manifest(tmp_path / "m.csv", rows)
    assert read_manifest(tmp_path / "m.csv") == rows
    again = find_cases([tmp_path / "m.csv"]).cases
    assert {(c.chronicity, c.days) for c in again} == {(c.chronicity, c.days) for c in found.cases}


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("ISLES26_MetaData.csv", "Subject ID,Center ID,Stroke Stage,DPS"),
        ("clinical/demographics.csv", "BIDS_ID;INDI Site ID;Chronicity;Days post-stroke"),
        ("phenotype/participants.tsv", "id\tSite\tphase\tTime since stroke (days)\tage"),
    ],
)
def test_a_table_is_known_by_the_usual_names_of_its_columns(isles, name, head):
    comma = max(",;\t", key=head.count)
    found = find_cases([isles(head, comma.join(("R048S001", "USC", "chronic", "400")), name=name)])
    assert told(found)["r048s001_ses-1"] == ("USC", "chronic", 400.0)


def test_visits_differ_where_the_table_has_them(isles):
    head = "subject,session,site,days"
    lines = ("r048s001,ses-1,USC,10", "r048s001,02,USC,200", "r048s002,1,USC,5", "r052s001,1,O,6")
    found = find_cases([isles(head, *lines, name="sessions.csv")])
    assert [days for _, _, days in told(found).values()] == [10.0, 200.0, 5.0, 6.0]


def test_without_a_table_the_cohort_in_the_name_is_the_site_and_nothing_is_known(isles):
    found = find_cases([isles()])
    assert set(told(found).values()) == {("r048", "", None), ("r052", "", None)}


def test_a_table_without_centres_leaves_the_cohort(isles):
    found = find_cases([isles("subject,days", *(f"{s},7" for s in ("r048s001", "r048s002",
                        "r052s001")), name="meta_data.csv")])  # fmt: skip
    assert set(told(found).values()) == {("r048", "", 7.0), ("r052", "", 7.0)}


def test_a_case_that_a_table_of_centres_does_not_name_has_none(isles):
    found = find_cases([isles(HEAD, "sub-r048s001\tUSC\tchronic\t400")])
    assert told(found)["r052s001_ses-1"] == ("", "", None)
    assert (
        "2 of 4 cases (sub-r048s002_ses-1, sub-r052s001_ses-1)" in doubts(found)["metadata_missing"]
    )


@pytest.mark.parametrize(
    ("row", "left", "message"),
    [
        ("USC\t3\t400", ("USC", "", 400.0), "chronicity of 1 of 4 cases .*'3', which says nothing"),
        ("USC\tchronic\t-5", ("USC", "chronic", None), "days of 1 of 4 cases .*'-5'"),
        ("USC\tchronic\t>180", ("USC", "chronic", None), "days of 1 of 4 cases .*'>180'"),
        ("USC\tchronic\t999999", ("USC", "chronic", None), "days of 1 of 4"),
        ("USC\tchronic\t2", ("USC", "", None), "against the days"),
        ("USC\tacute\t900", ("USC", "", None), "against the days"),
    ],
)
def test_what_is_in_doubt_is_reported_and_left_out(isles, row, left, message):
    lines = [f"sub-{s}\tUSC\tn/a\tn/a" for s in ("r048s001", "r052s001")]
    found = find_cases([isles(HEAD, *lines, f"sub-r048s002\t{row}")])
    assert told(found)["r048s002_ses-1"] == left
    warnings = [f.message for f in found.findings if f.code == "metadata_in_doubt"]
    assert len(warnings) == 1
    assert re.search(message, warnings[0])


def test_two_rows_that_disagree_say_nothing(isles):
    lines = [f"sub-{s}\tUSC\tchronic\t400" for s in ("r048s001", "r048s002", "r052s001")]
    found = find_cases([isles(HEAD, *lines, "sub-r048s001\tOslo\tchronic\t400")])
    assert told(found)["r048s001_ses-1"] == ("", "chronic", 400.0)
    assert "site of 2 of 4 cases" in doubts(found)["metadata_in_doubt"]
    assert "several values" in doubts(found)["metadata_in_doubt"]


def test_a_table_of_other_columns_is_named_with_them(isles):
    found = find_cases([isles("who,where", "r048s001,USC", name="metadata.csv")])
    assert "columns who, where" in doubts(found)["metadata_columns"]
    assert told(found)["r048s001_ses-1"] == ("r048", "", None)


def test_words_and_days_are_read_and_codes_are_not():
    assert [chronicity_of(text) for text in ("Sub-Acute", "CHRONIC", "2", "old")] == [
        "subacute", "chronic", None, None,
    ]  # fmt: skip
    assert [days_of(text) for text in ("0", "12.5", "1e3", "", "nan", "40000")] == [
        0.0, 12.5, None, None, None, None,
    ]  # fmt: skip
