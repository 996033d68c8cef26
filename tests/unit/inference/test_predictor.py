import numpy as np
import pytest
import torch
from torch import nn

from brainsegfounder.inference.model_config import config_of
from brainsegfounder.inference.predictor import Predictor
from brainsegfounder.recipes import load_recipe
from brainsegfounder.settings import PreparationSettings
from brainsegfounder.volumes.preparation import prepare
from brainsegfounder.volumes.volume import Volume


class Known(nn.Module):
    """Knows the answer: channels of the image are the logits, less a half."""

    def forward(self, windows):
        assert not self.training
        return (windows - 0.5) * 20


def predictor(target="regions", **changes):
    recipe = load_recipe("open-glioma", [f"finetune.target={target}"])
    config = config_of(recipe, "segmentation", {})
    config = config.model_copy(update={"patch_size_vox": (16, 16, 16), **changes})
    return Predictor(Known().train(), config, torch.device("cpu"))


def region_channels(labels):
    """TC, WT, ET as 0 and 1."""
    wanted = [np.isin(labels.voxels[0], values) for values in ((1, 4), (1, 2, 4), (4,))]
    return Volume(np.stack(wanted).astype(np.float32), labels.affine, "case")


def class_channels(labels):
    wanted = [labels.voxels[0] == value for value in (0, 1, 2, 4)]
    return Volume(np.stack(wanted).astype(np.float32), labels.affine, "case")


@pytest.mark.parametrize(
    ("target", "channels"), [("regions", region_channels), ("classes", class_channels)]
)
def test_a_network_that_knows_the_answer_gives_the_labels(draw_brain, target, channels):
    labels = draw_brain()[1]
    result = predictor(target).segment(channels(labels))
    assert result.voxels.dtype == np.int16
    np.testing.assert_array_equal(result.voxels, labels.voxels)
    np.testing.assert_array_equal(result.affine, labels.affine)


def test_probabilities_are_between_0_and_1_on_the_prepared_grid(draw_brain):
    labels = draw_brain()[1]
    regions = predictor().probabilities(region_channels(labels))
    assert regions.voxels.dtype == np.float32
    assert regions.shape_vox == labels.shape_vox
    assert 0 <= regions.voxels.min() < 0.01 < 0.99 < regions.voxels.max() <= 1
    classes = predictor("classes").probabilities(class_channels(labels))
    np.testing.assert_allclose(classes.voxels.sum(axis=0), 1, atol=1e-5)


def test_labels_return_to_the_files_own_grid_left_on_the_left(draw_brain, turn, rotated):
    image, labels = draw_brain((52, 60, 44), (1.0, 1.0, 1.0))
    affine = rotated(image.affine, 10)
    image, labels = (turn(Volume(v.voxels, affine), (1, 2, 0), (0, 2)) for v in (image, labels))
    prepared = prepare(image, PreparationSettings(spacing_mm=(2.0, 2.0, 2.0)), labels)
    result = predictor().segment(region_channels(prepared.labels), prepared.source_grid)
    assert result.shape_vox == image.shape_vox
    np.testing.assert_array_equal(result.affine, image.affine)
    one, other = result.voxels > 0, labels.voxels > 0
    assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.93
    assert set(np.unique(result.voxels)) == {0, 1, 2, 4}


def test_the_result_does_not_depend_on_the_windows_at_once(draw_brain):
    channels = region_channels(draw_brain()[1])
    settings = load_recipe("open-glioma").predict
    one, four = (
        predictor(predict=settings.model_copy(update={"batch_size": n})).probabilities(channels)
        for n in (1, 4)
    )
    np.testing.assert_allclose(one.voxels, four.voxels, atol=1e-6)
