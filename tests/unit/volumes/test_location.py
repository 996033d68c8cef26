"""Places in MNI152 whose side and tissue any atlas agrees on."""

import numpy as np
import pytest

from brainsegfounder.errors import UsageError
from brainsegfounder.volumes import location
from brainsegfounder.volumes.location import Atlas, has_atlas, locate, read_atlas
from brainsegfounder.volumes.volume import Volume


def around(*centre_mm: float) -> np.ndarray:
    """Points within 2 mm."""
    offsets = np.argwhere(np.ones((3, 3, 3))) - 1.0
    return np.asarray(centre_mm) + offsets


@pytest.mark.parametrize(
    ("centre_mm", "words"),
    [
        ((-26.0, 10.0, 28.0), "left, white matter"),  # corona radiata
        ((26.0, 10.0, 28.0), "right, white matter"),
        ((14.0, -14.0, 8.0), "right, grey matter"),  # thalamus
        ((-8.0, -10.0, 20.0), "left, fluid"),  # body of the lateral ventricle
        ((0.0, -30.0, -30.0), "midline, white matter"),  # pons
        ((0.0, 200.0, 0.0), "midline, outside the template's brain"),
    ],
)
def test_side_and_tissue_of_known_places(centre_mm, words):
    assert locate(around(*centre_mm), np.eye(4)).words == words


def test_a_scan_elsewhere_is_located_by_its_matrix():
    matrix = np.diag([1.1, 0.9, 1.0, 1.0])
    matrix[:3, 3] = (30.0, -20.0, 5.0)
    there = np.array([-26.0, 10.0, 28.0, 1.0])
    x, y, z, _ = np.linalg.inv(matrix) @ there
    found = locate(around(x, y, z), matrix)
    assert found.centre_mni_mm == pytest.approx((-26.0, 10.0, 28.0))
    assert found.words == "left, white matter"


def test_regions_of_an_atlas_are_named_with_their_shares():
    voxels = np.zeros((1, 10, 10, 10), dtype=np.int16)
    voxels[0, :5], voxels[0, 5:] = 1, 2
    drawn = Atlas("drawn", Volume(voxels, np.eye(4)), {1: "One_L", 2: "Two_R"})
    points = np.array([[4.0, 5, 5], [4, 6, 5], [4, 7, 5], [5, 5, 5]])
    found = locate(points, np.eye(4), drawn)
    assert found.regions == (("One_L", 0.75), ("Two_R", 0.25))
    assert found.words.endswith("One_L 75%, Two_R 25%")


def test_without_the_extra_the_atlas_is_asked_for_by_name(monkeypatch):
    monkeypatch.setattr(location, "ATLAS_PACKAGE", "no_such_package")
    read_atlas.cache_clear()
    with pytest.raises(UsageError, match=r"brainsegfounder\[atlas\]"):
        read_atlas()
    assert not has_atlas()


def test_the_installed_atlas_knows_left_from_right():
    if not has_atlas():
        pytest.skip('no atlas is installed (pip install "brainsegfounder[atlas]")')
    atlas = read_atlas()
    assert locate(around(-38.0, -20.0, 56.0), np.eye(4), atlas).regions[0][0].endswith("_L")
    right = locate(around(28.0, 0.0, 2.0), np.eye(4), atlas)
    assert right.regions[0][0] == "Putamen_R"
