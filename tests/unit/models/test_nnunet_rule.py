"""nnU-Net's rule, with what its own planner says of the same patches and spacings."""

import pytest

from brainsegfounder.models.nnunet_rule import SMALLEST_VOX, levels_of

ONES, TWOS, THREES = (1, 1, 1), (2, 2, 2), (3, 3, 3)


@pytest.mark.parametrize(
    ("patch_size_vox", "spacing_mm", "strides", "kernels"),
    [
        ((128, 128, 128), (1, 1, 1), [ONES, *[TWOS] * 5], [THREES] * 6),
        ((96, 96, 96), (1, 1, 1), [ONES, *[TWOS] * 4], [THREES] * 5),
        ((64, 64, 64), (3, 3, 3), [ONES, *[TWOS] * 4], [THREES] * 5),
        (
            (320, 256, 20),
            (0.62, 0.62, 3.6),
            [ONES, (2, 2, 1), (2, 2, 1), TWOS, TWOS, (2, 2, 1), (2, 2, 1)],
            [(3, 3, 1), (3, 3, 1), *[THREES] * 5],
        ),
        (
            (192, 160, 64),
            (0.8, 0.8, 2.0),
            [ONES, (2, 2, 1), *[TWOS] * 4],
            [(3, 3, 1), *[THREES] * 5],
        ),
    ],
)
def test_levels_are_those_of_nnunets_planner(patch_size_vox, spacing_mm, strides, kernels):
    found = levels_of(patch_size_vox, spacing_mm)
    assert list(found.strides) == strides
    assert list(found.kernels) == kernels


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (1, 1, 5), (3, 1, 2)])
@pytest.mark.parametrize("patch_size_vox", [(64, 96, 288), (160, 192, 224), (96, 352, 64)])
def test_every_patch_of_a_recipe_divides_and_no_map_gets_too_small(patch_size_vox, spacing_mm):
    divisor = levels_of(patch_size_vox, spacing_mm).divisor
    assert all(n % side == 0 for n, side in zip(patch_size_vox, divisor, strict=True))
    smallest = [n // side for n, side in zip(patch_size_vox, divisor, strict=True)]
    assert min(smallest) >= SMALLEST_VOX
