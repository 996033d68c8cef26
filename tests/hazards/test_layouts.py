"""Rows I118, I121 and I122: what stands twice, upper case, and BIDS that is not quite BIDS."""

import os
import time

import pytest

from brainsegfounder.data.layouts import LAYOUTS, find_cases, read_cases, recognise
from brainsegfounder.errors import ContrastError, DataError


@pytest.fixture
def scans(tmp_path):
    """Makes empty scans under `tmp_path`."""

    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make


def codes(found):
    return [finding.code for finding in found.findings]


def test_I118_a_scan_plain_and_compressed_refuses_its_case_and_no_other(scans):
    found = find_cases([scans("a_T1w.nii", "a_T1w.nii.gz", "b_T1w.nii")])
    assert [case.case for case in found.cases] == ["b"]
    problem = found.problems["a"]
    assert problem.code == "contrast_twice"
    assert str(problem).endswith("expected one. Remove or rename one of them.")


def test_I118_read_cases_refuses_too_where_nothing_else_is_left(scans):
    with pytest.raises(ContrastError, match="a second T1w of a beside"):
        read_cases([scans("a_T1w.nii", "a_T1w.nii.gz")])


def test_I118_files_given_one_by_one_are_checked_alike(scans):
    folder = scans("a_T1w.nii", "a_T1w.nii.gz")
    found = find_cases([folder / "a_T1w.nii", folder / "a_T1w.nii.gz"])
    assert (found.cases, list(found.problems)) == ([], ["a"])


def test_I118_one_name_in_two_folders_is_two_cases_of_one_subject(scans):
    found = find_cases([scans("x/a_T1w.nii", "x/a_seg.nii", "y/a_T1w.nii", "y/b_T1w.nii")])
    cases = {case.case: case for case in found.cases}
    assert set(cases) == {"x_a", "y_a", "b"}
    assert cases["x_a"].contrasts["T1w"].parent.name == "x"
    assert cases["x_a"].label.parent.name == "x"
    assert cases["x_a"].subject == cases["y_a"].subject == "a", "a split must not part them"
    assert codes(found) == ["name_in_two_folders"]


def test_I118_the_same_file_name_given_from_two_folders_gets_unique_names(scans):
    folder = scans("x/a_T1w.nii", "y/a_T1w.nii")
    found = find_cases([folder / "x" / "a_T1w.nii", folder / "y" / "a_T1w.nii"])
    assert [case.case for case in found.cases] == ["x_a", "y_a"]


def test_I118_folders_that_differ_further_up_only_give_unique_names_too(scans):
    found = find_cases([scans("x/scans/a_T1w.nii", "y/scans/a_T1w.nii")])
    assert [case.case for case in found.cases] == ["x_scans_a", "y_scans_a"]


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (["A_T1W.NII.GZ"], "suffix"),
        (["BRATS2021_00001_T1CE.NII.GZ"], "brats"),
        (["IXI002-GUYS-0828-T1.NII"], "ixi"),
        (["sub-01/anat/sub-01_T1w.NII.GZ"], "bids"),
    ],
)
def test_I121_upper_case_names_are_names_like_others(scans, names, layout):
    folder = scans(*names)
    assert recognise(folder) == layout
    (case,) = read_cases([folder])
    assert [path.name for path in case.contrasts.values()] == [names[0].rpartition("/")[2]]


def test_I122_two_runs_refuse_their_case_and_no_other(scans):
    folder = scans(
        "dataset_description.json",
        "sub-01/anat/sub-01_run-1_T1w.nii.gz",
        "sub-01/anat/sub-01_run-2_T1w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
    )
    (folder / "dataset_description.json").write_text("{}")
    found = find_cases([folder])
    assert [case.case for case in found.cases] == ["sub-02"]
    assert "a second T1w of sub-01 beside" in found.problems["sub-01"].found


def test_I122_two_lesion_masks_refuse_their_case_and_no_other(scans):
    masks = [f"derivatives/{rater}/sub-01/anat/sub-01_label-lesion_mask.nii" for rater in "ab"]
    found = find_cases([scans("sub-01/anat/sub-01_T1w.nii", "sub-02/anat/sub-02_T1w.nii", *masks)])
    assert [case.case for case in found.cases] == ["sub-02"]
    assert found.problems["sub-01"].code == "label_twice"


def test_I122_a_missing_description_is_a_warning(scans):
    found = find_cases([scans("sub-01/anat/sub-01_T1w.nii.gz")])
    assert [case.case for case in found.cases] == ["sub-01"]
    assert codes(found) == ["no_dataset_description"]


