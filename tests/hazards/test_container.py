"""Table 2a: what can be wrong with the file around the voxels."""

import gzip
import time
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from brainsegfounder.settings import ReadingSettings
from brainsegfounder.volumes import container
from brainsegfounder.volumes.nifti import is_image, read_nifti, stem


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9, 0.999, 0.99999])
def test_I01_a_truncated_gz_is_refused_wherever_it_ends(bench, refused, share):
    content = gzip.compress(bench.raw())
    path = bench.file(content[: min(len(content) - 1, int(len(content) * share))], "a.nii.gz")
    problem = refused(path)
    assert problem.code == "gz_truncated"
    assert str(problem) == (
        f"{path}: damaged gzip stream (it ends too early); expected a whole file. Copy it again."
    )


@pytest.mark.parametrize("share", np.linspace(0.01, 0.99, 15))
def test_I02_a_flipped_bit_in_the_stream_is_always_refused(bench, refused, share):
    content = bytearray(gzip.compress(bench.raw()))
    content[20 + int((len(content) - 30) * share)] ^= 1
    problem = refused(bench.file(bytes(content), "a.nii.gz"))
    assert problem.code in ("gz_crc", "gz_truncated", "trailing_data")
    assert "gzip stream" in problem.found or problem.code == "trailing_data"


def test_I03_a_wrong_checksum_is_refused(bench, refused):
    content = bytearray(gzip.compress(bench.raw()))
    content[-8] ^= 255
    problem = refused(bench.file(bytes(content), "a.nii.gz"))
    assert problem.code == "gz_crc"
    assert problem.found == "damaged gzip stream (its checksum is wrong)"


def test_I03_a_wrong_checksum_is_accepted_on_request_if_all_data_are_there(bench, codes):
    content = bytearray(gzip.compress(bench.raw()))
    content[-8] ^= 255
    path = bench.file(bytes(content), "a.nii.gz")
    volume = read_nifti(path, ReadingSettings(accept_bad_crc=True))
    np.testing.assert_array_equal(volume.voxels[0], bench.voxels)
    assert codes(volume) == {"gz_crc": "repair"}


@pytest.mark.parametrize("place", [-1, -4])
def test_I03_a_wrong_length_is_refused_even_so(bench, refused, place):
    content = bytearray(gzip.compress(bench.raw()))
    content[place] ^= 255
    problem = refused(bench.file(bytes(content), "a.nii.gz"), accept_bad_crc=True)
    assert problem.code == "gz_crc"
    assert "its length is not the one it names" in problem.found


def test_I04_garbage_after_a_whole_stream_changes_nothing_and_is_recorded(bench, codes):
    path = bench.file(gzip.compress(bench.raw()) + b"GARBAGE", "a.nii.gz")
    volume = read_nifti(path)
    np.testing.assert_array_equal(volume.voxels[0], bench.voxels)
    assert codes(volume) == {"trailing_garbage": "repair"}


@pytest.mark.parametrize("size", [300, 9000, 16384])
def test_I05_a_stream_of_several_members_is_accepted(bench, size):
    content = bench.raw()
    members = [gzip.compress(content[at : at + size]) for at in range(0, len(content), size)]
    volume = read_nifti(bench.file(b"".join(members), "a.nii.gz"))
    np.testing.assert_array_equal(volume.voxels[0], bench.voxels)
    assert volume.findings == ()


def test_I05_the_checksum_of_every_member_counts(bench, refused):
    content = bench.raw()
    first = bytearray(gzip.compress(content[:9000]))
    first[-8] ^= 1
    problem = refused(bench.file(bytes(first) + gzip.compress(content[9000:]), "a.nii.gz"))
    assert problem.code == "gz_crc"
    assert "checksum" in problem.found


def test_I06_gz_in_gz_is_refused_and_called_so(bench, refused):
    problem = refused(bench.gz(gzip.compress(bench.raw())))
    assert problem.code == "nested_gzip"
    assert "compressed twice; unpack it once" in problem.found


def test_I07_a_plain_file_named_gz_is_read(bench, codes):
    volume = read_nifti(bench.file(bench.raw(), "a.nii.gz"))
    np.testing.assert_array_equal(volume.voxels[0], bench.voxels)
    assert codes(volume) == {"misnamed": "repair"}
    assert "not compressed, against its name" in volume.findings[0].message


def test_I08_a_gz_file_named_nii_is_read(bench, codes):
    volume = read_nifti(bench.gz(bench.raw(), "a.nii"))
    np.testing.assert_array_equal(volume.voxels[0], bench.voxels)
    assert codes(volume) == {"misnamed": "repair"}
    assert "is compressed, against its name" in volume.findings[0].message


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"<!doctype html>" * 99, "html_page", "HTML page, so a download went wrong"),
        (b"\n <HTML><body>404</body>" * 99, "html_page", "HTML page"),
        (LFS, "lfs_pointer", "git-lfs pointer; fetch the file itself"),
    ],
)
def test_I09_a_web_page_or_lfs_pointer_is_called_by_name(bench, refused, content, code, words):
    problem = refused(bench.file(content, "a.nii.gz"))
    assert problem.code == code
    assert words in str(problem)


