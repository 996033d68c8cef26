import base64
import io

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from brainsegfounder.errors import LabelError
from brainsegfounder.evaluation import mosaic_map
from brainsegfounder.evaluation.mosaic_map import MAP_COLOURS, ScanMap, map_mosaic
from brainsegfounder.evaluation.thumbnail import thumbnail
from brainsegfounder.volumes.volume import Volume

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
REGIONS = {"lesion": (1,)}


def case():
    """A grey block with a lesion low in the brain and an unsure place high in it."""
    image, labels, values = np.zeros((3, 40, 44, 36), np.float32)
    image[4:-4, 4:-4, 4:-4] = 80 + 10 * np.sin(np.arange(28))
    labels[10:16, 10:16, 8:12] = 1
    values[24:30, 26:34, 24:28] = 0.9
    volume = [Volume(one[None], AFFINE) for one in (image, values)]
    return volume[0], Volume(labels[None].astype(np.int16), AFFINE), ScanMap(volume[1], "Entropy")


def pixels_of(uri):
    kind, content = uri.split(",", 1)
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")).astype(int)


def coloured(pixels):
    """Pixels that are clearly not grey, left of the colour bar."""
    left = pixels[:, : int(pixels.shape[1] * 0.87)]
    return np.ptp(left, axis=2) > 60


def test_the_lower_slices_show_where_the_map_is_largest():
    image, _, shown = case()
    marked = coloured(pixels_of(map_mosaic(image, None, {}, shown)))
    upper, lower = np.array_split(marked, 2)
    assert lower.sum() > 1000
    assert upper.sum() < lower.sum() / 5


def test_the_upper_slices_go_through_the_labels(monkeypatch):
    image, labels, shown = case()
    drawn = []
    monkeypatch.setattr(
        mosaic_map, "draw_slice", lambda _axes, _case, plane, index, _view: drawn.append(index)
    )
    map_mosaic(image, labels, REGIONS, shown)
    monkeypatch.undo()
    margin = 2  # what the cut leaves out, at two millimetres a voxel
    upper, lower = drawn[::2], drawn[1::2]
    assert all(low <= index + margin < high for index, (low, high) in zip(
        upper, ((8, 12), (10, 16), (10, 16)), strict=True))  # fmt: skip
    assert all(low <= index + margin < high for index, (low, high) in zip(
        lower, ((24, 28), (26, 34), (24, 30)), strict=True))  # fmt: skip


def test_a_map_without_any_value_leaves_the_scan_grey():
    image, _, shown = case()
    empty = ScanMap(Volume(shown.volume.voxels * 0, AFFINE), "Entropy")
    assert empty.top == 1.0
    assert coloured(pixels_of(map_mosaic(image, None, {}, empty))).sum() == 0


def test_the_scale_ends_where_the_map_says():
    image, _, shown = case()
    assert shown.top == pytest.approx(0.9)
    wide = ScanMap(shown.volume, "Entropy", largest=10.0)
    assert wide.top == 10.0
    assert coloured(pixels_of(map_mosaic(image, None, {}, wide))).sum() == 0


def test_a_map_on_another_grid_is_refused():
    image, labels, shown = case()
    other = ScanMap(Volume(shown.volume.voxels[:, 1:], AFFINE), "Entropy")
    with pytest.raises(LabelError):
        map_mosaic(image, labels, REGIONS, other)


def test_a_larger_value_is_always_a_lighter_colour():
    red, green, blue = colormaps[MAP_COLOURS](np.linspace(0, 1, 64))[:, :3].T
    lightness = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    assert (np.diff(lightness) > 0).all()


def test_a_thumbnail_is_a_small_square_with_the_labels_outlined():
    image, labels, _ = case()
    uri = thumbnail(image, labels, REGIONS)
    assert pixels_of(uri).shape == (180, 180, 3)
    assert len(uri) < 60_000
    assert (np.ptp(pixels_of(uri), axis=2) > 60).sum() > 40
    assert (np.ptp(pixels_of(thumbnail(image, None, {})), axis=2) > 60).sum() == 0
