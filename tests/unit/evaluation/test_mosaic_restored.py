import io

import numpy as np
import pytest
from PIL import Image

from brainsegfounder.evaluation.mosaic_restored import RestoredCrop, restored_pictures


def crop(**changes):
    """A ball in the middle, brighter on the patient's right and in front, a block of it hidden."""
    right, front, top = np.meshgrid(*[np.linspace(-1, 1, 16)] * 3, indexing="ij")
    inside = right**2 + front**2 + top**2 < 0.8
    whole = np.where(inside, 0.1 + right + 0.5 * front, 0).astype(np.float32)
    hidden = np.zeros(whole.shape, bool)
    hidden[4:8, 4:8, 4:10] = True
    seen = np.where(hidden, 0, whole)
    parts = {"whole": whole, "seen": seen, "restored": whole, "hidden": hidden, **changes}
    return RestoredCrop(**parts)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_the_patients_right_is_on_the_left_and_the_front_on_top():
    drawn = pixels(restored_pictures(crop())["input"])[..., 0]
    assert drawn.shape == (16, 16)
    assert drawn[8, 2:5].mean() > drawn[8, -5:-2].mean() + 50
    assert drawn[2:5, 8].mean() > drawn[-5:-2, 8].mean() + 20


def test_what_is_hidden_is_blue_and_only_that():
    masked = pixels(restored_pictures(crop())["masked"])
    is_blue = masked[..., 2] > masked[..., 0] + 40
    assert is_blue.sum() == 16
    assert is_blue[8:12, 8:12].all()


def test_a_perfect_restoration_has_a_black_error_and_a_wrong_one_is_bright_even_outside():
    assert pixels(restored_pictures(crop())["error"]).max() < 10
    wrong = crop(restored=crop().whole + 5)
    pictures = restored_pictures(wrong)
    assert pixels(pictures["error"]).min(axis=(0, 1)).max() > 200
    assert pixels(pictures["restored"])[0, 0].tolist() == [0, 0, 0]  # outside the brain


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_that_says_no_numbers_can_be_drawn(value):
    pictures = restored_pictures(crop(restored=np.full((16, 16, 16), value, np.float32)))
    assert pixels(pictures["error"])[8, 8].sum() > 500


def test_the_slice_shows_both_what_is_hidden_and_what_is_not():
    hidden = np.zeros((16, 16, 16), bool)
    hidden[:, :, 9:] = True  # whole slices, as large blocks do
    hidden[4:12, 4:12, 6] = True
    whole = crop().whole
    masked = pixels(restored_pictures(crop(hidden=hidden, seen=whole * ~hidden))["masked"])
    is_blue = masked[..., 2] > masked[..., 0] + 40
    assert is_blue.sum() == 64


def test_an_empty_crop_can_be_drawn():
    empty = np.zeros((8, 8, 8), np.float32)
    pictures = restored_pictures(RestoredCrop(empty, empty, empty, empty > 0))
    assert pixels(pictures["input"]).max() == 0
