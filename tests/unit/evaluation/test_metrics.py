import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from brainsegfounder.errors import LabelError, RunError
from brainsegfounder.evaluation import metrics
from brainsegfounder.evaluation.metrics import (
    RULES,
    RegionScore,
    dice,
    hd95_mm,
    on_grid_of,
    score_case,
    summarise,
    write_metrics,
)
from brainsegfounder.volumes.volume import Volume

REGIONS = {"TC": [1, 4], "WT": [1, 2, 4], "ET": [4]}
OBLIQUE = np.array(
    [[-0.9, 0.3, 0.2, 12.0], [0.25, 1.7, -0.4, -30.0], [0.1, 0.35, 2.9, 4.5], [0, 0, 0, 1.0]]
)


def mask_of(shape, *boxes):
    mask = np.zeros(shape, dtype=bool)
    for box in boxes:
        mask[tuple(slice(a, b) for a, b in box)] = True
    return mask


def labels_of(voxels, affine=None, source="labels.nii.gz"):
    affine = np.eye(4) if affine is None else affine
    return Volume(np.asarray(voxels, dtype=np.int16)[None], np.array(affine), source)


def random_labels(shape=(9, 11, 7), affine=None, seed=0, source="reference.nii.gz"):
    voxels = np.random.default_rng(seed).choice([0, 0, 0, 1, 2, 4], size=shape)
    return labels_of(voxels, affine, source)


def turned(volume, order, flips):
    """The same physical grid with its axes permuted, then flipped."""
    voxels = volume.voxels[0].transpose(order)
    affine = volume.affine[:, [*order, 3]].copy()
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
        affine[:3, axis] *= -1
        voxels = np.flip(voxels, axis)
    return Volume(voxels[None], affine, "prediction.nii.gz")


def score(case, region="WT", value=0.5, **changes):
    fields = {
        "case": case,
        "region": region,
        "dice": value,
        "hd95_mm": 2.0,
        "volume_ml": 3.0,
        "reference_volume_ml": 4.0,
        "volume_difference_ml": -1.0,
        "empty": "none",
    }
    return RegionScore(**{**fields, **changes})


def test_dice_of_half_overlapping_boxes_is_one_half():
    first = mask_of((10, 10, 10), [(0, 4), (0, 4), (0, 4)])
    second = mask_of((10, 10, 10), [(2, 6), (0, 4), (0, 4)])
    assert dice(first, second) == 0.5
    assert dice(first, first) == 1.0


def test_dice_counts_a_probability_as_in_or_out():
    certain = np.array([[[0.9, 0.6, 0.4, 0.0]]])
    assert dice(certain, np.array([[[1, 1, 0, 0]]])) == 1.0


def test_two_empty_masks_agree_and_one_empty_mask_costs_the_diagonal():
    empty, full = np.zeros((4, 5, 6), bool), mask_of((4, 5, 6), [(1, 2), (1, 3), (2, 4)])
    assert dice(empty, empty) == 1.0
    assert hd95_mm(empty, empty, (1, 1, 1), 99.0) == 0.0
    for one, other in [(empty, full), (full, empty)]:
        assert dice(one, other) == 0.0
        assert hd95_mm(one, other, (1, 1, 1), 99.0) == 99.0


def test_missing_a_region_on_the_brats_grid_costs_373_mm():
    reference = np.zeros((240, 240, 155), np.int16)
    reference[100:103, 100:103, 70:73] = 4
    [row] = score_case(
        "case", labels_of(np.zeros_like(reference)), labels_of(reference), {"ET": [4]}
    )
    assert row.hd95_mm == pytest.approx(373.1287, abs=1e-4)
    assert (row.dice, row.empty) == (0.0, "prediction")


