"""`evaluate` on the command line: bad files among good ones, exit codes, what is printed."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

SHAPE = (20, 18, 16)
Call = Callable[..., tuple[int, str, str]]


def _save(path: Path, voxels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    return path


def _mask(value: int = 1) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:12, 5:12, 5:12] = value
    return mask


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Eight predictions and references, of which three are fine."""
    names = ("fine1", "fine2", "fine3", "broken", "several", "shape", "labels", "missing")
    for name in names:
        _save(tmp_path / "r" / f"{name}_seg.nii.gz", _mask())
        _save(tmp_path / "p" / f"{name}_seg.nii.gz", _mask())
    predictions = tmp_path / "p"
    (predictions / "broken_seg.nii.gz").write_bytes(gzip.compress(b"no image" * 100)[:-20])
    _save(predictions / "several_seg.nii.gz", np.stack([_mask()] * 3, axis=-1))
    _save(predictions / "shape_seg.nii.gz", _mask()[:, :, :-1])
    _save(predictions / "labels_seg.nii.gz", _mask(7))
    (predictions / "missing_seg.nii.gz").unlink()
    _save(predictions / "extra_seg.nii.gz", _mask())
    return predictions, tmp_path / "r"


@pytest.mark.parametrize("convention", ["plain", "atlas-2022", "brats-2023"])
def test_bad_files_are_each_listed_with_their_reason_and_the_rest_is_scored(
    call: Call, folders: tuple[Path, Path], tmp_path: Path, convention: str
) -> None:
    out = tmp_path / "out"
    code, said, error = call("evaluate", *folders, "--out", out, "--convention", convention)
    assert code == 3
    assert "3 of 9 cases scored" in said
    assert "1 without a prediction, 1 without a reference, 4 that cannot be scored" in said
    reasons = dict(
        line.removeprefix("refused ").split(": ", 1)
        for line in error.splitlines()
        if line.startswith("refused ")
    )
    content = json.loads((out / "metrics.json").read_text())
    assert content["refused"] == reasons
    assert {case: reason.split("/")[-1] for case, reason in reasons.items()}.keys() == {
        "broken", "several", "shape", "labels", "missing", "extra",
    }  # fmt: skip
    assert "broken_seg.nii.gz" in reasons["broken"]
    assert "3 volumes; expected one 3-D volume" in reasons["several"]
    assert "(20, 18, 15) voxels" in reasons["shape"]
    assert "label values [7] found; expected 0" in reasons["labels"]
    assert reasons["missing"] == "no prediction found; expected one of this name."
    assert reasons["extra"] == "no reference found; expected one of this name."
    scored = {row.split(",")[0] for row in (out / "metrics.csv").read_text().splitlines()[1:]}
    assert scored == {"fine1", "fine2", "fine3"}
    page = (out / "report.html").read_text()
    assert "3 of 9 cases scored" in page
    assert all(case in page for case in reasons)
    assert (content["num_cases_found"], content["num_cases_scored"]) == (9, 3)


def test_a_reference_that_is_bad_is_listed_too(call: Call, tmp_path: Path) -> None:
    for name in ("a", "b"):
        for side in ("p", "r"):
            _save(tmp_path / side / f"{name}_seg.nii.gz", _mask())
    (tmp_path / "r" / "b_seg.nii.gz").write_bytes(b"broken")
    out = tmp_path / "out"
    code, said, error = call("evaluate", tmp_path / "p", tmp_path / "r", "--out", out)
    assert code == 3
    assert "1 of 2 cases scored" in said
    assert "refused b: " in error


def test_two_masks_of_a_case_are_reported_and_the_rest_is_scored(
    call: Call, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        for side in ("p", "r"):
            _save(tmp_path / side / f"{name}_seg.nii.gz", _mask())
    _save(tmp_path / "p" / "again" / "b_seg.nii.gz", _mask())
    out = tmp_path / "out"
    code, said, error = call("evaluate", tmp_path / "p", tmp_path / "r", "--out", out)
    assert code == 3
    assert "1 of 2 cases scored; left out: 1 with several masks" in said
    assert "refused b: 2 masks of this case" in error


def test_everything_fine_ends_with_0_and_says_by_which_rules(call: Call, tmp_path: Path) -> None:
    for side in ("p", "r"):
        _save(tmp_path / side / "a_seg.nii.gz", _mask(3))
    words = ("evaluate", tmp_path / "p", tmp_path / "r", "--convention", "brats-2023")
    code, said, _ = call(*words, "--tumour-type", "metastasis", "--out", tmp_path / "out")
    assert code == 0
    assert "ET: lesion-wise Dice 1.000, lesion-wise HD95 0.0 mm over 1 cases" in said
    assert "1 of 1 cases scored, convention brats-2023" in said
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert content["parameters"]["tumour_type"] == "metastasis"
    code, said, _ = call(*words, "--out", tmp_path / "json", "--json")
    assert json.loads(said)["num_cases_scored"] == 1


def test_wrong_use_ends_with_2_before_anything_is_read(call: Call, tmp_path: Path) -> None:
    for words, message in (
        (("--convention", "brats23"), "--convention brats23: unknown"),
        (("--tumour-type", "glioma"), "plain has no parameters per tumour type"),
        (("--convention", "published-soft"), "expected --probabilities"),
    ):
        out = tmp_path / "out"
        code, _, error = call("evaluate", tmp_path / "p", tmp_path / "r", "--out", out, *words)
        assert code == 2
        assert message in error
        assert not out.exists()


def test_folds_of_a_list_stand_in_the_scores_and_cases_without_one_are_named(
    call: Call, tmp_path: Path
) -> None:
    for name in ("one", "two", "three"):
        for side in ("p", "r"):
            _save(tmp_path / side / f"{name}.nii.gz", _mask())
    (tmp_path / "folds.csv").write_text("case,fold\none,0\ntwo,1\n")
    words = [tmp_path / "p", tmp_path / "r", "--folds", tmp_path / "folds.csv"]
    code, said, error = call("evaluate", *words, "--out", tmp_path / "out")
    assert code == 0
    assert "3 of 3 cases scored" in said
    assert error.splitlines()[-1] == "1 of 3 cases are in no fold: three."
    code, said, _ = call("evaluate", *words, "--out", tmp_path / "again", "--json")
    assert (code, json.loads(said)["without_fold"]) == (0, ["three"])
