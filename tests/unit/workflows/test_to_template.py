"""The way to MNI152: known for some cases, found for others, and never a case's end."""

from dataclasses import replace

import numpy as np
import pytest

from brainsegfounder.errors import VolumeError
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.preparation import Prepared
from brainsegfounder.volumes.registration import Registration
from brainsegfounder.workflows import to_template
from brainsegfounder.workflows.to_template import matrix_to_mni

MATRIX = np.diag([1.1, 0.9, 1.0, 1.0])


@pytest.fixture
def prepared(draw_brain):
    """A small brain, z-scored as a network sees it."""
    image, _ = draw_brain()
    brain = image.voxels[0] > 0
    inside = image.voxels[0][brain]
    voxels = np.where(brain, (image.voxels[0] - inside.mean()) / inside.std(), 0)
    steps = {"space": {"name": "native"}, "brain": {"method": "given"}}
    scored = replace(image, voxels=voxels[None].astype(np.float32))
    return Prepared(scored, None, None, brain, image.grid, ("x",), steps=steps)


@pytest.fixture
def register(monkeypatch):
    """Stands in for the registration; keeps what it was given."""
    given = []

    def stub(image, tissue, is_brain):
        given.append((image, tissue, is_brain))
        return Registration(MATRIX, (0.0, 1.0), (0.9, 0.95))

    monkeypatch.setattr(to_template, "register_to_template", stub)
    monkeypatch.setattr(to_template, "check_in_template", lambda *_: (0.95, ()))
    return given


def test_what_is_registered_is_bright_in_the_brain_and_dark_outside(prepared, register):
    matrix, findings = matrix_to_mni(prepared)
    assert np.array_equal(matrix, MATRIX)
    assert findings == ()
    ((image, tissue, is_brain),) = register
    assert is_brain
    assert image.voxels[0][prepared.brain].min() >= 1
    assert not image.voxels[0][~prepared.brain].any()
    assert np.array_equal(tissue.voxels[0], prepared.brain)


def test_a_case_prepared_in_mni_space_knows_the_way(prepared, register):
    known = np.diag([1.0, 2.0, 3.0, 1.0])
    steps = {"space": {"name": "mni", "matrix": known.tolist()}}
    matrix, findings = matrix_to_mni(replace(prepared, steps=steps))
    assert np.array_equal(matrix, known)
    assert findings == ()
    assert not register


def test_a_poor_match_names_no_places(prepared, register, monkeypatch):
    doubt = Finding("mni_doubtful", "case", "poor", "warning")
    monkeypatch.setattr(to_template, "check_in_template", lambda *_: (0.6, (doubt,)))
    matrix, findings = matrix_to_mni(prepared)
    assert matrix is None
    assert [(one.code, one.kind) for one in findings] == [("not_in_mni", "note")]
    assert "60%" in findings[0].message


def test_a_case_that_cannot_be_registered_goes_without(prepared, monkeypatch):
    def fail(*_):
        raise VolumeError("case: mirrored")

    monkeypatch.setattr(to_template, "register_to_template", fail)
    matrix, findings = matrix_to_mni(prepared)
    assert matrix is None
    assert "mirrored" in findings[0].message
