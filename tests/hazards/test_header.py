"""Table 2b: numbers of the header and the geometry they make."""

import itertools
import logging

import nibabel as nib
import numpy as np
import pytest

from brainsegfounder.errors import VolumeError
from brainsegfounder.settings import PreparationSettings, ReadingSettings
from brainsegfounder.volumes.geometry import to_ras
from brainsegfounder.volumes.nifti import read_nifti, write_nifti
from brainsegfounder.volumes.preparation import prepare, undo_labels
from brainsegfounder.volumes.quality import check_size
from brainsegfounder.volumes.volume import Grid, Volume

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
    problem = refused(bench.file(bench.poked("datatype", "<h", code)))
    assert (problem.code, problem.field) == ("bad_datatype", "datatype")
    assert problem.found == f"voxels of type datatype {code}"


@pytest.mark.parametrize("dims", [(0,), (8,), (-1,), (3, -24), (3, 0), (3, 24, 24, -32768)])
def test_I23_impossible_dimensions_are_refused(bench, refused, dims):
    content = bench.poked("dim", f"<{len(dims)}h", *dims)
    for path in (bench.file(content), bench.gz(content)):
        problem = refused(path)
        assert (problem.code, problem.field) == ("bad_dims", "dim")
        assert f"dimensions [{', '.join(map(str, dims))}," in problem.found


def test_I24_a_bitpix_that_contradicts_the_datatype_does_not_matter(bench, codes):
    volume = read_nifti(bench.file(bench.poked("bitpix", "<h", 8)))
    np.testing.assert_array_equal(volume.voxels[0], bench.voxels)
    assert codes(volume) == {"bad_bitpix": "repair"}


@pytest.mark.parametrize("offset", [0.0, 100.0, 348.0])
def test_I25_an_offset_inside_the_header_is_repaired_and_logged(bench, codes, caplog, offset):
    content = bench.poked("vox_offset", "<f", offset)
    for path in (bench.file(content), bench.gz(content)):
        with caplog.at_level(logging.WARNING):
            volume = read_nifti(path)
        np.testing.assert_array_equal(volume.voxels[0], bench.voxels)
        assert codes(volume) == {"offset_in_header": "repair"}
        assert f"{path}: vox_offset {offset:.0f} lies inside the header" in caplog.text


@pytest.mark.parametrize("offset", [NAN, float("inf"), -16.0, 352.5])
def test_I26_an_offset_that_is_no_place_is_refused(bench, refused, offset):
    content = bench.poked("vox_offset", "<f", offset)
    for path in (bench.file(content), bench.gz(content)):
        problem = refused(path)
        assert (problem.code, problem.field) == ("bad_vox_offset", "vox_offset")
        assert problem.expected == "a whole number from 352"


def test_I27_an_offset_beyond_the_file_is_refused(bench, refused):
    content = bench.poked("vox_offset", "<f", 1e9)
    for path in (bench.file(content), bench.gz(content)):
        problem = refused(path)
        assert problem.code == "file_too_short"
        assert "its header promises 10000" in problem.found


@pytest.mark.parametrize(
    ("slope", "found"), [(0.0, {}), (NAN, {}), (float("inf"), {"bad_slope": "repair"})]
)
def test_I28_a_slope_that_is_no_factor_counts_as_1(bench, codes, slope, found):
    volume = read_nifti(bench.file(bench.poked("slope", "<f", slope)))
    np.testing.assert_array_equal(volume.voxels[0], bench.voxels)
    assert codes(volume) == found


def test_I28_an_intercept_that_is_no_number_counts_as_0(bench, codes):
    volume = read_nifti(bench.file(bench.poked("slope", "<ff", 2.0, NAN)))
    np.testing.assert_array_equal(volume.voxels[0], 2 * bench.voxels)
    assert codes(volume) == {"bad_intercept": "repair"}


def test_I29_a_huge_slope_is_taken_out_and_refused_where_float32_ends(bench, refused, codes):
    volume = read_nifti(bench.file(bench.poked("slope", "<f", 1e30)))
    np.testing.assert_allclose(volume.voxels[0], bench.voxels, rtol=1e-5)
    assert codes(volume) == {"huge_slope": "repair"}
    problem = refused(bench.file(bench.poked("slope", "<f", 3e38)))
    assert problem.code == "not_finite"
    assert "100% of the voxels are not finite float32 numbers" in problem.found


