import numpy as np
import pytest

from brainsegfounder.errors import ContrastError, LabelError, VolumeError
from brainsegfounder.settings import PreparationSettings
from brainsegfounder.volumes.geometry import to_ras
from brainsegfounder.volumes.nifti import write_nifti
from brainsegfounder.volumes.preparation import prepare, prepare_case, undo, undo_labels
from brainsegfounder.volumes.session import read_session
from brainsegfounder.volumes.volume import Volume

OWN_SPACING = PreparationSettings(spacing_mm=None)


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def shifted(volume, mm):
    affine = volume.affine.copy()
    affine[0, 3] += mm
    return Volume(volume.voxels, affine, volume.source)


def files(folder, volume, names=("T1w", "FLAIR")):
    paths = {name: folder / f"{name}.nii.gz" for name in names}
    for channel, path in zip(volume.voxels, paths.values(), strict=True):
        write_nifti(path, Volume(channel[None], volume.affine))
    return paths


def test_contrasts_are_joined_in_the_order_asked_for(tmp_path, draw_brain):
    volume, _ = draw_brain(num_contrasts=2)
    joined = read_session("case", files(tmp_path, volume), ["FLAIR", "T1w"]).image
    np.testing.assert_array_equal(joined.voxels, volume.voxels[::-1])
    np.testing.assert_allclose(joined.affine, volume.affine, atol=1e-5)
    assert joined.source == "case"


def test_a_missing_contrast_is_named_with_what_there_is(tmp_path, draw_brain):
    paths = files(tmp_path, draw_brain(num_contrasts=2)[0])
    with pytest.raises(ContrastError, match=r"case7: no T1ce, T2w found; .*there is T1w, FLAIR"):
        read_session("case7", paths, ["T1w", "T1ce", "T2w"])


def test_contrasts_of_different_shapes_are_refused(tmp_path, draw_brain):
    paths = files(tmp_path, draw_brain(num_contrasts=2)[0])
    write_nifti(paths["FLAIR"], draw_brain((26, 30, 20))[0])
    with pytest.raises(VolumeError, match=r"FLAIR has shape \(26, 30, 20\), but T1w has"):
        read_session("case", paths, ["T1w", "FLAIR"])


def test_contrasts_that_lie_apart_are_refused_and_a_rounded_header_is_not(tmp_path, draw_brain):
    volume, _ = draw_brain(seed=1)
    paths = files(tmp_path, draw_brain(num_contrasts=2)[0])
    write_nifti(paths["FLAIR"], shifted(volume, 0.3))
    assert read_session("case", paths, ["T1w", "FLAIR"]).image.voxels.shape[0] == 2
    write_nifti(paths["FLAIR"], shifted(volume, 5.0))
    with pytest.raises(VolumeError, match=r"FLAIR lies 2\.5 voxels away from T1w"):
        read_session("case", paths, ["T1w", "FLAIR"])


def test_the_prepared_image_is_ras_at_the_wanted_spacing_and_standardised(turn, draw_brain):
    image, labels = draw_brain(num_contrasts=2)
    turned, turned_labels = turn(image, (1, 2, 0), (1,)), turn(labels, (1, 2, 0), (1,))
    prepared = prepare(turned, PreparationSettings(spacing_mm=(3.0, 3.0, 3.0)), turned_labels)
    np.testing.assert_allclose(prepared.image.affine[:3, :3], np.diag([3.0, 3.0, 3.0]), atol=1e-9)
    assert prepared.image.shape_vox == prepared.labels.shape_vox == prepared.brain.shape
    assert prepared.image.voxels.dtype == np.float32
    assert prepared.image.voxels[:, prepared.brain].mean() == pytest.approx(0, abs=1e-4)
    assert not prepared.image.voxels[:, ~prepared.brain].any()


def test_a_scan_turned_any_way_gives_the_same_prepared_case(turn, draw_brain):
    image, labels = draw_brain()
    straight = prepare(image, PreparationSettings(), labels)
    turned = prepare(
        turn(image, (2, 0, 1), (0, 1)), PreparationSettings(), turn(labels, (2, 0, 1), (0, 1))
    )
    np.testing.assert_allclose(turned.image.voxels, straight.image.voxels, atol=1e-5)
    np.testing.assert_array_equal(turned.labels.voxels, straight.labels.voxels)


def test_the_box_keeps_the_margin_around_the_brain(draw_brain):
    image, _ = draw_brain((40, 40, 40))
    image.voxels[:, :6] = image.voxels[:, -6:] = 0
    prepared = prepare(image, PreparationSettings(spacing_mm=None, margin_mm=5.0))
    hits = np.flatnonzero(prepared.brain.any(axis=(1, 2)))
    assert hits[0] == 3, "5 mm are 3 voxels of 2 mm"
    assert prepared.brain.shape[0] - 1 - hits[-1] == 3


def test_the_scans_own_spacing_is_kept_without_interpolation(draw_brain):
    image, labels = draw_brain(spacing_mm=(1.9, 2.1, 2.6))
    prepared = prepare(image, OWN_SPACING, labels)
    np.testing.assert_allclose(prepared.image.spacing_mm, (1.9, 2.1, 2.6))
    back = undo_labels(prepared.labels, prepared.source_grid)
    np.testing.assert_array_equal(back.voxels, labels.voxels)


