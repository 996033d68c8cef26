"""With `--pseudonyms`, no name of a subject, file or folder comes out of `prepare`."""

from __future__ import annotations

import base64
import gzip
import io
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Extension

from brainsegfounder.data.store_arrays import open_array
from brainsegfounder.workflows.prepare import run_prepare

CANARIES = [f"CANARY{number:02d}" for number in range(20)]
TEXTS = {"descrip": 10, "aux_file": 11, "intent_name": 12, "db_name": 13}
DATE = "19770314"
ROOT = Path(__file__).parents[3]


def nifti(path, voxels, number=None):
    """A file with a canary in every text of its header, in an extension and in its gzip head."""
    image = nib.Nifti1Image(voxels, np.diag([4.0, 4.0, 4.0, 1.0]))
    for field, canary in TEXTS.items():
        if field in image.header:
            image.header[field] = CANARIES[canary].encode()
    image.header.extensions.append(Nifti1Extension("comment", CANARIES[14].encode()))
    content = io.BytesIO()
    with gzip.GzipFile(f"{CANARIES[15]}.nii", "wb", fileobj=content) as packed:
        packed.write(image.to_bytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue()[:number])
    return path


@pytest.fixture
def marked(scanner, tmp_path):
    """A sound case, one to repair, one that is cut off, one that stands twice, and DICOM."""
    folder = tmp_path / CANARIES[0]
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(-22, 22)] * 3, indexing="ij")).astype(float)
    head = ((grid / 18) ** 2).sum(axis=0) < 1
    scan = (head * rng.normal(100, 20, head.shape)).astype(np.float32)
    mask = ((grid / 5) ** 2).sum(axis=0) < 1
    case = folder / CANARIES[1] / CANARIES[2]
    nifti(Path(f"{case}_t1.nii.gz"), scan)
    nifti(Path(f"{case}_seg.nii.gz"), mask.astype(np.uint8))
    nifti(folder / CANARIES[1] / f"{CANARIES[3]}_t1.nii", scan)
    nifti(folder / CANARIES[4] / f"{CANARIES[5]}_t1.nii.gz", scan, 9000)
    nifti(folder / CANARIES[4] / f"{CANARIES[6]}_t1.nii.gz", scan)
    nifti(folder / CANARIES[4] / f"{CANARIES[6]}_t1.nii", scan)
    nifti(folder / CANARIES[4] / f"{CANARIES[7]}_xyz.nii.gz", scan)
    rows = ["participant_id\tage\tsite", f"{CANARIES[2]}\t40\t{CANARIES[8]}"]
    (folder / "participants.tsv").write_text("\n".join(rows))
    series = scanner.series()
    for one in series.slices:
        one.PatientName, one.PatientID, one.StudyDescription = CANARIES[16:19]
        one.PatientBirthDate = one.StudyDate = one.AcquisitionDate = DATE
    series.folder = folder / CANARIES[9]
    series.write(f"{CANARIES[19]}_{{:03d}}.dcm".format)
    return folder


def leaks(content):
    """Canaries in some bytes; also in pictures that stand in a page."""
    pictures = re.findall(rb"base64,([A-Za-z0-9+/=]+)", content)
    parts = [content, *map(base64.b64decode, pictures)]
    return sorted({m.decode() for part in parts for m in re.findall(rb"CANARY\d\d", part)})


def planted_in(folder):
    """Canaries in the names, bytes and unpacked bytes of the sources."""
    found = set()
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if content[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                content += file.read(600)
        found |= set(leaks(str(path).encode() + content))
    return sorted(found)


def leaks_of(folder):
    """Canaries in the names and bytes of all files, and in the values of arrays."""
    found = {}
    for path in folder.rglob("*"):
        content = str(path.relative_to(folder)).encode()
        if path.is_file():
            content += path.read_bytes()
        if path.suffix in (".b2nd", ".npy"):
            content += np.ascontiguousarray(open_array(path)[:]).tobytes()
        if told := leaks(content):
            found[path.name] = told
    return found


def test_twenty_canaries_in_names_and_headers_appear_nowhere(marked, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    assert planted_in(marked) == CANARIES
    table = tmp_path / "private" / "who.csv"
    done = run_prepare([marked], tmp_path / "store", pseudonyms=table)
    assert (len(done.cases), len(done.refused)) == (3, 2)
    assert leaks_of(done.store) == {}
    assert DATE.encode() not in b"".join(p.read_bytes() for p in done.store.rglob("*.*"))
    assert not leaks(f"{done}{done.record()}{caplog.text}".encode())
    assert not leaks("".join(capfd.readouterr()).encode())
    assert set(leaks(table.read_bytes())) >= {CANARIES[n] for n in (2, 3, 5, 6, 7)}


def test_nor_are_they_said_on_the_command_line_with_workers(marked, tmp_path):
    table = tmp_path / "private" / "who.csv"
    words = ["prepare", marked, "--out", tmp_path / "store", "--pseudonyms", table, "--jobs", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "brainsegfounder", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert not leaks(done.stdout + done.stderr)
    assert re.search(rb"refused sub-\w{8}: sub-\w{8}_T1w\.nii\.gz: ", done.stderr)
    assert leaks_of(tmp_path / "store") == {}


def test_nor_does_an_error_that_ends_the_run_say_them(tmp_path, scanner):
    folder = tmp_path / CANARIES[0]
    folder.mkdir()
    (folder / f"{CANARIES[1]}.txt").write_text(CANARIES[2])
    table = tmp_path / "who.csv"
    with pytest.raises(Exception, match="the table of pseudonyms says") as caught:
        run_prepare([folder], tmp_path / "store", pseudonyms=table)
    assert not leaks(str(caught.value).encode())
    assert CANARIES[0] in table.read_text()


def test_without_the_option_names_are_kept_as_people_need_them(marked, tmp_path):
    done = run_prepare([marked], tmp_path / "store")
    assert CANARIES[2] in done.cases
    told = {canary for found in leaks_of(done.store).values() for canary in found}
    assert told <= {CANARIES[n] for n in range(1, 10)}