def with_pixdim(bench, value):
    """A file with an sform, and one with a qform alone, which means nothing without pixdim."""
    return (
        bench.file(bench.poked("pixdim1", "<f", value), "sform.nii"),
        bench.file(bench.poked("pixdim1", "<f", value, of=qform_only(bench)), "qform.nii"),
    )


def test_I30_a_pixdim_of_0_is_made_good_by_the_sform_alone(bench, refused, codes):
    with_sform, without = with_pixdim(bench, 0.0)
    volume = read_nifti(with_sform)
    np.testing.assert_allclose(volume.affine, bench.affine)
    assert codes(volume) == {"bad_pixdim": "repair"}
    problem = refused(without)
    assert (problem.code, problem.field) == ("no_affine", "pixdim")
    assert "no invertible affine" in problem.found


def test_I31_a_pixdim_below_0_is_made_good_by_the_sform_alone(bench, refused, codes):
    with_sform, without = with_pixdim(bench, -1.0)
    volume = read_nifti(with_sform)
    np.testing.assert_allclose(volume.affine, bench.affine)
    assert codes(volume) == {"bad_pixdim": "repair"}
    problem = refused(without)
    assert (problem.code, problem.field) == ("no_affine", "pixdim")
    assert "no invertible affine" in problem.found


def test_I32_a_pixdim_of_nan_is_made_good_by_the_sform_alone(bench, refused, codes):
    with_sform, without = with_pixdim(bench, NAN)
    volume = read_nifti(with_sform)
    np.testing.assert_allclose(volume.affine, bench.affine)
    assert codes(volume) == {"bad_pixdim": "repair"}
    problem = refused(without)
    assert (problem.code, problem.field) == ("no_affine", "pixdim")
    assert "no invertible affine" in problem.found


def test_I33_micrometres_become_millimetres(bench, codes):
    image = nib.Nifti1Image(bench.voxels, np.diag([900.0, 1000.0, 1100.0, 1.0]))
    image.header.set_xyzt_units("micron")
    volume = read_nifti(bench.file(bench.raw(image)))
    assert volume.spacing_mm == pytest.approx((0.9, 1.0, 1.1))
    assert codes(volume) == {"units": "repair"}
    assert "in units of 0.001 mm" in volume.findings[0].message


@pytest.mark.parametrize("spacing_mm", [1e-4, 1000.0])
def test_I34_a_spacing_of_no_scanner_is_refused_unless_asked_for(bench, refused, spacing_mm):
    path = bench.image(bench.voxels, np.diag([spacing_mm] * 3 + [1]))
    problem = refused(path)
    assert (problem.code, problem.field) == ("implausible_affine", "pixdim")
    assert f"voxels of {spacing_mm:.4g} x" in problem.found
    volume = read_nifti(path, ReadingSettings(any_size=True))
    assert volume.spacing_mm == pytest.approx([spacing_mm] * 3)


@pytest.mark.parametrize(
    ("spacing_mm", "shape_vox", "code"),
    [
        (0.05, (4000, 4, 4), "implausible_spacing"),
        (25.0, (8, 8, 8), "implausible_spacing"),
        (2.0, (24, 100, 100), "implausible_field_of_view"),
        (2.0, (100, 100, 301), "implausible_field_of_view"),
    ],
)
def test_I34_a_size_of_no_head_is_refused_unless_asked_for(spacing_mm, shape_vox, code):
    voxels = np.broadcast_to(np.float32(0), (1, *shape_vox))
    volume = Volume(voxels, np.diag([spacing_mm] * 3 + [1]), "a.nii")
    with pytest.raises(VolumeError) as caught:
        check_size(volume, ReadingSettings())
    assert caught.value.problem.code == code
    assert str(caught.value).startswith("a.nii: pixdim: ")
    check_size(volume, ReadingSettings(any_size=True))


def test_I34_the_size_of_a_head_is_accepted():
    voxels = np.broadcast_to(np.float32(0), (1, 240, 240, 155))
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    assert check_size(Volume(voxels, affine, "a.nii"), ReadingSettings()) is None


