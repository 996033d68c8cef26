"""From a scanner's archive to a store, through the verb itself."""

import pytest

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
