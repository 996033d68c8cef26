"""Drawn brains: the same seed gives the same bytes, labels are exact, and the tree is BIDS."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from brainsegfounder.errors import ContrastError, OutputExistsError, UsageError, VolumeError
from brainsegfounder.volumes.nifti import read_labels, read_nifti
from brainsegfounder.volumes.phantom import PhantomSubject, draw_subject, write_cohort
from brainsegfounder.volumes.phantom_anatomy import Warp, axes_of, draw_anatomy, subject_grid
from brainsegfounder.volumes.phantom_lesions import mass_effect, plan_lesion

CONTRASTS = ("T1w", "T1ce", "T2w", "FLAIR")
TUMOURS = range(4)


@cache
def drawn(index: int, lesion: str = "tumour", spacing_mm: float = 3.0) -> PhantomSubject:
    return draw_subject(index, seed=7, lesion=lesion, contrasts=CONTRASTS, spacing_mm=spacing_mm)


def volume_ml(subject: PhantomSubject, *values: int) -> float:
    inside = np.isin(subject.labels.voxels, values)
    return float(inside.sum() * subject.labels.grid.voxel_volume_ml)


def median_at(subject: PhantomSubject, contrast: str, where: np.ndarray) -> float:
    return float(np.median(subject.volumes[contrast].voxels[0][where]))


def white_matter_nearby(index: int, lesion: str) -> np.ndarray:
    """Voxels that are white matter, 6 to 20 mm from the lesion."""
    subject = drawn(index, lesion)
    rng = np.random.default_rng([7, index])
    age, sex = int(rng.integers(20, 90)), rng.random() < 0.5
    warp = Warp.draw(rng, larger=-1.0 if sex else 1.0, older=(age - 20) / 70)
    plan = plan_lesion(np.random.default_rng([7, index, 1]), lesion)
    anatomy = draw_anatomy(warp, 3.0, mass_effect(warp, plan))
    away_mm = ndimage.distance_transform_edt(subject.labels.voxels[0] == 0, 3.0)
    pure = (anatomy.white > 0.95) & (anatomy.scarring < 0.05)
    return pure & (away_mm > 6) & (away_mm < 20)


def test_the_same_seed_and_index_give_the_same_bytes():
    again = draw_subject(0, seed=7, lesion="tumour", contrasts=CONTRASTS, spacing_mm=3.0)
    for contrast in CONTRASTS:
        first = drawn(0).volumes[contrast].voxels
        assert first.tobytes() == again.volumes[contrast].voxels.tobytes()
    assert drawn(0).labels.voxels.tobytes() == again.labels.voxels.tobytes()


def test_another_index_or_seed_gives_another_brain():
    other_seed = draw_subject(0, seed=8, lesion="tumour", contrasts=["T1w"], spacing_mm=3.0)
    for other in (drawn(1), other_seed):
        mine, theirs = drawn(0).volumes["T1w"].voxels > 0, other.volumes["T1w"].voxels > 0
        assert (mine != theirs).sum() > 500
        assert (drawn(0).labels.voxels != other.labels.voxels).any()


def test_a_contrast_does_not_depend_on_which_others_are_drawn():
    alone = draw_subject(0, seed=7, lesion="tumour", contrasts=["FLAIR"], spacing_mm=3.0)
    np.testing.assert_array_equal(alone.volumes["FLAIR"].voxels, drawn(0).volumes["FLAIR"].voxels)
    np.testing.assert_array_equal(alone.labels.voxels, drawn(0).labels.voxels)


def test_the_same_person_is_drawn_at_any_spacing():
    fine, coarse = drawn(0, spacing_mm=2.0), drawn(0)
    for value in (1, 2, 4):
        assert volume_ml(fine, value) == pytest.approx(volume_ml(coarse, value), rel=0.25, abs=2)
    middles_mm = []
    for subject in (fine, coarse):
        middle_vox = np.argwhere(subject.labels.voxels[0] > 0).mean(axis=0)
        middles_mm.append((subject.labels.affine @ [*middle_vox, 1])[:3])
    assert np.linalg.norm(middles_mm[0] - middles_mm[1]) < 2


@pytest.mark.parametrize("index", TUMOURS)
def test_a_brain_has_the_size_of_a_brain_and_is_whole(index):
    volume = drawn(index).volumes["T1w"]
    brain = volume.voxels[0] > 0
    assert 1000 < brain.sum() * volume.grid.voxel_volume_ml < 1900
    _, num_pieces = ndimage.label(brain)
    assert num_pieces == 1
    border = np.ones_like(brain)
    border[1:-1, 1:-1, 1:-1] = False
    assert not (brain & border).any()


def test_every_size_of_head_stays_in_the_field_of_view_and_plausible():
    for index in range(40):
        rng = np.random.default_rng([3, index])
        anatomy = draw_anatomy(Warp.draw(rng, larger=rng.uniform(-1, 1), older=rng.random()), 6.0)
        assert 1000 < anatomy.brain.sum() * anatomy.grid.voxel_volume_ml < 1900
        faces = [np.take(anatomy.brain, end, axis) for axis in range(3) for end in (0, -1)]
        assert not any(face.any() for face in faces)


def test_the_warp_never_folds():
    axes_mm = axes_of(subject_grid(4.0))
    for index in range(20):
        rng = np.random.default_rng([5, index])
        warp = Warp.draw(rng, larger=0.0, older=1.0)
        push = mass_effect(warp, plan_lesion(rng, "tumour"))
        slopes = np.stack(np.gradient(warp(axes_mm, push), 4.0, axis=(1, 2, 3)))
        assert np.linalg.det(np.moveaxis(slopes, (0, 1), (-2, -1))).min() > 0.05


def test_the_warp_is_undone_by_its_inverse():
    warp = Warp.draw(np.random.default_rng(1), larger=1.0, older=0.5)
    place_mm = np.array([31.0, -20.0, 22.0])
    i, j, k = warp.inverse(place_mm)
    reached_mm = warp([np.array([i]), np.array([j]), np.array([k])])[:, 0, 0, 0]
    np.testing.assert_allclose(reached_mm, place_mm, atol=0.05)


@pytest.mark.parametrize("spacing_mm", [2.0, 3.0])
def test_volumes_and_labels_share_a_grid_of_the_spacing_asked_for(spacing_mm):
    subject = drawn(0, spacing_mm=spacing_mm)
    assert subject.labels.voxels.dtype == np.int16
    for volume in subject.volumes.values():
        assert volume.voxels.dtype == np.float32
        assert volume.spacing_mm == pytest.approx((spacing_mm,) * 3)
        assert volume.voxels.shape == subject.labels.voxels.shape
        np.testing.assert_array_equal(volume.affine, subject.labels.affine)
        assert (np.diag(volume.affine)[:3] > 0).all()
        np.testing.assert_array_equal(volume.voxels > 0, subject.volumes["T1w"].voxels > 0)


@pytest.mark.parametrize("index", TUMOURS)
def test_a_tumour_is_a_core_in_a_rim_in_oedema_inside_the_brain(index):
    subject = drawn(index)
    labels = subject.labels.voxels[0]
    assert set(np.unique(labels)) == {0, 1, 2, 4}
    assert (subject.volumes["FLAIR"].voxels[0][labels > 0] > 0).all()
    assert 30 <= volume_ml(subject, 1, 2, 4) <= 150
    _, num_pieces = ndimage.label(labels > 0)
    assert num_pieces == 1
    around_core = ndimage.binary_dilation(labels == 1) & (labels != 1)
    assert (labels[around_core] == 4).all()
    depth_mm = ndimage.distance_transform_edt(np.isin(labels, (1, 4)), 3.0) - 1.5
    assert np.percentile(depth_mm[labels == 4], 95) <= 5.5


@pytest.mark.parametrize("index", range(6))
def test_a_stroke_is_one_piece_of_5_to_80_ml_inside_the_brain(index):
    subject = drawn(index, "stroke")
    labels = subject.labels.voxels[0]
    assert set(np.unique(labels)) == {0, 1}
    assert 5 <= volume_ml(subject, 1) <= 80
    assert (subject.volumes["T1w"].voxels[0][labels > 0] > 0).all()
    _, num_pieces = ndimage.label(labels)
    assert num_pieces == 1


def test_without_a_lesion_there_are_no_labels():
    assert drawn(0, "none").labels is None


@pytest.mark.parametrize("index", TUMOURS)
@pytest.mark.parametrize(
    ("contrast", "value", "lowest", "highest"),
    [
        ("FLAIR", 2, 1.2, 2.5),
        ("T2w", 2, 1.2, 3.0),
        ("T2w", 1, 1.3, 3.5),
        ("T1ce", 4, 1.15, 2.5),
        ("T1ce", 1, 0.2, 0.8),
        ("T1w", 1, 0.2, 0.8),
        ("T1w", 2, 0.5, 0.95),
    ],
)
def test_a_tumour_looks_as_it_should_beside_white_matter(index, contrast, value, lowest, highest):
    subject = drawn(index)
    white = median_at(subject, contrast, white_matter_nearby(index, "tumour"))
    inside = median_at(subject, contrast, subject.labels.voxels[0] == value)
    assert lowest < inside / white < highest


@pytest.mark.parametrize("index", range(3))
def test_a_stroke_is_dark_on_t1w_and_bright_on_flair(index):
    subject = drawn(index, "stroke")
    white, lesion = white_matter_nearby(index, "stroke"), subject.labels.voxels[0] == 1
    assert median_at(subject, "T1w", lesion) < 0.75 * median_at(subject, "T1w", white)
    assert median_at(subject, "FLAIR", lesion) > 1.2 * median_at(subject, "FLAIR", white)


def test_scanners_differ_in_scale_and_noise():
    medians = [np.median(v[v > 0]) for v in (drawn(i).volumes["T1w"].voxels for i in TUMOURS)]
    assert max(medians) / min(medians) > 1.2


def test_an_unknown_contrast_is_named_with_a_suggestion():
    with pytest.raises(ContrastError, match="did you mean 'FLAIR'"):
        draw_subject(0, seed=1, lesion="none", contrasts=["FLAIRE"])


@pytest.mark.parametrize("contrasts", [[], ["T1w", "T1w"]])
def test_no_contrast_or_one_named_twice_is_refused(contrasts):
    with pytest.raises(ContrastError, match="named once"):
        draw_subject(0, seed=1, lesion="none", contrasts=contrasts)


@pytest.mark.parametrize(
    "wrong", [{"lesion": "cyst"}, {"seed": -1}, {"spacing_mm": 0.1}, {"spacing_mm": float("nan")}]
)
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match="expected"):
        draw_subject(0, **{"seed": 1, "lesion": "none", "contrasts": ["T1w"], **wrong})


def test_without_nilearn_the_message_says_how_to_install_it(monkeypatch):
    from brainsegfounder.volumes import phantom_anatomy

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    phantom_anatomy.fine_maps.cache_clear()
    with pytest.raises(VolumeError, match="pip install"):
        phantom_anatomy.fine_maps()


def test_drawing_imports_neither_torch_nor_scikit_learn():
    code = (
        "import sys; from brainsegfounder.volumes.phantom import draw_subject; "
        "draw_subject(0, seed=1, lesion='none', contrasts=['T1w'], spacing_mm=6.0); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'sklearn', 'nilearn')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- files


@pytest.fixture(scope="module")
def tumours(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tumours")
    kind = {"seed": 7, "lesion": "tumour", "contrasts": CONTRASTS, "spacing_mm": 3.0}
    assert write_cohort(folder, num_subjects=1, **kind) == ["sub-000"]
    assert write_cohort(folder, num_subjects=1, first_index=1, **kind) == ["sub-001"]
    return folder


@pytest.fixture(scope="module")
def strokes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("strokes")
    write_cohort(folder, num_subjects=1, seed=7, lesion="stroke", contrasts=["T1w"], spacing_mm=4.0)
    return folder


def test_files_hold_what_was_drawn(tumours):
    anat = tumours / "sub-001" / "anat"
    names = {path.name for path in anat.iterdir()}
    assert names == {
        "sub-001_T1w.nii.gz",
        "sub-001_ce-gadolinium_T1w.nii.gz",
        "sub-001_T2w.nii.gz",
        "sub-001_FLAIR.nii.gz",
    }
    read = read_nifti(anat / "sub-001_ce-gadolinium_T1w.nii.gz")
    np.testing.assert_array_equal(read.voxels, drawn(1).volumes["T1ce"].voxels)
    np.testing.assert_allclose(read.affine, drawn(1).labels.affine)
    masks = tumours / "derivatives" / "phantom" / "sub-001" / "anat"
    labels = read_labels(masks / "sub-001_seg-brats_dseg.nii.gz")
    np.testing.assert_array_equal(labels.voxels, drawn(1).labels.voxels)
    table = (masks / "sub-001_seg-brats_dseg.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in table] == ["index", "0", "1", "2", "4"]


def test_participants_hold_every_subject_with_its_lesion_volume(tumours):
    with (tumours / "participants.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["participant_id"] for row in rows] == ["sub-000", "sub-001"]
    assert float(rows[1]["lesion_volume"]) == pytest.approx(volume_ml(drawn(1), 1, 2, 4), abs=0.01)
    columns = json.loads((tumours / "participants.json").read_text())
    assert set(rows[0]) == {"participant_id", *columns}


def test_a_stroke_mask_is_a_binary_lesion_mask(strokes):
    mask = strokes / "derivatives/phantom/sub-000/anat/sub-000_label-lesion_mask.nii.gz"
    assert set(np.unique(read_labels(mask).voxels)) == {0, 1}


def test_healthy_cohorts_have_no_derivatives(tmp_path):
    write_cohort(tmp_path, num_subjects=1, seed=1, lesion="none", contrasts=["T1w"], spacing_mm=6.0)
    assert not (tmp_path / "derivatives").exists()


def test_a_subject_that_exists_is_not_overwritten(strokes):
    before = sorted(strokes.rglob("*"))
    with pytest.raises(OutputExistsError, match="sub-000"):
        write_cohort(strokes, num_subjects=2, seed=1, lesion="stroke", contrasts=["T1w"])
    assert sorted(strokes.rglob("*")) == before


def test_another_dataset_is_not_written_into(tmp_path):
    (tmp_path / "dataset_description.json").write_text('{"Name": "A real study"}')
    with pytest.raises(OutputExistsError, match="another dataset"):
        write_cohort(tmp_path, num_subjects=1, seed=1, lesion="none", contrasts=["T1w"])


@pytest.mark.parametrize("cohort", ["tumours", "strokes"])
def test_the_official_validator_finds_no_error(cohort, request):
    beside_python = Path(sys.executable).with_name("bids-validator-deno")
    validator = str(beside_python) if beside_python.exists() else shutil.which(beside_python.name)
    if validator is None:
        pytest.skip("bids-validator-deno is not installed (pip install bids-validator-deno)")
    folder = request.getfixturevalue(cohort)
    result = subprocess.run(
        [validator, "--format", "json", "--recursive", str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    report = json.loads(result.stdout)
    issues = report["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert result.returncode == 0
