"""Table 2a: what can be wrong with the file around the voxels."""

import gzip
import time
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from brainsegfounder.errors import VolumeError
from brainsegfounder.volumes.nifti import read_nifti


def test_I01_a_truncated_gz_is_refused_wherever_it_ends(bench, refused):
    content = gzip.compress(bench.raw())
    for share in (0.01, 0.3, 0.5, 0.9, 0.999):
        path = bench.file(content[: int(len(content) * share)], "a.nii.gz")
        refused(path, r"damaged gzip stream")
    refused(bench.file(content[:-1], "a.nii.gz"), r"damaged gzip stream \(it ends too early\)")


def test_I02_a_flipped_bit_in_the_stream_is_always_refused(bench, refused):
    content = gzip.compress(bench.raw())
    for place in np.linspace(20, len(content) - 9, 40).astype(int):
        flipped = bytearray(content)
        flipped[place] ^= 1
        refused(bench.file(bytes(flipped), "a.nii.gz"), ".")


def test_I03_a_wrong_checksum_is_refused(bench, refused):
    content = bytearray(gzip.compress(bench.raw()))
    content[-8] ^= 255
    refused(bench.file(bytes(content), "a.nii.gz"), "damaged gzip stream .*data check")


def test_I04_garbage_after_a_whole_stream_changes_nothing(bench):
    path = bench.file(gzip.compress(bench.raw()) + b"GARBAGE", "a.nii.gz")
    np.testing.assert_array_equal(read_nifti(path).voxels[0], bench.voxels)


def test_I05_a_stream_of_several_members_is_accepted(bench):
    content = bench.raw()
    path = bench.file(gzip.compress(content[:9000]) + gzip.compress(content[9000:]), "a.nii.gz")
    np.testing.assert_array_equal(read_nifti(path).voxels[0], bench.voxels)


def test_I06_gz_in_gz_is_refused_and_called_so(bench, refused):
    refused(bench.gz(gzip.compress(bench.raw())), "compressed twice")


def test_I07_a_plain_file_named_gz_is_read(bench):
    path = bench.file(bench.raw(), "a.nii.gz")
    np.testing.assert_array_equal(read_nifti(path).voxels[0], bench.voxels)


def test_I08_a_gz_file_named_nii_is_read(bench):
    path = bench.gz(bench.raw(), "a.nii")
    np.testing.assert_array_equal(read_nifti(path).voxels[0], bench.voxels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!doctype html>" * 99, "HTML page, so a download went wrong"),
        (b"\n <HTML><body>404</body>" * 99, "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git-lfs pointer"),
    ],
)
def test_I09_a_web_page_or_lfs_pointer_is_called_by_name(bench, refused, content, message):
    refused(bench.file(content, "a.nii.gz"), message)


def test_I10_an_empty_file_is_refused(bench, refused):
    refused(bench.file(b"", "a.nii.gz"), "the file is empty")
    refused(bench.gz(b"", "b.nii.gz"), "the file is empty")


@pytest.mark.parametrize("length", [1, 100, 347, 351])
def test_I11_a_file_shorter_than_its_header_is_refused(bench, refused, length):
    refused(bench.file(bench.raw()[:length]), "not a NIfTI image|header promises")
    refused(bench.gz(bench.raw()[:length]), "not a NIfTI image|header promises")


def test_I12_voxels_that_are_missing_at_the_end_are_never_zeros(bench, refused):
    refused(bench.file(bench.raw()[:-1000]), r"54648 bytes, but its header promises 55648")
    refused(bench.gz(bench.raw()[:-1000]), r"54648 bytes, but its header promises 55648")


def bomb(bench, shape, zeros):
    """A header that promises this shape of bytes, then so many zeros."""
    image = nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), bench.affine)
    header = bench.poked("dim", "<hhhh", 3, *shape, of=bench.raw(image))[:352]
    return bench.gz(header + bytes(zeros))


def test_I13_a_bomb_with_an_honest_header_is_refused_before_it_is_inflated(bench):
    path = bomb(bench, (1024, 1024, 400), 20_000_000)
    tracemalloc.start()
    with pytest.raises(VolumeError, match=r"419430400 voxels; expected at most 268435456"):
        read_nifti(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_I14_a_bomb_behind_a_small_image_is_refused_before_it_is_inflated(bench):
    path = bomb(bench, (8, 8, 8), 20_000_000)
    tracemalloc.start()
    with pytest.raises(VolumeError, match="beyond what its header promises"):
        read_nifti(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_I14_a_long_tail_of_a_plain_file_is_refused_and_a_short_one_is_not(bench, refused):
    refused(bench.file(bench.raw() + bytes(70_000)), "its header promises 55648")
    path = bench.file(bench.raw() + bytes(60_000))
    np.testing.assert_array_equal(read_nifti(path).voxels[0], bench.voxels)


def test_I15_absurd_dimensions_are_refused_before_anything_is_allocated(bench, refused):
    began_s = time.monotonic()
    for make in (bench.file, bench.gz):
        path = make(bench.poked("dim", "<hhhh", 3, 32767, 32767, 32767))
        refused(path, "35181150961663 voxels; expected at most")
    assert time.monotonic() - began_s < 1


@pytest.mark.parametrize("magic", [b"xxxx", b"\0\0\0\0"])
def test_I16_a_wrong_magic_is_refused_and_never_read_as_analyze(bench, refused, magic):
    refused(bench.file(bench.poked("magic", "4s", magic)), "not a NIfTI image .*magic")


def test_I17_a_header_size_of_0_is_repaired(bench):
    path = bench.file(bench.poked("sizeof_hdr", "<i", 0))
    np.testing.assert_array_equal(read_nifti(path).voxels[0], bench.voxels)


def test_I18_big_endian_is_read(bench):
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">f4")
    path = bench.file(bench.raw(nib.Nifti1Image(bench.voxels, bench.affine, header)))
    assert path.read_bytes()[:4] == (348).to_bytes(4, "big")
    volume = read_nifti(path)
    np.testing.assert_array_equal(volume.voxels[0], bench.voxels)
    assert volume.voxels.dtype.isnative


@pytest.mark.parametrize("endianness", ["<", ">"])
def test_I19_nifti_2_is_read(bench, endianness):
    header = nib.Nifti2Header(endianness=endianness)
    header.set_data_dtype(f"{endianness}f4")
    image = nib.Nifti2Image(bench.voxels, bench.affine, header)
    for path in (bench.file(image.to_bytes()), bench.gz(image.to_bytes())):
        np.testing.assert_array_equal(read_nifti(path).voxels[0], bench.voxels)


def test_I20_analyze_is_refused(bench, refused):
    nib.AnalyzeImage(bench.voxels, bench.affine).to_filename(bench.folder / "a.hdr")
    refused(bench.folder / "a.hdr", "not a NIfTI image")
    refused(bench.folder / "a.img", "not a NIfTI image")


@pytest.mark.parametrize(
    ("name", "head"), [("a.mgz", b"\0\0\0\1"), ("a.nrrd", b"NRRD0004\n"), ("a.mha", b"ObjectType")]
)
def test_I21_other_formats_are_refused_naming_the_ones_that_are_read(bench, refused, name, head):
    refused(bench.file(head + bytes(1000), name), r"expected \.nii or \.nii\.gz")