def test_I10_an_empty_file_is_refused(bench, refused):
    for path in (bench.file(b"", "a.nii.gz"), bench.gz(b"", "b.nii.gz")):
        problem = refused(path)
        assert problem.code == "empty"
        assert str(problem).startswith(f"{path}: the file is empty; expected")


@pytest.mark.parametrize("length", [1, 100, 347])
def test_I11_a_file_shorter_than_its_header_is_refused(bench, refused, length):
    for path in (bench.file(bench.raw()[:length]), bench.gz(bench.raw()[:length])):
        problem = refused(path)
        assert problem.code == "not_nifti"
        assert f"{length} bytes are less than a header" in problem.found


def test_I12_voxels_that_are_missing_at_the_end_are_never_zeros(bench, refused):
    for path in (bench.file(bench.raw()[:-1000]), bench.gz(bench.raw()[:-1000])):
        problem = refused(path)
        assert problem.code == "file_too_short"
        assert problem.found == "54648 bytes, but its header promises 55648"


def bomb(bench, shape, zeros):
    """A header that promises this shape of bytes, then so many zeros."""
    image = nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), bench.affine)
    header = bench.poked("dim", "<hhhh", 3, *shape, of=bench.raw(image))[:352]
    return bench.gz(header + bytes(zeros))


def test_I13_a_bomb_with_an_honest_header_is_refused_before_it_is_inflated(bench, refused):
    path = bomb(bench, (1024, 1024, 400), 20_000_000)
    tracemalloc.start()
    problem = refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert problem.code == "too_many_voxels"
    assert "419430400 voxels" in problem.found
    assert peak < 4_000_000


def test_I14_a_bomb_behind_a_small_image_is_refused_before_it_is_inflated(bench, refused):
    path = bomb(bench, (8, 8, 8), 20_000_000)
    tracemalloc.start()
    problem = refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert problem.code == "trailing_data"
    assert "beyond what its header promises (864)" in problem.found
    assert peak < 5_000_000


def test_I14_a_long_tail_of_a_plain_file_is_refused_and_a_short_one_is_recorded(
    bench, refused, codes
):
    assert refused(bench.file(bench.raw() + bytes(70_000))).code == "trailing_data"
    volume = read_nifti(bench.file(bench.raw() + bytes(60_000)))
    np.testing.assert_array_equal(volume.voxels[0], bench.voxels)
    assert codes(volume) == {"trailing_bytes": "warning"}


def test_I15_absurd_dimensions_are_refused_before_anything_is_allocated(bench, refused):
    began_s = time.monotonic()
    for make in (bench.file, bench.gz):
        problem = refused(make(bench.poked("dim", "<hhhh", 3, 32767, 32767, 32767)))
        assert problem.code == "too_many_voxels"
        assert "35181150961663 voxels" in problem.found
    assert refused(bench.folder / "a.nii", any_size=True).code == "too_little_memory"
    assert time.monotonic() - began_s < 5


def test_I16_a_wrong_magic_is_refused_and_never_read_as_analyze(bench, refused):
    problem = refused(bench.file(bench.poked("magic", "4s", b"xxxx")))
    assert problem.code == "bad_magic"
    assert "its header is marked b'xxxx'" in problem.found
    problem = refused(bench.file(bench.poked("magic", "4s", b"\0\0\0\0")))
    assert problem.code == "analyze"
    assert "Analyze 7.5, which knows no left and right" in problem.found


def test_I17_a_header_size_of_0_is_repaired(bench, codes):
    volume = read_nifti(bench.file(bench.poked("sizeof_hdr", "<i", 0)))
    np.testing.assert_array_equal(volume.voxels[0], bench.voxels)
    assert codes(volume) == {"bad_sizeof_hdr": "repair"}


def test_I18_big_endian_is_read(bench):
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">f4")
    path = bench.file(bench.raw(nib.Nifti1Image(bench.voxels, bench.affine, header)))
    assert path.read_bytes()[:4] == (348).to_bytes(4, "big")
    volume = read_nifti(path)
    np.testing.assert_array_equal(volume.voxels[0], bench.voxels)
    assert volume.voxels.dtype.isnative
    assert volume.findings == ()