@pytest.mark.parametrize(("axis", "spacing_mm"), [(0, 0.5), (1, 2.0), (2, 7.5)])
def test_distance_between_two_voxels_is_in_millimetres_of_the_axis(axis, spacing_mm):
    near, far = np.zeros((20, 20, 20)), np.zeros((20, 20, 20))
    near[3, 3, 3] = 1
    far[tuple(3 + 4 * (a == axis) for a in range(3))] = 1
    assert hd95_mm(near, far, (0.5, 2.0, 7.5), 1e3) == pytest.approx(4 * spacing_mm)


def test_distance_takes_the_worse_of_the_two_directions():
    small = mask_of((60, 5, 5), [(0, 2), (0, 2), (0, 2)])
    large = small | mask_of((60, 5, 5), [(50, 55), (0, 2), (0, 2)])
    assert hd95_mm(small, large, (1, 1, 1), 1e3) > 48
    assert hd95_mm(large, small, (1, 1, 1), 1e3) == hd95_mm(small, large, (1, 1, 1), 1e3)


def test_masks_of_two_shapes_are_refused():
    with pytest.raises(LabelError, match=r"\(2, 2, 2\).*\(1, 2, 2, 2\)"):
        dice(np.ones((2, 2, 2)), np.ones((1, 2, 2, 2)))


def test_volumes_are_in_millilitres_of_the_reference_grid():
    affine = np.diag([2.0, 2.0, 2.5, 1.0])  # a voxel of 10 mm³
    reference, prediction = np.zeros((10, 10, 10), int), np.zeros((10, 10, 10), int)
    reference[:5, :4, :5] = 1
    prediction[:5, :4, :6] = 1
    [row] = score_case(
        "c", labels_of(prediction, affine), labels_of(reference, affine), {"lesion": [1]}
    )
    assert row.reference_volume_ml == pytest.approx(1.0)
    assert row.volume_ml == pytest.approx(1.2)
    assert row.volume_difference_ml == pytest.approx(0.2)


def test_regions_are_unions_of_label_values():
    reference = labels_of([[[0, 1, 2, 4]]])
    prediction = labels_of([[[0, 4, 2, 1]]])
    rows = {row.region: row for row in score_case("c", prediction, reference, REGIONS)}
    assert list(rows) == ["TC", "WT", "ET"]
    assert (rows["TC"].dice, rows["WT"].dice, rows["ET"].dice) == (1.0, 1.0, 0.0)


def test_the_empty_column_names_the_empty_mask():
    rows = {
        row.region: row.empty
        for row in score_case(
            "c",
            labels_of([[[1, 0, 3, 0]]]),
            labels_of([[[1, 2, 0, 0]]]),
            {"none": [1], "prediction": [2], "reference": [3], "both": [9]},
        )
    }
    assert all(region == empty for region, empty in rows.items())


@pytest.mark.parametrize("affine", [np.diag([1, 2, 3, 1.0]), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2), (2, 1, 0)])
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
def test_a_turned_or_flipped_prediction_scores_as_if_it_had_not_been_turned(affine, order, flips):
    reference, prediction = random_labels(affine=affine), random_labels(affine=affine, seed=1)
    moved = turned(prediction, order, flips)
    assert np.array_equal(on_grid_of(reference, moved).voxels, prediction.voxels)
    assert score_case("c", moved, reference, REGIONS) == score_case(
        "c", prediction, reference, REGIONS
    )


def test_a_header_rounded_by_another_tool_is_still_the_same_grid():
    reference = random_labels()
    rounded = random_labels(affine=np.eye(4) + 1e-3)
    assert all(row.dice == 1.0 for row in score_case("c", rounded, reference, REGIONS))
    moved = turned(rounded, (1, 0, 2), (0,))
    assert all(row.dice == 1.0 for row in score_case("c", moved, reference, REGIONS))


