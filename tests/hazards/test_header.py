"""Table 2b: numbers of the header and the geometry they make."""

import itertools
import logging
import struct

import nibabel as nib
import numpy as np
import pytest

from brainsegfounder.settings import PreparationSettings
from brainsegfounder.volumes.geometry import to_ras
from brainsegfounder.volumes.nifti import read_nifti, write_nifti
from brainsegfounder.volumes.preparation import prepare, undo_labels
from brainsegfounder.volumes.volume import Volume

NAN = float("nan")
QFORM = np.array([[0, -1.0, 0, 3], [1, 0, 0, 4], [0, 0, 1, 5], [0, 0, 0, 1]])


def both_forms(bench):
    """A file with an sform of 1 mm and a qform turned by 90 degrees, both coded."""
    image = nib.Nifti1Image(bench.voxels, bench.affine)
    image.set_sform(bench.affine, 1)
    image.set_qform(QFORM, 1)
    return bench.raw(image)


def qform_only(bench):
    image = nib.Nifti1Image(bench.voxels, QFORM)
    image.set_sform(None, 0)
    image.set_qform(QFORM, 1)
    return bench.raw(image)


def with_sform(bench, rows, content):
    return bench.file(bench.poked("srow_x", "<12f", *np.ravel(rows), of=content))


@pytest.mark.parametrize("code", [0, 1, 999, -3])
def test_I22_an_unknown_datatype_is_refused(bench, refused, code):
    refused(bench.file(bench.poked("datatype", "<h", code)), "not a NIfTI image|voxels of type")


@pytest.mark.parametrize("dims", [(0,), (8,), (-1,), (3, -24), (3, 0), (3, 24, 24, -32768)])
def test_I23_impossible_dimensions_are_refused(bench, refused, dims):
    content = bench.poked("dim", f"<{len(dims)}h", *dims)
    for path in (bench.file(content), bench.gz(content)):
        refused(path, r"not a NIfTI image|header promises|an image of shape|voxels; expected")


def test_I24_a_bitpix_that_contradicts_the_datatype_does_not_matter(bench):
    path = bench.file(bench.poked("bitpix", "<h", 8))
    np.testing.assert_array_equal(read_nifti(path).voxels[0], bench.voxels)


@pytest.mark.parametrize("offset", [0.0, 100.0, 348.0])
def test_I25_an_offset_inside_the_header_is_repaired_and_logged(bench, caplog, offset):
    content = bench.poked("vox_offset", "<f", offset)
    for path in (bench.file(content), bench.gz(content)):
        with caplog.at_level(logging.WARNING):
            np.testing.assert_array_equal(read_nifti(path).voxels[0], bench.voxels)
        assert f"vox_offset {offset:.0f} lies inside the header" in caplog.text


@pytest.mark.parametrize("offset", [NAN, float("inf"), -16.0])
def test_I26_an_offset_that_is_no_place_is_refused(bench, refused, offset):
    content = bench.poked("vox_offset", "<f", offset)
    for path in (bench.file(content), bench.gz(content)):
        refused(path, "not a NIfTI image|cannot be read|header promises")


def test_I27_an_offset_beyond_the_file_is_refused(bench, refused):
    refused(bench.file(bench.poked("vox_offset", "<f", 1e9)), "its header promises 10000")


@pytest.mark.parametrize("slope", [0.0, NAN, float("inf")])
def test_I28_a_slope_that_is_no_factor_counts_as_1(bench, slope):
    path = bench.file(bench.poked("slope", "<f", slope))
    np.testing.assert_array_equal(read_nifti(path).voxels[0], bench.voxels)


def test_I29_a_huge_slope_is_read_while_float32_holds_it_and_refused_beyond(bench, refused):
    volume = read_nifti(bench.file(bench.poked("slope", "<f", 1e30)))
    assert np.isfinite(volume.voxels).all()
    refused(bench.file(bench.poked("slope", "<f", 3e38)), "not finite float32 numbers")


def check_bad_pixdim(bench, refused, value):
    """The sform makes it good; a qform alone means nothing without it."""
    path = bench.file(bench.poked("pixdim1", "<f", value))
    np.testing.assert_allclose(read_nifti(path).affine, bench.affine)
    refused(bench.file(bench.poked("pixdim1", "<f", value, of=qform_only(bench))), "no invertible")


def test_I30_a_pixdim_of_0_is_made_good_by_the_sform_alone(bench, refused):
    check_bad_pixdim(bench, refused, 0.0)


def test_I31_a_negative_pixdim_is_made_good_by_the_sform_alone(bench, refused):
    check_bad_pixdim(bench, refused, -1.0)


def test_I32_a_pixdim_of_nan_is_made_good_by_the_sform_alone(bench, refused):
    check_bad_pixdim(bench, refused, NAN)


def test_I33_micrometres_become_millimetres(bench):
    image = nib.Nifti1Image(bench.voxels, np.diag([900.0, 1000.0, 1100.0, 1.0]))
    image.header.set_xyzt_units("micron")
    assert read_nifti(bench.file(bench.raw(image))).spacing_mm == pytest.approx((0.9, 1.0, 1.1))


def test_I35_an_uncoded_orientation_is_read_with_a_warning(bench, caplog):
    path = bench.file(bench.raw(nib.Nifti1Image(bench.voxels, None)))
    with caplog.at_level(logging.WARNING):
        volume = read_nifti(path)
    assert "left and right are a guess" in caplog.text
    np.testing.assert_array_equal(volume.voxels[0], bench.voxels)


BROKEN = {
    "I36": np.zeros((3, 4)),
    "I37": np.full((3, 4), NAN),
    "I38": np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]),
}