@pytest.mark.parametrize("endianness", ["<", ">"])
def test_I19_nifti_2_is_read(bench, endianness):
    header = nib.Nifti2Header(endianness=endianness)
    header.set_data_dtype(f"{endianness}f4")
    image = nib.Nifti2Image(bench.voxels, bench.affine, header)
    for path in (bench.file(image.to_bytes()), bench.gz(image.to_bytes())):
        volume = read_nifti(path)
        np.testing.assert_array_equal(volume.voxels[0], bench.voxels)
        assert volume.findings == ()


def test_I20_analyze_is_refused(bench, refused):
    nib.AnalyzeImage(bench.voxels, bench.affine).to_filename(bench.folder / "a.hdr")
    for name in ("a.hdr", "a.img"):
        problem = refused(bench.folder / name)
        assert problem.code == "analyze"
        assert problem.file == str(bench.folder / "a.hdr")


def test_I20_a_pair_of_nifti_is_read_by_either_name(bench, refused):
    nib.Nifti1Pair(bench.voxels, bench.affine).to_filename(bench.folder / "a.hdr")
    for name in ("a.hdr", "a.img"):
        volume = read_nifti(bench.folder / name)
        np.testing.assert_array_equal(volume.voxels[0], bench.voxels)
        assert volume.findings == ()
    (bench.folder / "a.img").unlink()
    problem = refused(bench.folder / "a.hdr")
    assert (problem.code, problem.file) == ("missing", str(bench.folder / "a.img"))


@pytest.mark.parametrize("name", ["a.mgz", "a.mgh", "A.MGZ"])
def test_I21_freesurfers_format_is_read(bench, rotated, name):
    affine = rotated(np.diag([1.0, 1.5, 2.0, 1.0]), 20)
    content = nib.MGHImage(bench.voxels, affine).to_bytes()
    path = bench.file(gzip.compress(content) if name.lower().endswith("z") else content, name)
    volume = read_nifti(path)
    np.testing.assert_array_equal(volume.voxels[0], bench.voxels)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    assert volume.findings == ()
    assert is_image(path)
    assert stem(path).lower() == "a"


def test_I21_a_damaged_mgz_is_refused(bench, refused):
    content = nib.MGHImage(bench.voxels, bench.affine).to_bytes()
    assert refused(bench.file(gzip.compress(content)[:9000], "a.mgz")).code == "gz_truncated"
    assert refused(bench.gz(content[:9000], "a.mgz")).code == "file_too_short"
    assert refused(bench.gz(content[:4] + bytes(9000), "a.mgz")).code == "bad_dims"
    assert refused(bench.gz(bytes(9000), "a.mgz")).code == "not_mgh"


@pytest.mark.parametrize(
    ("name", "head"), [("a.nrrd", b"NRRD0004\n"), ("a.mha", b"ObjectType = Image")]
)
def test_I21_other_formats_are_refused_naming_the_ones_that_are_read(bench, refused, name, head):
    problem = refused(bench.file(head + bytes(1000), name))
    assert problem.code == "other_format"
    assert problem.expected == ".nii or .nii.gz (or FreeSurfer's .mgz)"


def test_I67_a_huge_grid_is_refused_with_what_it_needs_and_what_there_is(bench, refused):
    path = bench.file(bench.poked("dim", "<hhhh", 3, 768, 768, 768)[:352])
    with path.open("r+b") as stream:
        stream.truncate(352 + 4 * 768**3)
    problem = refused(path)
    assert problem.code == "too_many_voxels"
    assert "452984832 voxels (6.75 GiB are needed and" in problem.found
    assert "GiB available" in problem.found


def test_I67_a_scan_beyond_the_memory_is_refused_before_it_is_read(bench, refused, monkeypatch):
    path = bench.image(bench.voxels)
    monkeypatch.setattr("brainsegfounder.volumes.header.available_memory_gib", lambda: 1e-4)
    problem = refused(path)
    assert problem.code == "too_little_memory"
    assert "0.00 GiB are needed and 0.00 GiB available" in problem.found
    assert problem.field == "dim"


@pytest.mark.parametrize("make", ["gz", "file"])
def test_I120_a_file_that_changes_while_it_is_read_is_refused(bench, refused, monkeypatch, make):
    path = getattr(bench, make)(bench.raw())
    read = container.inflated if make == "gz" else container._check_unchanged

    def grow(*words):
        with path.open("ab") as stream:
            stream.write(b"more")
        return read(*words)

    monkeypatch.setattr(container, read.__name__, grow)
    problem = refused(path)
    assert problem.code == "changed_during_read"
    assert "Wait until it is complete" in problem.advice


def test_I120_a_file_that_vanishes_while_it_is_read_is_refused(bench, refused, monkeypatch):
    path = bench.file(bench.raw())
    check = container._check_unchanged

    def vanish(*words):
        path.unlink()
        return check(*words)

    monkeypatch.setattr(container, "_check_unchanged", vanish)
    assert refused(path).code == "changed_during_read"
