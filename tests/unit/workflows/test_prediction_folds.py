"""Predictions of other systems, with the folds of their cross-validation."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import brainsegfounder
from brainsegfounder.errors import DataError
from brainsegfounder.evaluation.score_rows import read_scores
from brainsegfounder.workflows.compare_inputs import gather
from brainsegfounder.workflows.evaluate import run_evaluate
from brainsegfounder.workflows.prediction_folds import fold_folders

CASES = ("case_a", "case_b", "case_c", "case_d")
FOLD_OF = {"case_a": 0, "case_b": 1, "case_c": 1, "case_d": 0}
TRAINER = "nnUNetTrainer__nnUNetPlans__3d_fullres"


def save(path: Path, shift: int = 0) -> None:
    mask = np.zeros((12, 12, 12), np.uint8)
    mask[2 + shift : 7 + shift, 2:7, 2:7] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(mask, np.eye(4)), path)


@pytest.fixture
def references(tmp_path: Path) -> Path:
    for case in CASES:
        save(tmp_path / "references" / f"{case}.nii.gz")
    return tmp_path / "references"


def predict(root: Path, place: str) -> Path:
    """Predictions of all cases; `place` is where those of a fold are."""
    for shift, (case, fold) in enumerate(FOLD_OF.items()):
        save(root / place.format(fold) / f"{case}.nii.gz", shift)
    return root


def split_list(folder: Path, cases: tuple[str, ...] = CASES) -> Path:
    """nnU-Net's list of who is tested in which fold."""
    splits = [{"train": [], "val": [case for case in cases if FOLD_OF[case] == n]} for n in (0, 1)]
    path = folder / "splits_final.json"
    path.write_text(json.dumps(splits))
    return path