@pytest.mark.parametrize("text", ["{", "", "[" * 50_000, '{"License": {"a": [1]}}', "\udcff"])
def test_I122_broken_json_is_a_warning_and_stops_nothing(scans, text):
    folder = scans("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T1w.json")
    content = text.encode("utf-8", "surrogateescape")
    (folder / "dataset_description.json").write_bytes(content)
    (folder / "sub-01/anat/sub-01_T1w.json").write_bytes(content)
    found = find_cases([folder])
    assert [case.case for case in found.cases] == ["sub-01"]
    broken = [f.file for f in found.findings if f.code == "json_unreadable"]
    expected = ["dataset_description.json", "sub-01/anat/sub-01_T1w.json"]
    assert not any(str(folder) in finding.message for finding in found.findings)
    assert sorted(broken) == ([] if text.startswith('{"') else expected)


def test_I122_a_sidecar_of_a_gigabyte_is_not_read(scans):
    folder = scans("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T1w.json")
    with (folder / "sub-01/anat/sub-01_T1w.json").open("r+b") as file:
        file.truncate(1 << 30)
    began_s = time.monotonic()
    found = find_cases([folder])
    assert time.monotonic() - began_s < 1
    (finding,) = [f for f in found.findings if f.code == "json_unreadable"]
    assert "larger than 1 MiB" in finding.message


def test_I122_scans_with_and_without_a_session_are_two_visits_and_a_warning(scans):
    names = ["sub-01/anat/sub-01_T1w.nii.gz", "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz"]
    found = find_cases([scans(*names)])
    assert [(c.case, c.subject, c.session) for c in found.cases] == [
        ("sub-01", "sub-01", ""),
        ("sub-01_ses-2", "sub-01", "2"),
    ]
    assert "mixed_sessions" in codes(found)


def test_I122_a_file_of_one_subject_in_the_folder_of_another_is_refused(scans):
    names = ["sub-01/anat/sub-02_T1w.nii.gz", "sub-02/anat/sub-02_FLAIR.nii.gz"]
    found = find_cases([scans("dataset_description.json", *names)])
    assert [case.case for case in found.cases] == ["sub-02"]
    assert list(found.cases[0].contrasts) == ["FLAIR"]
    assert found.problems["sub-01"].code == "names_disagree"


def test_I122_a_table_of_participants_that_is_no_table_is_a_warning(scans):
    folder = scans("sub-01/anat/sub-01_T1w.nii.gz")
    (folder / "participants.tsv").write_bytes(b"\xff\xfe\x00site")
    found = find_cases([folder])
    assert found.cases[0].site == ""
    assert "table_unreadable" in codes(found)


def test_a_loop_of_links_ends_and_a_link_to_a_folder_is_followed(scans, tmp_path):
    folder = scans("in/a_T1w.nii", "else/b_T1w.nii")
    (folder / "in" / "up").symlink_to(folder / "in")
    (folder / "in" / "self").symlink_to("self")
    (folder / "in" / "other").symlink_to(folder / "else")
    assert sorted(case.subject for case in read_cases([folder / "in"])) == ["a", "b"]


STRANGE = [
    "_", "__T1w", "-T1", "T1w", "a__T1w", "sub-_T1w", "sub-01/anat/_T1w", "é_脑_T1w", "%s%n_seg",
    "ses-1/anat/T1", "PT001_/sub-/ses-/t1", "0_20252_2_0/T1/T1", "{a}_T1w",
]  # fmt: skip


def outcome_of(folder, layout):
    try:
        return find_cases([folder], layout)
    except DataError as error:
        return error


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_layout_falls_over_names_made_of_nothing_but_trouble(scans, layout):
    folder = scans(*(f"{name}.nii.gz" for name in STRANGE))
    outcome = outcome_of(folder, layout)
    if isinstance(outcome, DataError):
        assert str(folder) in str(outcome)
    else:
        assert all(case.case and case.contrasts for case in outcome.cases)
        assert len({case.case for case in outcome.cases}) == len(outcome.cases)


def test_what_is_no_file_does_not_hang_a_list(tmp_path):
    os.mkfifo(tmp_path / "dataset.json")
    (tmp_path / "a_T1w.nii").touch()
    began_s = time.monotonic()
    with pytest.raises(DataError, match="no regular file"):
        recognise(tmp_path)
    assert time.monotonic() - began_s < 1
