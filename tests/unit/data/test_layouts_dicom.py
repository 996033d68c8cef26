"""DICOM among what is given: handed over to be converted, as an input of its own."""

from pathlib import Path

import pytest

from brainsegfounder.data.layouts import find_cases
from brainsegfounder.errors import DataError, Problem, UsageError

BRATS = tuple(f"glioma/Brats18_A_1/Brats18_A_1_{e}.nii.gz" for e in ("t1", "seg"))


@pytest.fixture
def convert(tmp_path_factory):
    """Makes one scan of whatever it is given, and keeps what it was."""

    def make(sources):
        make.calls.append(list(sources))
        folder = tmp_path_factory.mktemp("room") / "dicom"
        folder.mkdir()
        (folder / "sub-0a1b2c3d_ses-1_T1w.nii.gz").touch()
        return folder

    make.calls = []
    return make


def refusing(code):
    def convert(sources):
        raise DataError(Problem(code, str(sources[0].parent), "nothing", "MR", "Look."))

    return convert


def test_a_dicom_folder_among_data_sets_is_converted_beside_them(tree, convert):
    folder = tree(*BRATS, "raw/1.dcm", "raw/2.dcm")
    found = find_cases([folder], convert=convert)
    assert convert.calls == [[folder / "raw"]]
    assert [case.case for case in found.cases] == ["Brats18_A_1", "sub-0a1b2c3d_ses-1"]
    assert found.layouts == {folder.name: "brats", "dicom": "dicom"}
    assert found.problems == {}
    assert [(f.code, f.kind) for f in found.findings] == [("dicom_beside_others", "warning")]


@pytest.mark.parametrize("name", ["x.zip", "x.TAR", "x.tgz", "x.tar.gz", "x.tar.bz2", "x.tar.xz"])
def test_a_folder_of_archives_and_texts_is_converted_too(tree, convert, name):
    folder = tree(*BRATS, f"packed/a/{name}", "packed/README", "packed/sizes.csv")
    found = find_cases([folder], convert=convert)
    assert convert.calls == [[folder / "packed"]]
    assert found.layouts == {folder.name: "brats", "dicom": "dicom"}


def test_several_dicom_folders_among_several_data_sets_are_converted_together(tree, convert):
    folder = tree(
        *BRATS, "IXI/IXI002-Guys-0828-T1.nii.gz",
        "anna/1.dcm", "bert/1.dcm", "packed/x.zip", "notes/readme.txt",
    )  # fmt: skip
    found = find_cases([folder], convert=convert)
    assert found.layouts == {"glioma": "brats", "IXI": "ixi", "dicom": "dicom"}
    assert convert.calls == [[folder / "anna", folder / "bert", folder / "packed"]]
    codes = [(finding.code, finding.file) for finding in found.findings]
    assert codes == [("nothing_recognised", "notes"), ("dicom_beside_others", "dicom")]
    assert not any(name in str(found.findings) for name in ("anna", "bert"))


@pytest.mark.parametrize("names", [("raw/1.dcm",), ("raw/x.zip",)])
def test_scans_named_by_themselves_are_read_as_if_dicom_were_not_there(tree, convert, names):
    scans = ("siteA/case1/t1.nii.gz", "siteB/case1/t1.nii.gz", "siteB/case2_flair.nii.gz")
    alone = find_cases([tree(*scans)])
    found = find_cases([tree(*names)], convert=convert)
    assert found.cases[:-1] == alone.cases
    assert found.cases[-1].case == "sub-0a1b2c3d_ses-1"
    assert len(convert.calls) == 1


def test_archives_beside_data_sets_that_hold_no_dicom_are_left_aside(tree):
    folder = tree(*BRATS, "packed/x.zip")
    found = find_cases([folder], convert=refusing("dicom_no_mr"))
    assert [case.case for case in found.cases] == ["Brats18_A_1"]
    assert [(f.code, f.file) for f in found.findings] == [("nothing_recognised", "packed")]
    assert found.problems == {}


@pytest.mark.parametrize("name", ["raw/1.dcm", "raw/x.zip"])
def test_dicom_that_cannot_be_converted_does_not_cost_the_data_sets_beside_it(tree, name):
    folder = tree(*BRATS, name)
    found = find_cases([folder], convert=refusing("dicom_all_refused"))
    assert [case.case for case in found.cases] == ["Brats18_A_1"]
    assert found.problems["dicom"].code == "dicom_all_refused"


def test_a_missing_extra_does_not_cost_the_data_sets_beside_dicom(tree):
    def convert(sources):
        raise UsageError("DICOM needs pydicom; pip install it")

    found = find_cases([tree(*BRATS, "raw/1.dcm")], convert=convert)
    assert [case.case for case in found.cases] == ["Brats18_A_1"]
    assert found.problems["dicom"].code == "dicom_not_converted"
    assert "pip install it" in found.problems["dicom"].found


