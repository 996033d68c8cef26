import numpy as np
import pytest

from brainsegfounder.volumes.mirrored import mirrored
from brainsegfounder.volumes.volume import Volume


def session(seed=0, size=(56, 64, 52), spacing_mm=3.0):
    """Two contrasts of one asymmetric thing: bright where the other is dark."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij"))
    brain = (grid**2).sum(axis=0) < 0.9
    tissue = np.zeros(size, np.float32)
    for centre in rng.uniform(-0.6, 0.6, (40, 3)):
        near = ((grid - centre[:, None, None, None]) ** 2).sum(axis=0)
        tissue += np.float32(near < rng.uniform(0.01, 0.06))
    one, other = 1 + tissue, 5 - 0.7 * tissue**2
    noise = rng.normal(0, 0.05, (2, *size))
    voxels = (np.stack([one, other]) + noise).astype(np.float32) * brain
    return Volume(voxels, np.diag([spacing_mm] * 3 + [1.0])), brain


@pytest.mark.parametrize("seed", range(3))
def test_contrasts_of_one_session_are_not_called_swapped(seed):
    image, brain = session(seed)
    assert list(mirrored(image, brain, ("T1w", "FLAIR"))) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_mirrored_contrast_is_noticed_and_named(seed):
    image, brain = session(seed)
    image.voxels[1] = image.voxels[1, ::-1].copy()
    (found,) = mirrored(image, brain | brain[::-1], ("T1w", "FLAIR"))
    assert (found.code, found.kind) == ("sides_swapped", "warning")
    assert found.message.startswith("FLAIR seems to have left and right swapped against T1w")


def test_one_contrast_alone_says_nothing_about_sides():
    image, brain = session()
    assert list(mirrored(Volume(image.voxels[:1], image.affine), brain, ("T1w",))) == []


def test_an_empty_brain_and_a_flat_contrast_are_no_error():
    image, brain = session()
    assert list(mirrored(image, np.zeros_like(brain), ("T1w", "FLAIR"))) == []
    image.voxels[1] = 1.0
    assert list(mirrored(image, brain, ("T1w", "FLAIR"))) == []
