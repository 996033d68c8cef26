"""Table 2f: files, encodings and archives, I99 to I108, I110, I114."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import struct
import sys
import tarfile
import time
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from brainsegfounder.errors import DataError, UsageError, VolumeError
from brainsegfounder.volumes.dicom import files as dicom_files
from brainsegfounder.volumes.dicom import header as dicom_header
from brainsegfounder.volumes.dicom.importer import import_dicom
from brainsegfounder.volumes.nifti import read_nifti

DEFLATED = "1.2.840.10008.1.2.1.99"


def voxels_of(result):
    """The voxels of the one file that was made, as they stand there."""
    (contrasts,) = result.cases.values()
    (path,) = contrasts.values()
    return read_nifti(path).voxels[0]


def as_made(series):
    """The voxels that a sound series gives: the converter turns the rows round."""
    return series.pixels.T[:, ::-1]


def compressed(series, syntax, encode):
    for one, plane in zip(series.slices, series.pixels, strict=True):
        one.file_meta.TransferSyntaxUID = syntax
        one.PixelData = encapsulate([encode(plane)])
        one["PixelData"].VR, one["PixelData"].is_undefined_length = "OB", True


def jpeg_2000(plane):
    image = io.BytesIO()
    Image.fromarray(plane.astype(np.uint16)).save(image, "JPEG2000", no_jp2=True)
    return image.getvalue()


def deflate(dataset_path, body=b""):
    """Rewrite a file as deflated, with `body` after its elements."""
    content = dataset_path.read_bytes()
    length = struct.unpack("<I", content[140:144])[0]
    syntax = DEFLATED.encode()
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(syntax)) + syntax
    start = content[:132] + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta)) + meta
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = squeeze.compress(content[144 + length :] + body) + squeeze.flush()
    dataset_path.write_bytes(start + data)


def test_I99_run_length_encoded_pixels_are_decoded(scanner):
    series = scanner.series()
    for one in series.slices:
        one.compress(RLELossless)
    series.write()
    np.testing.assert_array_equal(
        voxels_of(import_dicom(scanner.source, scanner.out)), as_made(series)
    )


def test_I99_jpeg_2000_pixels_are_decoded(scanner):
    series = scanner.series(PixelRepresentation=0)
    compressed(series, JPEG2000Lossless, jpeg_2000)
    series.write()
    np.testing.assert_array_equal(
        voxels_of(import_dicom(scanner.source, scanner.out)), as_made(series)
    )


def test_I99_an_unknown_encoding_is_named_by_its_tag(scanner):
    series = scanner.series()
    compressed(series, "1.2.840.10008.1.2.4.102", lambda _: bytes(100))
    series.write()
    with pytest.raises(VolumeError, match="TransferSyntaxUID: an unknown encoding, in 20 files"):
        import_dicom(scanner.source, scanner.out)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, RLELossless])
@pytest.mark.parametrize("kind", ["noise", "cut"])
def test_I100_damaged_compressed_frames_end_in_the_child(scanner, syntax, kind):
    rng = np.random.default_rng(0)
    encode = {
        "noise": lambda _: rng.bytes(2000) + b"\xff\xd9",
        "cut": lambda plane: jpeg_2000(plane)[:400],
    }[kind]
    series = scanner.series(PixelRepresentation=0)
    compressed(series, syntax, encode)
    series.write()
    start = time.monotonic()
    with pytest.raises(VolumeError) as caught:
        import_dicom(scanner.source, scanner.out)
    assert caught.value.problem.code in ("dicom_conversion", "dicom_pixels_short")
    assert time.monotonic() - start < 30


def test_I100_fragments_without_an_end_are_refused(scanner):
    series = scanner.series()
    compressed(series, JPEG2000Lossless, jpeg_2000)
    folder = series.write()
    path = folder / "003.dcm"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(VolumeError, match="1 slices whose pixels are missing or cut short"):
        import_dicom(scanner.source, scanner.out)


def test_I101_deflated_files_are_read(scanner):
    series = scanner.series()
    for path in series.write().iterdir():
        deflate(path)
    np.testing.assert_array_equal(
        voxels_of(import_dicom(scanner.source, scanner.out)), as_made(series)
    )


def test_I101_a_deflated_bomb_is_refused_within_its_budget(scanner, monkeypatch):
    path = scanner.series().write() / "000.dcm"
    for other in path.parent.glob("*.dcm"):
        if other != path:
            other.unlink()
    deflate(path, struct.pack("<HH2sHI", 0x7FE1, 0x10, b"OB", 0, 64 << 20) + bytes(64 << 20))
    assert path.stat().st_size < 100_000
    sizes = []
    real = io.BytesIO
    monkeypatch.setattr(
        dicom_header.io, "BytesIO", lambda data: sizes.append(len(data)) or real(data)
    )
    with pytest.raises(VolumeError) as caught:
        import_dicom(scanner.source, scanner.out)
    assert caught.value.problem.code == "dicom_deflate_bomb"
    assert not sizes


@pytest.mark.parametrize("is_length_given", [True, False])
def test_I102_sequences_nested_400_deep_are_refused(scanner, is_length_given):
    path = scanner.series().write() / "000.dcm"
    nested = b""
    for _ in range(400):
        open_ended = 0xFFFFFFFF
        item_end = b"" if is_length_given else struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
        end = b"" if is_length_given else struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        size = len(nested) if is_length_given else open_ended
        item = struct.pack("<HHI", 0xFFFE, 0xE000, size) + nested + item_end
        size = len(item) if is_length_given else open_ended
        nested = struct.pack("<HH2sHI", 0x5200, 0x9229, b"SQ", 0, size) + item + end
    content = path.read_bytes()
    place = content.index(struct.pack("<HH2s", 0x7FE0, 0x10, b"OW"))
    path.write_bytes(content[:place] + nested + content[place:])
    with pytest.raises(VolumeError) as caught:
        import_dicom(path, scanner.out)
    assert caught.value.problem.code == "dicom_too_deep"


def dicomdir(folder, *names):
    index = FileDataset("", {}, preamble=b"\0" * 128)
    index.file_meta = FileMetaDataset()
    index.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    index.SOPClassUID = index.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    index.SOPInstanceUID = index.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    records = []
    for name in names:
        record = Dataset()
        record.add_new("ReferencedFileID", "LO", name)
        record.DirectoryRecordType = "IMAGE"
        records.append(record)
    index.DirectoryRecordSequence = records
    index.save_as(folder / "DICOMDIR")


def test_I103_a_dicomdir_is_checked_and_never_followed(scanner):
    series = scanner.series()
    folder = series.write()
    dicomdir(folder, ["000.DCM"], ["..", "..", "secret"], ["/etc/passwd"], ["GONE.DCM"])
    result = import_dicom(folder / "DICOMDIR", scanner.out)
    np.testing.assert_array_equal(voxels_of(result), as_made(series))
    messages = {one.code: one.message for one in result.findings}
    assert "names 2 files outside its folder" in messages["dicomdir_outside"]
    assert "names 1 files that are not there" in messages["dicomdir_incomplete"]
    assert "secret" not in str(result)


def packed(folder, path, kind):
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.iterdir()):
                archive.write(file, f"a/b/{file.name}")
    else:
        with tarfile.open(path, f"w:{kind}") as archive:
            archive.add(folder, "a/b")
    shutil.rmtree(folder)
    return path


@pytest.mark.parametrize("kind", ["zip", "", "gz", "bz2", "xz"])
def test_I103_archives_are_read(scanner, kind):
    series = scanner.series()
    path = packed(series.write(), scanner.source / "archive", kind)
    np.testing.assert_array_equal(voxels_of(import_dicom(path, scanner.out)), as_made(series))


@pytest.mark.parametrize(
    "name", ["../x.dcm", "/data/x.dcm", "a/../../x.dcm", "C:\\x.dcm", "..\\x.dcm"]
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_I103_members_named_outside_the_archive_are_refused(scanner, tmp_path, name, kind):
    series = scanner.series()
    folder = series.write()
    before = sorted(tmp_path.rglob("*"))
    path = scanner.source / f"a.{kind}"
    with zipfile.ZipFile(path, "w") if kind == "zip" else tarfile.open(path, "w") as archive:
        add = archive.write if kind == "zip" else archive.add
        for file in sorted(folder.iterdir()):
            add(file, file.name)
        info = zipfile.ZipInfo(name) if kind == "zip" else tarfile.TarInfo(name)
        content = (folder / "000.dcm").read_bytes()
        if kind == "zip":
            info.filename = name
            archive.writestr(info, content)
        else:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    result = import_dicom(path, scanner.out)
    assert [one.found.split(";")[0] for one in result.problems] == [
        "1 members that are named outside the archive"
    ]
    made = set(tmp_path.rglob("*")) - set(before) - {path}
    assert {one.parent for one in made} <= {scanner.out, tmp_path}


def test_I103_links_and_devices_in_an_archive_are_refused(scanner):
    folder = scanner.series().write()
    path = scanner.source / "a.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(folder, "a")
        for name, kind in (("l", tarfile.SYMTYPE), ("h", tarfile.LNKTYPE), ("d", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    (problem,) = import_dicom(path, scanner.out).problems
    assert "3 members that are links or devices" in problem.found


@pytest.mark.parametrize("kind", ["zip", "gz", "xz"])
def test_I103_an_archive_that_is_a_bomb_is_refused(scanner, kind, monkeypatch):
    monkeypatch.setattr(dicom_files, "RATIO_FLOOR_BYTES", 4 << 20)
    path, size = scanner.source / "bomb", 32 << 20
    content = bytes(128) + b"DICM" + bytes(size)
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a", content)
    else:
        with tarfile.open(path, f"w:{kind}") as archive:
            info = tarfile.TarInfo("a")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(DataError) as caught:
        import_dicom(path, scanner.out)
    assert caught.value.problem.code == "archive_bomb"


def test_I103_an_archive_of_too_many_members_is_refused(scanner, monkeypatch):
    path = packed(scanner.series().write(), scanner.source / "a.zip", "zip")
    monkeypatch.setattr(dicom_files, "MAX_FILES", 10)
    with pytest.raises(DataError, match="grows beyond reason"):
        import_dicom(path, scanner.out)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar.xz", "a.tar"])
def test_I103_a_damaged_archive_is_refused(scanner, name):
    kind = {"a.zip": "zip", "a.tar.gz": "gz", "a.tar.xz": "xz", "a.tar": ""}[name]
    path = packed(scanner.series().write(), scanner.source / name, kind)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 + 100])
    with pytest.raises(DataError) as caught:
        import_dicom(path, scanner.out)
    assert caught.value.exit_code == 3
    assert caught.value.problem.code == "archive_broken"


OTHERS = {
    "CT": ("1.2.840.10008.5.1.4.1.1.2", "CT"),
    "SEG": ("1.2.840.10008.5.1.4.1.1.66.4", "SEG"),
    "PDF": ("1.2.840.10008.5.1.4.1.1.104.1", "DOC"),
    "SR": ("1.2.840.10008.5.1.4.1.1.88.22", "SR"),
    "secondary capture": ("1.2.840.10008.5.1.4.1.1.7", "MR"),
}


def make_other(series, what):
    for one in series.slices:
        uid, one.Modality = OTHERS[what]
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = uid


@pytest.mark.parametrize("what", list(OTHERS))
def test_I104_I106_what_is_no_mr_image_is_left_aside_with_a_note(scanner, what):
    other, good = scanner.series(number=1), scanner.series(number=2)
    make_other(other, what)
    other.write()
    good.write()
    (good.folder / "readme.txt").write_text("hello " * 100)
    result = import_dicom(scanner.source, scanner.out)
    notes = [one.message for one in result.findings if one.code == "dicom_skipped"]
    assert any("20 files" in note and what in note for note in notes)
    assert "1 files left aside: no DICOM" in notes
    assert len(result.series) == 1


@pytest.mark.parametrize("what", list(OTHERS))
def test_I104_nothing_left_is_an_error(scanner, what):
    other = scanner.series()
    make_other(other, what)
    other.write()
    with pytest.raises(VolumeError, match="nothing to convert") as caught:
        import_dicom(scanner.source, scanner.out)
    assert caught.value.problem.code == "dicom_no_mr"


def test_I106_text_burned_in_is_left_aside(scanner):
    scanner.series(BurnedInAnnotation="YES").write()
    with pytest.raises(VolumeError, match="text burned in"):
        import_dicom(scanner.source, scanner.out)


@pytest.mark.parametrize("kind", ["localizer", "SUBTRACTION", "phase"])
def test_localizers_and_maps_are_left_aside_with_a_note(scanner, kind):
    description = {"localizer": "localizer"}.get(kind, "t1 map like")
    image_type = ["DERIVED", "SECONDARY", {"phase": "P"}.get(kind, kind.upper()), "ND"]
    scanner.series(description, number=1, ImageType=image_type).write()
    scanner.series(number=2).write()
    result = import_dicom(scanner.source, scanner.out)
    assert sorted(one.outcome for one in result.series) == ["aside", "converted"]
    assert {one.kind for one in result.findings if one.code == "dicom_no_contrast"} == {"note"}


def test_a_contrast_in_doubt_is_left_aside_with_a_warning(scanner):
    scanner.series("sequence 7", number=1).write()
    scanner.series(number=2).write()
    (finding,) = import_dicom(scanner.source, scanner.out).findings
    assert finding.kind == "warning"
    assert "in doubt" in finding.message


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"])
@pytest.mark.parametrize("has_meta", [True, False])
def test_I107_files_without_preamble_and_extension_are_read(scanner, syntax, has_meta):
    series = scanner.series()
    for one in series.slices:
        one.file_meta.TransferSyntaxUID = syntax
    for path in series.write("IM{:04d}".format).iterdir():
        content = path.read_bytes()
        length = struct.unpack("<I", content[140:144])[0]
        path.write_bytes(content[132 if has_meta else 144 + length :])
    np.testing.assert_array_equal(
        voxels_of(import_dicom(scanner.source, scanner.out)), as_made(series)
    )


@pytest.mark.parametrize(
    "content", [b"\x08\0\x05\0" + b"\xff" * 300, b"\x02\0junk" * 60, b"", b"\0"]
)
def test_I107_bytes_that_only_begin_like_dicom_are_not_taken_for_it(scanner, content):
    (scanner.source / "a").write_bytes(content)
    with pytest.raises(DataError):
        import_dicom(scanner.source, scanner.out)


def test_I108_a_program_in_the_preamble_is_never_written_out(scanner):
    series = scanner.series()
    for one in series.slices:
        one.preamble = b"MZ" + b"\x90" * 126
    series.write()
    result = import_dicom(scanner.source, scanner.out)
    np.testing.assert_array_equal(voxels_of(result), as_made(series))
    (path,) = scanner.out.iterdir()
    assert b"MZ\x90\x90" not in gzip.decompress(path.read_bytes())


@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192", "nonsense"])
def test_I110_odd_names_and_character_sets_do_not_matter(scanner, charset):
    series = scanner.series()
    for one in series.slices:
        one.SpecificCharacterSet = "ISO_IR 192"
        one.PatientID, one.PatientName = "Zoë/../脑;$(x)", "Müller^Jürgen"
    folder = series.write("脑 ; $(touch x) {:03d}".format)
    for path in folder.iterdir():
        content = path.read_bytes()
        path.write_bytes(content.replace(b"ISO_IR 192", charset.ljust(10).encode()))
    result = import_dicom(scanner.source, scanner.out)
    np.testing.assert_array_equal(voxels_of(result), as_made(series))
    (case,) = result.cases
    assert case.replace("sub-", "").replace("_ses-1", "").isalnum()


def test_I114_links_are_followed_once_and_loops_end(scanner, tmp_path):
    series = scanner.series()
    series.folder = tmp_path / "elsewhere"
    folder = series.write()
    (scanner.source / "linked").symlink_to(folder)
    (folder / "loop").symlink_to(scanner.source)
    (folder / "dangling").symlink_to(folder / "nothing")
    os.mkfifo(folder / "fifo")
    result = import_dicom(scanner.source, scanner.out)
    np.testing.assert_array_equal(voxels_of(result), as_made(series))


def test_a_missing_extra_is_named(scanner, monkeypatch):
    monkeypatch.setitem(sys.modules, "dcm2niix", None)
    with pytest.raises(UsageError, match=r'pip install "brainsegfounder\[dicom\]"'):
        import_dicom(scanner.source, scanner.out)


def test_a_source_that_is_not_there_is_named(scanner):
    with pytest.raises(DataError, match="no such file or folder"):
        import_dicom(scanner.source / "x", scanner.out)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless])
@pytest.mark.parametrize("place", [0, 9, 19])
@pytest.mark.parametrize("kind", ["noise", "cut"])
def test_I100_one_damaged_frame_among_sound_ones_is_refused(scanner, syntax, place, kind):
    series = scanner.series(PixelRepresentation=0)
    if syntax == RLELossless:
        for one in series.slices:
            one.compress(RLELossless)
    else:
        compressed(series, syntax, jpeg_2000)
    (frame,) = generate_frames(series.slices[place].PixelData, number_of_frames=1)
    bad = frame[:400] if kind == "cut" else np.random.default_rng(0).bytes(2000)
    series.slices[place].PixelData = encapsulate([bad])
    series.write()
    with pytest.raises(VolumeError, match=r"damaged|converter|cut short"):
        import_dicom(scanner.source, scanner.out)