def test_I35_an_uncoded_orientation_is_read_with_a_warning_unless_strict(
    bench, refused, codes, caplog
):
    path = bench.file(bench.raw(nib.Nifti1Image(bench.voxels, None)))
    with caplog.at_level(logging.WARNING):
        volume = read_nifti(path)
    assert "left and right are a guess" in caplog.text
    assert codes(volume) == {"orientation_guessed": "warning"}
    np.testing.assert_array_equal(volume.voxels[0], bench.voxels)
    problem = refused(path, strict=True)
    assert (problem.code, problem.field) == ("orientation_guessed", "sform_code")


def with_broken_sform(bench, rows):
    """A file with a sound qform beside this sform, and one without."""
    alone = bench.poked("qcode", "<hh", 0, 1)
    both = with_sform(bench, rows, both_forms(bench)).rename(bench.folder / "both.nii")
    return both, with_sform(bench, rows, alone)


def test_I36_an_sform_of_zeros_gives_way_to_a_coded_qform(bench, refused, codes):
    both, alone = with_broken_sform(bench, np.zeros((3, 4)))
    volume = read_nifti(both)
    np.testing.assert_allclose(volume.affine, QFORM, atol=1e-6)
    assert codes(volume) == {"bad_sform": "repair"}
    problem = refused(alone)
    assert (problem.code, problem.field) == ("no_affine", "srow_x")
    assert problem.advice == "Repair the sform or qform."


def test_I37_an_sform_of_nan_gives_way_to_a_coded_qform(bench, refused, codes):
    both, alone = with_broken_sform(bench, np.full((3, 4), NAN))
    volume = read_nifti(both)
    np.testing.assert_allclose(volume.affine, QFORM, atol=1e-6)
    assert codes(volume) == {"bad_sform": "repair"}
    problem = refused(alone)
    assert (problem.code, problem.field) == ("no_affine", "srow_x")
    assert problem.advice == "Repair the sform or qform."


def test_I38_an_sform_that_is_singular_gives_way_to_a_coded_qform(bench, refused, codes):
    both, alone = with_broken_sform(bench, [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]])
    volume = read_nifti(both)
    np.testing.assert_allclose(volume.affine, QFORM, atol=1e-6)
    assert codes(volume) == {"bad_sform": "repair"}
    problem = refused(alone)
    assert (problem.code, problem.field) == ("no_affine", "srow_x")
    assert problem.advice == "Repair the sform or qform."


def carried_back(draw_brain, affine, spacing_mm=None):
    """The mask of a brain, through preparation and back to its own grid."""
    image, labels = draw_brain()
    image, labels = Volume(image.voxels, affine), Volume(labels.voxels, affine)
    prepared = prepare(image, PreparationSettings(spacing_mm=spacing_mm), labels)
    return undo_labels(prepared.labels, prepared.source_grid), labels


def sheared(shear):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[0, 1] = shear
    affine[:3, 3] = (-20.0, 10.0, 5.0)
    return affine


def test_I39_a_large_shear_is_kept_and_resampled_through_the_full_affine(bench, draw_brain, codes):
    back, labels = carried_back(draw_brain, sheared(0.6))
    np.testing.assert_array_equal(back.voxels, labels.voxels)
    volume = read_nifti(bench.image(bench.voxels, sheared(0.6)))
    np.testing.assert_allclose(volume.affine, sheared(0.6), atol=1e-6)
    assert codes(volume) == {"shear_kept": "warning"}


def test_I39_a_shear_that_moves_no_corner_by_half_a_voxel_is_taken_out(bench, draw_brain, codes):
    affine = sheared(0.03)
    back, labels = carried_back(draw_brain, affine)
    np.testing.assert_array_equal(back.voxels, labels.voxels)
    volume = read_nifti(bench.image(bench.voxels, affine))
    assert codes(volume) == {"shear_removed": "repair"}
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    assert 0 < volume.grid.corner_shift_vox(Grid((24, 24, 24), affine)) <= 0.5
    middle = [11.5, 11.5, 11.5, 1]
    np.testing.assert_allclose(volume.affine @ middle, affine @ middle, atol=1e-5)


