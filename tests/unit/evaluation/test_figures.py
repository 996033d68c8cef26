import base64
import io
import math
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from brainsegfounder.errors import LabelError
from brainsegfounder.evaluation import slices
from brainsegfounder.evaluation.figures import case_mosaic, dice_strip, loss_curves
from brainsegfounder.evaluation.metrics import RegionScore
from brainsegfounder.volumes.volume import Volume

REGIONS = {"WT": [1, 2], "ET": [2]}
PANEL = 275  # a quarter of the mosaic's 1100 pixels


def svg_of(uri):
    kind, content = uri.split(",", 1)
    assert kind == "data:image/svg+xml;base64"
    return ET.fromstring(base64.b64decode(content))


def pixels_of(uri):
    kind, content = uri.split(",", 1)
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")).astype(int)


def curves_in(uri):
    """Number of line collections and lines that stand inside the axes."""
    return sum(1 for node in svg_of(uri).iter() if node.get("id", "").startswith("line2d"))


def head(shape=(40, 48, 32), spacing_mm=(3.0, 3.0, 4.0), radius_mm=45.0):
    """A grey ball, brighter in one small cube on the patient's right, in front and on top."""
    affine = np.diag([*spacing_mm, 1.0])
    centre_mm = np.asarray(shape) * spacing_mm / 2
    mm = np.indices(shape).reshape(3, -1).T * spacing_mm + np.asarray(spacing_mm) / 2 - centre_mm
    voxels = np.where((mm**2).sum(axis=1) < radius_mm**2, 100.0, 0.0)
    voxels[(np.abs(mm - [22, 18, 14]) < 8).all(axis=1)] = 200.0
    return Volume(voxels.reshape(shape).astype(np.float32)[None], affine, "image.nii.gz")


def lesion_of(image, value=2):
    voxels = np.where(image.voxels > 150, value, 0).astype(np.int16)
    return Volume(voxels, image.affine, "labels.nii.gz")


def turned(volume, order, flips):
    voxels = volume.voxels[0].transpose(order)
    affine = volume.affine[:, [*order, 3]].copy()
    for axis in flips:
        affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
        affine[:3, axis] *= -1
        voxels = np.flip(voxels, axis)
    return Volume(np.ascontiguousarray(voxels)[None], affine, volume.source)


def records(num_steps=300):
    noise = np.random.default_rng(0).normal(0, 0.01, num_steps)
    return [
        {"step": i, "loss": 3 * math.exp(-i / 50) + 0.3 + noise[i], "loss_dice": 1.0, "lr": 1e-4}
        for i in range(num_steps)
    ]


def score(case, region, dice, empty="none"):
    return RegionScore(case, region, dice, 1.0, 1.0, 1.0, 0.0, empty)


def test_importing_the_pictures_does_not_import_torch_or_pyplot():
    code = (
        "import sys, brainsegfounder.evaluation.figures, brainsegfounder.evaluation.report;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'matplotlib.pyplot')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_same_losses_give_the_same_bytes():
    assert loss_curves(records(), title="Training") == loss_curves(records(), title="Training")


def test_each_named_component_is_a_curve_and_other_keys_are_not():
    both, one = loss_curves(records()), loss_curves(records(), {"loss": "total"})
    assert curves_in(both) - curves_in(one) == 3  # raw, smoothed and legend


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 1}],
        [{"step": 1, "loss": float("nan")}],
        [{"loss": 1.0}],
        [{"step": 0, "loss": 0.5}],
        [{"step": 0, "loss": 0.0}, {"step": 5, "loss": -1.0}],
        [{"step": 2, "loss": 1.0}, {"step": 1, "loss": 50.0}, {"step": 3, "loss": None}],
    ],
)
def test_few_odd_or_missing_losses_still_give_a_picture(rows):
    assert svg_of(loss_curves(rows)).tag.endswith("svg")


def test_a_level_to_compare_with_is_drawn_and_named_and_lies_within_the_picture():
    rows = [{"step": i, "rank": 20.0 + i} for i in range(4)]
    names = {"rank": "rank"}
    plain = loss_curves(rows, names)
    levelled = loss_curves(rows, names, levels={"collapsed": 1.0, "largest": 31.0})
    assert curves_in(levelled) - curves_in(plain) == 4  # two lines, two keys of the legend


def test_dollars_and_angle_brackets_in_names_are_plain_text():
    rows = [{"step": i, "a$b$<i>": 1.0 + i} for i in range(3)]
    svg = svg_of(loss_curves(rows, {"a$b$<i>": "cost $x^2$ <b>&"}, title="$\\frac$ <x>"))
    assert svg.tag.endswith("svg")


def test_a_dice_strip_takes_empty_tied_and_single_scores():
    scores = [score(f"c{i}", "WT", 0.9) for i in range(30)]
    scores += [score("c0", "ET", 0.0, "reference"), score("c1", "$ET$", 1.0, "both")]
    assert svg_of(dice_strip(scores, "Dice")).tag.endswith("svg")
    assert svg_of(dice_strip([])).tag.endswith("svg")
    assert dice_strip(scores) == dice_strip(scores)


