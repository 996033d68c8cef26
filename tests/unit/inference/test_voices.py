import numpy as np
import pytest
import torch
from torch import nn

from brainsegfounder.inference.model_config import config_of
from brainsegfounder.inference.predictor import FLIPS, Predictor
from brainsegfounder.inference.voices import Voices
from brainsegfounder.models.ensemble import Ensemble
from brainsegfounder.recipes import load_recipe
from brainsegfounder.volumes.volume import Volume

CPU = torch.device("cpu")


class Shifted(nn.Module):
    """Logits are the image plus a number."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, windows):
        return windows + self.number


class Sided(nn.Module):
    """Sees something on one side of the window only, wherever the image is."""

    def forward(self, windows):
        logits = torch.zeros_like(windows)
        logits[..., : windows.shape[-1] // 2] = 4.0
        return logits


def windows():
    return torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("target", ["regions", "classes"])
def test_voices_of_an_ensemble_say_what_the_ensemble_says(target):
    network = Ensemble([Shifted(-1.0), Shifted(0.5)], target)
    told = Voices(network, FLIPS[:1], target, CPU, False)(windows())
    torch.testing.assert_close(told, network(windows()), rtol=1e-4, atol=1e-4)


def test_spread_is_the_standard_deviation_over_members_the_largest_of_all_channels():
    network = Ensemble([Shifted(-1.0), Shifted(0.5), Shifted(2.0)])
    told = Voices(network, FLIPS[:1], "regions", CPU, True)(windows())
    opinions = torch.stack([member(windows()).sigmoid() for member in network.members])
    expected = opinions.std(dim=0, unbiased=False).amax(dim=1, keepdim=True)
    torch.testing.assert_close(told[:, 3:], expected, rtol=1e-3, atol=1e-4)


def test_one_voice_has_no_spread_and_its_logits_are_untouched():
    voices = Voices(Shifted(0.0), FLIPS[:1], "regions", CPU, True)
    assert not voices.tells_spread
    assert torch.equal(voices(windows()), windows())


def test_all_eight_mirrored_views_are_heard_and_turned_back():
    assert len(FLIPS) == len(set(FLIPS)) == 8
    told = Voices(Shifted(0.0), FLIPS, "regions", CPU, False)(windows())
    torch.testing.assert_close(told, windows(), rtol=1e-4, atol=1e-4)
    sided = Voices(Sided(), FLIPS, "regions", CPU, True)(windows())
    assert float(sided[:, :3].std()) == pytest.approx(0, abs=1e-5)
    assert float(sided[:, 3:].min()) > 0.2


def test_a_predictor_with_flips_tells_where_its_views_differ():
    recipe = load_recipe("open-glioma", ["predict.flips=true"])
    config = config_of(recipe, "segmentation", {}).model_copy(
        update={"patch_size_vox": (8, 8, 8), "contrasts": ("T1w", "T2w", "FLAIR")}
    )
    image = Volume(np.ones((3, 12, 9, 8), np.float32), np.eye(4))
    told = Predictor(Sided(), config, CPU).opinion(image, disagreement=True)
    assert told.disagreement.voxels.shape == (1, 12, 9, 8)
    assert told.probabilities.voxels.shape == (3, 12, 9, 8)
    assert told.disagreement.voxels.min() > 0.2
    assert Predictor(Sided(), config, CPU).opinion(image).disagreement is None
