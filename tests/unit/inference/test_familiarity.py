import numpy as np
import pytest

from brainsegfounder.inference.familiarity import doubts, learn_usual
from brainsegfounder.volumes.appearance import appearance
from brainsegfounder.volumes.volume import Volume

CONTRASTS = ("T1w", "FLAIR")


def head(seed, *, swap=False, scale=1.0, noise=0.1):
    """A ball whose rim is dark in one contrast and bright in the other."""
    rng = np.random.default_rng(seed)
    radius_vox = 20 * scale * rng.uniform(0.95, 1.05)
    grid = np.stack(np.meshgrid(*[np.arange(56) - 27.5] * 3, indexing="ij"))
    depth = radius_vox - np.sqrt((grid**2).sum(axis=0))
    inside = depth > 0
    t1w = np.where(depth > 6, 1.0, -1.0) + rng.normal(0, noise, depth.shape)
    flair = np.where(depth > 3, -0.3, 0.9) + rng.normal(0, noise, depth.shape)
    channels = (flair, t1w) if swap else (t1w, flair)
    voxels = np.stack(channels).astype(np.float32) * inside
    return Volume(voxels, np.diag([3.0, 3.0, 3.0, 1.0]))


@pytest.fixture(scope="module")
def familiar():
    return learn_usual([appearance(head(seed), CONTRASTS) for seed in range(12)])


def test_a_scan_like_the_training_scans_raises_no_doubt(familiar):
    for seed in range(50, 60):
        assert list(doubts(familiar, appearance(head(seed), CONTRASTS))) == []


def test_swapped_contrasts_are_named(familiar):
    found = dict(doubts(familiar, appearance(head(50, swap=True), CONTRASTS)))
    assert "looks like" in found["contrast_unlike"]


def test_a_wrong_contrast_is_noticed_where_only_one_is_known():
    one = learn_usual(
        [
            appearance(Volume(head(seed).voxels[:1], head(seed).affine), ("T1w",))
            for seed in range(8)
        ]
    )
    wrong = head(50, swap=True)
    found = dict(doubts(one, appearance(Volume(wrong.voxels[:1], wrong.affine), ("T1w",))))
    assert found["unfamiliar"].startswith("T1w is unlike the 8 scans")


def test_a_brain_of_another_size_is_noticed(familiar):
    found = list(doubts(familiar, appearance(head(50, scale=0.6), CONTRASTS)))
    assert {code for code, _ in found} == {"unfamiliar"}
    assert any(text.startswith("the brain is unlike the 12 scans") for _, text in found)


def test_a_few_scans_teach_nothing():
    assert learn_usual([appearance(head(seed), CONTRASTS) for seed in range(4)]) is None


def test_an_empty_image_has_no_appearance_and_raises_no_doubt(familiar):
    nothing = appearance(Volume(np.zeros((2, 8, 8, 8), np.float32), np.eye(4)), CONTRASTS)
    assert nothing == {}
    assert list(doubts(familiar, nothing)) == []


def test_a_strange_brain_is_told_where_a_contrast_is_missing(familiar):
    small = head(50, scale=0.6)
    seen = appearance(Volume(small.voxels[:1], small.affine), CONTRASTS[:1])
    assert any(text.startswith("the brain is unlike") for _, text in doubts(familiar, seen))