@pytest.mark.parametrize(("order", "flips"), [((0, 1, 2), (0, 1)), ((2, 0, 1), (1,))])
def test_a_mosaic_is_the_same_whatever_the_axis_order_of_the_file(order, flips):
    image = head()
    labels = lesion_of(image)
    straight = case_mosaic(image, labels, labels, REGIONS, "case")
    moved = [turned(volume, order, flips) for volume in (image, labels)]
    assert np.array_equal(
        pixels_of(case_mosaic(*moved, moved[1], REGIONS, "case")), pixels_of(straight)
    )
    # The reference may lie otherwise than the image.
    assert case_mosaic(image, labels, moved[1], REGIONS, "case") == straight


def test_the_patients_right_is_on_the_left_unless_neurological():
    image = head()
    empty = lesion_of(image, value=0)
    for convention, side in (("radiological", 0), ("neurological", 1)):
        drawn = pixels_of(
            case_mosaic(image, empty, lesion_of(image), REGIONS, convention=convention)
        )
        axial = drawn[:250, :PANEL].min(axis=2)
        # Letters are white as well, and stand at the panel's edges.
        rows, columns = np.nonzero(axial[40:, 25:-25] > 225)
        assert (np.median(columns) + 25 > PANEL / 2) == bool(side)
        assert np.median(rows) + 40 < axial.shape[0] / 2  # in front is up


@pytest.mark.parametrize(
    ("convention", "left", "right"), [("radiological", "R", "L"), ("neurological", "L", "R")]
)
def test_letters_say_which_side_is_which(monkeypatch, convention, left, right):
    written = []
    monkeypatch.setattr(
        slices, "write_on", lambda _, x, y, text, **style: written.append((x, text))
    )
    case_mosaic(head(), None, None, {}, convention=convention)
    letters = [(x, text) for x, text in written if len(text) == 1]
    half = [(0.02, left), (0.98, right)]
    assert letters == half * 8 + [(0.02, "A"), (0.98, "P")] * 4


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 6.0), (4.0, 1.5, 2.0)])
def test_a_ball_is_drawn_round_whatever_the_spacing(spacing_mm):
    shape = tuple(int(130 / mm) for mm in spacing_mm)
    image = head(shape, spacing_mm)
    drawn = pixels_of(case_mosaic(image, None, None, {}))[:, :PANEL].max(axis=2)
    grey = (drawn > 60) & (drawn < 140)
    bands = np.flatnonzero(np.count_nonzero(grey, axis=1) > 12)
    runs = np.split(bands, np.flatnonzero(np.diff(bands) > 2) + 1)
    runs = [run for run in runs if run.size > 100]
    assert len(runs) == 3
    for run in runs:
        columns = np.flatnonzero(np.count_nonzero(grey[run], axis=0) > 12)
        assert np.ptp(columns) == pytest.approx(run.size, rel=0.12)


@pytest.mark.parametrize("missing", ["prediction", "reference", "both", "voxels"])
def test_a_mosaic_can_be_drawn_without_masks_or_with_empty_ones(missing):
    image = head()
    full, empty = lesion_of(image), lesion_of(image, value=0)
    masks = {
        "prediction": (None, full),
        "reference": (full, None),
        "both": (None, None),
        "voxels": (empty, empty),
    }[missing]
    assert pixels_of(case_mosaic(image, *masks, REGIONS, "a_case $x$ <i>")).shape[1] == 1100


def test_a_lesion_at_the_border_and_of_one_voxel_can_be_drawn():
    image = head()
    plain = case_mosaic(image, None, None, REGIONS)
    for index in ((0, 0, 0), (-1, -1, -1), (20, 24, 16)):
        voxels = np.zeros_like(image.voxels, dtype=np.int16)
        voxels[(0, *index)] = 1
        labels = Volume(voxels, image.affine)
        assert case_mosaic(image, labels, None, REGIONS) != plain


def test_a_constant_image_and_one_with_several_channels_can_be_drawn():
    image = head()
    for voxels in (np.zeros_like(image.voxels), np.full_like(image.voxels, 7.0)):
        case_mosaic(Volume(voxels, image.affine), None, None, {})
    double = Volume(np.concatenate([image.voxels * 0, image.voxels]), image.affine)
    labels = lesion_of(image)
    assert case_mosaic(double, labels, None, REGIONS, channel=1) == case_mosaic(
        image, labels, None, REGIONS
    )


def test_a_mask_on_another_grid_is_refused():
    image = head()
    other = Volume(np.zeros((1, 5, 5, 5), np.int16), np.eye(4), "other.nii.gz")
    with pytest.raises(LabelError, match=r"other\.nii\.gz.*image\.nii\.gz"):
        case_mosaic(image, other, None, REGIONS)
