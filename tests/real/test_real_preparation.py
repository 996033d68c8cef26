"""Preparation on real scans; skipped with a reason where the folder of `--real-data` is absent."""

import importlib.util
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from brainsegfounder.data.layouts import read_cases
from brainsegfounder.settings import PreparationSettings
from brainsegfounder.volumes.brain import is_stripped
from brainsegfounder.volumes.geometry import resample_to, spaced_grid, to_ras
from brainsegfounder.volumes.nifti import read_labels, read_nifti, write_nifti
from brainsegfounder.volumes.preparation import prepare_case, undo_labels
from brainsegfounder.volumes.session import read_session
from brainsegfounder.volumes.volume import Volume

pytestmark = [pytest.mark.real_data, pytest.mark.slow]

SETS = ("glioma_1mm", "ms_mni_1mm", "ms_long_1p5mm", "ixi_2mm", "t1_ds002748_1p5mm",
        "stroke_semisynth_1p5mm", "brats_case_original")  # fmt: skip


@pytest.fixture(scope="module")
def head(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The defaced whole head of the DICOM series, converted."""
    if importlib.util.find_spec("dcm2niix") is None:
        pytest.skip('dcm2niix is not installed; pip install "brainsegfounder[dicom]"')
    import dcm2niix

    folder = tmp_path_factory.mktemp("head")
    with tarfile.open(real_data / "dicom" / "example-dicom-structural.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    command = [dcm2niix.bin, "-z", "n", "-f", "head", "-o", str(folder), str(folder)]
    subprocess.run(command, capture_output=True, check=True)
    return folder / "head.nii"


@pytest.mark.parametrize("name", SETS)
def test_every_stripped_set_is_recognised_and_no_contrast_is_doubted(
    real_data: Path, name: str
) -> None:
    cases = read_cases([real_data / name])
    for case in cases[:: max(1, len(cases) // 6)]:
        session = read_session(case.case, case.contrasts, list(case.contrasts))
        assert session.findings == (), case.case
        assert is_stripped(session.image), case.case


def test_a_real_head_is_not_stripped_whatever_its_size(head: Path) -> None:
    scan = read_nifti(head)
    for scale in (1.0, 0.8, 0.6):
        affine = scan.affine @ np.diag([scale, scale, scale, 1.0])
        assert not is_stripped(Volume(scan.voxels, affine))


def test_deepbet_finds_the_brain_of_a_real_head(head: Path) -> None:
    if importlib.util.find_spec("deepbet") is None:
        pytest.skip('deepbet is not installed; pip install "brainsegfounder[strip]"')
    settings = PreparationSettings(brain="deepbet", spacing_mm=(2.0, 2.0, 2.0))
    prepared = prepare_case("head", {"T1w": head}, ["T1w"], settings)
    assert prepared.steps["brain"]["method"] == "deepbet"
    assert 1600 < prepared.steps["brain"]["volume_ml"] < 1950
    marks = Volume(prepared.brain[None].astype(np.int16), prepared.image.affine)
    back = undo_labels(marks, prepared.source_grid)
    scan = read_nifti(head)
    assert back.shape_vox == scan.shape_vox
    np.testing.assert_array_equal(back.affine, scan.affine)


def test_a_misplaced_t2w_returns_to_its_t1w_within_a_millimetre(
    real_data: Path, tmp_path: Path, rotated: Callable[..., np.ndarray]
) -> None:
    case = read_cases([real_data / "glioma_1mm"])[9]
    t1w, t2w = (to_ras(read_nifti(case.contrasts[name])) for name in ("T1w", "T2w"))
    coarse = resample_to(t2w, spaced_grid(t2w.grid, (1.0, 1.0, 2.0)))
    affine = rotated(coarse.affine, 10)
    affine[:3, 3] += (6.0, -4.0, 3.5)
    write_nifti(tmp_path / "t2.nii", Volume(coarse.voxels, affine))
    paths = {"T1w": case.contrasts["T1w"], "T2w": tmp_path / "t2.nii"}
    session = read_session("a", paths, ["T1w", "T2w"], "rigid")
    assert session.findings == ()
    matrix = session.input_grids[1].to_case @ affine @ np.linalg.inv(coarse.affine)
    places = t1w.affine @ _places(t1w)
    error_mm = np.linalg.norm((matrix @ places - places)[:3], axis=0)
    assert error_mm.mean() < 0.6
    assert error_mm.max() < 1.0


def test_mni_and_back_keeps_a_real_tumour_in_its_place(real_data: Path) -> None:
    case = read_cases([real_data / "brats_case_original"])[0]
    assert case.label is not None
    contrasts = ["T1w", "FLAIR"]
    settings = PreparationSettings(space="mni", brain="auto")
    prepared = prepare_case(case.case, case.contrasts, contrasts, settings, label=case.label)
    assert prepared.steps["space"]["dice"] > 0.93
    assert [finding.code for finding in prepared.findings] == ["skull_stripped"]
    assert prepared.labels is not None
    back, labels = undo_labels(prepared.labels, prepared.source_grid), read_labels(case.label)
    np.testing.assert_array_equal(back.affine, labels.affine)
    one, other = back.voxels > 0, labels.voxels > 0
    assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.95


def _places(volume: Volume) -> np.ndarray:
    """Every 500th voxel of the brain, as columns (i, j, k, 1)."""
    voxels = np.argwhere(volume.voxels[0] > 0)[::500]
    return np.c_[voxels, np.ones(len(voxels))].T
