import numpy as np

from brainsegfounder.inference.postprocess import paint_classes, paint_regions, without_small
from brainsegfounder.recipes import load_recipe
from brainsegfounder.settings import Region

REGIONS = load_recipe("open-glioma").data.regions


def probabilities(*inside):
    """A channel for each set of voxels in which it is certain, on a line of six."""
    channels = np.zeros((len(inside), 6, 1, 1), np.float32)
    for channel, voxels in zip(channels, inside, strict=True):
        channel[list(voxels)] = 0.9
    return channels


def test_nested_regions_paint_from_the_widest_to_the_narrowest():
    labels = paint_regions(probabilities({1, 2}, {1, 2, 3, 4}, {2}), REGIONS)
    assert list(REGIONS) == ["TC", "WT", "ET"]
    assert labels.dtype == np.int16
    assert labels.ravel().tolist() == [0, 1, 4, 2, 2, 0]


def test_the_order_of_the_channels_does_not_change_the_labels():
    turned = {name: REGIONS[name] for name in ("ET", "WT", "TC")}
    one = paint_regions(probabilities({1, 2}, {1, 2, 3}, {2}), REGIONS)
    other = paint_regions(probabilities({2}, {1, 2, 3}, {1, 2}), turned)
    np.testing.assert_array_equal(one, other)


def test_a_narrow_region_is_painted_even_where_the_wide_one_is_not():
    assert paint_regions(probabilities((), (), {3}), REGIONS).ravel()[3] == 4


def test_exactly_half_is_background():
    region = {"lesion": Region(labels=(1,), paint=1)}
    half = np.array([0.5, 0.50001], np.float32).reshape(1, 2, 1, 1)
    assert paint_regions(half, region).ravel().tolist() == [0, 1]


def test_the_likeliest_class_gives_its_value():
    values = np.array([[0.1, 0.6, 0.2], [0.5, 0.3, 0.2], [0.4, 0.1, 0.6]], np.float32)
    labels = paint_classes(values.reshape(3, 3, 1, 1), [3, 7])
    assert labels.dtype == np.int16
    assert labels.ravel().tolist() == [3, 0, 7]


def test_where_nothing_was_predicted_there_is_background():
    assert not paint_classes(np.zeros((3, 2, 2, 2), np.float32), [1, 2]).any()


def test_parts_below_a_size_are_dropped_and_what_is_around_them_shows():
    channels = np.zeros((3, 9, 3, 3), np.float32)
    channels[1] = 0.9  # WT everywhere
    channels[2, 1, 1, 1] = channels[2, 4:7, 1, 1] = 0.9  # ET: one voxel, and three in a row
    labels = paint_regions(channels, REGIONS, {"ET": 2})
    assert labels[1, 1, 1] == REGIONS["WT"].paint
    assert (labels[4:7, 1, 1] == REGIONS["ET"].paint).all()


def test_parts_that_touch_at_a_corner_are_one():
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 3] = True
    assert without_small(mask, 2).sum() == 2
    assert without_small(mask, 0) is mask