def test_a_spacing_right_to_a_thousandth_is_left_alone(draw_brain):
    image, _ = draw_brain(spacing_mm=(2.0001, 1.9999, 2.0))
    prepared = prepare(image, PreparationSettings(spacing_mm=(2.0, 2.0, 2.0)))
    np.testing.assert_allclose(prepared.image.spacing_mm, (2.0001, 1.9999, 2.0))


def test_the_reference_is_the_mask_as_it_was_read(turn, draw_brain):
    image, labels = (turn(v, (1, 0, 2), (2,)) for v in draw_brain())
    prepared = prepare(image, PreparationSettings(), labels)
    np.testing.assert_array_equal(prepared.reference.voxels, labels.voxels)
    np.testing.assert_array_equal(prepared.reference.affine, labels.affine)
    assert prepare(image, PreparationSettings()).reference is None


def test_undo_returns_the_files_own_grid_and_affine(turn, draw_brain):
    image = turn(draw_brain()[0], (2, 1, 0), (0,))
    prepared = prepare(image, PreparationSettings(spacing_mm=(3.0, 3.0, 3.0)))
    back = undo(prepared.image, prepared.source_grid)
    assert back.shape_vox == image.shape_vox
    np.testing.assert_array_equal(back.affine, image.affine)


@pytest.mark.parametrize("degrees", [0, 20])
def test_labels_come_back_from_2_mm_to_an_oblique_1_mm_grid(draw_brain, rotated, turn, degrees):
    image, labels = draw_brain((78, 90, 66), (1.0, 1.0, 1.0))
    affine = rotated(image.affine, degrees)
    image, labels = Volume(image.voxels, affine), Volume(labels.voxels, affine)
    image, labels = turn(image, (1, 2, 0), (0, 2)), turn(labels, (1, 2, 0), (0, 2))
    prepared = prepare(image, PreparationSettings(spacing_mm=(2.0, 2.0, 2.0)), labels)
    back = undo_labels(prepared.labels, prepared.source_grid)
    assert dice(back.voxels > 0, labels.voxels > 0) > 0.93
    assert dice(back.voxels == 4, labels.voxels == 4) > 0.85
    left_right = to_ras(labels).voxels[0, ::-1] > 0
    assert dice(to_ras(back).voxels[0] > 0, left_right) < 0.5, "a mirrored mask would be noticed"


def test_a_mask_within_half_a_voxel_takes_the_images_place(draw_brain):
    image, labels = draw_brain()
    prepared = prepare(image, PreparationSettings(spacing_mm=None), shifted(labels, 0.6))
    np.testing.assert_array_equal(prepared.reference.affine, image.affine)
    back = undo_labels(prepared.labels, prepared.source_grid)
    np.testing.assert_array_equal(back.voxels, labels.voxels)


def test_a_mask_at_45_degrees_with_a_rounded_header_still_fits(draw_brain):
    image, labels = draw_brain()
    turn = np.eye(4)
    turn[:2, :2] = np.array([[1, -1], [1, 1]]) * np.sqrt(0.5)
    for noise in (1e-7, -1e-7):
        nearly = turn.copy()
        nearly[0, 1] += noise
        one = Volume(image.voxels, turn @ image.affine)
        other = Volume(labels.voxels, nearly @ labels.affine)
        prepared = prepare(one, OWN_SPACING, other)
        assert prepared.labels.shape_vox == prepared.image.shape_vox


def test_a_mask_of_another_shape_is_refused(draw_brain):
    with pytest.raises(
        LabelError, match=r"a mask of shape \(26, 30, 20\); expected \(26, 30, 22\)"
    ):
        prepare(draw_brain()[0], PreparationSettings(), draw_brain((26, 30, 20))[1])


def test_a_mask_elsewhere_is_refused(draw_brain):
    image, labels = draw_brain()
    with pytest.raises(LabelError, match=r"the mask lies 3\.0 voxels away"):
        prepare(image, PreparationSettings(), shifted(labels, 6.0))


def test_a_volume_thinner_than_32_mm_is_refused(draw_brain):
    with pytest.raises(VolumeError, match="only 31 mm along one axis"):
        prepare(draw_brain((26, 30, 22), (2.0, 2.0, 1.4))[0], PreparationSettings())


def test_a_case_is_read_and_prepared_with_its_mask(brats_folder):
    folder = brats_folder / "Brats18_A_1"
    paths = {"FLAIR": folder / "Brats18_A_1_flair.nii.gz", "T1w": folder / "Brats18_A_1_t1.nii.gz"}
    mask = folder / "Brats18_A_1_seg.nii.gz"
    prepared = prepare_case("A", paths, ["T1w", "FLAIR"], OWN_SPACING, label=mask)
    assert prepared.image.voxels.shape[0] == 2
    assert set(np.unique(prepared.labels.voxels)) == {0, 1, 2, 4}
    assert prepared.image.source == "A"
