"""Layouts in which folders say who and when."""

import json

import pytest

from brainsegfounder.data.layouts import LAYOUTS, find_cases, read_cases, recognise
from brainsegfounder.errors import DataError


@pytest.mark.parametrize(("t1", "flair"), [("T1/", "T2_FLAIR/"), ("", "")])
def test_uk_biobank_bulk_is_read_in_both_ways_of_unzipping(tree, files_of, t1, flair):
    folder = tree(
        f"1000001_20252_2_0/{t1}T1_brain_to_MNI.nii.gz",
        f"1000001_20252_2_0/{t1}T1.nii.gz",
        f"1000001_20252_2_0/{t1}T1_brain_mask.nii.gz",
        f"1000001_20253_2_0/{flair}T2_FLAIR_brain_to_MNI.nii.gz",
        f"1000001_20253_2_0/{flair}T2_FLAIR.nii.gz",
        f"1000001_20252_3_0/{t1}T1_brain_to_MNI.nii.gz",
    )
    cases = {case.case: case for case in read_cases([folder])}
    assert recognise(folder) == "ukb"
    assert files_of(cases["1000001_2"]) == {
        "T1w": "T1_brain_to_MNI.nii.gz",
        "FLAIR": "T2_FLAIR_brain_to_MNI.nii.gz",
    }
    assert cases["1000001_2"].masks == {}, "the brain mask is not on the grid of MNI152"
    assert {case.subject for case in cases.values()} == {"1000001"}
    assert {case.session for case in cases.values()} == {"2", "3"}


def test_uk_biobank_fields_may_lie_in_folders_of_their_own(tree):
    folder = tree(
        "20252/1000001_20252_2_0/T1/T1_brain_to_MNI.nii.gz",
        "20253/1000001_20253_2_0/T2_FLAIR/T2_FLAIR_brain_to_MNI.nii.gz",
    )
    (case,) = read_cases([folder])
    assert set(case.contrasts) == {"T1w", "FLAIR"}


def test_uk_biobank_contrasts_are_taken_at_one_stage_of_the_pipeline(tree, files_of):
    folder = tree(
        "1000001_20252_2_0/T1/T1_brain_to_MNI.nii.gz",
        "1000001_20252_2_0/T1/T1_brain.nii.gz",
        "1000001_20252_2_0/T1/T1_brain_mask.nii.gz",
        "1000001_20253_2_0/T2_FLAIR/T2_FLAIR_brain.nii.gz",
        "1000002_20252_2_0/T1/T1_brain_mask.nii.gz",
    )
    found = find_cases([folder])
    (case,) = found.cases
    assert files_of(case) == {"T1w": "T1_brain.nii.gz", "FLAIR": "T2_FLAIR_brain.nii.gz"}
    assert set(case.masks) == {"brain"}
    assert found.problems["1000002_2"].code == "no_scan"


def test_hcp_gives_both_contrasts_stripped_and_the_brain_mask(tree, files_of):
    folder = tree(
        "100307/T1w/T1w_acpc_dc_restore_brain.nii.gz",
        "100307/T1w/T1w_acpc_dc_restore.nii.gz",
        "100307/T1w/T2w_acpc_dc_restore_brain.nii.gz",
        "100307/T1w/brainmask_fs.nii.gz",
        "100408/T1w/T1w_acpc_dc_restore.nii.gz",
    )
    first, second = read_cases([folder])
    assert recognise(folder) == "hcp"
    assert files_of(first) == {
        "T1w": "T1w_acpc_dc_restore_brain.nii.gz",
        "T2w": "T2w_acpc_dc_restore_brain.nii.gz",
    }
    assert set(first.masks) == {"brain"}
    assert files_of(second) == {"T1w": "T1w_acpc_dc_restore.nii.gz"}


def test_abide_tells_the_site_in_the_folder_of_either_edition(tree):
    folder = tree(
        "Caltech_0051456/session_1/anat_1/mprage.nii.gz",
        "CMU_a_0050642/session_1/anat_1/mprage.nii.gz",
        "ABIDEII-BNI_1/29006/session_1/anat_1/anat.nii.gz",
        "ABIDEII-BNI_1/29006/session_1/anat_2/anat.nii.gz",
        "Caltech_0051456/session_1/rest_1/rest.nii.gz",
    )
    found = find_cases([folder])
    assert recognise(folder) == "abide"
    assert {case.case: case.site for case in found.cases} == {
        "29006_session-1": "ABIDEII-BNI_1",
        "29006_session-1_anat-2": "ABIDEII-BNI_1",
        "CMU_a_0050642_session-1": "CMU_a",
        "Caltech_0051456_session-1": "Caltech",
    }


