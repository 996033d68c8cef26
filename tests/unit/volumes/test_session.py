import numpy as np
import pytest

from brainsegfounder.errors import LabelError
from brainsegfounder.settings import PreparationSettings
from brainsegfounder.volumes import session as session_module
from brainsegfounder.volumes.geometry import resample_to, spaced_grid
from brainsegfounder.volumes.nifti import write_nifti
from brainsegfounder.volumes.preparation import prepare_case, undo, undo_labels
from brainsegfounder.volumes.registration import Registration
from brainsegfounder.volumes.session import InputGrid, read_session
from brainsegfounder.volumes.volume import Volume

RIGID = PreparationSettings(spacing_mm=None, registration="rigid", brain="auto")
BOTH = ["T1w", "FLAIR"]


@pytest.fixture(scope="module")
def apart(subject, turn, misplaced, tmp_path_factory):
    """T1w, and FLAIR with other voxels, other axes and another place; its labels on both grids."""
    folder = tmp_path_factory.mktemp("apart")
    matrix = misplaced(8, (6.0, -4.0, 5.0))
    flair, labels = subject.volumes["FLAIR"], subject.labels
    grid = spaced_grid(flair.grid, (4.0, 4.0, 5.0))
    coarse = resample_to(flair, grid)
    there = turn(Volume(coarse.voxels, matrix @ grid.affine), (1, 0, 2), (1,))
    marks = resample_to(Volume(labels.voxels > 0, labels.affine), grid).voxels > 0.5
    marks = turn(Volume(marks.astype(np.int16), matrix @ grid.affine), (1, 0, 2), (1,))
    files = {"T1w": subject.volumes["T1w"], "FLAIR": there, "on_t1w": labels, "on_flair": marks}
    for name, volume in files.items():
        write_nifti(folder / f"{name}.nii", volume)
    return {name: folder / f"{name}.nii" for name in files}


@pytest.fixture(scope="module")
def prepared(apart):
    return prepare_case("a", apart, BOTH, RIGID, label=apart["on_flair"])


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_a_contrast_elsewhere_is_registered_and_the_matrix_is_kept(apart, prepared, subject):
    record = prepared.steps["registration"]
    assert (record["to"], record["kind"]) == ("T1w", "rigid")
    found = record["contrasts"]["FLAIR"]
    assert np.shape(found["matrix"]) == (4, 4)
    assert found["overlap"][1] > found["overlap"][0]
    assert "registration_doubtful" not in {f.code for f in prepared.findings}
    joined = read_session("a", apart, BOTH, "rigid").image
    inside = subject.volumes["T1w"].voxels[0] > 0
    pair = joined.voxels[1][inside], subject.volumes["FLAIR"].voxels[0][inside]
    assert np.corrcoef(*pair)[0, 1] > 0.85


def test_results_return_to_the_grid_of_every_contrast(apart, prepared, subject):
    assert [type(grid) for grid in prepared.input_grids] == [InputGrid, InputGrid]
    for name, grid in zip(BOTH, prepared.input_grids, strict=True):
        scan = read_session("a", apart, [name]).image
        marked = read_session("a", {"x": apart[f"on_{name.lower()}"]}, ["x"]).image
        back = undo_labels(prepared.labels, grid)
        assert back.shape_vox == scan.shape_vox
        np.testing.assert_array_equal(back.affine, scan.affine)
        assert dice(back.voxels > 0, marked.voxels > 0) > 0.8
        probabilities = Volume((prepared.labels.voxels > 0) * 0.9, prepared.labels.affine)
        assert dice(undo(probabilities, grid).voxels > 0.45, marked.voxels > 0) > 0.8


def test_a_mask_drawn_on_the_second_contrast_comes_to_the_first(apart, prepared, subject):
    np.testing.assert_array_equal(prepared.reference.affine, prepared.source_grid.affine)
    assert dice(prepared.reference.voxels > 0, subject.labels.voxels > 0) > 0.8
    assert "mask_moved" in {finding.code for finding in prepared.findings}


def test_a_mask_on_no_contrasts_grid_is_refused(apart, draw_brain, tmp_path):
    write_nifti(tmp_path / "seg.nii", draw_brain()[1])
    with pytest.raises(LabelError, match="a mask of shape"):
        prepare_case("a", apart, BOTH, RIGID, label=tmp_path / "seg.nii")


def test_a_brain_mask_on_a_registered_contrast_moves_with_it(apart, prepared, subject, tmp_path):
    flair = read_session("a", apart, ["FLAIR"]).image
    brain = Volume((flair.voxels > 0.5).astype(np.float32), flair.affine)
    write_nifti(tmp_path / "brain.nii", brain)
    result = prepare_case("a", apart, BOTH, RIGID, masks={"brain": tmp_path / "brain.nii"})
    assert result.steps["brain"]["method"] == "given"
    t1w_ml = (subject.volumes["T1w"].voxels > 0).sum() * subject.labels.grid.voxel_volume_ml
    assert result.steps["brain"]["volume_ml"] == pytest.approx(t1w_ml, rel=0.08)


def test_contrasts_of_one_grid_are_not_registered_and_fingerprints_are_of_the_files(
    tmp_path, draw_brain, apart, prepared
):
    image, _ = draw_brain(num_contrasts=2)
    paths = {name: tmp_path / f"{name}.nii" for name in BOTH}
    for path, channel in zip(paths.values(), image.voxels, strict=True):
        write_nifti(path, Volume(channel[None], image.affine))
    one, other = (read_session("a", paths, BOTH, kind) for kind in ("never", "rigid"))
    assert "registration" not in other.steps
    np.testing.assert_array_equal(one.image.voxels, other.image.voxels)
    alone = [read_session("a", apart, [name]).fingerprints[0] for name in BOTH]
    assert list(prepared.fingerprints) == alone


def test_results_return_to_a_contrast_whose_header_was_rounded(tmp_path, draw_brain):
    image, labels = draw_brain(num_contrasts=2)
    near = image.affine.copy()
    near[:3, 3] += 0.4
    paths = {name: tmp_path / f"{name}.nii" for name in BOTH}
    for path, channel, affine in zip(
        paths.values(), image.voxels, (image.affine, near), strict=True
    ):
        write_nifti(path, Volume(channel[None], affine))
    write_nifti(tmp_path / "seg.nii", labels)
    settings = PreparationSettings(spacing_mm=None)
    prepared = prepare_case("a", paths, BOTH, settings, label=tmp_path / "seg.nii")
    assert [finding.code for finding in prepared.findings] == ["grid_rounded", "not_a_brain"]
    back = undo_labels(prepared.labels, prepared.input_grids[1])
    np.testing.assert_array_equal(back.voxels, labels.voxels)
    np.testing.assert_allclose(back.affine, near, atol=1e-5)


def test_a_registration_that_made_it_worse_is_not_used_and_warned_of(apart, monkeypatch):
    astray = Registration(np.diag([-1.0, 1, 1, 1]), (0.5, 0.1), (0.9, 0.4))
    monkeypatch.setattr(session_module, "register", lambda *args: astray)
    session = read_session("a", apart, BOTH, "rigid")
    np.testing.assert_array_equal(session.input_grids[1].to_case, np.eye(4))
    assert session.steps["registration"]["contrasts"]["FLAIR"]["matrix"] == np.eye(4).tolist()
    assert [(f.code, f.kind) for f in session.findings] == [("registration_doubtful", "warning")]
