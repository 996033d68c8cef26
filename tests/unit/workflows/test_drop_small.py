"""Small parts are dropped only where validation says so."""

from types import SimpleNamespace

import numpy as np
import pytest

from brainsegfounder.settings import Region
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.drop_small import choose_smallest_ml

REGIONS = {"lesion": Region(labels=(1,), paint=1)}


def case(*, specks, small_lesion=False):
    """A prediction and a reference at 2 mm: a cube of 216 voxels, and specks of one voxel."""
    reference = np.zeros((24, 24, 24), np.int16)
    reference[4:10, 4:10, 4:10] = 1
    if small_lesion:
        reference[20, 20, 20] = 1
    found = reference.copy()
    if specks:
        found[15::4, 15::4, 15::4] = 1
    return found, reference


def choose(*cases):
    """What is chosen for cases by their number."""
    store = SimpleNamespace(
        prepared_image=lambda number, _: Volume(
            cases[number][0][None].astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])
        ),
        labels=lambda number: cases[number][1][None],
    )
    model = SimpleNamespace(
        contrasts=("T1w",),
        config=SimpleNamespace(regions=REGIONS),
        segment=lambda image: Volume(image.voxels.astype(np.int16), image.affine),
    )
    return choose_smallest_ml(model, store, range(len(cases)))


def test_specks_that_are_no_lesions_are_dropped_from_the_smallest_volume_that_does_it():
    assert choose(case(specks=True), case(specks=True)) == {"lesion": pytest.approx(0.02)}


def test_nothing_is_dropped_where_that_gains_nothing():
    assert choose(case(specks=False), case(specks=False)) == {}


def test_nothing_is_dropped_where_small_lesions_are_real():
    assert choose(case(specks=False, small_lesion=True)) == {}


def test_without_a_case_there_is_no_rule():
    assert choose() == {}