def test_adni_visits_are_numbered_and_their_dates_stay_unsaid(tree, files_of):
    name = "ADNI_002_S_0295_MR_x"
    folder = tree(
        f"ADNI/002_S_0295/MP-RAGE/2006-04-18_08_20_30.0/I13722/{name}.nii",
        f"ADNI/002_S_0295/MP-RAGE_REPEAT/2006-04-18_08_20_30.0/I13724/{name}.nii",
        f"ADNI/002_S_0295/Axial_T2-FLAIR/2011-06-02_07_56_36.0/I240820/{name}.nii",
        f"ADNI/002_S_0295/MPRAGE/2011-06-02_07_56_36.0/I240811/{name}.nii",
        f"ADNI/002_S_0295/Survey/2011-06-02_07_56_36.0/I240810/{name}.nii",
    )
    found = find_cases([folder])
    assert recognise(folder) == "adni"
    assert [(c.case, c.session, sorted(c.contrasts)) for c in found.cases] == [
        ("002_S_0295_visit-2", "2", ["FLAIR", "T1w"]),
        ("002_S_0295_visit-1", "1", ["T1w"]),
        ("002_S_0295_visit-1_I13724", "1", ["T1w"]),
    ]
    assert {c.subject for c in found.cases} == {"002_S_0295"}
    told = [f"{f.file} {f.message}" for f in found.findings] + [c.case for c in found.cases]
    assert not any("2006" in text or "2011" in text for text in told)
    assert "ADNI/002_S_0295/Survey/DATE/I240810/ADNI_002_S_0295_MR_x.nii Survey in" in told[0]


def test_oasis_1_gives_the_averaged_scan_of_each_session(tree, files_of):
    mprage = "disc1/OAS1_0001_MR1/PROCESSED/MPRAGE"
    folder = tree(
        *(f"{mprage}/SUBJ_111/OAS1_0001_MR1_mpr_n4_anon_sbj_111.{e}" for e in ("img", "hdr")),
        *(f"{mprage}/T88_111/OAS1_0001_MR1_mpr_n4_anon_111_t88_gfc.{e}" for e in ("img", "hdr")),
        f"{mprage}/T88_111/OAS1_0001_MR1_mpr_n4_anon_111_t88_masked_gfc.img",
        "disc1/OAS1_0001_MR1/RAW/OAS1_0001_MR1_mpr-1_anon.img",
        "disc1/OAS1_0001_MR1/FSL_SEG/OAS1_0001_MR1_mpr_n4_anon_111_t88_masked_gfc_fseg.img",
        "disc1/OAS1_0002_MR1/RAW/OAS1_0002_MR1_mpr-1_anon.img",
        "disc1/OAS1_0002_MR1/RAW/OAS1_0002_MR1_mpr-2_anon.img",
    )
    cases = {case.case: case for case in read_cases([folder])}
    assert recognise(folder) == "oasis1"
    assert files_of(cases["OAS1_0001_MR1"]) == {"T1w": "OAS1_0001_MR1_mpr_n4_anon_sbj_111.img"}
    assert set(cases) == {"OAS1_0001_MR1", "OAS1_0002_MR1", "OAS1_0002_MR1_mpr-2_anon"}
    assert cases["OAS1_0001_MR1"].subject == "OAS1_0001"


def test_analyze_files_of_anything_else_are_no_scans(tree):
    with pytest.raises(DataError, match="Analyze files, which do not say left from right"):
        read_cases([tree("a_T1w.img", "a_T1w.hdr")])


def test_dicom_is_recognised_by_its_files_and_never_read_as_a_layout(tree, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    tree("dir/DICOMDIR", "dcm/1.dcm", "mixed/1.dcm", "mixed/a_T1w.nii", "all.zip", "text/README")
    assert recognise(bare) == "dicom"
    assert recognise(tmp_path / "dir") == "dicom"
    assert recognise(tmp_path / "dcm") == "dicom"
    assert recognise(tmp_path / "all.zip") == "dicom"
    assert recognise(bare / "IM0001") == "dicom"
    assert recognise(tmp_path / "mixed") == "suffix"
    assert recognise(tmp_path / "text") == "suffix"
    assert "dicom" not in LAYOUTS
    assert find_cases([bare]).problems["bare"].code == "dicom_not_converted"


def test_a_folder_that_fits_two_layouts_asks_which(tree):
    texts = {"index.csv": "case,subject\n", "dataset.json": json.dumps({"training": []})}
    folder = tree("a_T1w.nii", texts=texts)
    with pytest.raises(DataError, match=r"laid out as datalist or as index; .* --layout datalist"):
        recognise(folder)
    assert len(read_cases([folder], "suffix")) == 1


def test_a_folder_of_data_sets_is_read_set_by_set(tree):
    folder = tree(
        "IXI/IXI002-Guys-0828-T1.nii.gz",
        "glioma/Brats18_CBICA_ABM_1/Brats18_CBICA_ABM_1_t1.nii.gz",
        "stroke/s1/s1_T1w.nii.gz",
        "stroke/s2/s2_T1w.nii.gz",
        "notes/readme.txt",
        texts={"stroke/index.csv": "case,subject\ns1,sub-9\ns2,sub-9\n"},
    )
    found = find_cases([folder])
    assert found.layouts == {"IXI": "ixi", "glioma": "brats", "stroke": "index"}
    assert {c.case: c.subject for c in found.cases if c.case.startswith("s")} == {
        "s1": "sub-9",
        "s2": "sub-9",
    }
    assert [(f.code, f.file) for f in found.findings] == [("nothing_recognised", "notes")]


def test_names_that_fit_in_part_only_are_not_taken_for_a_layout(tree):
    folder = tree("IXI002-Guys-0828-T1.nii.gz", "p1_T1w.nii.gz", "p2_T1w.nii.gz")
    assert recognise(folder) == "suffix"
    assert len(read_cases([folder])) == 3