@pytest.mark.parametrize(
    "prediction",
    [
        labels_of(np.zeros((9, 11, 8)), source="prediction.nii.gz"),
        random_labels(affine=np.diag([1, 1, 1.2, 1]), source="prediction.nii.gz"),
        random_labels(affine=np.diag([-1, 1, 1, 1]), source="prediction.nii.gz"),
        random_labels(
            affine=[[0.7, 0.7, 0, 0], [-0.7, 0.7, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
            source="prediction.nii.gz",
        ),
    ],
    ids=["shape", "spacing", "mirrored header", "rotated 45 degrees"],
)
def test_another_grid_is_refused_with_both_files_named(prediction):
    with pytest.raises(LabelError) as caught:
        score_case("c", prediction, random_labels(), REGIONS)
    message = str(caught.value)
    for part in ("prediction.nii.gz", "reference.nii.gz", "(9, 11, 7)", "affine", "resample"):
        assert part in message


def test_probabilities_and_several_channels_are_refused():
    probabilities = Volume(np.full((1, 2, 2, 2), 0.7, np.float32), np.eye(4), "p.nii.gz")
    channels = Volume(np.ones((3, 2, 2, 2), np.int16), np.eye(4), "p.nii.gz")
    for volume in (probabilities, channels):
        with pytest.raises(LabelError, match=r"p\.nii\.gz.*labels first"):
            score_case("c", volume, labels_of(np.ones((2, 2, 2))), REGIONS)


def test_a_reference_label_that_no_region_names_is_said_aloud(caplog):
    with caplog.at_level(logging.WARNING, logger=metrics.__name__):
        score_case("c", labels_of([[[0, 3]]]), labels_of([[[0, 3]]]), REGIONS)
    assert "[3] are in no region" in caplog.text


def test_summary_of_known_scores():
    rows = [score("a", value=0.2, hd95_mm=1.0), score("b", value=0.6, hd95_mm=5.0)]
    rows += [score("c", value=1.0, hd95_mm=3.0), score("c", region="ET", value=0.1)]
    summary = summarise(rows)
    assert list(summary) == ["WT", "ET"]
    whole = summary["WT"]
    assert whole.num_cases == 3
    assert (whole.dice_mean, whole.dice_median) == (pytest.approx(0.6), 0.6)
    assert whole.dice_sd == pytest.approx(0.4)
    assert (whole.hd95_mm_mean, whole.hd95_mm_median) == (3.0, 3.0)
    assert whole.volume_difference_ml_mean == -1.0
    assert summary["ET"].dice_sd is None


def test_files_hold_every_score_exactly_in_json_and_rounded_in_csv(tmp_path: Path):
    rows = [score("Fälle, 1", value=1 / 3), score("b", region="ET", empty="both")]
    write_metrics(tmp_path / "new", rows, RULES, {"recipe": "atlas", "version": "not this one"})
    content = json.loads((tmp_path / "new/metrics.json").read_text(encoding="utf-8"))
    assert (content["convention"], content["version"]) == ("plain", 1)
    assert content["rules"] == RULES
    assert content["recipe"] == "atlas"
    assert content["cases"][0]["dice"] == 1 / 3
    assert content["aggregate"]["WT"]["num_cases"] == 1
    assert content["aggregate"]["WT"]["dice_sd"] is None
    with (tmp_path / "new/metrics.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == [
        "case", "region", "dice", "hd95_mm", "volume_difference_vox", "volume_difference_ml",
        "lesion_count_difference", "lesion_f1", "volume_ml", "reference_volume_ml",
        "absolute_volume_error_ml", "relative_volume_error", "iou", "sensitivity", "specificity",
        "precision", "mean_surface_distance_mm", "whole_dice", "whole_hd95_mm", "num_lesions",
        "num_reference_lesions", "num_found", "num_missed", "num_false", "average_precision",
        "brier", "ece", "empty",
    ]  # fmt: skip
    assert lines[1][:4] == ["Fälle, 1", "WT", "0.3333", "2.0000"]
    assert lines[2][-1] == "both"
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["metrics.csv", "metrics.json"]


def test_a_folder_that_cannot_be_written_is_a_run_error(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"metrics\.csv: cannot be written"):
        write_metrics(tmp_path / "file", [score("a")], RULES, {})
