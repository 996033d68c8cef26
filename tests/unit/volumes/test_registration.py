import numpy as np
import pytest

from brainsegfounder.errors import VolumeError
from brainsegfounder.volumes import registration as registration_module
from brainsegfounder.volumes.registration import Registration, register, share_in_common
from brainsegfounder.volumes.volume import Volume


def moved(volume, matrix):
    return Volume(volume.voxels, matrix @ volume.affine, volume.source)


def errors_mm(matrix, volume):
    """How far brain voxels are from their places after a movement and its undoing."""
    voxels = np.argwhere(volume.voxels[0] > 0)[::20]
    places = volume.affine @ np.c_[voxels, np.ones(len(voxels))].T
    return np.linalg.norm((matrix @ places - places)[:3], axis=0)


@pytest.mark.parametrize(
    ("degrees", "shift_mm"), [(10, (5.0, -5.0, 4.0)), (0, (0.0, 0.0, 0.0)), (-6, (30.0, 0.0, 40.0))]
)
def test_a_misplaced_contrast_is_found_to_half_a_millimetre(subject, misplaced, degrees, shift_mm):
    t1w, flair = subject.volumes["T1w"], subject.volumes["FLAIR"]
    matrix = misplaced(degrees, shift_mm)
    found = register(t1w, moved(flair, matrix), "rigid")
    assert errors_mm(found.matrix @ matrix, t1w).mean() < 0.5
    assert found.is_trusted
    assert found.overlap[1] > 0.97


def test_a_rigid_matrix_turns_and_shifts_and_nothing_else(subject, misplaced):
    flair = moved(subject.volumes["FLAIR"], misplaced(8, (3.0, 2.0, 1.0)))
    turn = register(subject.volumes["T1w"], flair, "rigid").matrix[:3, :3]
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(turn) == pytest.approx(1.0)


def test_the_same_scans_give_the_same_matrix_to_the_last_bit(subject, misplaced):
    flair = moved(subject.volumes["FLAIR"], misplaced(5, (4.0, 0.0, 2.0)))
    one, other = (register(subject.volumes["T1w"], flair, "rigid") for _ in range(2))
    np.testing.assert_array_equal(one.matrix, other.matrix)
    assert one.information == other.information


def test_turned_voxel_axes_and_oblique_grids_give_the_same_place(subject, turn, rotated, misplaced):
    t1w, flair = subject.volumes["T1w"], subject.volumes["FLAIR"]
    matrix = misplaced(4, (3.0, -2.0, 2.0))
    oblique = Volume(t1w.voxels, rotated(t1w.affine, 12))
    tilt = oblique.affine @ np.linalg.inv(t1w.affine)
    found = register(oblique, turn(moved(flair, matrix), (1, 2, 0), (0, 2)), "rigid")
    assert errors_mm(np.linalg.inv(tilt) @ found.matrix @ matrix, t1w).mean() < 0.7


def test_an_affine_registration_finds_a_stretch(subject):
    t1w = subject.volumes["T1w"]
    stretch = np.diag([1.1, 0.95, 1.05, 1.0])
    found = register(t1w, moved(t1w, stretch), "affine")
    np.testing.assert_allclose((found.matrix @ stretch)[:3, :3], np.eye(3), atol=0.02)
    assert errors_mm(found.matrix @ stretch, t1w).mean() < 0.7


def test_less_information_or_less_overlap_is_not_trusted():
    good = Registration(np.eye(4), (0.2, 0.8), (0.7, 0.98))
    assert good.is_trusted
    assert not Registration(np.eye(4), (0.8, 0.2), (0.9, 0.95)).is_trusted
    assert not Registration(np.eye(4), (0.2, 0.8), (0.95, 0.5)).is_trusted
    assert good.record()["information"] == [0.2, 0.8]


def test_a_mask_within_another_shares_all_of_itself():
    large, small = np.zeros((2, 10, 10, 10), bool)
    large[2:8], small[3:5] = True, True
    assert share_in_common(large, small) == share_in_common(small, large) == 1.0
    assert share_in_common(small, ~large) == 0.0


def test_scans_that_do_not_meet_are_refused_with_a_reason(subject, monkeypatch):
    t1w = subject.volumes["T1w"]
    start = registration_module._best_start

    def far(one, other):
        transform = start(one, other)
        transform.SetTranslation((1000.0, 0.0, 0.0))
        return transform

    monkeypatch.setattr(registration_module, "_best_start", far)
    with pytest.raises(VolumeError, match="the scans do not meet; expected two scans of one head"):
        register(t1w, subject.volumes["FLAIR"], "rigid")
