import json

import numpy as np
import pytest

from brainsegfounder.errors import ContrastError, LabelError, VolumeError
from brainsegfounder.settings import PreparationSettings
from brainsegfounder.volumes.geometry import (
    foreground_box,
    resample_labels_to,
    resample_to,
    resized_grid,
    spaced_grid,
    to_ras,
)
from brainsegfounder.volumes.intensity import foreground, zscore_inside
from brainsegfounder.volumes.nifti import write_nifti
from brainsegfounder.volumes.preparation import prepare, prepare_case, undo, undo_labels
from brainsegfounder.volumes.session import read_session
from brainsegfounder.volumes.volume import Volume, crop

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
        LabelError, match=r"a mask of shape \(26, 30, 20\); expected \(26, 30, 26\)"
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


def test_the_usual_settings_are_the_plain_steps_and_nothing_more(draw_brain, turn, rotated):
    image, labels = draw_brain(num_contrasts=2)
    affine = rotated(image.affine, 10)
    image, labels = (turn(Volume(v.voxels, affine), (2, 0, 1), (1,)) for v in (image, labels))
    prepared = prepare(image, PreparationSettings(spacing_mm=(3.0, 2.5, 3.0)), labels)

    ras, tissue = to_ras(image), foreground(to_ras(image).voxels)
    box = foreground_box(tissue, (2, 2, 2))
    grid = spaced_grid(crop(ras, *box).grid, (3.0, 2.5, 3.0))
    brain = resample_to(crop(Volume(tissue[None], ras.affine), *box), grid).voxels[0] > 0.5
    voxels = zscore_inside(resample_to(crop(ras, *box), grid).voxels, brain)
    np.testing.assert_array_equal(prepared.brain, brain)
    np.testing.assert_array_equal(prepared.image.voxels, voxels)
    np.testing.assert_array_equal(prepared.image.affine, grid.affine)
    carried = resample_labels_to(crop(to_ras(labels), *box), grid)
    np.testing.assert_array_equal(prepared.labels.voxels, carried.voxels)
    assert [finding.code for finding in prepared.findings] == ["not_a_brain"]


def test_what_was_done_can_be_written_as_json(subject):
    spiked = subject.volumes["T1w"].voxels.copy()
    spiked[0, 20, 25, 22] = 1e9
    prepared = prepare(Volume(spiked, subject.labels.affine), OWN_SPACING)
    steps = json.loads(json.dumps(prepared.steps))
    assert steps["brain"]["method"] == "foreground"
    assert steps["brain"]["arrived_stripped"] is True
    assert steps["spikes_clipped"] == 1
    assert (steps["space"], steps["bias_correction"]) == ({"name": "native"}, "none")
    assert [f.code for f in prepared.findings] == ["skull_stripped", "spike_clipped"]


def test_a_given_brain_is_where_intensities_count_and_what_is_kept(draw_brain, turn):
    image, labels = draw_brain()
    core = Volume((labels.voxels > 0).astype(np.float32), labels.affine)
    settings = OWN_SPACING.model_copy(update={"brain": "auto", "margin_mm": 2.0})
    masks = {"brain": turn(core, (1, 0, 2), (2,))}
    prepared = prepare(turn(image, (1, 0, 2), (2,)), settings, masks=masks)
    assert prepared.steps["brain"]["method"] == "given"
    assert prepared.brain.sum() == core.voxels.sum()
    assert not prepared.image.voxels[0, ~prepared.brain].any()
    assert prepared.masks == {}


def test_deface_and_anatomy_masks_come_to_the_prepared_grid(tmp_path, draw_brain):
    image, labels = draw_brain(num_contrasts=2)
    paths = files(tmp_path, image)
    deface = labels.voxels == 2
    write_nifti(tmp_path / "deface.nii", Volume(deface.astype(np.int16), labels.affine))
    fine = resample_to(
        Volume(labels.voxels > 0, labels.affine), spaced_grid(labels.grid, (1, 1, 1))
    )
    write_nifti(tmp_path / "anatomy.nii", fine)
    masks = {name: tmp_path / f"{name}.nii" for name in ("deface", "anatomy")}
    prepared = prepare_case("a", paths, ["T1w", "FLAIR"], OWN_SPACING, masks=masks)
    assert set(prepared.masks) == {"deface", "anatomy"}
    assert {m.shape for m in prepared.masks.values()} == {prepared.brain.shape}
    expected = prepare(image, OWN_SPACING, Volume(deface.astype(np.int16), labels.affine))
    np.testing.assert_array_equal(prepared.masks["deface"], expected.labels.voxels[0] == 1)
    lesion = prepare(image, OWN_SPACING, labels).labels.voxels[0] > 0
    assert dice(prepared.masks["anatomy"], lesion) > 0.9


