"""Tables 2c, 2d and 2e: values, labels, and the contrasts of one case."""

import logging

import nibabel as nib
import numpy as np
import pytest

from brainsegfounder.data.manifest import Case
from brainsegfounder.data.store import finish_store, open_store, write_case
from brainsegfounder.errors import ContrastError, LabelError, VolumeError
from brainsegfounder.settings import PreparationSettings
from brainsegfounder.volumes.geometry import resample_to, spaced_grid
from brainsegfounder.volumes.nifti import read_labels, read_nifti, write_nifti
from brainsegfounder.volumes.preparation import prepare, prepare_case, read_contrasts
from brainsegfounder.volumes.volume import Volume

SETTINGS = PreparationSettings(spacing_mm=None)


def test_I49_a_fourth_axis_of_one_volume_is_dropped(bench):
    volume = read_nifti(bench.image(bench.voxels[..., None]))
    np.testing.assert_array_equal(volume.voxels, bench.voxels[None])


def test_I50_several_volumes_in_one_file_are_refused(bench, refused):
    refused(bench.image(np.stack([bench.voxels] * 2, axis=-1)), "Split a 4-D file")


def test_I51_a_vector_image_is_refused(bench, refused):
    refused(bench.image(np.zeros((8, 8, 8, 1, 3), np.float32)), r"shape \(8, 8, 8, 1, 3\)")


def test_I52_a_slice_is_refused(bench, refused):
    refused(bench.image(bench.voxels[:, :, 0]), r"shape \(24, 24\)")


@pytest.mark.parametrize("slices", [1, 3])
def test_I53_a_slab_of_few_slices_is_refused(draw_brain, slices):
    image, _ = draw_brain()
    thin = Volume(image.voxels[..., :slices], image.affine)
    with pytest.raises(VolumeError, match=r"expected at least 32 mm of brain"):
        prepare(thin, SETTINGS)


def test_I54_complex_numbers_are_refused(bench, refused):
    refused(
        bench.image((bench.voxels + 1j * bench.voxels).astype("c8")), "voxels of type complex64"
    )


def test_I55_colours_are_refused(bench, refused):
    colours = np.zeros((8, 8, 8), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    refused(bench.image(colours), "voxels of type")


@pytest.mark.parametrize("dtype", ["int64", "uint64", "float64", "uint8", "int8"])
def test_I56_every_type_of_number_becomes_float32(bench, dtype):
    voxels = (bench.voxels / 2).astype(dtype)
    volume = read_nifti(bench.image(voxels, dtype=dtype))
    assert volume.voxels.dtype == np.float32
    np.testing.assert_array_equal(volume.voxels[0], voxels.astype(np.float32))


def test_I57_nan_becomes_0_and_is_counted_and_most_of_it_is_refused(bench, refused, caplog):
    voxels = bench.voxels.copy()
    voxels[:3] = np.nan
    with caplog.at_level(logging.WARNING):
        volume = read_nifti(bench.image(voxels))
    assert not volume.voxels[0, :3].any()
    assert f"{3 * 24 * 24} voxels are not finite" in caplog.text
    voxels[:13] = np.nan
    refused(bench.image(voxels), "54% of the voxels are not finite")


def test_I58_an_infinite_voxel_becomes_0(bench):
    voxels = bench.voxels.copy()
    voxels[5, 5, 5], voxels[6, 6, 6] = np.inf, -np.inf
    volume = read_nifti(bench.image(voxels))
    assert volume.voxels[0, 5, 5, 5] == volume.voxels[0, 6, 6, 6] == 0


def test_I59_nothing_but_nan_is_refused(bench, refused):
    refused(bench.image(np.full((24, 24, 24), np.nan, np.float32)), "100% of the voxels")


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


def test_I70_float_labels_with_noise_of_rounding_are_whole(bench, draw_brain):
    labels = draw_brain()[1].voxels[0]
    noisy = labels + 1e-6 * np.random.default_rng(0).normal(size=labels.shape)
    back = read_labels(bench.image(noisy.astype(np.float32)))
    np.testing.assert_array_equal(back.voxels[0], labels)


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
    finish_store(tmp_path, [case], ["T1w"], SETTINGS)
    store = open_store(tmp_path)
    assert store.cases[0].has_labels
    assert not store.labels(store.cases[0])[:].any()


def test_I74_labels_that_were_interpolated_are_refused(bench, draw_brain):
    labels = draw_brain()[1]
    as_intensities = Volume(labels.voxels.astype(np.float32), labels.affine)
    smooth = resample_to(as_intensities, spaced_grid(labels.grid, (1.7, 1.7, 1.7)))
    path = bench.folder / "a_seg.nii.gz"
    write_nifti(path, smooth)
    with pytest.raises(LabelError, match=r"a_seg.* not whole numbers.*nearest neighbour"):
        read_labels(path)


def test_I75_a_mask_of_another_shape_is_refused(draw_brain):
    image, labels = draw_brain()
    cut = Volume(labels.voxels[:, :-1], labels.affine, "a_seg.nii")
    with pytest.raises(LabelError, match=r"a_seg\.nii: a mask of shape \(25, 30, 22\)"):
        prepare(image, SETTINGS, cut)


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


@pytest.fixture
def two(tmp_path, draw_brain):
    """The files of a T1w and a FLAIR of one case, and the FLAIR."""
    image, _ = draw_brain(num_contrasts=2)
    paths = {name: tmp_path / f"a_{name}.nii" for name in ("T1w", "FLAIR")}
    scans = [Volume(channel[None], image.affine) for channel in image.voxels]
    for path, scan in zip(paths.values(), scans, strict=True):
        write_nifti(path, scan)
    return paths, scans[1]


def test_I78_contrasts_of_different_shapes_are_refused(two):
    paths, flair = two
    write_nifti(paths["FLAIR"], Volume(flair.voxels[:, 1:], flair.affine))
    with pytest.raises(VolumeError, match=r"a_FLAIR\.nii: FLAIR has shape \(25, 30, 22\), but T1w"):
        prepare_case("a", paths, list(paths), SETTINGS)


def test_I79_contrasts_of_other_spacing_or_place_are_refused(two):
    paths, flair = two
    for affine in (flair.affine @ np.diag([1.1, 1, 1, 1]), moved(flair, 4.0).affine):
        write_nifti(paths["FLAIR"], Volume(flair.voxels, affine))
        with pytest.raises(VolumeError, match=r"a_FLAIR\.nii: FLAIR lies .* voxels away from T1w"):
            prepare_case("a", paths, list(paths), SETTINGS)
    write_nifti(paths["FLAIR"], moved(flair, 0.5))
    assert read_contrasts(paths, list(paths), "a").voxels.shape[0] == 2


def test_I80_a_missing_contrast_is_named(two):
    paths, _ = two
    with pytest.raises(ContrastError, match=r"a: no T2w found; expected T1w, FLAIR, T2w"):
        prepare_case("a", paths, ["T1w", "FLAIR", "T2w"], SETTINGS)


def test_the_made_file_is_sound_before_it_is_spoilt(bench):
    volume = read_nifti(bench.image(bench.voxels))
    np.testing.assert_array_equal(volume.voxels[0], bench.voxels)
    np.testing.assert_array_equal(volume.affine, bench.affine)
    assert isinstance(nib.load(bench.folder / "a.nii"), nib.Nifti1Image)
