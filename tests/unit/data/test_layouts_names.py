"""Layouts in which the name of a file says everything."""

import json

import pytest

from brainsegfounder.data.layouts import find_cases, read_cases, recognise
from brainsegfounder.errors import UsageError

BRATS_ENDINGS = ("t1", "t1ce", "t2", "flair", "seg")


def test_brats_2019_tells_the_institution_and_looks_below_hgg_and_lgg(tree, files_of):
    folder = tree(
        *(f"HGG/BraTS19_CBICA_AAB_1/BraTS19_CBICA_AAB_1_{e}.nii.gz" for e in BRATS_ENDINGS),
        *(f"LGG/BraTS19_TCIA09_141_1/BraTS19_TCIA09_141_1_{e}.nii.gz" for e in BRATS_ENDINGS),
    )
    found = find_cases([folder])
    assert set(found.layouts.values()) == {"brats"}
    assert [(c.case, c.site) for c in found.cases] == [
        ("BraTS19_CBICA_AAB_1", "CBICA"),
        ("BraTS19_TCIA09_141_1", "TCIA09"),
    ]
    assert set(files_of(found.cases[0])) == {"T1w", "T1ce", "T2w", "FLAIR"}
    assert found.cases[1].label.name == "BraTS19_TCIA09_141_1_seg.nii.gz"


@pytest.mark.parametrize("name", ["BraTS2021_00495", "BraTS20_Training_001", "Brats18_2013_2_1"])
def test_brats_of_each_year_is_recognised(tree, name):
    folder = tree(*(f"{name}/{name}_{e}.nii.gz" for e in BRATS_ENDINGS))
    (case,) = read_cases([folder])
    assert recognise(folder) == "brats"
    assert (case.case, case.subject, case.session) == (name, name, "")
    assert case.label is not None
    assert case.site in ("", "2013")


def test_the_oddly_named_mask_of_brats_2020_is_found(tree):
    name = "BraTS20_Training_355"
    endings = [f"{name}/{name}_{e}.nii" for e in BRATS_ENDINGS[:4]]
    folder = tree(*endings, f"{name}/W39_1998.09.19_Segm.nii")
    (case,) = read_cases([folder])
    assert case.label.name == "W39_1998.09.19_Segm.nii"


@pytest.mark.parametrize("kind", ["GLI", "MET", "MEN", "PED", "SSA", "GoAT"])
def test_brats_from_2023_has_visits_of_one_subject(tree, kind):
    names = [f"BraTS-{kind}-00005-{visit}" for visit in ("000", "001")]
    folder = tree(
        *(f"{n}/{n}-{e}.nii.gz" for n in names for e in ("t1n", "t1c", "t2w", "t2f", "seg"))
    )
    cases = read_cases([folder])
    assert recognise(folder) == "brats2023"
    assert [(c.case, c.subject, c.session) for c in cases] == [
        (names[0], f"BraTS-{kind}-00005", "000"),
        (names[1], f"BraTS-{kind}-00005", "001"),
    ]


def test_ixi_tells_the_hospital_and_joins_the_folders_of_its_contrasts(tree, files_of):
    folder = tree(
        "IXI-T1/IXI002-Guys-0828-T1.nii.gz",
        "IXI-T2/IXI002-Guys-0828-T2.nii.gz",
        "IXI-PD/IXI002-Guys-0828-PD.nii.gz",
        "IXI-MRA/IXI002-Guys-0828-MRA.nii.gz",
        "IXI-DTI/IXI002-Guys-0828-DTI.nii.gz",
        "IXI-T1/IXI035-IOP-0873-T1.nii.gz",
    )
    found = find_cases([folder])
    assert recognise(folder) == "ixi"
    assert [(c.case, c.site) for c in found.cases] == [
        ("IXI002-Guys-0828", "Guys"),
        ("IXI035-IOP-0873", "IOP"),
    ]
    assert set(files_of(found.cases[0])) == {"T1w", "T2w", "PD", "MRA"}
    (unknown,) = [f for f in found.findings if f.code == "contrast_unknown"]
    assert unknown.message.startswith("DTI in the name of 1 files; left aside")


