"""Resizing the whole volume against PyTorch, whose `area` is what MONAI's `Resize` uses."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from brainsegfounder.settings import PreparationSettings
from brainsegfounder.volumes.geometry import resize_by_area, resized_grid
from brainsegfounder.volumes.preparation import prepare, undo
from brainsegfounder.volumes.volume import Volume

COARSER = [
    ((197, 117, 63), (96, 48, 32)),
    ((64, 40, 33), (32, 40, 7)),
]
SHAPES = [*COARSER, ((20, 30, 25), (32, 31, 25))]


@pytest.mark.parametrize(("before", "after"), SHAPES)
def test_the_resized_image_is_that_of_torchs_area_mode(before, after):
    voxels = np.random.default_rng(0).normal(100, 20, (2, *before)).astype(np.float32)
    ours = resize_by_area(Volume(voxels, np.eye(4)), after)
    theirs = interpolate(torch.from_numpy(voxels)[None], after, mode="area")[0].numpy()
    assert ours.voxels.shape == (2, *after)
    np.testing.assert_allclose(ours.voxels, theirs, rtol=2e-6, atol=1e-4)


@pytest.mark.parametrize(("before", "after"), COARSER)
def test_the_way_back_is_torchs_trilinear_interpolation(before, after):
    values = np.random.default_rng(1).random((1, *after)).astype(np.float32)
    source = Volume(np.zeros((1, *before), np.float32), np.diag([1.0, 1.0, 1.2, 1.0])).grid
    ours = undo(Volume(values, resized_grid(source, after).affine), source)
    double = torch.from_numpy(values.astype(np.float64))[None]
    theirs = interpolate(double, before, mode="trilinear")[0].numpy()
    np.testing.assert_allclose(ours.voxels, theirs, atol=1e-5)
    np.testing.assert_array_equal(ours.affine, source.affine)


def test_a_prepared_case_holds_torchs_resized_image_up_to_the_standardisation(draw_brain):
    image, _ = draw_brain((52, 60, 44), (1.0, 1.0, 1.0))
    settings = PreparationSettings(spacing_mm=None, resize_vox=(32, 32, 24))
    prepared = prepare(image, settings)
    theirs = interpolate(torch.from_numpy(image.voxels)[None], (32, 32, 24), mode="area")[0].numpy()
    inside = prepared.brain
    theirs = (theirs[0, inside] - theirs[0, inside].mean()) / theirs[0, inside].std()
    # The outermost 0.1 % of the intensities are clipped before.
    np.testing.assert_allclose(
        np.sort(prepared.image.voxels[0, inside])[20:-20], np.sort(theirs)[20:-20], atol=0.03
    )
    assert np.corrcoef(prepared.image.voxels[0, inside], theirs)[0, 1] > 0.999
