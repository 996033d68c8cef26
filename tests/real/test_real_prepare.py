"""From a scanner's archive to a store, through the verb itself."""

import importlib.util
import re

import numpy as np
import pytest

from brainsegfounder.data.manifest import read_manifest
from brainsegfounder.data.store import open_store
from brainsegfounder.recipes import load_recipe
from brainsegfounder.volumes.dicom.importer import import_dicom
from brainsegfounder.volumes.nifti import read_nifti, write_nifti
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.prepare import run_prepare

pytestmark = pytest.mark.real_data


def test_a_dicom_archive_becomes_a_store(real_data, tmp_path):
    archive = real_data / "dicom" / "example-dicom-structural.tar.xz"
    if not archive.is_file():
        pytest.skip("no DICOM archive among the real scans")
    done = run_prepare([archive], tmp_path / "store")
    (case,) = open_store(done.store).cases
    assert case.subject.startswith("sub-")
    assert done.refused == {}
    assert "whole_head" in {finding.code for finding in case.findings}
    page = (done.store / "report.html").read_text(encoding="utf-8")
    assert case.case in page
    assert str(tmp_path) not in page


@pytest.mark.slow
def test_an_archive_of_dicom_among_data_sets_is_imported_with_them(real_data, tmp_path):
    sets = ("dicom", "brats_case_original")
    if not all((real_data / name).is_dir() for name in sets):
        pytest.skip("no DICOM archive or no BraTS case among the real scans")
    (tmp_path / "data").mkdir()
    for name in sets:
        (tmp_path / "data" / name).symlink_to(real_data / name)
    done = run_prepare([tmp_path / "data"], tmp_path / "store")
    tumour, head = sorted(open_store(done.store).cases, key=lambda case: case.case)
    assert (tumour.case, done.refused) == ("Brats18_TCIA03_265_1", {})
    assert re.fullmatch(r"sub-[0-9a-f]{8}_ses-1", head.case)
    assert head.source_shape_vox != tumour.source_shape_vox
    assert "dicom_beside_others" in {finding.code for finding in done.noticed}
    rows = read_manifest(done.store / "scans.csv")
    assert [row.path for row in rows if row.case == head.case] == [f"{head.case}_T1w.nii.gz"]


@pytest.fixture
def two_cases(real_data, tmp_path):
    """A whole head and a stripped tumour, every second voxel, their T2w a little out of place."""
    if importlib.util.find_spec("dcm2niix") is None or importlib.util.find_spec("deepbet") is None:
        pytest.skip('pip install "brainsegfounder[dicom,strip]"')
    import_dicom(real_data / "dicom" / "example-dicom-structural.tar.xz", tmp_path)
    (head,) = tmp_path.glob("*_T1w.nii.gz")
    tumour = next((real_data / "glioma_1mm").glob("*/*_t1.nii.gz"))
    t2w = tumour.with_name(tumour.name.replace("_t1.", "_t2."))
    for case, contrast, path in (
        ("head", "T1w", head), ("head", "T2w", head),
        ("tumour", "T1w", tumour), ("tumour", "T2w", t2w),
    ):  # fmt: skip
        scan = read_nifti(path)
        affine = scan.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
        affine[:3, 3] += (3.0, -2.0, 2.0) if contrast == "T2w" else 0
        voxels = scan.voxels[:, ::2, ::2, ::2]
        if (case, contrast) == ("head", "T2w"):  # it has none: dark becomes bright
            voxels = np.where(voxels > 20, voxels.max() - voxels, 0)
        write_nifti(tmp_path / "scans" / f"{case}_{contrast}.nii.gz", Volume(voxels, affine))
    return tmp_path / "scans"


@pytest.mark.slow
def test_extraction_registration_and_n4_give_the_same_bytes_for_any_number_of_jobs(
    two_cases, tmp_path
):
    chosen = ["data.contrasts=[T1w, T2w]", "preparation.brain=auto",
              "preparation.registration=rigid", "preparation.bias_correction=true"]  # fmt: skip
    recipe = load_recipe("open-stage1", chosen)
    stores = [tmp_path / f"jobs-{jobs}" for jobs in (0, 2)]
    for jobs, store in zip((0, 2), stores, strict=True):
        assert run_prepare([two_cases], store, recipe, jobs=jobs, page=False).refused == {}
    files = [
        {p.relative_to(s): p.read_bytes() for p in s.rglob("*") if p.is_file()} for s in stores
    ]
    assert files[0] == files[1]
    cases = {case.case: case for case in open_store(stores[1]).cases}
    methods = {name: case.steps["brain"]["method"] for name, case in cases.items()}
    assert methods == {"head": "deepbet", "tumour": "stripped"}
    assert 1600 < cases["head"].steps["brain"]["volume_ml"] < 1950
    for case in cases.values():
        moved = case.steps["registration"]["contrasts"]["T2w"]["matrix"]
        np.testing.assert_allclose(np.asarray(moved)[:3, 3], (-3.0, 2.0, -2.0), atol=0.7)
        assert not [finding.code for finding in case.findings if finding.kind == "warning"]
