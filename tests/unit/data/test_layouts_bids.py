"""BIDS and layouts that are named like it."""

import json

import pytest

from brainsegfounder.data.layouts import find_cases, read_cases, recognise
from brainsegfounder.errors import DataError

DESCRIPTION = {"dataset_description.json": json.dumps({"Name": "x", "License": "CC0"})}


def codes(found):
    return [finding.code for finding in found.findings]


def test_licence_site_and_fold_come_from_the_data_sets_own_files(tree):
    table = "participant_id\tage\tsite\tFold\nsub-01\t20\tLeeds\t0\nsub-02\t30\tYork\tn/a\n"
    folder = tree(
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
        texts=DESCRIPTION | {"participants.tsv": table},
    )
    cases = read_cases([folder])
    assert [(c.case, c.site, c.licence, c.fold) for c in cases] == [
        ("sub-01", "Leeds", "CC0", 0),
        ("sub-02", "York", "CC0", None),
    ]


def test_brain_and_deface_masks_are_carried_beside_the_lesion_mask(tree):
    folder = tree(
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_mod-T1w_defacemask.nii.gz",
        "derivatives/a/sub-01/anat/sub-01_desc-brain_mask.nii.gz",
        "derivatives/b/sub-01/anat/sub-01_label-brain_mask.nii.gz",
        "derivatives/b/sub-01/anat/sub-01_label-GM_mask.nii.gz",
        "derivatives/b/sub-01/anat/sub-01_space-MNI152_label-lesion_mask.nii.gz",
        "derivatives/c/sub-01/anat/sub-01_label-lesion_mask.nii.gz",
        texts=DESCRIPTION,
    )
    (case,) = read_cases([folder])
    assert {name: path.parts[-4] for name, path in case.masks.items() if name == "brain"} == {
        "brain": "a"
    }
    assert case.masks["deface"].name == "sub-01_mod-T1w_defacemask.nii.gz"
    assert case.label.name == "sub-01_label-lesion_mask.nii.gz", "the one on the scan's own grid"


def test_raw_scans_come_before_those_of_derivatives(tree, files_of):
    folder = tree(
        "sub-01/anat/sub-01_T1w.nii.gz",
        "derivatives/prep/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
        "derivatives/prep/sub-01/anat/sub-01_space-MNI152_FLAIR.nii.gz",
        texts=DESCRIPTION,
    )
    (case,) = read_cases([folder])
    assert files_of(case) == {"T1w": "sub-01_T1w.nii.gz"}


def test_of_derivatives_alone_the_native_preprocessed_scan_is_taken(tree, files_of):
    folder = tree(
        "sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
        "sub-01/anat/sub-01_desc-smooth_T1w.nii.gz",
        "sub-01/anat/sub-01_space-MNI152_desc-preproc_T1w.nii.gz",
        "sub-01/anat/sub-01_desc-brain_mask.nii.gz",
        "sub-01/anat/sub-01_label-GM_probseg.nii.gz",
        texts=DESCRIPTION,
    )
    (case,) = read_cases([folder])
    assert files_of(case) == {"T1w": "sub-01_desc-preproc_T1w.nii.gz"}
    assert case.masks["brain"].name == "sub-01_desc-brain_mask.nii.gz"


def test_derivatives_in_several_template_spaces_ask_which(tree):
    names = [f"sub-01/anat/sub-01_space-{s}_T1w.nii.gz" for s in ("MNI152", "Talairach")]
    with pytest.raises(DataError, match=r"in the spaces MNI152, Talairach .*Choose one"):
        read_cases([tree(*names, texts=DESCRIPTION)])


def test_phase_images_and_later_echoes_are_no_contrast(tree, files_of):
    folder = tree(
        "sub-01/anat/sub-01_part-mag_T2starw.nii.gz",
        "sub-01/anat/sub-01_part-phase_T2starw.nii.gz",
        "sub-01/anat/sub-01_echo-1_PDw.nii.gz",
        "sub-01/anat/sub-01_echo-2_PDw.nii.gz",
        "sub-01/dwi/sub-01_dwi.nii.gz",
        texts=DESCRIPTION,
    )
    (case,) = read_cases([folder])
    assert files_of(case) == {
        "T2starw": "sub-01_part-mag_T2starw.nii.gz",
        "PD": "sub-01_echo-1_PDw.nii.gz",
    }


def test_a_contrast_agent_in_the_sidecar_only_is_doubt(tree, files_of):
    sidecar = {"sub-01/anat/sub-01_T1w.json": json.dumps({"ContrastBolusIngredient": "GADOLINIUM"})}
    found = find_cases([tree("sub-01/anat/sub-01_T1w.nii.gz", texts=DESCRIPTION | sidecar)])
    assert files_of(found.cases[0]) == {"T1w": "sub-01_T1w.nii.gz"}
    assert codes(found) == ["contrast_in_doubt"]


def test_two_described_sets_side_by_side_are_read_apart(tree):
    folder = tree(
        *(f"{s}/sub-01/anat/sub-01_{c}.nii.gz" for s, c in (("a", "T1w"), ("b", "FLAIR"))),
        *(f"{s}/dataset_description.json" for s in "ab"),
    )
    cases = read_cases([folder])
    assert [(c.case, list(c.contrasts)) for c in cases] == [
        ("a_sub-01", ["T1w"]),
        ("b_sub-01", ["FLAIR"]),
    ]


def atlas(subject, ending, cohort="R001", within="Training"):
    name = f"{subject}_ses-1_space-MNI152NLin2009aSym_{ending}.nii.gz"
    return f"ATLAS_2/{within}/{cohort}/{subject}/ses-1/anat/{name}"


