"""Several sources of one import: whoever lies in two of them stays one person."""

import shutil
import zipfile

import pytest

from brainsegfounder.errors import DataError
from brainsegfounder.volumes.dicom.importer import import_dicom


def visit(scanner, number, date):
    """A series of one patient, from a study of its own."""
    uid = f"1.2.3.{number}"
    return scanner.series(number=number, StudyInstanceUID=uid, StudyDate=date).write()


def zipped(folder, path):
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    shutil.rmtree(folder)
    return path


@pytest.fixture
def together(scanner):
    """Cases of the two visits where both lie in one folder."""
    visit(scanner, 1, "20200102"), visit(scanner, 2, "20210102")
    return set(import_dicom(scanner.source, scanner.out / "both").cases)


@pytest.mark.parametrize("how", ["archives", "archive and folder", "sources"])
def test_visits_in_several_archives_or_folders_are_of_one_subject(scanner, together, how, tmp_path):
    one, other = scanner.source / "sp1_1", scanner.source / "sp1_2"
    if how != "sources":
        zipped(other, scanner.source / "deep" / "Doe^Jane.zip")
    if how == "archives":
        zipped(one, scanner.source / "a.ZIP")
    source = [other, one] if how == "sources" else scanner.source
    scanner.out.mkdir(exist_ok=True)
    done = import_dicom(source, scanner.out)
    assert set(done.cases) == together
    assert len({case.split("_")[0] for case in together}) == 1
    assert len(together) == 2
    assert done.problems == ()
    assert "Doe" not in str((done.series, done.findings))


def test_a_broken_archive_in_a_folder_stops_no_other_and_its_name_stays_unsaid(scanner, together):
    zipped(scanner.source / "sp1_2", scanner.source / "b.zip")
    (scanner.source / "Doe^Jane.zip").write_bytes(b"PK no more")
    done = import_dicom(scanner.source, scanner.out)
    assert set(done.cases) == together
    assert [(problem.code, problem.file) for problem in done.problems] == [
        ("archive_broken", "archive-1")
    ]


def test_a_broken_source_among_several_stops_no_other(scanner, tmp_path):
    folder = visit(scanner, 1, "20200102")
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK no more")
    done = import_dicom([broken, folder], scanner.out)
    assert len(done.cases) == 1
    assert [problem.code for problem in done.problems] == ["archive_broken"]


def test_nothing_in_several_sources_is_told_with_the_folder_of_them_all(scanner, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        import_dicom([tmp_path / "in" / "a", tmp_path / "in" / "b"], scanner.out)
    assert caught.value.problem.code == "dicom_no_mr"
    assert caught.value.problem.file == str(tmp_path / "in")
