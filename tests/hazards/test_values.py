"""Tables 2c and 2d: values and labels."""

import logging
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from brainsegfounder.data.manifest import Case
from brainsegfounder.data.store import StorePlan, open_store
from brainsegfounder.data.store_writer import finish_store, write_case
from brainsegfounder.errors import LabelError, VolumeError
from brainsegfounder.settings import PreparationSettings, ReadingSettings
from brainsegfounder.volumes.geometry import resample_to, spaced_grid
from brainsegfounder.volumes.nifti import read_labels, read_nifti, write_nifti
from brainsegfounder.volumes.preparation import prepare
from brainsegfounder.volumes.quality import inspect, inspect_labels
from brainsegfounder.volumes.volume import Volume

SETTINGS = PreparationSettings(spacing_mm=None)


def ball(shape, radius):
    """Where the distance from the middle is under this share of half the length."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    return sum(axis**2 for axis in axes) < radius**2


def ramp(shape):
    return np.arange(np.prod(shape)).reshape(shape) % shape[2]


@pytest.fixture
def brain():
    """A brain of 1.5 L without a skull, on 2 mm."""
    rng = np.random.default_rng(0)
    shape = (100, 100, 100)
    parts = np.select([ball(shape, 0.3), ball(shape, 0.55), ball(shape, 0.7)], [60, 140, 100], 0)
    voxels = np.where(parts > 0, parts + rng.normal(0, 3, shape), 0)
    return Volume(voxels[None].astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0]), "a.nii")


def with_head(brain):
    """The same within a scalp and noise in the air."""
    noise = np.abs(np.random.default_rng(1).normal(0, 3, brain.shape_vox))
    scalp = np.where(ball(brain.shape_vox, 0.95), 90, 0)
    return replace(brain, voxels=np.where(brain.voxels, brain.voxels, scalp + noise).astype("f4"))


def turn_upside_down(volume):
    affine = volume.affine @ np.diag([1, 1, -1.0, 1])
    affine[:3, 3] += volume.affine[:3, 2] * (volume.shape_vox[2] - 1)
    return Volume(volume.voxels[..., ::-1], affine)


def test_I49_a_fourth_axis_of_one_volume_is_dropped(bench):
    volume = read_nifti(bench.image(bench.voxels[..., None]))
    np.testing.assert_array_equal(volume.voxels, bench.voxels[None])


def test_I50_several_volumes_in_one_file_are_refused(bench, refused):
    problem = refused(bench.image(np.stack([bench.voxels] * 2, axis=-1)))
    assert (problem.code, problem.field) == ("several_volumes", "dim")
    assert "Split a 4-D file" in problem.advice


def test_I50_one_of_several_volumes_is_taken_on_request(bench, refused, codes):
    path = bench.image(np.stack([bench.voxels, bench.voxels + 7], axis=-1))
    volume = read_nifti(path, ReadingSettings(volume=1))
    np.testing.assert_array_equal(volume.voxels[0], bench.voxels + 7)
    assert codes(volume) == {"volume_taken": "note"}
    problem = refused(path, volume=2)
    assert problem.code == "no_such_volume"
    assert "(24, 24, 24, 2), which is 2 volumes" in problem.found


def test_I51_a_vector_image_is_refused(bench, refused):
    problem = refused(bench.image(np.zeros((8, 8, 8, 1, 3), np.float32)))
    assert (problem.code, problem.field) == ("not_3d", "dim")
    assert "shape (8, 8, 8, 1, 3)" in problem.found


def test_I52_a_slice_is_refused(bench, refused):
    problem = refused(bench.image(bench.voxels[:, :, 0]))
    assert (problem.code, problem.field) == ("not_3d", "dim")
    assert "shape (24, 24)" in problem.found


@pytest.mark.parametrize("slices", [1, 3])
def test_I53_a_slab_of_few_slices_is_refused(draw_brain, slices):
    image, _ = draw_brain()
    thin = Volume(image.voxels[..., :slices], image.affine)
    with pytest.raises(VolumeError, match=r"expected at least 32 mm of brain"):
        prepare(thin, SETTINGS)


def test_I54_complex_numbers_are_refused(bench, refused):
    problem = refused(bench.image((bench.voxels + 1j * bench.voxels).astype("c8")))
    assert (problem.code, problem.field) == ("complex", "datatype")
    assert "voxels of type complex64" in problem.found


def test_I54_the_magnitude_of_complex_numbers_is_taken_on_request(bench, codes):
    path = bench.image((3 * bench.voxels + 4j * bench.voxels).astype("c8"))
    volume = read_nifti(path, ReadingSettings(magnitude=True))
    np.testing.assert_allclose(volume.voxels[0], 5 * np.abs(bench.voxels), rtol=1e-6)
    assert codes(volume) == {"magnitude_taken": "note"}


def test_I55_colours_are_refused(bench, refused):
    colours = np.zeros((8, 8, 8), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    problem = refused(bench.image(colours))
    assert (problem.code, problem.field) == ("rgb", "datatype")
    assert "voxels of type colours" in problem.found


@pytest.mark.parametrize("dtype", ["int64", "uint64", "float64", "uint8", "int8"])
def test_I56_every_type_of_number_becomes_float32(bench, dtype):
    voxels = (bench.voxels / 2).astype(dtype)
    volume = read_nifti(bench.image(voxels, dtype=dtype))
    assert volume.voxels.dtype == np.float32
    np.testing.assert_array_equal(volume.voxels[0], voxels.astype(np.float32))


def test_I57_nan_becomes_0_and_is_counted_and_most_of_it_is_refused(bench, refused, codes, caplog):
    voxels = bench.voxels.copy()
    voxels[:3] = np.nan
    with caplog.at_level(logging.WARNING):
        volume = read_nifti(bench.image(voxels))
    assert not volume.voxels[0, :3].any()
    assert f"{3 * 24 * 24} voxels are not finite" in caplog.text
    assert codes(volume) == {"not_finite": "repair"}
    voxels[:13] = np.nan
    problem = refused(bench.image(voxels))
    assert problem.code == "not_finite"
    assert "54% of the voxels are not finite" in problem.found


def test_I58_an_infinite_voxel_becomes_0(bench, codes):
    voxels = bench.voxels.copy()
    voxels[5, 5, 5], voxels[6, 6, 6] = np.inf, -np.inf
    volume = read_nifti(bench.image(voxels))
    assert volume.voxels[0, 5, 5, 5] == volume.voxels[0, 6, 6, 6] == 0
    assert codes(volume) == {"not_finite": "repair"}


def test_I59_nothing_but_nan_is_refused(bench, refused):
    problem = refused(bench.image(np.full((24, 24, 24), np.nan, np.float32)))
    assert problem.code == "not_finite"
    assert "100% of the voxels" in problem.found


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_I60_an_image_of_one_value_is_refused(draw_brain, value):
    image, _ = draw_brain()
    flat = Volume(np.full_like(image.voxels, value), image.affine, "a.nii")
    with pytest.raises(VolumeError, match=r"a\.nii: every voxel has the same value"):
        prepare(flat, SETTINGS)


def test_I61_negative_values_are_accepted(draw_brain):
    image, _ = draw_brain()
    brain = image.voxels != 0
    negative = Volume(np.where(brain, image.voxels - 150, 0).astype("f4"), image.affine)
    one, other = (prepare(volume, SETTINGS) for volume in (image, negative))
    np.testing.assert_array_equal(one.brain, other.brain)
    np.testing.assert_allclose(one.image.voxels, other.image.voxels, atol=1e-3)


def test_I62_a_spike_does_not_set_the_scale(draw_brain):
    image, _ = draw_brain()
    clean = prepare(image, SETTINGS).image.voxels
    image.voxels[0, 13, 15, 11] = 1e9
    spiked = prepare(image, SETTINGS).image.voxels
    assert np.percentile(np.abs(spiked - clean), 99.9) < 0.05
    assert np.abs(spiked).max() < 5


def test_I62_a_spike_in_the_air_of_a_whole_head_is_not_the_head(draw_brain):
    image, _ = draw_brain(air=2.0)
    before = prepare(image, SETTINGS).brain
    image.voxels[0, 0, 0, 0] = 1e9
    np.testing.assert_array_equal(prepare(image, SETTINGS).brain, before)


def test_I62_a_spike_is_told(draw_brain):
    image, _ = draw_brain()
    image.voxels[0, 13, 15, 11] = 1e9
    (finding,) = [f for f in prepare(image, SETTINGS).findings if f.kind == "repair"]
    assert finding.code == "spike_clipped"
    assert "1 voxels far beyond the brain's range" in finding.message


def test_I63_values_that_ran_over_the_end_of_int16_are_told(brain):
    scanned = brain.voxels[0] / brain.voxels.max() * 50_000
    wrapped = np.rint(scanned).astype(np.uint16).view(np.int16)
    found = inspect(replace(brain, voxels=wrapped[None].astype(np.float32)))
    assert "wrapped_values" in {finding.code for finding in found}
    signed = (scanned - 25_000).astype(np.int16)
    found = inspect(replace(brain, voxels=signed[None].astype(np.float32)))
    assert "wrapped_values" not in {finding.code for finding in found}


def test_I64_a_stripped_brain_and_a_whole_head_are_told_apart(brain):
    (stripped,) = inspect(brain)
    assert (stripped.code, stripped.kind) == ("skull_stripped", "note")
    (whole,) = inspect(with_head(brain))
    assert (whole.code, whole.kind) == ("whole_head", "note")


@pytest.mark.parametrize(
    ("draw", "reason"),
    [
        (lambda rng, shape: rng.normal(100, 20, shape), "neighbouring voxels hardly agree"),
        (lambda rng, shape: np.where(ball(shape, 0.6), 100.0, 0.0), "one brightness"),
        (lambda rng, shape: np.where(ball(shape, 0.1), 100.0 + ramp(shape), 0.0), "3 mL"),
    ],
)
def test_I65_noise_a_bottle_and_a_berry_are_no_brain(draw, reason):
    voxels = draw(np.random.default_rng(0), (90, 100, 90)).astype(np.float32)
    (finding,) = inspect(Volume(voxels[None], np.diag([2.0, 2.0, 2.0, 1.0]), "a.nii"))
    assert (finding.code, finding.kind, finding.file) == ("not_a_brain", "warning", "a.nii")
    assert reason in finding.message


def knee(cleared):
    """A leg of 11 cm with a joint in it, cut off above and below, and noise around it."""
    rng = np.random.default_rng(0)
    right, front, up = np.meshgrid(*[np.arange(-80, 80, 2.0)] * 3, indexing="ij")
    away = np.hypot(right, front)
    leg = away < 55 + 8 * np.exp(-((up / 30) ** 2))
    bone = (away < 22 + 14 * np.exp(-((up / 30) ** 2))) & (np.abs(up) > 3)
    voxels = np.select([bone, leg], [180.0, 90.0 + front / 4], 0.0)
    noise = ndimage.gaussian_filter(rng.normal(0, 12, leg.shape), 1)
    return np.where(leg, voxels + noise, 0.0 if cleared else np.abs(noise)).astype(np.float32)


@pytest.mark.parametrize("cleared", [True, False])
def test_I65_a_knee_is_no_brain(cleared):
    (finding,) = inspect(Volume(knee(cleared)[None], np.diag([2.0, 2.0, 2.0, 1.0]), "a.nii"))
    assert (finding.code, finding.kind) == ("not_a_brain", "warning")
    assert "as a knee or a neck does" in finding.message


def test_I65_a_slab_of_a_head_is_no_knee(brain):
    head = with_head(brain)
    middle = head.shape_vox[2] // 2
    slab = replace(head, voxels=head.voxels[..., middle - 14 : middle + 14])
    assert "not_a_brain" not in {finding.code for finding in inspect(slab)}


def test_I65_a_drawn_brain_is_a_brain(bids_tree):
    paths = sorted(bids_tree.glob("sub-00[01]/anat/*.nii.gz"))
    assert len(paths) == 8
    found = {path.name: inspect(read_nifti(path)) for path in paths}
    assert {f.code for seen in found.values() for f in seen} <= {"skull_stripped", "whole_head"}


@pytest.mark.real_data
def test_I65_real_brains_are_brains(real_data):
    folders = ("brats_case_original", "ms_mni_1mm/*", "glioma_1mm/*_ABM_1")
    files = [path for folder in folders for path in sorted(real_data.glob(f"{folder}/*.nii.gz"))]
    paths = [path for path in files if "seg" not in path.name and "mask" not in path.name]
    assert len(paths) >= 5
    found = [finding for path in paths for finding in inspect(read_nifti(path))]
    assert {finding.code for finding in found} == {"skull_stripped"}


def test_I64_a_spike_and_a_narrow_range_do_not_hide_the_head(brain):
    head = with_head(brain)
    spiked = replace(head, voxels=head.voxels.copy())
    spiked.voxels[0, 50, 50, 50] = 1e9
    narrow = replace(head, voxels=(head.voxels / 10 + 1e7).astype(np.float32))
    assert {f.code for f in inspect(spiked)} == {"whole_head"}
    assert {f.kind for f in inspect(narrow)} <= {"note", "warning"}


def test_I66_thick_slices_are_told(brain):
    thick = Volume(brain.voxels[..., ::3], np.diag([2.0, 2.0, 6.0, 1.0]))
    assert "thick_slices" in {finding.code for finding in inspect(thick)}
    assert "thick_slices" not in {finding.code for finding in inspect(brain)}


def test_I68_a_brain_cut_off_is_told_with_its_side(brain):
    affine = brain.affine.copy()
    cut = Volume(brain.voxels[:, :, :, :55], affine)
    (finding,) = [f for f in inspect(cut) if f.kind == "warning"]
    assert (finding.code, finding.message) == ("cropped", "the head is cut off above")
    (finding,) = [f for f in inspect(turn_upside_down(cut)) if f.kind == "warning"]
    assert finding.message == "the head is cut off above"


def test_I68_the_neck_of_a_head_with_zeros_around_it_may_leave_the_view(brain):
    scalp = np.where(ball(brain.shape_vox, 0.95), 90, 0)
    head = replace(brain, voxels=np.where(brain.voxels, brain.voxels, scalp).astype("f4"))
    defaced = replace(head, voxels=head.voxels[..., 25:])
    assert (head.voxels == 0).mean() > 0.3
    assert [finding.code for finding in inspect(defaced)] == ["whole_head"]
    above = replace(head, voxels=head.voxels[..., :-25])
    assert [finding.code for finding in inspect(above)] == ["whole_head", "cropped"]


def test_I68_a_neck_and_shoulders_are_told(brain):
    head = with_head(brain)
    long = np.concatenate([head.voxels[..., :1].repeat(80, axis=3), head.voxels], axis=3)
    long[:, 35:65, 35:65, :110] += 60
    codes = {finding.code for finding in inspect(Volume(long, head.affine))}
    assert "long_field_of_view" in codes


def scaled_labels(bench, values, slope):
    """A mask of these stored integers, and a header that multiplies them."""
    image = nib.Nifti1Image(np.resize(values, (24, 24, 24)).astype(np.int16), bench.affine)
    return bench.file(bench.poked("slope", "<ff", slope, 0.0, of=bench.raw(image)))


def test_I69_a_slope_that_spoils_integer_labels_is_ignored_if_they_are_legal(bench, codes):
    path = scaled_labels(bench, [0, 1, 2, 4], 1 / 256)
    labels = read_labels(path, legal=[1, 2, 4])
    assert np.unique(labels.voxels).tolist() == [0, 1, 2, 4]
    assert codes(labels) == {"slope_ignored": "repair"}


def test_I69_a_slope_that_spoils_labels_is_refused_if_nothing_says_what_is_legal(bench, refused):
    problem = refused(scaled_labels(bench, [0, 1, 2, 4], 1 / 256), read_labels)
    assert problem.code == "fractional_labels"
    with pytest.raises(LabelError, match="not whole numbers") as caught:
        read_labels(scaled_labels(bench, [0, 7], 1 / 256), legal=[1, 2])
    assert caught.value.problem.code == "fractional_labels"


def test_I69_a_slope_that_makes_legal_labels_counts(bench):
    labels = read_labels(scaled_labels(bench, [0, 2, 4], 0.5), legal=[1, 2, 4])
    assert np.unique(labels.voxels).tolist() == [0, 1, 2]
    assert labels.findings == ()


def test_I70_float_labels_with_noise_of_rounding_are_whole(bench, draw_brain, codes):
    labels = draw_brain()[1].voxels[0]
    noisy = labels + 1e-6 * np.random.default_rng(0).normal(size=labels.shape)
    back = read_labels(bench.image(noisy.astype(np.float32)))
    np.testing.assert_array_equal(back.voxels[0], labels)
    assert codes(back) == {"labels_rounded": "repair"}


@pytest.mark.parametrize("value", [3, 255, -1024])
def test_I71_an_unexpected_label_is_refused_when_it_is_read(bench, value):
    path = bench.image(np.resize([0, 1, value], (24, 24, 24)).astype(np.int16))
    with pytest.raises(LabelError) as caught:
        read_labels(path, legal=[1, 2, 4])
    assert caught.value.problem.code == "unexpected_labels"
    assert caught.value.problem.found == f"label values [{value}] found"
    assert caught.value.problem.expected == "0, 1, 2, 4"


def test_I71_the_refusal_of_a_label_names_the_legal_ones_and_both_ways_out(bench):
    path = bench.image(np.resize([0, 1, 3], (24, 24, 24)).astype(np.int16))
    with pytest.raises(LabelError) as caught:
        read_labels(path, legal={"enhancing": 4, "necrosis": 1})
    assert caught.value.problem.expected == "0, 1 necrosis, 4 enhancing"
    assert "`data.labels`" in caught.value.problem.advice
    assert "`reading.label_map`" in caught.value.problem.advice


def test_I71_labels_are_replaced_on_request_all_at_once(bench, codes):
    path = bench.image(np.resize([0, 1, 2, 3], (24, 24, 24)).astype(np.int16))
    asked = ReadingSettings(label_map={3: 4, 1: 2, 2: 1})
    labels = read_labels(path, asked, legal=[1, 2, 4])
    np.testing.assert_array_equal(labels.voxels[0].ravel()[:4], [0, 2, 1, 4])
    assert codes(labels) == {"labels_mapped": "note"}


@pytest.mark.parametrize("value", [3, 255, -1024])
def test_I71_an_unexpected_label_is_refused_and_listed(tmp_path, draw_brain, value):
    image, labels = draw_brain()
    labels.voxels[labels.voxels == 4] = value
    prepared = prepare(image, SETTINGS, labels)
    case = Case("a", "a", {}, tmp_path / "a_seg.nii")
    with pytest.raises(
        LabelError, match=rf"a_seg\.nii: label values \[{value}\] found; expected 0"
    ):
        write_case(tmp_path, case, prepared, {"core": 1, "oedema": 2, "enhancing": 4})


def test_I72_an_empty_mask_is_accepted(tmp_path, draw_brain):
    image, labels = draw_brain()
    labels.voxels[...] = 0
    case = Case("a", "a", {})
    write_case(tmp_path, case, prepare(image, SETTINGS, labels), {"lesion": 1})
    finish_store(tmp_path, [case], StorePlan(("T1w",), SETTINGS))
    store = open_store(tmp_path)
    assert store.cases[0].has_labels
    assert not store.labels(store.cases[0])[:].any()


def test_I73_a_one_hot_mask_is_read_on_request(bench, refused, codes):
    labels = np.random.default_rng(0).integers(0, 4, (24, 24, 24))
    path = bench.image(np.stack([labels == n for n in (1, 2, 3)], axis=-1).astype(np.uint8))
    assert refused(path, read_labels).code == "several_volumes"
    back = read_labels(path, ReadingSettings(one_hot=True, label_map={3: 4}), legal=[1, 2, 4])
    np.testing.assert_array_equal(back.voxels[0], np.where(labels == 3, 4, labels))
    assert codes(back) == {"one_hot": "note", "labels_mapped": "note"}


@pytest.mark.parametrize(("values", "words"), [((1, 1), "overlaps"), ((0, 2), "values [2]")])
def test_I73_volumes_that_overlap_or_hold_labels_are_not_one_hot(bench, refused, values, words):
    path = bench.image(np.broadcast_to(np.uint8(values), (24, 24, 24, 2)))
    problem = refused(path, read_labels, one_hot=True)
    assert problem.code == "not_one_hot"
    assert words in problem.found


def test_I74_labels_that_were_interpolated_are_refused(bench, refused, draw_brain):
    labels = draw_brain()[1]
    as_intensities = Volume(labels.voxels.astype(np.float32), labels.affine)
    smooth = resample_to(as_intensities, spaced_grid(labels.grid, (1.7, 1.7, 1.7)))
    path = bench.folder / "a_seg.nii.gz"
    write_nifti(path, smooth)
    problem = refused(path, read_labels)
    assert problem.code == "fractional_labels"
    assert "label values are not whole numbers" in problem.found
    assert "nearest neighbour" in problem.advice


def test_I75_a_mask_of_another_shape_is_refused(draw_brain):
    image, labels = draw_brain()
    cut = Volume(labels.voxels[:, :-1], labels.affine, "a_seg.nii")
    with pytest.raises(LabelError, match=r"a_seg\.nii: a mask of shape \(25, 30, 26\)"):
        prepare(image, SETTINGS, cut)


def test_I77_a_mask_that_lies_mostly_outside_is_told(draw_brain):
    image, labels = draw_brain()
    tissue = image.voxels[0] != 0
    assert inspect_labels(labels, tissue) == ()
    empty = replace(labels, voxels=np.zeros_like(labels.voxels))
    assert inspect_labels(empty, tissue) == ()
    elsewhere = replace(labels, voxels=np.roll(labels.voxels, 11, axis=2), source="a_seg.nii")
    (finding,) = inspect_labels(elsewhere, tissue)
    assert (finding.code, finding.kind) == ("mask_outside", "warning")
    assert "of the mask lie outside the head" in finding.message


def moved(volume, mm):
    affine = volume.affine.copy()
    affine[1, 3] += mm
    return Volume(volume.voxels, affine, volume.source)


def test_I76_a_mask_elsewhere_is_refused_and_a_rounded_one_is_not(draw_brain):
    image, labels = draw_brain()
    with pytest.raises(LabelError, match=r"lies 2\.5 voxels away"):
        prepare(image, SETTINGS, moved(labels, 5.0))
    prepared = prepare(image, SETTINGS, moved(labels, 0.9))
    np.testing.assert_array_equal(prepared.reference.affine, image.affine)


def test_the_made_file_is_sound_before_it_is_spoilt(bench):
    volume = read_nifti(bench.image(bench.voxels))
    np.testing.assert_array_equal(volume.voxels[0], bench.voxels)
    np.testing.assert_array_equal(volume.affine, bench.affine)
    assert isinstance(nib.load(bench.folder / "a.nii"), nib.Nifti1Image)
