import csv
from pathlib import Path

import pytest

from brainsegfounder.data.layouts import LAYOUTS, Tree, read_cases, recognise
from brainsegfounder.data.layouts import names as layout_names
from brainsegfounder.data.layouts.gather import gather
from brainsegfounder.data.manifest import Case, manifest_csv, unique_cases
from brainsegfounder.errors import ContrastError, DataError, LabelError, UsageError


def tree(folder, *names):
    """Empty files: layouts look at names only."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def files_of(case):
    return {contrast: path.name for contrast, path in case.contrasts.items()}


def test_brats_2018_names_give_four_contrasts_and_a_mask(tmp_path):
    name = "Brats18_TCIA03_265_1"
    tree(tmp_path, *(f"{name}/{name}_{c}.nii.gz" for c in ("t1", "t1ce", "t2", "flair", "seg")))
    (case,) = read_cases([tmp_path])
    assert (case.case, case.subject, case.session) == (name, name, "")
    assert files_of(case) == {
        "T1w": f"{name}_t1.nii.gz",
        "T1ce": f"{name}_t1ce.nii.gz",
        "T2w": f"{name}_t2.nii.gz",
        "FLAIR": f"{name}_flair.nii.gz",
    }
    assert case.label.name == f"{name}_seg.nii.gz"
    assert not case.is_bids


def test_brats_2023_names_give_subject_and_visit(tmp_path):
    for visit in ("000", "001"):
        name = f"BraTS-GLI-00005-{visit}"
        tree(tmp_path, *(f"{name}/{name}-{c}.nii.gz" for c in ("t1n", "t1c", "t2w", "t2f", "seg")))
    cases = read_cases([tmp_path])
    assert [case.case for case in cases] == ["BraTS-GLI-00005-000", "BraTS-GLI-00005-001"]
    assert {case.subject for case in cases} == {"BraTS-GLI-00005"}
    assert [case.session for case in cases] == ["000", "001"]
    assert set(cases[0].contrasts) == {"T1w", "T1ce", "T2w", "FLAIR"}
    assert cases[0].label.name.endswith("-seg.nii.gz")


def test_flat_t1w_files_are_a_case_each(tmp_path):
    tree(tmp_path, "sub-01_T1w.nii.gz", "sub-02_T1w.nii", "notes.txt", ".sub-03_T1w.nii.gz")
    cases = read_cases([tmp_path])
    assert [(c.case, list(c.contrasts)) for c in cases] == [
        ("sub-01", ["T1w"]),
        ("sub-02", ["T1w"]),
    ]
    assert all(case.label is None for case in cases)


def test_ixi_names_join_scan_and_labels_across_folders(tmp_path):
    tree(tmp_path, "T1/IXI067-HH-1356_T1.nii.gz", "DLMUSE/IXI067-HH-1356_DLMUSE.nii.gz")
    (case,) = read_cases([tmp_path])
    assert case.case == "IXI067-HH-1356"
    assert list(case.contrasts) == ["T1w"]
    assert case.label.parent.name == "DLMUSE"


@pytest.mark.parametrize(
    ("name", "subject", "session"),
    [
        ("patient12_study2", "patient12", "study2"),
        ("p1_visit03", "p1", "visit03"),
        ("p-1-tp2", "p-1", "tp2"),
        ("sub-01_ses-2", "sub-01", "ses-2"),
        ("studyroom", "studyroom", ""),
    ],
)
def test_visits_of_one_subject_share_the_subject(tmp_path, name, subject, session):
    tree(tmp_path, f"{name}_flair.nii.gz")
    (case,) = read_cases([tmp_path])
    assert (case.case, case.subject, case.session) == (name, subject, session)


def test_index_csv_says_whose_brain_a_case_is(tmp_path):
    tree(tmp_path, *(f"s{n}/s{n}_{c}.nii.gz" for n in (1, 2, 3) for c in ("T1w", "lesion")))
    (tmp_path / "index.csv").write_text("case,mL,t1_subject\ns1,3,sub-a\ns2,4,sub-a\n")
    assert recognise(tmp_path) == "index"
    assert {c.case: c.subject for c in read_cases([tmp_path])} == {
        "s1": "sub-a",
        "s2": "sub-a",
        "s3": "s3",
    }


def test_an_index_without_a_subject_column_is_refused(tmp_path):
    tree(tmp_path, "a_T1w.nii.gz")
    (tmp_path / "index.csv").write_text("case,age\na,3\n")
    with pytest.raises(DataError, match=r"index\.csv: columns \['case', 'age'\]; expected"):
        read_cases([tmp_path])


def bids_tree(folder):
    tree(
        folder,
        "dataset_description.json",
        "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_ce-gadolinium_T1w.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_FLAIR.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_PDw.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz",
        "sub-02/anat/sub-02_acq-mprage_run-1_T2w.nii.gz",
        "derivatives/lesions/sub-01/ses-a/anat/sub-01_ses-a_label-lesion_mask.nii.gz",
        "derivatives/lesions/sub-01/ses-b/anat/sub-01_ses-b_label-brain_mask.nii.gz",
        "derivatives/lesions/sub-02/anat/sub-02_seg-tumour_dseg.nii.gz",
        "sub-01/ses-a/func/sub-01_ses-a_bold.nii.gz",
    )
    return folder


def test_a_bids_tree_gives_a_case_each_session_with_masks_of_the_derivatives(tmp_path):
    cases = {case.case: case for case in read_cases([bids_tree(tmp_path)])}
    assert list(cases) == ["sub-01_ses-a", "sub-01_ses-b", "sub-02"]
    first = cases["sub-01_ses-a"]
    assert (first.subject, first.session, first.is_bids) == ("sub-01", "a", True)
    assert first.label.name == "sub-01_ses-a_label-lesion_mask.nii.gz"
    assert cases["sub-01_ses-b"].label is None, "a brain mask is no label"
    assert cases["sub-02"].label.name == "sub-02_seg-tumour_dseg.nii.gz"
    assert list(cases["sub-02"].contrasts) == ["T2w"]


def test_a_contrast_agent_makes_a_t1w_a_t1ce(tmp_path):
    case = read_cases([bids_tree(tmp_path)])[0]
    assert set(case.contrasts) == {"T1w", "T1ce", "FLAIR", "PD"}
    assert "ce-gadolinium" in case.contrasts["T1ce"].name
    assert "ce-" not in case.contrasts["T1w"].name


def test_a_bids_tree_without_a_description_is_recognised_by_its_folders(tmp_path):
    tree(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")
    assert recognise(tmp_path) == "bids"
    assert read_cases([tmp_path])[0].is_bids


def test_two_runs_of_one_contrast_in_bids_are_refused(tmp_path):
    tree(tmp_path, *(f"sub-01/anat/sub-01_run-{n}_T1w.nii.gz" for n in (1, 2)))
    with pytest.raises(ContrastError, match=r"a second T1w of sub-01 beside .*run-1"):
        read_cases([tmp_path])


@pytest.mark.parametrize("names", [("a_T1w.nii", "a_T1w.nii.gz"), ("x/a_t1.nii", "x/a_T1w.nii")])
def test_a_contrast_that_stands_twice_is_refused(tmp_path, names):
    tree(tmp_path, *names)
    with pytest.raises(ContrastError, match="a second T1w of a beside"):
        read_cases([tmp_path])


@pytest.mark.parametrize("names", [(), ("readme.txt",), ("scan.nii.gz",), ("a_seg.nii.gz",)])
def test_a_folder_without_a_scan_is_refused_with_an_example(tmp_path, names):
    tree(tmp_path, *names)
    with pytest.raises(DataError, match=r"no scan recognised; .*CASE_T1w\.nii\.gz"):
        read_cases([tmp_path])


def test_an_input_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        read_cases([tmp_path / "gone"])


def test_an_unknown_layout_lists_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match=r"--layout nifti: unknown; expected auto, suffix"):
        read_cases([tmp_path], "nifti")
    assert list(LAYOUTS) == [
        "suffix", "index", "bids", "brats", "brats2023", "ixi", "ukb", "hcp", "abide", "adni",
        "oasis1", "oasis3", "atlas", "isles26", "fomo", "openmind", "nnssl", "nnunet", "datalist",
        "table",
    ]  # fmt: skip


def test_a_layout_can_be_forced(tmp_path):
    bids_tree(tmp_path)
    cases = read_cases([tmp_path / "sub-01" / "ses-b"], "suffix")
    assert [case.case for case in cases] == ["sub-01_ses-b"]


def test_a_single_file_is_a_case(tmp_path):
    tree(tmp_path, "my.scan_FLAIR.NII.GZ", "other_T1w.nii")
    (case,) = read_cases([tmp_path / "my.scan_FLAIR.NII.GZ"])
    assert (case.case, list(case.contrasts)) == ("my.scan", ["FLAIR"])


def test_equal_names_of_two_inputs_get_the_inputs_name_in_front(tmp_path):
    tree(tmp_path, "site1/a_T1w.nii", "site1/b_T1w.nii", "site2/a_T1w.nii")
    cases = read_cases([tmp_path / "site1", tmp_path / "site2"])
    assert [case.case for case in cases] == ["site1_a", "b", "site2_a"]


def test_equal_names_of_equally_named_inputs_get_the_folders_above_in_front(tmp_path):
    tree(tmp_path, "one/scans/a_T1w.nii", "two/scans/a_T1w.nii")
    cases = read_cases([tmp_path / "one" / "scans", tmp_path / "two" / "scans"])
    assert [case.case for case in cases] == ["one_scans_a", "two_scans_a"]


def test_an_input_given_twice_counts_once(tmp_path):
    tree(tmp_path, "a_T1w.nii")
    assert len(read_cases([tmp_path, tmp_path / ".", tmp_path])) == 1


def test_the_manifest_has_a_row_a_case_and_no_folders(tmp_path):
    cases = [
        Case("a", "a", {"T1w": tmp_path / "a_T1w.nii"}, tmp_path / "a_seg.nii"),
        Case("b, c", "b", {"FLAIR": tmp_path / "b_FLAIR.nii"}, session="2"),
    ]
    text = manifest_csv(cases)
    assert str(tmp_path) not in text
    rows = list(csv.DictReader(text.splitlines()))
    assert rows[0] == {
        "case": "a",
        "subject": "a",
        "session": "",
        "FLAIR": "",
        "T1w": "a_T1w.nii",
        "label": "a_seg.nii",
    }
    assert (rows[1]["case"], rows[1]["session"], rows[1]["label"]) == ("b, c", "2", "")


def test_names_that_are_unique_stay_as_they_are():
    cases = [Case("a", "a", {}), Case("b", "b", {})]
    assert unique_cases([("in", cases)]) == cases


def test_two_masks_of_one_case_are_refused(tmp_path: Path) -> None:
    for name in ("a_t1", "a_seg", "a_mask"):
        (tmp_path / f"{name}.nii.gz").touch()
    with pytest.raises(LabelError, match="a second mask of a"):
        read_cases([tmp_path])


def test_brain_masks_and_tissue_maps_of_a_bids_tree_are_no_lesion_masks(tmp_path: Path) -> None:
    anat, derived = tmp_path / "sub-1" / "anat", tmp_path / "derivatives" / "x" / "sub-1" / "anat"
    for folder, name in (
        (anat, "sub-1_T1w"),
        (derived, "sub-1_desc-brain_mask"),
        (derived, "sub-1_label-brain_mask"),
        (derived, "sub-1_dseg"),
        (derived, "sub-1_label-lesion_mask"),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.nii.gz").touch()
    (case,) = read_cases([tmp_path])
    assert case.label == derived / "sub-1_label-lesion_mask.nii.gz"


def test_the_example_of_contributing_works(tmp_path):
    text = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = text.split("## Add a data layout")[1].split("```python\n")[1].split("```")[0]
    names = {name: getattr(layout_names, name) for name in ("re", "Scan", "scan_of", "Tree")}
    scope = {**names, "Iterator": object, "Item": object}
    exec("from __future__ import annotations\n" + code, scope)
    assert code.strip().count("\n") < 12
    tree(tmp_path, "CC110033/v1/t1.nii.gz", "CC110033/v1/lesion.nii.gz", "CC110033/v2/t1.nii")
    walked = Tree(tmp_path)
    cases = gather(scope["read_camcan"](walked), walked).cases
    assert [(case.case, case.subject, case.site) for case in cases] == [
        ("CC110033_v1", "CC110033", "Cambridge"),
        ("CC110033_v2", "CC110033", "Cambridge"),
    ]
    assert cases[0].label.name == "lesion.nii.gz"


def test_archives_are_named_where_nothing_is_unpacked(tmp_path):
    tree(tmp_path, "1000001_20252_2_0.zip", "1000001_20253_2_0.zip")
    with pytest.raises(DataError, match=r"no scan recognised; .*archives, which are not opened"):
        read_cases([tmp_path])