def test_I40_a_shear_of_rounding_is_taken_out(bench, draw_brain, codes):
    affine = sheared(1e-3)
    back, labels = carried_back(draw_brain, affine)
    np.testing.assert_array_equal(back.voxels, labels.voxels)
    volume = read_nifti(bench.image(bench.voxels, affine))
    assert codes(volume) == {"shear_removed": "repair"}
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    assert 0 < volume.grid.corner_shift_vox(Grid((24, 24, 24), affine)) <= 0.5


def test_I40_rounding_of_an_oblique_sform_is_no_shear(bench, rotated):
    affine = rotated(np.diag([0.9, 0.9, 1.1, 1.0]), 17)
    volume = read_nifti(bench.image(bench.voxels, affine))
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)
    assert volume.findings == ()


def test_I41_an_sform_of_other_voxel_sizes_gives_way_to_the_qform(bench, codes):
    image = nib.Nifti1Image(bench.voxels, bench.affine)
    image.set_qform(np.diag([0.5, 0.5, 0.5, 1.0]), 1)
    image.set_sform(np.eye(4), 2)
    volume = read_nifti(bench.file(bench.raw(image)))
    assert volume.spacing_mm == pytest.approx((0.5, 0.5, 0.5))
    assert codes(volume) == {"sform_stretched": "repair"}


def test_I42_of_two_sound_forms_the_sform_counts_and_the_difference_is_told(bench, codes):
    volume = read_nifti(bench.file(both_forms(bench)))
    np.testing.assert_allclose(volume.affine, bench.affine)
    assert codes(volume) == {"forms_differ": "warning"}
    assert "turned by 90 degrees" in volume.findings[0].message
    registered = read_nifti(bench.file(bench.poked("scode", "<h", 4, of=both_forms(bench))))
    assert codes(registered) == {"forms_differ": "note"}


def test_I42_forms_that_mirror_each_other_are_refused_if_strict(bench, refused, codes):
    image = nib.Nifti1Image(bench.voxels, bench.affine)
    image.set_sform(bench.affine, 2)
    image.set_qform(np.diag([-1.0, 1.0, 1.0, 1.0]), 1)
    path = bench.file(bench.raw(image))
    volume = read_nifti(path)
    np.testing.assert_allclose(volume.affine, bench.affine)
    assert codes(volume) == {"forms_differ": "warning"}
    assert "one is the mirror image of the other" in volume.findings[0].message
    problem = refused(path, strict=True)
    assert (problem.code, problem.field) == ("handedness", "qform_code")
    assert "mirror image" in problem.found


def test_I43_a_quaternion_that_is_none_is_repaired_by_the_sform_or_refused(bench, refused, codes):
    volume = read_nifti(bench.file(bench.poked("quatern_b", "<ff", 2, 2, of=both_forms(bench))))
    np.testing.assert_allclose(volume.affine, bench.affine)
    assert codes(volume) == {"bad_qform": "repair"}
    problem = refused(bench.file(bench.poked("quatern_b", "<ff", 2, 2, of=qform_only(bench))))
    assert problem.code == "no_affine"


def test_I44_a_qfac_of_0_counts_as_1(bench):
    volume = read_nifti(bench.file(bench.poked("qfac", "<f", 0.0, of=qform_only(bench))))
    np.testing.assert_allclose(volume.affine, QFORM, atol=1e-6)
    assert volume.findings == ()


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


def test_I47_an_origin_a_kilometre_away_does_not_matter_and_is_noted(bench, draw_brain, codes):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = 1e6
    back, labels = carried_back(draw_brain, affine)
    np.testing.assert_array_equal(back.voxels, labels.voxels)
    assert codes(read_nifti(bench.image(bench.voxels, affine))) == {"far_origin": "note"}


def test_I48_an_affine_with_noise_of_rounding_is_the_same_affine(bench, draw_brain):
    noise = 1e-7 * np.random.default_rng(0).normal(size=(4, 4))
    noise[3] = 0
    affine = np.diag([2.0, 2.0, 2.0, 1.0]) + noise
    back, labels = carried_back(draw_brain, affine, (2.0, 2.0, 2.0))
    np.testing.assert_array_equal(back.voxels, labels.voxels)
    image, labels = draw_brain()
    moved = Volume(labels.voxels, labels.affine + noise)
    assert prepare(image, PreparationSettings(spacing_mm=None), moved).labels is not None