def test_atlas_2_has_masks_beside_scans_and_the_cohort_as_site(tree, files_of):
    folder = tree(
        atlas("sub-r001s001", "T1w"),
        atlas("sub-r001s001", "label-L_desc-T1lesion_mask"),
        atlas("sub-r027s002", "T1w", "R027", "Testing"),
    )
    found = find_cases([folder])
    assert set(found.layouts.values()) == {"atlas"}
    assert [(c.case, c.subject, c.site) for c in found.cases] == [
        ("sub-r027s002_ses-1", "sub-r027s002", "r027"),
        ("sub-r001s001_ses-1", "sub-r001s001", "r001"),
    ]
    assert found.cases[0].label is None
    assert found.cases[1].label.name.endswith("label-L_desc-T1lesion_mask.nii.gz")
    assert codes(found) == []


def test_atlas_as_a_bids_derivative_is_recognised_too(tree):
    name = "sub-r001s001_ses-1_space-MNI152NLin2009aSym"
    anat = "derivatives/ATLAS/sub-r001s001/ses-1/anat"
    folder = tree(f"{anat}/{name}_T1w.nii.gz", f"{anat}/{name}_label-L_desc-T1lesion_mask.nii.gz")
    (case,) = read_cases([folder])
    assert recognise(folder) == "atlas"
    assert case.label is not None


def test_isles26_takes_the_native_scan_and_its_mask(tree, files_of):
    anat = "sub-r048s003/ses-1/anat/sub-r048s003_ses-1"
    folder = tree(
        f"raw/{anat}_T1w.nii.gz",
        f"raw/{anat}_label-lesion_mask.nii.gz",
        f"standardised/{anat}_space-MNI152NLin2009aSym_T1w.nii.gz",
        f"standardised/{anat}_space-MNI152NLin2009aSym_label-lesion_mask.nii.gz",
    )
    found = find_cases([folder])
    (case,) = found.cases
    assert set(found.layouts.values()) == {"isles26"}
    assert files_of(case) == {"T1w": "sub-r048s003_ses-1_T1w.nii.gz"}
    assert case.label.name == "sub-r048s003_ses-1_label-lesion_mask.nii.gz"
    assert case.site == "r048"


def test_oasis_3_sessions_are_days_and_further_runs_are_cases_of_their_own(tree, files_of):
    folder = tree(
        "OAS30001_MR_d0129/anat2/NIFTI/sub-OAS30001_ses-d0129_run-01_T1w.nii.gz",
        "OAS30001_MR_d0129/anat3/NIFTI/sub-OAS30001_ses-d0129_run-02_T1w.nii.gz",
        "OAS30001_MR_d0129/anat4/sub-OAS30001_sess-d0129_acq-TSE_T2w.nii.gz",
        "OAS30001_MR_d0757/anat1/sub-OAS30001_sess-d0757_T1w.nii.gz",
        "OAS30001_MR_d0129/func1/sub-OAS30001_sess-d0129_task-rest_bold.nii.gz",
    )
    found = find_cases([folder])
    assert recognise(folder) == "oasis3"
    assert [(c.case, sorted(c.contrasts)) for c in found.cases] == [
        ("OAS30001_d0129", ["T1w", "T2w"]),
        ("OAS30001_d0129_run-02", ["T1w"]),
        ("OAS30001_d0757", ["T1w"]),
    ]
    assert {c.subject for c in found.cases} == {"OAS30001"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["PT001_X/sub-1/ses-1/anat/t1.nii.gz", "PT001_X/sub-1/ses-1/anat/t1_2.nii.gz",
             "PT001_X/sub-1/ses-1/dwi/adc.nii.gz", "PT002_Y/sub-1/ses-1/anat/flair.nii.gz"],
            [("PT001_X_sub-1_ses-1", ["ADC", "T1w"]), ("PT001_X_sub-1_ses-1_t1_2", ["T1w"]),
             ("PT002_Y_sub-1_ses-1", ["FLAIR"])],
        ),
        (
            ["sub_1/ses_1/t1.nii.gz", "sub_1/ses_1/t2s.nii.gz", "sub_2/ses_1/flair.nii.gz"],
            [("sub_1_ses_1", ["T1w", "T2starw"]), ("sub_2_ses_1", ["FLAIR"])],
        ),
        (
            ["PT007_Z/sub_1/ses_2/sub_1_ses_2_T1w.nii.gz"],
            [("PT007_Z_sub_1_ses_2", ["T1w"])],
        ),
    ],
)  # fmt: skip
def test_fomo_in_its_editions(tree, names, expected):
    folder = tree(*names, texts={"README.md": "---\nlicense: cc-by-nc-sa-4.0\n---\n"})
    cases = read_cases([folder])
    assert recognise(folder) == "fomo"
    assert sorted((c.case, sorted(c.contrasts)) for c in cases) == expected
    assert {c.licence for c in cases} == {"cc-by-nc-sa-4.0"}


def test_a_repeat_whose_name_another_case_has_is_refused_alone(tree):
    folder = tree(
        "sub_1/ses_1/t1.nii",
        "sub_1/ses_1/t1_2.nii",
        "sub_1/ses_1_t1_2/t1.nii",
        "sub_2/ses_1/t1.nii",
    )
    found = find_cases([folder])
    assert len({c.case for c in found.cases}) == len(found.cases) == 3
    assert [problem.code for problem in found.problems.values()] == ["case_name_taken"]
