from pathlib import Path

import pytest

from brainsegfounder.errors import Problem, UsageError
from brainsegfounder.settings import ReadingSettings
from brainsegfounder.volumes.dicom.importer import ImportedDicom
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.nifti import write_nifti
from brainsegfounder.workflows import inputs
from brainsegfounder.workflows.inputs import open_inputs

READING = ReadingSettings()


@pytest.fixture
def imported(monkeypatch, draw_brain):
    """An import that converts any source to one T1w, notes one thing and refuses two series."""
    rooms = []

    def convert(source, out, *, reading):
        path = out / "sub-0a1b2c3d_ses-1_T1w.nii.gz"
        write_nifti(path, draw_brain()[0])
        rooms.append(out)
        finding = Finding("echoes_apart", "DICOM input", "two echoes", "note")
        problem = Problem("slices_missing", "series 3", "a gap", "all slices", "Export it again.")
        return ImportedDicom({"sub-0a1b2c3d_ses-1": {"T1w": path}}, (), (finding,), (problem,) * 2)

    monkeypatch.setattr(inputs, "import_dicom", convert)
    return rooms


@pytest.mark.parametrize("name", ["scanner.zip", "scanner.tar.xz", "folder"])
def test_dicom_is_converted_beside_other_inputs_and_removed_afterwards(
    name, imported, tmp_path, brats_folder
):
    source = tmp_path / name
    if name == "folder":
        source.mkdir()
        (source / "IM0001").write_bytes(bytes(128) + b"DICM" + bytes(100))
    else:
        source.write_bytes(b"an archive")
    with open_inputs([brats_folder, source], "auto", READING) as found:
        cases = {case.case: case for case in found.cases}
        scan = cases["sub-0a1b2c3d_ses-1"]
        assert (scan.subject, scan.session) == ("sub-0a1b2c3d", "ses-1")
        assert scan.contrasts["T1w"].is_file()
        assert {"Brats18_A_1", "Brats18_B_1"} < set(cases)
        assert list(found.problems) == ["series 3", "series 3 (again)"]
        assert "echoes_apart" in {finding.code for finding in found.findings}
    assert not any(room.exists() for room in imported)


def test_layout_dicom_takes_any_folder(imported, tmp_path):
    with open_inputs([tmp_path], "dicom", READING) as found:
        assert [case.case for case in found.cases] == ["sub-0a1b2c3d_ses-1"]
    assert len(imported) == 1


def test_other_layouts_are_told_as_they_are(imported, tmp_path):
    with pytest.raises(UsageError, match="nonsense"), open_inputs([tmp_path], "nonsense", READING):
        pass
    assert imported == []


def test_without_dicom_nothing_is_converted(imported, brats_folder: Path):
    with open_inputs([brats_folder], "auto", READING) as found:
        assert len(found.cases) == 2
    assert imported == []


def test_dicom_among_data_sets_is_imported_at_once_and_removed_afterwards(
    imported, tmp_path, brats_folder, monkeypatch
):
    given, convert = [], inputs.import_dicom

    def noted(source, out, *, reading):
        given.append(list(source))
        return convert(source, out, reading=reading)

    monkeypatch.setattr(inputs, "import_dicom", noted)
    data = tmp_path / "data"
    for name in ("anna", "bert"):
        (data / name).mkdir(parents=True)
        (data / name / "1.dcm").touch()
    (data / "glioma").symlink_to(brats_folder)
    with open_inputs([data], "auto", READING) as found:
        names = [case.case for case in found.cases]
        assert names == ["Brats18_A_1", "Brats18_B_1", "sub-0a1b2c3d_ses-1"]
        assert found.cases[-1].contrasts["T1w"].is_file()
        assert list(found.problems) == ["series 3", "series 3 (again)"]
        codes = {finding.code for finding in found.findings}
        assert {"echoes_apart", "dicom_beside_others"} <= codes
    assert given == [[data / "anna", data / "bert"]]
    assert not any(room.exists() for room in imported)


def test_two_dicom_inputs_are_two_imports_with_names_of_their_own(imported, tmp_path):
    for name in ("a.zip", "b.zip"):
        (tmp_path / name).write_bytes(b"an archive")
    with open_inputs([tmp_path / "a.zip", tmp_path / "b.zip"], "auto", READING) as found:
        names = {case.case for case in found.cases}
    assert names == {"dicom_sub-0a1b2c3d_ses-1", "dicom-2_sub-0a1b2c3d_ses-1"}
    assert len(imported) == 2
