"""The audit on real scans: a case as distributed is the one that was cropped, and no other."""

import pytest

from brainsegfounder.workflows.audit import Part, run_audit

pytestmark = [pytest.mark.real_data, pytest.mark.slow]

ORIGINAL = "Brats18_TCIA03_265_1"


def test_the_original_case_is_found_in_its_cropped_copy_and_nowhere_else(real_data, tmp_path):
    glioma = real_data / "glioma_1mm"
    parts = [
        Part("original", real_data / "brats_case_original"),
        Part("same", glioma / ORIGINAL),
        Part("other", glioma / "Brats18_TCIA01_201_1"),
    ]
    found = run_audit(parts, tmp_path / "audit")
    assert [(o.one.part, o.other.part, o.is_leak) for o in found.overlaps] == [
        ("original", "same", True)
    ]
    assert found.refused == {}