def test_dicom_given_by_itself_ends_with_what_is_wrong_with_it(tree):
    folder = tree("1.dcm")
    with pytest.raises(DataError) as caught:
        find_cases([folder], convert=refusing("dicom_no_mr"))
    assert caught.value.problem.code == "dicom_no_mr"


def test_archives_of_something_else_given_by_themselves_are_no_scans(tree):
    with pytest.raises(DataError, match=r"no scan recognised; .*archives, which are not opened"):
        find_cases([tree("a/x.zip", "b/y.zip")], convert=refusing("dicom_no_mr"))


def test_without_a_converter_dicom_among_data_sets_is_refused_by_folder(tree):
    found = find_cases([tree(*BRATS, "raw/1.dcm", "packed/x.zip")])
    assert [case.case for case in found.cases] == ["Brats18_A_1"]
    assert found.problems["raw"].code == "dicom_not_converted"
    assert [f.file for f in found.findings] == ["packed"]


def test_originals_inside_a_bids_set_are_not_prepared_a_second_time(tree, convert):
    texts = {"dataset_description.json": '{"Name": "x"}'}
    folder = tree("sub-01/anat/sub-01_T1w.nii.gz", "sourcedata/sub-01/1.dcm", texts=texts)
    assert [case.case for case in find_cases([folder], convert=convert).cases] == ["sub-01"]
    assert convert.calls == []


def test_an_archive_among_single_scans_is_converted_by_itself(tree, convert):
    folder = tree("a_T1w.nii.gz", "export.zip", "b_T1w.nii")
    given = [folder / name for name in ("a_T1w.nii.gz", "export.zip", "b_T1w.nii")]
    found = find_cases(given, convert=convert)
    assert convert.calls == [[folder / "export.zip"]]
    assert {Path(case.case).name for case in found.cases} == {"a", "b", "sub-0a1b2c3d_ses-1"}


@pytest.mark.parametrize("top", ["", "set/"])
def test_dicom_beside_a_bids_set_is_converted_and_inside_it_is_not(tree, convert, top):
    folder = tree(f"{top}sub-01/anat/sub-01_T1w.nii.gz", f"{top}sub-02/anat/sub-02_T1w.nii.gz",
                  "raw/1.dcm")  # fmt: skip
    cases = [case.case for case in find_cases([folder], convert=convert).cases]
    assert cases == ["sub-01", "sub-02"] + ["sub-0a1b2c3d_ses-1"] * bool(top)


BIDS = ("dataset_description.json", "sub-01/anat/sub-01_T1w.nii.gz")


def set_aside(found):
    return {f.file: f.message for f in found.findings if f.code == "dicom_set_aside"}


def test_originals_of_a_bids_set_are_counted_and_their_import_is_told(tree, convert):
    texts = {"dataset_description.json": "{}", "README": "x", "CHANGES": "y"}
    folder = tree(
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sourcedata/sub-01/a.dcm", "sourcedata/sub-01/b.IMA", "sourcedata/sub-01/DICOMDIR",
        "sourcedata/sub-02.tar.gz", "sourcedata/notes.txt", texts=texts,
    )  # fmt: skip
    for name in ("IM1", "IM2"):
        path = folder / "sourcedata" / "sub-02" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\0" * 128 + b"DICM")
    found = find_cases([folder], convert=convert)
    told = set_aside(found)
    assert set(told) == {"sourcedata"}
    assert told["sourcedata"].startswith("5 DICOM files and 1 archives, which were not opened")
    assert "prepare sourcedata --layout dicom --out ANOTHER_STORE" in told["sourcedata"]
    assert convert.calls == []
    assert [case.case for case in found.cases] == ["sub-01"]


def test_dicom_among_the_subjects_of_a_bids_set_is_counted(tree, convert):
    folder = tree(*BIDS, "sub-01/dicom/1.dcm", "sub-01/dicom/2.dcm", "raw/3.dcm",
                  texts={"dataset_description.json": "{}"})  # fmt: skip
    found = find_cases([folder], "bids", convert=convert)
    assert set_aside(found)["."].startswith("3 DICOM files in folders of the data set set aside")
    assert convert.calls == []


def test_dicom_that_lies_among_the_scans_of_any_layout_is_counted(tree):
    told = set_aside(find_cases([tree(*BRATS, "glioma/Brats18_A_1/1.dcm")]))
    assert told["."].startswith("1 DICOM files")


def test_a_set_without_dicom_says_nothing_of_it(tree, convert):
    texts = {"dataset_description.json": "{}", "README": "x"}
    assert set_aside(find_cases([tree(*BIDS[1:], "sourcedata/a.txt", texts=texts)])) == {}


def test_dicom_that_is_imported_is_not_set_aside(tree, convert):
    found = find_cases([tree(*BRATS, "raw/1.dcm", "raw/2.dcm")], convert=convert)
    assert set_aside(found) == {}
