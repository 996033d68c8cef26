import subprocess
import sys

import numpy as np
import pytest

from brainsegfounder.errors import VolumeError
from brainsegfounder.volumes import brain as brain_module
from brainsegfounder.volumes.brain import deepbet_mask, find_brain, is_stripped
from brainsegfounder.volumes.volume import Volume


@pytest.fixture(scope="module")
def stripped(subject):
    return subject.volumes["T1w"]


@pytest.fixture
def no_deepbet(monkeypatch):
    monkeypatch.setattr(brain_module.importlib.util, "find_spec", lambda name: None)


def answer(monkeypatch, mask):
    """Replace deepbet by a fixed answer."""
    monkeypatch.setattr(brain_module, "deepbet_mask", lambda t1w: mask)


def test_a_brain_without_skull_is_recognised_in_every_contrast(subject):
    assert all(is_stripped(volume) for volume in subject.volumes.values())


@pytest.mark.parametrize("air", [0.0, 0.02])
def test_a_head_is_no_stripped_brain_with_or_without_zeros_around_it(head_around, stripped, air):
    assert not is_stripped(head_around(stripped, air))


@pytest.mark.parametrize("scale", [0.6, 0.75, 1.0])
def test_a_childs_head_of_the_size_of_a_brain_is_told_by_its_skull(head_around, stripped, scale):
    head = head_around(stripped)
    small = Volume(head.voxels, head.affine @ np.diag([scale, scale, scale, 1.0]))
    assert not is_stripped(small)


def test_a_standardised_brain_with_negative_values_is_still_stripped(stripped):
    inside = stripped.voxels != 0
    values = (stripped.voxels - stripped.voxels[inside].mean()) / stripped.voxels[inside].std()
    assert is_stripped(Volume(np.where(inside, values, 0).astype(np.float32), stripped.affine))


def test_an_empty_volume_is_not_called_stripped():
    assert not is_stripped(Volume(np.zeros((1, 20, 20, 20), np.float32), np.eye(4)))


def test_the_foreground_setting_looks_no_further(stripped, monkeypatch):
    monkeypatch.setattr(brain_module, "is_stripped", lambda volume: pytest.fail("was asked"))
    found = find_brain(stripped, ["T1w"], "foreground", np.ones(stripped.shape_vox, bool))
    assert found.method == "foreground"
    np.testing.assert_array_equal(found.mask, stripped.voxels[0] != 0)


def test_a_given_mask_comes_first_and_an_empty_one_is_refused(stripped):
    given = np.zeros(stripped.shape_vox, bool)
    given[10:20, 10:20, 10:20] = True
    found = find_brain(stripped, ["T1w"], "auto", given)
    assert found.method == "given"
    np.testing.assert_array_equal(found.mask, given)
    with pytest.raises(VolumeError, match="the brain mask that was given is empty"):
        find_brain(stripped, ["T1w"], "auto", np.zeros_like(given))


def test_a_stripped_scan_comes_second(stripped, monkeypatch):
    monkeypatch.setattr(brain_module, "deepbet_mask", lambda t1w: pytest.fail("was asked"))
    found = find_brain(stripped, ["T1w"], "deepbet")
    assert (found.method, found.findings) == ("stripped", ())
    np.testing.assert_array_equal(found.mask, stripped.voxels[0] != 0)


def test_deepbet_comes_third_and_gets_the_t1w(head_around, subject, monkeypatch):
    head = head_around(subject.volumes["T1w"])
    both = Volume(np.concatenate([head.voxels * 2, head.voxels]), head.affine, "case")
    brain = np.pad(subject.volumes["T1w"].voxels[0] != 0, 7)
    asked = []
    monkeypatch.setattr(brain_module, "deepbet_mask", lambda t1w: asked.append(t1w) or brain)
    found = find_brain(both, ["FLAIR", "T1w"], "auto")
    assert found.method == "deepbet"
    np.testing.assert_array_equal(found.mask, brain)
    np.testing.assert_array_equal(asked[0], head.voxels[0])


@pytest.mark.parametrize(
    ("contrasts", "reason"), [(["FLAIR"], "there is no T1w"), ([], "there is no T1w")]
)
def test_without_a_t1w_auto_takes_the_foreground_and_warns(
    head_around, stripped, contrasts, reason
):
    found = find_brain(head_around(stripped), contrasts, "auto")
    assert found.method == "foreground"
    assert [(f.code, f.kind) for f in found.findings] == [("brain_is_foreground", "warning")]
    assert reason in found.findings[0].message


def test_without_deepbet_the_extra_is_named(head_around, stripped, no_deepbet):
    head = head_around(stripped)
    found = find_brain(head, ["T1w"], "auto")
    assert 'pip install "brainsegfounder[strip]"' in found.findings[0].message
    with pytest.raises(VolumeError, match=r"head\.nii: the brain was not found.*\[strip\]"):
        find_brain(head, ["T1w"], "deepbet")


def test_a_mask_that_is_no_brain_is_not_believed(head_around, stripped, monkeypatch):
    head = head_around(stripped)
    answer(monkeypatch, np.ones(head.shape_vox, bool))
    with pytest.raises(VolumeError, match="which is no brain"):
        find_brain(head, ["T1w"], "deepbet")


def test_a_child_that_fails_or_hangs_is_a_reason_and_no_crash(monkeypatch, tmp_path):
    if brain_module.importlib.util.find_spec("deepbet") is None:
        monkeypatch.setattr(brain_module.importlib.util, "find_spec", lambda name: name)
    voxels = np.zeros((4, 4, 4), np.float32)
    assert "took longer than 0 s" in deepbet_mask(voxels, timeout_s=0.01)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert "deepbet failed (exit code 1)" in deepbet_mask(voxels)


def test_nothing_of_deepbet_gets_into_this_process():
    code = (
        "import numpy, sys; from brainsegfounder.volumes.brain import deepbet_mask;"
        "deepbet_mask(numpy.zeros((4, 4, 4), numpy.float32), 0.01);"
        "assert not {'torch', 'data', 'deepbet', 'pandas'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