def folds_in(out: Path) -> dict[str, str]:
    with (out / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return {row["case"]: row["fold"] for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    "place",
    ["fold_{}/validation", "fold_{}", "fold_{}/validation_raw", f"{TRAINER}/fold_{{}}/validation"],
)
def test_the_folds_of_folders_are_told_by_their_names(
    place: str, references: Path, tmp_path: Path
) -> None:
    predictions = predict(tmp_path / "theirs", place)
    run_evaluate(predictions, references, tmp_path / "out")
    assert folds_in(tmp_path / "out") == {case: str(fold) for case, fold in FOLD_OF.items()}
    assert "Each fold, tested by a model of its own" in (tmp_path / "out/report.html").read_text()


def test_copies_of_nnunet_and_a_model_of_all_cases_are_not_taken_for_predictions(
    references: Path, tmp_path: Path
) -> None:
    root = predict(tmp_path / "theirs" / TRAINER, "fold_{}/validation")
    save(root / "crossval_results_folds_0_1" / "postprocessed" / "case_a.nii.gz")
    save(root / "fold_all" / "validation" / "case_b.nii.gz")
    (root / "fold_2").mkdir()
    done = run_evaluate(tmp_path / "theirs", references, tmp_path / "out")
    assert done.folds == FOLD_OF
    assert done.refused == {}
    rows = json.loads((tmp_path / "out" / "metrics.json").read_text())["cases"]
    assert [row["dice"] for row in rows] == pytest.approx([1.0, 0.8, 0.6, 0.4])


@pytest.mark.parametrize("name", ["splits_final.json", "folds.csv", "datalist.json"])
def test_a_list_says_the_fold_of_every_case_of_one_folder(
    name: str, references: Path, tmp_path: Path
) -> None:
    lists = {
        "folds.csv": "case,fold\n" + "".join(f"{c},{n}\n" for c, n in FOLD_OF.items()),
        "datalist.json": json.dumps(
            {"training": [{"fold": n, "image": [f"{c}.nii.gz"]} for c, n in FOLD_OF.items()]}
        ),
    }
    split_list(tmp_path)
    if name in lists:
        (tmp_path / name).write_text(lists[name])
    predictions = predict(tmp_path / "theirs", "")
    run_evaluate(predictions, references, tmp_path / "out", folds=tmp_path / name)
    assert folds_in(tmp_path / "out") == {case: str(fold) for case, fold in FOLD_OF.items()}
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (content["folds_from"], content["without_fold"]) == (name, [])
    assert {row["fold"] for row in content["cases"]} == {0, 1}
    assert "fold" not in content["aggregate"]["label-1"]["metrics"]
    rows = brainsegfounder.evaluate(predictions, references, folds=tmp_path / name)
    assert {row["case"]: row["fold"] for row in rows} == FOLD_OF


def test_a_list_may_name_subjects(tmp_path: Path) -> None:
    for side in ("p", "r"):
        save(tmp_path / side / "sub-01_ses-2_dseg.nii.gz")
        save(tmp_path / side / "sub-02_dseg.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tfold\nsub-01\t3\nsub-02\t0\n")
    folds = tmp_path / "participants.tsv"
    done = run_evaluate(tmp_path / "p", tmp_path / "r", tmp_path / "out", folds=folds)
    assert done.folds == {"sub-01_ses-2": 3, "sub-02": 0}


def test_a_case_in_no_fold_is_scored_and_reported(references: Path, tmp_path: Path) -> None:
    predictions = predict(tmp_path / "theirs", "")
    folds = split_list(tmp_path, CASES[:3])
    done = run_evaluate(predictions, references, tmp_path / "out", folds=folds)
    assert done.num_scored == 4
    assert done.without_fold == ["case_d"]
    assert folds_in(tmp_path / "out")["case_d"] == ""
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["without_fold"] == ["case_d"]
    assert "1 of 4 cases are in no fold: case_d." in (tmp_path / "out" / "report.html").read_text()


def test_a_prediction_by_a_model_that_was_trained_on_the_case_is_refused(
    references: Path, tmp_path: Path
) -> None:
    predictions = predict(tmp_path / "theirs", "fold_{}")
    case = predictions / "fold_0" / "case_d.nii.gz"
    case.rename(predictions / "fold_1" / case.name)
    folds = split_list(tmp_path)
    done = run_evaluate(predictions, references, tmp_path / "out", folds=folds)
    assert "the model of fold 1 was trained on it" in done.refused["case_d"]
    assert done.num_scored == 3
    assert "1 that cannot be scored" in done.summary()


def test_a_case_predicted_in_two_folds_counts_for_none(references: Path, tmp_path: Path) -> None:
    predictions = predict(tmp_path / "theirs", "fold_{}")
    save(predictions / "fold_1" / "case_a.nii.gz")
    done = run_evaluate(predictions, references, tmp_path / "out")
    assert done.duplicate == ["case_a"]
    assert "in folds 0 and 1" in done.refused["case_a"]


def test_lists_and_folders_that_cannot_be_meant_are_refused(
    references: Path, tmp_path: Path
) -> None:
    predictions = predict(tmp_path / "theirs", "")
    (tmp_path / "folds.csv").write_text("case,fold\nsomebody,0\n")
    with pytest.raises(DataError, match=r"none of 4 cases \(case_a, ...\) among its 1 names"):
        run_evaluate(predictions, references, tmp_path / "out", folds=tmp_path / "folds.csv")
    for configuration in ("2d", "3d_fullres"):
        predict(tmp_path / "two" / f"nnUNetTrainer__nnUNetPlans__{configuration}", "fold_{}")
    with pytest.raises(DataError, match="predictions of 2 systems"):
        fold_folders(tmp_path / "two")


def test_compare_takes_the_folds_and_says_where_they_differ(
    references: Path, tmp_path: Path
) -> None:
    run_evaluate(predict(tmp_path / "theirs", "fold_{}"), references, tmp_path / "nnunet")
    assert {r.case: r.fold for r in read_scores(tmp_path / "nnunet" / "metrics.csv").rows} == {
        case: str(fold) for case, fold in FOLD_OF.items()
    }
    flat = predict(tmp_path / "ours", "")
    lists = {"same": [1, 0, 0, 1], "other": [0, 0, 1, 1]}
    warnings = {}
    for name, folds in lists.items():
        table = "".join(f"{case},{fold}\n" for case, fold in zip(CASES, folds, strict=True))
        (tmp_path / f"{name}.csv").write_text(f"case,fold\n{table}")
        run_evaluate(flat, references, tmp_path / name, folds=tmp_path / f"{name}.csv")
        words = [f"nnU-Net={tmp_path / 'nnunet'}", f"ours={tmp_path / name}"]
        warnings[name] = gather(words).warnings
    assert warnings["same"] == []
    assert warnings["other"] == [
        "ours and nnU-Net were cross-validated with different folds: a case was tested by models "
        "that were trained on other subjects."
    ]
