"""From a scanner's archive to a store, through the verb itself."""

import re

import pytest

from brainsegfounder.data.manifest import read_manifest
from brainsegfounder.data.store import open_store
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