def test_files_named_by_their_contrast_only_belong_to_their_folder(tree, files_of):
    folder = tree(
        "p1/T1.nii.gz", "p1/FLAIR.nii.gz", "p1/lesion_mask.nii.gz", "p1/brain_mask.nii.gz"
    )
    (case,) = read_cases([folder])
    assert case.case == "p1"
    assert files_of(case) == {"T1w": "T1.nii.gz", "FLAIR": "FLAIR.nii.gz"}
    assert case.label.name == "lesion_mask.nii.gz"
    assert case.masks["brain"].name == "brain_mask.nii.gz"


def test_endings_of_two_words_are_read_whole(tree, files_of):
    folder = tree("a_T2_FLAIR.nii.gz", "a_T2.nii.gz", "a_brain_mask.nii.gz", "a_t1-gd.nii.gz")
    (case,) = read_cases([folder])
    assert case.case == "a"
    assert set(files_of(case)) == {"FLAIR", "T2w", "T1ce"}
    assert set(case.masks) == {"brain"}
    assert case.label is None


def test_a_sidecar_tells_the_contrast_where_the_name_is_silent(tree, files_of):
    texts = {
        "p1/p1_Ax_3_1.json": json.dumps({"SeriesDescription": "Ax T2 FLAIR"}),
        "p1/p1_Ax_4_1.json": json.dumps(
            {"SeriesDescription": "t1_mprage", "ContrastBolusAgent": "Gd"}
        ),
        "p1/p1_Ax_5_1.json": json.dumps({"SeriesDescription": "survey"}),
    }
    scans = [name.replace(".json", ".nii.gz") for name in texts]
    found = find_cases([tree(*scans, texts=texts)])
    (case,) = found.cases
    assert case.case == "p1"
    assert set(files_of(case)) == {"FLAIR", "T1ce"}
    assert [f.code for f in found.findings] == ["contrast_from_sidecar"] * 2 + ["files_left_aside"]


def test_a_pattern_with_named_parts_reads_any_tree(tree, files_of):
    folder = tree(
        "Leeds/s1/v1/T1.nii.gz", "Leeds/s1/v1/seg.nii.gz", "Leeds/s1/v2/T1.nii.gz",
        "York/s1/v1/flair.nii.gz", "York/s1/v1/notes.nii.gz",
    )  # fmt: skip
    found = find_cases([folder], "glob:{site}/{subject}/{session}/{contrast}.nii.gz")
    assert [(c.case, c.site, c.session) for c in found.cases] == [
        ("s1_v1", "Leeds", "v1"),
        ("s1_v2", "Leeds", "v2"),
    ]
    assert files_of(found.cases[0]) == {"T1w": "T1.nii.gz", "FLAIR": "flair.nii.gz"}
    assert found.cases[0].label.name == "seg.nii.gz"
    assert {f.code for f in found.findings} == {"contrast_unknown"}


def test_a_pattern_may_repeat_a_part_and_skip_folders(tree):
    folder = tree("x/y/s1/s1-T2.nii", "s2/s2-T2.nii", "s3/s4-T2.nii")
    cases = read_cases([folder], "glob:**/{subject}/{subject}-{contrast}.nii")
    assert [case.case for case in cases] == ["s2", "s1"]


@pytest.mark.parametrize("pattern", ["", "*.nii", "{contrast}.nii", "{subject}/{age}/T1.nii"])
def test_a_pattern_that_names_nobody_or_unknown_parts_is_refused(tree, pattern):
    with pytest.raises(UsageError, match=r"expected \{subject\} or \{case\}"):
        read_cases([tree("a_T1w.nii")], f"glob:{pattern}")
