from pathlib import Path

import pytest

from brainsegfounder.errors import DataError
from brainsegfounder.workflows.label_files import label_files, probability_files


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def relative(folder: Path, files: dict[str, Path]) -> dict[str, str]:
    return {case: str(file.relative_to(folder)) for case, file in files.items()}


@pytest.mark.parametrize(
    ("predicted", "expected", "case"),
    [
        ("BraTS2021_00001.nii.gz", "BraTS2021_00001/BraTS2021_00001_seg.nii.gz", "BraTS2021_00001"),
        ("BraTS-GLI-00005-001.nii.gz", "x/BraTS-GLI-00005-001-seg.nii.gz", "BraTS-GLI-00005-001"),
        ("ATLAS_003.nii.gz", "ATLAS_003.nii.gz", "ATLAS_003"),
        (
            "sub-1/ses-2/anat/sub-1_ses-2_desc-brainsegfounder_dseg.nii.gz",
            "derivatives/sub-1/ses-2/anat/sub-1_ses-2_space-MNI152_label-L_desc-T1lesion_mask.nii.gz",
            "sub-1_ses-2",
        ),
        ("stroke003_pred.nii", "stroke003/stroke003_lesion.nii.gz", "stroke003"),
    ],
    ids=["BraTS 2021", "BraTS 2023", "nnU-Net", "BIDS derivatives", "lesion"],
)
def test_names_of_other_tools_meet_in_the_case(
    predicted: str, expected: str, case: str, tmp_path: Path
) -> None:
    one, other = touch(tmp_path / "p", predicted), touch(tmp_path / "r", expected)
    assert list(label_files(one).files) == [case]
    assert list(label_files(other).files) == [case]


def test_scans_probabilities_and_brain_masks_beside_the_masks_do_not_count(tmp_path: Path) -> None:
    folder = touch(
        tmp_path,
        "sub-1_T1w.nii.gz",
        "sub-1_desc-brain_mask.nii.gz",
        "sub-1_label-lesion_mask.nii.gz",
        "sub-1_label-lesion_probseg.nii.gz",
        ".hidden_mask.nii.gz",
    )
    found = label_files(folder)
    assert relative(folder, found.files) == {"sub-1": "sub-1_label-lesion_mask.nii.gz"}
    assert not found.duplicates


def test_of_an_nnunet_data_set_only_the_labels_count(tmp_path: Path) -> None:
    folder = touch(
        tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/a.nii.gz"
    )
    assert relative(folder, label_files(folder).files) == {"a": "labelsTr/a.nii.gz"}


def test_two_masks_of_a_case_are_both_named_and_none_is_taken(tmp_path: Path) -> None:
    folder = touch(tmp_path, "a/one_seg.nii.gz", "b/one_mask.nii.gz", "two_seg.nii.gz")
    found = label_files(folder)
    assert list(found.files) == ["two"]
    assert "a/one_seg.nii.gz, b/one_mask.nii.gz" in found.duplicates["one"]


def test_a_folder_without_masks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.nii or \.nii\.gz file"):
        label_files(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        label_files(tmp_path / "absent")
    with pytest.raises(DataError, match=r"no probabilities of WT found; expected \*_probseg"):
        probability_files(tmp_path, ["WT"])


def test_probabilities_are_found_by_label_by_ending_and_by_volume(tmp_path: Path) -> None:
    folder = touch(
        tmp_path,
        "sub-1_label-wt_probseg.nii.gz",
        "sub-1_space-orig_label-ET_probseg.nii.gz",
        "b_WT_probseg.nii.gz",
        "c_probseg.nii.gz",
    )
    found = probability_files(folder, ["WT", "ET"])
    assert {region: file.path.name for region, file in found["sub-1"].items()} == {
        "WT": "sub-1_label-wt_probseg.nii.gz",
        "ET": "sub-1_space-orig_label-ET_probseg.nii.gz",
    }
    assert list(found["b"]) == ["WT"]
    assert [file.volume for file in found["c"].values()] == [0, 1]
    assert [file.volume for file in probability_files(folder, ["WT"])["c"].values()] == [None]
