"""Cases of files named one by one, and what is said about the choice of files."""

import os
import time

import pytest

from brainsegfounder.data.layouts import find_cases
from brainsegfounder.data.layouts.given import explain_choice, given_case, in_doubt
from brainsegfounder.errors import ContrastError, DataError


@pytest.fixture
def make(tmp_path):
    """Makes empty files and gives their paths."""

    def touch(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        return [tmp_path / name for name in names]

    return touch


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("anna_T1w.nii.gz", "anna_FLAIR.nii.gz"), "anna"),
        (("p/t1.nii.gz", "p/flair.nii"), "p"),
        (("sub-1_ses-2_T1w.nii.gz", "sub-1_ses-2_ce-gd_T1w.nii.gz"), "sub-1_ses-2"),
        (("scan.nii.gz",), "scan"),
        (("a/x_1_T1w.nii.gz", "b/x_2_FLAIR.nii.gz"), "x"),
        (("f/patient1_T1w.nii.gz", "f/patient2_FLAIR.nii.gz"), "f"),
    ],
)
def test_a_case_is_called_what_its_files_have_in_common(make, names, expected):
    files = dict(zip(("t1w", "FLAIR"), make(*names), strict=False))
    case = given_case(files)
    assert case.case == expected
    assert list(case.contrasts) == ["T1w", "FLAIR"][: len(names)]


def test_a_name_can_be_given_and_is_asked_for_where_there_is_none(make):
    files = dict(zip(("T1w", "FLAIR"), make("a/one.nii", "b/two.nii"), strict=True))
    assert given_case(files, "anna").case == "anna"
    with pytest.raises(DataError, match=r"nothing in common.*--name"):
        given_case(files)
    with pytest.raises(DataError, match="--name"):
        given_case(files, "../anna")


def test_what_cannot_be_a_scan_is_refused_before_it_is_opened(make, tmp_path):
    (scan, text) = make("a_T1w.nii.gz", "a.txt")
    os.mkfifo(tmp_path / "pipe.nii")
    began_s = time.monotonic()
    for path, found in (
        (tmp_path / "absent.nii", "No such file"),
        (tmp_path / "pipe.nii", "a pipe or device"),
        (tmp_path, "a folder"),
        (text, "no name of an image"),
    ):
        with pytest.raises(DataError, match=found):
            given_case({"T1w": scan, "FLAIR": path})
    assert time.monotonic() - began_s < 5


def test_one_file_for_two_contrasts_is_refused_also_by_another_name(make, tmp_path):
    (scan,) = make("a_T1w.nii.gz")
    (tmp_path / "a_FLAIR.nii.gz").symlink_to(scan)
    for other in (scan, tmp_path / "a_FLAIR.nii.gz"):
        with pytest.raises(ContrastError, match="given for T1w and for FLAIR"):
            given_case({"T1w": scan, "FLAIR": other})


def test_a_contrast_given_twice_or_unknown_or_none_is_refused(make):
    one, other = make("a_T1w.nii.gz", "b_T1w.nii.gz")
    with pytest.raises(ContrastError, match="a second T1w"):
        given_case({"T1w": one, "t1": other})
    with pytest.raises(ContrastError, match="unknown contrast"):
        given_case({"T9w": one})
    with pytest.raises(DataError, match="--flair FILE"):
        given_case({})


def test_the_choice_says_what_was_taken_why_and_what_else_was_there(make, tmp_path):
    make("anna_T1w.nii.gz", "anna_FLAIR.nii.gz", "anna_xyz.nii.gz")
    lines = explain_choice(find_cases([tmp_path]))
    assert lines[0] == f"{tmp_path.name}: read as suffix"
    assert "anna: T1w is anna_T1w.nii.gz (by the ending T1w of its name)" in lines
    assert "anna: also there, not taken: anna_xyz.nii.gz" in lines


def test_of_bids_the_plain_scan_is_taken_and_the_other_is_told(make, tmp_path):
    make(
        "dataset_description.json",
        "sub-1/anat/sub-1_T1w.nii.gz",
        "sub-1/anat/sub-1_desc-preproc_T1w.nii.gz",
        "sub-1/anat/sub-1_ce-gd_T1w.nii.gz",
    )
    lines = explain_choice(find_cases([tmp_path]))
    assert "sub-1: T1w is sub-1_T1w.nii.gz (by its BIDS suffix)" in lines
    assert "sub-1: T1ce is sub-1_ce-gd_T1w.nii.gz (by its BIDS suffix and the entity ce-)" in lines
    assert "sub-1: also there, not taken: sub-1_desc-preproc_T1w.nii.gz" in lines


def test_two_candidates_for_a_contrast_are_a_question_with_the_option_that_decides(make, tmp_path):
    make(
        "dataset_description.json",
        "sub-1/anat/sub-1_run-1_FLAIR.nii.gz",
        "sub-1/anat/sub-1_run-2_FLAIR.nii.gz",
        "sub-2/anat/sub-2_FLAIR.nii.gz",
    )
    found = find_cases([tmp_path])
    assert list(in_doubt(found)) == ["sub-1"]
    (question,) = [line for line in explain_choice(found) if line.startswith("sub-1: which one?")]
    assert "run-2_FLAIR.nii.gz" in question
    assert "--flair FILE" in question
    assert "--layout" in question