def test_n4_is_done_where_it_is_asked_for(draw_brain):
    image, _ = draw_brain()
    field = np.exp(np.linspace(-0.5, 0.5, image.shape_vox[2], dtype=np.float32))
    biased = Volume(image.voxels * field, image.affine)
    settings = PreparationSettings(spacing_mm=(4.0, 4.0, 4.0))
    plain = prepare(biased, settings)
    better = prepare(biased, settings.model_copy(update={"bias_correction": True}))
    assert better.steps["bias_correction"] == "N4"
    top = np.indices(plain.brain.shape)[2][plain.brain]
    slopes = [np.corrcoef(top, p.image.voxels[0, p.brain])[0, 1] for p in (plain, better)]
    assert abs(slopes[1]) < 0.5 * abs(slopes[0])


@pytest.fixture(scope="module")
def in_mni(subject, turn):
    """An axis-swapped subject, its labels as read, and it prepared in MNI space at 4 mm."""
    image = Volume(
        np.concatenate([v.voxels for v in subject.volumes.values()]), subject.labels.affine
    )
    image, labels = (turn(v, (2, 0, 1), (0, 2)) for v in (image, subject.labels))
    settings = PreparationSettings(space="mni", spacing_mm=(4.0, 4.0, 4.0), brain="auto")
    return image, labels, prepare(image, settings, labels, contrasts=("T1w", "FLAIR"))


def test_mni_space_is_left_again_onto_the_files_own_grid(in_mni):
    image, labels, prepared = in_mni
    assert prepared.steps["space"]["dice"] > 0.92
    assert [finding.code for finding in prepared.findings] == ["skull_stripped"]
    back = undo_labels(prepared.labels, prepared.source_grid)
    assert back.shape_vox == image.shape_vox
    np.testing.assert_array_equal(back.affine, image.affine)
    assert dice(back.voxels > 0, labels.voxels > 0) > 0.85
    mirrored = to_ras(labels).voxels[0, ::-1] > 0
    assert dice(to_ras(back).voxels[0] > 0, mirrored) < 0.5


def test_the_prepared_grid_in_mni_tells_both_millimetres(in_mni):
    _, labels, prepared = in_mni
    matrix = np.asarray(prepared.steps["space"]["matrix"])
    np.testing.assert_allclose(
        (matrix @ prepared.image.affine)[:3, :3], np.diag([4.0, 4.0, 4.0]), atol=1e-9
    )
    volumes_ml = [(v.voxels > 0).sum() * v.grid.voxel_volume_ml for v in (labels, prepared.labels)]
    assert volumes_ml[1] == pytest.approx(volumes_ml[0], rel=0.1), "mL are the patient's"
    json.dumps(prepared.steps)


def test_a_resized_case_covers_the_whole_scan_with_exactly_the_voxels_asked_for(draw_brain, turn):
    image, labels = draw_brain((52, 60, 44), (1.0, 1.0, 1.5))
    settings = PreparationSettings(spacing_mm=None, resize_vox=(32, 40, 32), margin_mm=0.0)
    prepared = prepare(turn(image, (1, 2, 0), (1,)), settings, turn(labels, (1, 2, 0), (1,)))
    assert prepared.image.shape_vox == prepared.labels.shape_vox == (32, 40, 32)
    assert prepared.brain.shape == (32, 40, 32)
    assert prepared.steps["shape_vox"] == [32, 40, 32]
    grid = prepared.image.grid
    np.testing.assert_allclose(grid.spacing_mm, (52 / 32, 60 / 40, 44 * 1.5 / 32))
    for corner, vox in ((-0.5, (-0.5, -0.5, -0.5)), (1, (51.5, 59.5, 43.5))):
        far = (-0.5, -0.5, -0.5) if corner < 0 else (31.5, 39.5, 31.5)
        faces = [(a @ [*place, 1])[:3] for a, place in ((grid.affine, far), (image.affine, vox))]
        np.testing.assert_allclose(*faces, atol=1e-9)
    np.testing.assert_array_equal(prepared.labels.affine, grid.affine)
    assert prepared.image.voxels[:, prepared.brain].std() == pytest.approx(1, abs=1e-3)
    assert not prepared.image.voxels[:, ~prepared.brain].any()


def test_labels_of_a_resized_case_follow_the_rule_of_every_other_and_find_their_way_back(
    draw_brain,
):
    image, labels = draw_brain((52, 60, 44), (1.0, 1.0, 1.5))
    settings = PreparationSettings(spacing_mm=None, resize_vox=(40, 48, 32))
    prepared = prepare(image, settings, labels)
    ours = resample_labels_to(labels, resized_grid(labels.grid, (40, 48, 32)))
    np.testing.assert_array_equal(prepared.labels.voxels, ours.voxels)
    again = undo_labels(prepared.labels, prepared.source_grid)
    assert again.shape_vox == labels.shape_vox
    np.testing.assert_array_equal(again.affine, labels.affine)
    assert dice(again.voxels > 0, labels.voxels > 0) > 0.93


@pytest.mark.parametrize("other", [{}, {"spacing_mm": None, "space": "mni"}])
def test_resizing_excludes_a_spacing_and_a_template(other):
    with pytest.raises(ValueError, match=r"resize_vox \[96, 96, 96\]: sets the grid by itself"):
        PreparationSettings(resize_vox=(96, 96, 96), **other)
