"""Table 2f: whether the slices of a series are one volume, I85 to I98, I105, I109."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from brainsegfounder.errors import VolumeError
from brainsegfounder.settings import ReadingSettings
from brainsegfounder.volumes.dicom.importer import import_dicom
from brainsegfounder.volumes.nifti import read_nifti


def raw(dataset, keyword, vr, value):
    """Write a value that pydicom itself would refuse."""
    tag = Tag(keyword)
    dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


def only(result):
    """The one file that was made."""
    (contrasts,) = result.cases.values()
    (path,) = contrasts.values()
    return path


def canonical(pixels, affine):
    image = nib.as_closest_canonical(nib.Nifti1Image(np.asarray(pixels, np.float32), affine))
    return image.get_fdata(), image.affine


def refusal(scanner, **options):
    """The problem an import of this folder ends with."""
    with pytest.raises(VolumeError) as caught:
        import_dicom(scanner.source, scanner.out, **options)
    assert not list(scanner.out.glob("*"))
    return caught.value.problem


def assert_volume_is(path, series):
    made = read_nifti(path)
    voxels, affine = canonical(made.voxels[0], made.affine)
    pixels, placed = canonical(*series.expected())
    np.testing.assert_array_equal(voxels, pixels)
    np.testing.assert_allclose(affine, placed, atol=1e-3)


def test_a_sound_series_keeps_its_pixels_and_places(scanner):
    series = scanner.series()
    series.write()
    result = import_dicom(scanner.source, scanner.out)
    assert_volume_is(only(result), series)
    assert [one.outcome for one in result.series] == ["converted"]
    assert not result.problems
    assert result.series[0].spacing_mm == pytest.approx((3.5, 3.0, 4.0))


def test_I85_missing_slices_are_listed_and_refused(scanner):
    series = scanner.series()
    series.keep([i for i in range(20) if i not in (7, 8, 12)])
    series.write()
    problem = refusal(scanner)
    assert problem.code == "dicom_slices_missing"
    assert "2 after slice 7, 1 after slice 10" in problem.found


def test_I86_a_slice_that_stands_twice_counts_once(scanner):
    series = scanner.series()
    series.write()
    series.slices[5].save_as(series.folder / "copy.dcm")
    result = import_dicom(scanner.source, scanner.out)
    assert_volume_is(only(result), series)
    assert [one.code for one in result.findings if one.kind == "repair"] == ["dicom_double_slices"]


def test_I86_two_slices_at_one_place_with_other_pixels_are_refused(scanner):
    series = scanner.series()
    series.write()
    series.slices[5].PixelData = series.slices[6].PixelData
    series.slices[5].save_as(series.folder / "other.dcm")
    assert refusal(scanner).code == "dicom_several_volumes"


@pytest.mark.parametrize(("shift_mm", "accepted"), [(0.03, True), (0.3, False)])
def test_I87_distances_that_vary_by_over_one_percent_are_refused(scanner, shift_mm, accepted):
    series = scanner.series()
    series.slices[9].ImagePositionPatient[2] += shift_mm
    series.write()
    if accepted:
        assert only(import_dicom(scanner.source, scanner.out)).exists()
    else:
        assert refusal(scanner).code == "dicom_uneven_spacing"


def test_I87_a_tilted_gantry_is_refused(scanner):
    series = scanner.series()
    for index, one in enumerate(series.slices):
        one.ImagePositionPatient[1] += 0.5 * index
    series.write()
    assert refusal(scanner).code == "dicom_tilted"


def test_I88_a_series_of_two_patients_is_refused(scanner):
    series = scanner.series()
    for one in series.slices[10:]:
        one.PatientID = "p2"
    series.write()
    with pytest.raises(VolumeError, match="stands under several patients"):
        import_dicom(scanner.source, scanner.out)


def test_I89_echoes_of_other_contrasts_become_a_file_each(scanner):
    series = scanner.series("pd+t2_tse_tra", RepetitionTime=3000, EchoTime=12)
    series.write()
    for one in series.slices:
        one.EchoTime = 95
    series.write("echo2_{:03d}.dcm".format)
    (contrasts,) = import_dicom(scanner.source, scanner.out).cases.values()
    assert set(contrasts) == {"PD", "T2w"}
    assert_volume_is(contrasts["PD"], series)
    assert_volume_is(contrasts["T2w"], series)


def test_I89_echoes_of_one_contrast_are_listed_and_need_a_choice(scanner):
    series = scanner.series("t1_gre", EchoTime=2)
    series.write()
    for one in series.slices:
        one.EchoTime = 7
    series.write("echo2_{:03d}.dcm".format)
    with pytest.raises(VolumeError, match=r"0: 2 ms, 1: 7 ms"):
        import_dicom(scanner.source, scanner.out)
    result = import_dicom(scanner.source, scanner.out, reading=ReadingSettings(volume=1))
    taken = [one.physics["echo_time_ms"] for one in result.series if one.outcome == "converted"]
    assert taken == [7.0]
    with pytest.raises(VolumeError, match="one of 2 echoes"):
        import_dicom(scanner.source, scanner.out / "b", reading=ReadingSettings(volume=2))


def test_I90_slices_of_several_orientations_are_refused(scanner):
    series = scanner.series()
    for one in series.slices[15:]:
        one.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    series.write()
    assert refusal(scanner).code == "dicom_mixed_orientations"


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient"])
def test_I91_slices_without_a_place_are_refused(scanner, keyword):
    series = scanner.series()
    for one in series.slices:
        delattr(one, keyword)
    series.write()
    assert refusal(scanner).code == "dicom_no_position"


@pytest.mark.parametrize("order", ["reversed", "shuffled", "all the same"])
def test_I92_positions_decide_not_instance_numbers(scanner, order):
    series = scanner.series()
    numbers = {
        "reversed": np.arange(20)[::-1],
        "shuffled": np.random.default_rng(1).permutation(20),
        "all the same": np.zeros(20, int),
    }[order]
    for one, number in zip(series.slices, numbers, strict=True):
        one.InstanceNumber = int(number) + 1
    series.write()
    assert_volume_is(only(import_dicom(scanner.source, scanner.out)), series)


def test_I93_slices_of_another_size_are_refused(scanner):
    series = scanner.series()
    series.slices[3].Rows, series.slices[3].PixelData = 8, series.slices[3].PixelData[: 8 * 48 * 2]
    series.write()
    assert refusal(scanner).code == "dicom_shapes_differ"


@pytest.mark.parametrize("step", [1.0, 0.25])
def test_I94_a_slope_for_each_slice_is_applied(scanner, step):
    series = scanner.series(Manufacturer="Philips Medical Systems")
    for index, one in enumerate(series.slices):
        one.RescaleSlope, one.RescaleIntercept = 1 + step * index, -5
    series.write()
    made = read_nifti(only(import_dicom(scanner.source, scanner.out)))
    voxels, _ = canonical(made.voxels[0], made.affine)
    scaled = series.pixels * (1 + step * np.arange(20))[:, None, None] - 5
    expected, _ = canonical(scaled.T, series.expected()[1])
    np.testing.assert_allclose(voxels, expected, rtol=1e-5)


def test_I95_short_pixels_are_refused(scanner):
    series = scanner.series()
    series.slices[4].PixelData = series.slices[4].PixelData[:100]
    series.write()
    assert refusal(scanner).code == "dicom_pixels_short"


def test_I95_a_file_cut_short_is_refused(scanner):
    folder = scanner.series().write()
    path = folder / "004.dcm"
    path.write_bytes(path.read_bytes()[:-1000])
    assert refusal(scanner).code == "dicom_pixels_short"


def test_I96_impossible_sizes_are_refused_before_anything_is_allocated(scanner, enhanced):
    series = scanner.series()
    for one in series.slices:
        one.Rows = one.Columns = 65535
    series.write()
    assert refusal(scanner).code == "dicom_implausible_size"


def test_I96_a_milliard_frames_are_refused(scanner, enhanced):
    one = enhanced(scanner.series())
    one.NumberOfFrames = 1_000_000_000
    one.save_as(scanner.source / "a.dcm")
    assert "1000000000 frames" in refusal(scanner).found


@pytest.mark.parametrize(
    "value",
    [b"nan\\nan ", b"inf\\1 ", b"0\\0 ", b"-1\\-1 ", b"a\\b ", b"1e308\\1e308 ", b"1 ", b""],
)
def test_I97_a_pixel_spacing_that_is_none_is_refused(scanner, value):
    series = scanner.series()
    for one in series.slices:
        raw(one, "PixelSpacing", "DS", value)
    series.write()
    assert refusal(scanner).code == "dicom_bad_spacing"


def test_I97_slices_too_far_apart_are_refused_unless_any_size_is_allowed(scanner):
    series = scanner.series()
    for index, one in enumerate(series.slices):
        one.ImagePositionPatient = [0, 0, 25 * index]
    series.write()
    assert "slices 25 mm apart" in refusal(scanner).found
    result = import_dicom(scanner.source, scanner.out, reading=ReadingSettings(any_size=True))
    assert result.series[0].spacing_mm[2] == pytest.approx(25)


@pytest.mark.parametrize("value", [b"nan ", b"inf ", b"0 ", b"text"])
def test_I98_a_slope_that_is_none_is_refused(scanner, value):
    series = scanner.series()
    raw(series.slices[2], "RescaleSlope", "DS", value)
    series.write()
    assert refusal(scanner).code == "dicom_bad_slope"


def test_I98_a_position_that_is_none_is_refused(scanner):
    series = scanner.series()
    raw(series.slices[2], "ImagePositionPatient", "DS", b"1\\nan\\2 ")
    series.write()
    assert refusal(scanner).code == "dicom_bad_position"


def test_I105_an_enhanced_multi_frame_file_is_read(scanner, enhanced):
    series = scanner.series()
    enhanced(series).save_as(scanner.source / "a.dcm")
    result = import_dicom(scanner.source, scanner.out)
    assert_volume_is(only(result), series)
    assert result.series[0].num_slices == 20


def test_I105_frames_in_another_order_lie_where_their_positions_say(scanner, enhanced):
    series = scanner.series()
    whole = scanner.series()
    series.keep(list(range(19, -1, -1)))
    enhanced(series).save_as(scanner.source / "a.dcm")
    assert_volume_is(only(import_dicom(scanner.source, scanner.out)), whole)


@pytest.mark.parametrize("thickness", [b"", b"text"])
def test_I109_an_empty_slice_thickness_does_not_matter(scanner, thickness):
    series = scanner.series()
    for one in series.slices:
        raw(one, "SliceThickness", "DS", thickness)
    series.write()
    assert_volume_is(only(import_dicom(scanner.source, scanner.out)), series)


def test_a_bad_series_stops_no_other(scanner):
    bad, good = scanner.series(number=2), scanner.series("t2_tse_tra", number=3)
    bad.keep([0, 1, 2, 5, 6, 7, 8])
    bad.write()
    good.write()
    result = import_dicom(scanner.source, scanner.out)
    assert [list(contrasts) for contrasts in result.cases.values()] == [["T2w"]]
    assert [problem.code for problem in result.problems] == ["dicom_slices_missing"]
    assert sorted(one.outcome for one in result.series) == ["converted", "refused"]


def test_of_two_series_of_a_contrast_the_larger_is_taken_and_said(scanner):
    small, large = scanner.series(number=2), scanner.series(number=5)
    small.keep(range(12))
    small.write()
    large.write()
    result = import_dicom(scanner.source, scanner.out)
    assert {one.outcome: one.num_slices for one in result.series} == {"converted": 20, "spare": 12}
    (finding,) = [one for one in result.findings if one.code == "dicom_several_series"]
    assert "series 2 (12 slices, 2D)" in finding.message
    assert "taken: " in finding.message
    assert finding.kind == "warning"


def test_visits_are_counted_by_date_within_a_patient(scanner):
    for number, date in ((1, "20210101"), (2, "20190101")):
        scanner.series(number=number, StudyInstanceUID=f"1.2.{number}", StudyDate=date).write()
    scanner.series(number=3, patient="p2").write()
    result = import_dicom(scanner.source, scanner.out)
    assert len({case.split("_")[0] for case in result.cases}) == 2
    first = {one.name.split()[-1]: one.case.split("_")[1] for one in result.series}
    assert first == {"1": "ses-2", "2": "ses-1", "3": "ses-1"}
