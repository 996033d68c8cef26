import numpy as np
import pytest

from brainsegfounder.errors import VolumeError
from brainsegfounder.volumes import template as template_module
from brainsegfounder.volumes.registration import Registration
from brainsegfounder.volumes.template import (
    check_in_template,
    register_to_template,
    template,
    template_grid,
)
from brainsegfounder.volumes.volume import Volume


@pytest.fixture(scope="module")
def brain(subject):
    """A T1w and its brain mask."""
    t1w = subject.volumes["T1w"]
    return t1w, Volume(t1w.voxels > 0, t1w.affine, "case")


@pytest.fixture(scope="module")
def found(brain):
    return register_to_template(*brain, is_brain=True)


def test_the_template_is_a_brain_at_1_mm_around_the_anterior_commissure():
    atlas = template()
    assert atlas.spacing_mm == (1.0, 1.0, 1.0)
    centre = (atlas.affine @ [*np.argwhere(atlas.voxels[0] > 0).mean(axis=0), 1.0])[:3]
    assert abs(centre[0]) < 0.5, "its left half is as large as its right one"
    assert np.linalg.norm(centre - [0, -20, 8]) < 5


def test_a_brain_is_brought_onto_the_template(brain, found):
    dice, doubts = check_in_template(found, brain[1], is_brain=True)
    assert dice > 0.92
    assert doubts == ()
    assert np.linalg.det(found.matrix[:3, :3]) > 0


def test_a_brain_elsewhere_is_doubted(brain, found):
    away = np.eye(4)
    away[0, 3] = 60.0
    moved = Registration(away @ found.matrix, found.information, found.overlap)
    dice, doubts = check_in_template(moved, brain[1], is_brain=True)
    assert dice < 0.8
    assert [(f.code, f.file) for f in doubts] == [("mni_doubtful", "case")]


@pytest.mark.parametrize("bad", [np.diag([-1.0, 1, 1, 1]), np.diag([2.5, 1, 1, 1])])
def test_a_mirrored_or_stretched_map_is_refused(brain, monkeypatch, bad):
    result = Registration(bad, (0.0, 1.0), (1.0, 1.0))
    monkeypatch.setattr(template_module, "register", lambda *args: result)
    with pytest.raises(VolumeError, match="registered to MNI152 with a stretch"):
        register_to_template(*brain, is_brain=True)


def test_the_grid_is_on_the_templates_lattice_and_holds_the_brain(brain, found):
    grid = template_grid(found.matrix, brain[1], (2.0, 2.0, 2.0), 4.0)
    in_mni = found.matrix @ grid.affine
    np.testing.assert_allclose(in_mni[:3, :3], np.diag([2.0, 2.0, 2.0]), atol=1e-9)
    steps = (in_mni[:3, 3] - template().affine[:3, 3] - 0.5) / 2
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-6)
    corners = np.linalg.inv(grid.affine) @ brain[1].affine
    voxels = np.argwhere(brain[1].voxels[0])
    places = (corners @ np.c_[voxels, np.ones(len(voxels))].T)[:3]
    assert places.min() > -0.5
    assert (places.max(axis=1) < np.asarray(grid.shape_vox) - 0.5).all()