def check_broken_sform(bench, refused, caplog, rows):
    """Falls back to a coded qform, aloud, and refuses without one."""
    path = with_sform(bench, rows, both_forms(bench))
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(read_nifti(path).affine, QFORM, atol=1e-6)
    assert "the sform does not fit" in caplog.text
    alone = bench.poked("scode", "<h", 1)
    refused(with_sform(bench, rows, alone), "no invertible affine .*Repair the sform")


def test_I36_an_sform_of_zeros_gives_way_to_a_coded_qform(bench, refused, caplog):
    check_broken_sform(bench, refused, caplog, BROKEN["I36"])


def test_I37_an_sform_of_nan_gives_way_to_a_coded_qform(bench, refused, caplog):
    check_broken_sform(bench, refused, caplog, BROKEN["I37"])


def test_I38_a_singular_sform_gives_way_to_a_coded_qform(bench, refused, caplog):
    check_broken_sform(bench, refused, caplog, BROKEN["I38"])


def carried_back(draw_brain, affine, spacing_mm=None):
    """The mask of a brain, through preparation and back to its own grid."""
    image, labels = draw_brain()
    image, labels = Volume(image.voxels, affine), Volume(labels.voxels, affine)
    prepared = prepare(image, PreparationSettings(spacing_mm=spacing_mm), labels)
    return undo_labels(prepared.labels, prepared.source_grid), labels


def test_I40_a_shear_of_rounding_is_accepted(bench, draw_brain):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[0, 1] = 1e-3
    back, labels = carried_back(draw_brain, affine)
    np.testing.assert_array_equal(back.voxels, labels.voxels)
    path = bench.image(bench.voxels, affine)
    np.testing.assert_allclose(read_nifti(path).affine, affine, atol=1e-6)


def test_I41_an_sform_of_other_voxel_sizes_gives_way_to_the_qform(bench):
    image = nib.Nifti1Image(bench.voxels, bench.affine)
    image.set_qform(np.diag([0.5, 0.5, 0.5, 1.0]), 1)
    image.set_sform(np.eye(4), 2)
    path = bench.file(bench.raw(image))
    assert read_nifti(path).spacing_mm == pytest.approx((0.5, 0.5, 0.5))


def test_I42_of_two_sound_forms_the_sform_counts(bench):
    np.testing.assert_allclose(read_nifti(bench.file(both_forms(bench))).affine, bench.affine)


def test_I43_a_quaternion_that_is_none_is_repaired_by_the_sform_or_refused(bench, refused):
    path = bench.file(bench.poked("quatern_b", "<ff", 2.0, 2.0, of=both_forms(bench)))
    np.testing.assert_allclose(read_nifti(path).affine, bench.affine)
    refused(bench.file(bench.poked("quatern_b", "<ff", 2.0, 2.0, of=qform_only(bench))), ".")


def test_I44_a_qfac_of_0_counts_as_1(bench):
    path = bench.file(bench.poked("qfac", "<f", 0.0, of=qform_only(bench)))
    np.testing.assert_allclose(read_nifti(path).affine, QFORM, atol=1e-6)


def test_I45_an_oblique_scan_gets_its_result_on_its_own_grid(draw_brain, rotated):
    affine = rotated(np.diag([2.0, 2.0, 2.0, 1.0]), 20)
    back, labels = carried_back(draw_brain, affine)
    np.testing.assert_array_equal(back.voxels, labels.voxels)
    np.testing.assert_array_equal(back.affine, affine)
    coarse, labels = carried_back(draw_brain, affine, (2.5, 2.5, 2.5))
    one, other = coarse.voxels > 0, labels.voxels > 0
    assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.9


def test_I46_all_48_orders_and_flips_of_the_axes_are_one_scan(bench, turn, draw_brain):
    image, labels = draw_brain((10, 12, 9))
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((0, 1), repeat=3):
            path = bench.folder / "a.nii"
            write_nifti(path, turn(labels, order, np.flatnonzero(flips)))
            back = to_ras(read_nifti(path))
            np.testing.assert_array_equal(back.voxels, labels.voxels)
            np.testing.assert_allclose(back.affine, image.affine, atol=1e-4)


def test_I47_an_origin_a_kilometre_away_does_not_matter(draw_brain):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = 1e6
    back, labels = carried_back(draw_brain, affine)
    np.testing.assert_array_equal(back.voxels, labels.voxels)


def test_I48_an_affine_with_noise_of_rounding_is_the_same_affine(bench, draw_brain):
    noise = 1e-7 * np.random.default_rng(0).normal(size=(4, 4))
    noise[3] = 0
    affine = np.diag([2.0, 2.0, 2.0, 1.0]) + noise
    back, labels = carried_back(draw_brain, affine, (2.0, 2.0, 2.0))
    np.testing.assert_array_equal(back.voxels, labels.voxels)
    image, labels = draw_brain()
    moved = Volume(labels.voxels, labels.affine + noise)
    assert prepare(image, PreparationSettings(spacing_mm=None), moved).labels is not None


def test_a_hundred_random_headers_end_in_a_volume_or_a_typed_error(bench):
    from brainsegfounder.errors import VolumeError

    rng = np.random.default_rng(0)
    read = 0
    for _ in range(100):
        content = bytearray(bench.raw())
        for _ in range(rng.integers(1, 4)):
            struct.pack_into("<B", content, int(rng.integers(0, 352)), int(rng.integers(0, 256)))
        try:
            volume = read_nifti(bench.file(bytes(content)))
        except VolumeError:
            continue
        read += 1
        assert volume.voxels.ndim == 4
        assert np.isfinite(volume.voxels).all()
        assert np.isfinite(volume.affine).all()
        assert abs(np.linalg.det(volume.affine)) > 0
    assert read > 20
