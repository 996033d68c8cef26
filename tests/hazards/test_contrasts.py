"""Table 2e: the contrasts of one case."""

import shutil

import numpy as np
import pytest

from brainsegfounder.errors import ContrastError, DataError, VolumeError
from brainsegfounder.settings import PreparationSettings
from brainsegfounder.volumes.nifti import write_nifti
from brainsegfounder.volumes.preparation import prepare_case
from brainsegfounder.volumes.session import read_session
from brainsegfounder.volumes.volume import Volume

SETTINGS = PreparationSettings(spacing_mm=None)
RIGID = SETTINGS.model_copy(update={"registration": "rigid"})


def moved(volume, mm):
    affine = volume.affine.copy()
    affine[1, 3] += mm
    return Volume(volume.voxels, affine, volume.source)


@pytest.fixture
def two(tmp_path, draw_brain):
    """The files of a T1w and a FLAIR of one case, and the FLAIR."""
    image, _ = draw_brain(num_contrasts=2)
    paths = {name: tmp_path / f"a_{name}.nii" for name in ("T1w", "FLAIR")}
    scans = [Volume(channel[None], image.affine) for channel in image.voxels]
    for path, scan in zip(paths.values(), scans, strict=True):
        write_nifti(path, scan)
    return paths, scans[1]


def warnings_of(paths):
    session = read_session("a", paths, list(paths))
    return [finding.code for finding in session.findings if finding.kind == "warning"]


def test_sound_contrasts_give_no_warning(two):
    assert warnings_of(two[0]) == []


def test_I78_contrasts_of_different_shapes_are_refused(two):
    paths, flair = two
    write_nifti(paths["FLAIR"], Volume(flair.voxels[:, 1:], flair.affine))
    with pytest.raises(
        VolumeError, match=r"a_FLAIR\.nii: FLAIR has shape \(25, 30, 26\), but T1w"
    ) as caught:
        prepare_case("a", paths, list(paths), SETTINGS)
    assert caught.value.problem.code == "different_grid"


def test_I78_and_brought_together_where_the_recipe_says_so(two):
    paths, flair = two
    write_nifti(paths["FLAIR"], moved(Volume(flair.voxels[:, 1:], flair.affine), 3.0))
    prepared = prepare_case("a", paths, list(paths), RIGID)
    assert prepared.image.voxels.shape[0] == 2
    matrix = np.asarray(prepared.steps["registration"]["contrasts"]["FLAIR"]["matrix"])
    assert matrix.shape == (4, 4)
    assert prepared.input_grids[1].grid.shape_vox == (25, 30, 26)


def test_I79_contrasts_of_other_spacing_or_place_are_refused(two):
    paths, flair = two
    for affine in (flair.affine @ np.diag([1.1, 1, 1, 1]), moved(flair, 4.0).affine):
        write_nifti(paths["FLAIR"], Volume(flair.voxels, affine))
        with pytest.raises(VolumeError, match=r"a_FLAIR\.nii: FLAIR lies .* voxels away from T1w"):
            prepare_case("a", paths, list(paths), SETTINGS)


def test_I79_half_a_voxel_is_repaired_and_recorded_and_rounding_is_not_mentioned(two):
    paths, flair = two
    write_nifti(paths["FLAIR"], moved(flair, 0.5))
    session = read_session("a", paths, list(paths))
    assert session.image.voxels.shape[0] == 2
    assert [(f.code, f.kind) for f in session.findings] == [("grid_rounded", "repair")]
    write_nifti(paths["FLAIR"], moved(flair, 1e-4))
    assert read_session("a", paths, list(paths)).findings == ()


def test_I80_a_missing_contrast_is_named(two):
    paths, _ = two
    with pytest.raises(ContrastError, match=r"a: no T2w found; expected T1w, FLAIR, T2w") as caught:
        prepare_case("a", paths, ["T1w", "FLAIR", "T2w"], SETTINGS)
    assert caught.value.problem.code == "missing_contrast"


def test_I81_one_scan_under_two_names_is_refused(two):
    paths, _ = two
    shutil.copy(paths["T1w"], paths["FLAIR"])
    with pytest.raises(ContrastError, match="a: FLAIR and T1w hold the same voxels") as caught:
        prepare_case("a", paths, list(paths), SETTINGS)
    assert caught.value.problem.code == "duplicate_content"


def test_I81_also_when_its_axes_were_turned(two, turn):
    paths, flair = two
    write_nifti(paths["T1w"], turn(flair, (1, 2, 0), (0,)))
    with pytest.raises(ContrastError, match="hold the same voxels"):
        prepare_case("a", paths, list(paths), RIGID)


def test_I82_a_name_that_says_another_contrast_is_warned_of(two):
    paths, _ = two
    swapped = {"T1w": paths["FLAIR"], "FLAIR": paths["T1w"]}
    assert warnings_of(swapped) == ["contrast_name", "contrast_name"]
    messages = [finding.message for finding in read_session("a", swapped, list(swapped)).findings]
    assert messages[0].startswith("declared as T1w, but the file's name says FLAIR")


def test_I82_a_contrast_agent_told_elsewhere_is_no_swap(two):
    paths, _ = two
    gadolinium = paths["T1w"].with_name("sub-1_ce-gadolinium_T1w.nii")
    paths["T1w"].rename(gadolinium)
    assert warnings_of({"T1ce": gadolinium, "FLAIR": paths["FLAIR"]}) == []


@pytest.mark.parametrize("spoilt", ["FLAIR", "label", "brain"])
def test_I83_files_of_different_subjects_are_refused(two, tmp_path, draw_brain, spoilt):
    paths, _ = two
    names = {"T1w": "sub-01_T1w", "FLAIR": "sub-01_FLAIR", "label": "sub-01_seg",
             "brain": "sub-01_mask"}  # fmt: skip
    names[spoilt] = names[spoilt].replace("01", "02")
    files = {name: tmp_path / f"{stem}.nii" for name, stem in names.items()}
    for name, path in paths.items():
        path.rename(files[name])
    for name in ("label", "brain"):
        write_nifti(files[name], draw_brain()[1])
    contrasts = {name: files[name] for name in ("T1w", "FLAIR")}
    with pytest.raises(DataError, match="a: files of sub-01, sub-02; expected one") as caught:
        prepare_case(
            "a", contrasts, list(contrasts), SETTINGS,
            label=files["label"], masks={"brain": files["brain"]},
        )  # fmt: skip
    assert caught.value.problem.code == "different_subjects"


def test_I84_contents_20_mm_apart_on_one_grid_are_warned_of(tmp_path, draw_brain):
    image, _ = draw_brain((80, 90, 70), num_contrasts=2)
    voxels = image.voxels.copy()
    paths = {name: tmp_path / f"a_{name}.nii" for name in ("T1w", "FLAIR")}
    for shift_mm, expected in ((0, []), (20, ["not_registered"])):
        voxels[1] = np.roll(image.voxels[1], shift_mm // 2, axis=1)
        for path, channel in zip(paths.values(), voxels, strict=True):
            write_nifti(path, Volume(channel[None], image.affine))
        assert warnings_of(paths) == expected
