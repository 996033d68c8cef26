"""Predictions in a derivative meet references by the names that the cases had before."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from brainsegfounder.data.cases import Case
from brainsegfounder.settings import Region
from brainsegfounder.volumes.nifti import write_nifti
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.derivative import CaseOutput, write_case
from brainsegfounder.workflows.derivative_tables import open_derivative
from brainsegfounder.workflows.evaluate import How, evaluate, score_folders
from brainsegfounder.workflows.label_files import label_files

REGIONS = {"whole_tumour": Region(labels=(1, 2, 4), paint=2)}
VALUES = {name: region.labels for name, region in REGIONS.items()}
NAMES = ["case_001", "case 002", "sub-03_ses-1"]


@pytest.fixture
def predicted(tmp_path, draw_brain):
    """Predictions of three cases, the first without its last third; references beside them."""
    _, labels = draw_brain()
    cases = [Case(name, name, {"T1w": Path(f"{name}_T1w.nii.gz")}) for name in NAMES]
    tree = open_derivative(tmp_path / "out", cases, "m")
    for number, case in enumerate(cases):
        cut = labels.voxels.copy()
        cut[..., : 3 * (number == 0) * 5] = 0
        weights = Volume((cut > 0).astype(np.float32), labels.affine)
        output = CaseOutput(
            case, replace(labels, voxels=cut), {"a": 1, "b": 2, "c": 4}, REGIONS, ("T1w",), weights,
            on_grids={"T2w": labels},
        )  # fmt: skip
        write_case(tree, output, "k")
        write_nifti(tmp_path / "references" / f"{case.case}_seg.nii.gz", labels)
    return tree.out


def test_each_prediction_meets_the_reference_of_its_source(predicted):
    rows = evaluate(predicted, predicted.parent / "references", VALUES)
    dice = {row["case"]: row["dice"] for row in rows}
    assert list(dice) == sorted(NAMES)
    assert dice["case_001"] < 0.9
    assert dice["case 002"] == dice["sub-03_ses-1"] == 1.0


def test_probabilities_are_found_under_the_same_names(predicted):
    how = How(regions=VALUES, legal=(1, 2, 4), probabilities=predicted)
    result = score_folders(predicted, predicted.parent / "references", how)
    assert not result.refused
    assert {score.case for score in result.scores} == set(NAMES)
    assert all(score.average_precision is not None for score in result.scores)


def test_exact_names_come_before_those_of_the_source(predicted, draw_brain):
    _, labels = draw_brain()
    write_nifti(predicted.parent / "references" / "sub-case001_seg.nii.gz", labels)
    result = score_folders(predicted, predicted.parent / "references", How(regions=VALUES))
    assert {score.case for score in result.scores} == {"sub-case001", "case 002", "sub-03_ses-1"}
    assert result.missing == ["case_001"]


def test_labels_on_a_further_grid_are_not_a_second_prediction(predicted):
    found = label_files(predicted)
    assert sorted(found.files) == ["sub-03_ses-1", "sub-case001", "sub-case002"]
    assert found.duplicates == {}
    assert "space-" not in found.files["sub-case001"].name


def test_folds_of_a_derivative_keep_their_cases(predicted):
    root = predicted.parent / "folds"
    root.mkdir()
    predicted.rename(root / "fold_1")
    result = score_folders(root, predicted.parent / "references", How(regions=VALUES))
    assert result.folds == dict.fromkeys(NAMES, 1)
