"""No name, id, date or description of a DICOM source comes out of an import."""

from __future__ import annotations

import gzip
import io
import logging
import shutil
import zipfile

import pytest

from brainsegfounder.errors import DataError
from brainsegfounder.volumes.dicom.importer import import_dicom

FIELDS = (
    "PatientName", "PatientID", "OtherPatientIDs", "PatientAddress", "PatientComments",
    "StudyDescription", "AccessionNumber", "StudyID", "ReferringPhysicianName", "InstitutionName",
    "StationName", "OperatorsName", "ImageComments", "DeviceSerialNumber",
)  # fmt: skip
CANARIES = [f"CANARY{number:02d}" for number in range(20)]
DATE, TIME = "19770314", "071829"


def plant(series):
    """Canaries in 14 fields, the description, the protocol, private tags and file names."""
    for one in series.slices:
        for name, canary in zip(FIELDS, CANARIES, strict=False):
            setattr(one, name, canary)
        one.SeriesDescription = f"t1_{CANARIES[14]}"
        one.ProtocolName = CANARIES[15]
        one.ContrastBolusAgent = CANARIES[16]
        block = one.private_block(0x0029, CANARIES[17], create=True)
        block.add_new(0x10, "LO", CANARIES[18])
        one.PatientBirthDate = one.StudyDate = one.SeriesDate = one.AcquisitionDate = DATE
        one.StudyTime = one.AcquisitionTime = TIME
    return series


def leaks(text):
    return [word for word in (*CANARIES, DATE, TIME, "CANARY") if word in text]


def test_twenty_canaries_appear_nowhere(scanner, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    name = f"{CANARIES[19]}_{{:03d}}.dcm".format
    good, doubtful, holed = (plant(scanner.series(number=n)) for n in (1, 2, 3))
    for one in doubtful.slices:
        one.SeriesDescription = CANARIES[14]
    holed.keep([0, 1, 2, 4, 5, 6])
    good.folder = good.folder.with_name(CANARIES[19])
    for series in (good, doubtful, holed):
        series.write(name)
    (scanner.source / f"{CANARIES[19]}.txt").write_text(CANARIES[19])
    damaged = good.folder / name(3)
    (good.folder / f"damaged_{CANARIES[19]}").write_bytes(damaged.read_bytes()[:300])
    result = import_dicom(scanner.source, scanner.out)
    assert [one.outcome for one in result.series].count("converted") == 1
    assert result.problems
    assert result.findings
    assert not leaks(str(result))
    assert not leaks(caplog.text)
    assert not leaks("".join(capfd.readouterr()))
    files = [path for path in scanner.out.rglob("*") if path.is_file()]
    assert len(files) == 1
    for path in files:
        assert not leaks(str(path.relative_to(scanner.out)))
        assert not leaks(gzip.decompress(path.read_bytes()).decode("latin-1"))
        assert not leaks(path.read_bytes().decode("latin-1"))


def test_no_canary_stands_in_the_error_of_an_import_of_nothing(scanner, caplog):
    caplog.set_level(logging.DEBUG)
    for number in (1, 2):
        series = plant(scanner.series(number=number))
        for one in series.slices:
            one.SeriesDescription = CANARIES[14]
        series.write(f"{CANARIES[19]}_{{:03d}}".format)
    with pytest.raises(DataError) as caught:
        import_dicom(scanner.source, scanner.out)
    assert not leaks(f"{caught.value!r} {caught.value.problem} {caplog.text}")
    assert caught.value.__cause__ is None


def test_members_of_an_archive_are_never_named(scanner, caplog):
    caplog.set_level(logging.DEBUG)
    folder = plant(scanner.series()).write()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"{CANARIES[19]}/{path.name}")
        archive.writestr(f"../{CANARIES[19]}", b"x" * 200)
        archive.writestr(f"{CANARIES[19]}/cut", (folder / "000.dcm").read_bytes()[:290])
    shutil.rmtree(folder)
    (scanner.source / "a.zip").write_bytes(content.getvalue())
    result = import_dicom(scanner.source / "a.zip", scanner.out)
    assert len(result.problems) == 2
    assert not leaks(str(result) + caplog.text)


def test_names_do_not_depend_on_where_or_in_what_order_files_lie(scanner):
    series = scanner.series()
    series.write()
    first = import_dicom(scanner.source, scanner.out)
    series.folder.rename(scanner.source / "z")
    again = import_dicom(scanner.source / "z", scanner.out / "again")
    assert list(first.cases) == list(again.cases)


def test_one_patient_id_has_other_names_in_other_studies(scanner):
    for number in (1, 2):
        series = scanner.series(number=number, StudyInstanceUID=f"1.2.{number}")
        series.folder = scanner.source / str(number) / "s"
        series.write()
    names = {
        next(iter(import_dicom(scanner.source / str(n), scanner.out / str(n)).cases))
        for n in (1, 2)
    }
    together = import_dicom(scanner.source, scanner.out / "both")
    assert len(names) == 2
    assert len({case.split("_")[0] for case in together.cases}) == 1


def test_studies_without_a_patient_id_are_subjects_of_their_own(scanner):
    for number in (1, 2):
        scanner.series(patient="", number=number, StudyInstanceUID=f"1.2.{number}").write()
    result = import_dicom(scanner.source, scanner.out)
    assert len({case.split("_")[0] for case in result.cases}) == 2
    assert [one.code for one in result.findings] == ["dicom_no_patient_id"] * 2
