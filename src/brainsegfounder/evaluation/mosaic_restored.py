"""What a network restores, as small pictures: one axial slice of a crop, one PNG each.

`input` is the crop, `masked` what the network sees of it, `restored` what it says, `error` how far
that is off. Blue is what it does not see at all. Outside the brain is black, save in `error`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.image import imsave
from numpy.typing import NDArray

GIVEN = ("input", "masked")
MADE = ("restored", "error")
HIDDEN_BLUE = (0.16, 0.33, 0.55)
# What is off by this much, in standard deviations of the brain, is brightest.
BRIGHTEST_ERROR_SD = 2.0


@dataclass(frozen=True, slots=True)
class RestoredCrop:
    """One contrast of a crop, all of shape (I, J, K), axes towards right, anterior, superior.

    Attributes:
        whole: What had to be restored, in standard deviations of the brain; 0 outside it.
        seen: What the network saw.
        restored: What it said.
        hidden: Where it did not see, boolean.
    """

    whole: NDArray[np.float32]
    seen: NDArray[np.float32]
    restored: NDArray[np.float32]
    hidden: NDArray[np.bool_]


def restored_pictures(crop: RestoredCrop) -> dict[str, bytes]:
    """PNG files by name: those of `GIVEN`, then those of `MADE`.

    The slice is the one of the middle half that has most of both hidden and visible brain. The
    patient's right is on the left, as long as the task has not turned the crop.
    """
    whole, seen, restored, hidden = (
        _drawn(part, _best_slice(crop))
        for part in (crop.whole, crop.seen, crop.restored, crop.hidden)
    )
    brain = whole != 0
    window = _window(crop.whole)
    masked = _grey(np.where(brain | hidden, seen, -np.inf), window)
    masked[hidden & (seen == 0)] = HIDDEN_BLUE
    error = np.abs(restored - whole) / BRIGHTEST_ERROR_SD
    error = np.clip(np.nan_to_num(error, nan=1.0), 0.0, 1.0)
    return {
        "input": _png(_grey(np.where(brain, whole, -np.inf), window)),
        "masked": _png(masked),
        "restored": _png(_grey(np.where(brain, restored, -np.inf), window)),
        "error": _png(mpl.colormaps["inferno"](error)[..., :3]),
    }


def _best_slice(crop: RestoredCrop) -> int:
    depth = crop.whole.shape[2]
    middle = range(depth // 4, depth - depth // 4)
    brain = crop.whole != 0
    hidden, visible = ((brain & there).sum(axis=(0, 1)) for there in (crop.hidden, ~crop.hidden))
    both = np.minimum(hidden, visible)
    return max(middle, key=lambda k: (int(both[k]), -abs(k - depth // 2)))


def _drawn(part: NDArray[Any], k: int) -> NDArray[Any]:
    """Rows from anterior to posterior, columns from the patient's right to left."""
    return part[::-1, ::-1, k].T


def _window(voxels: NDArray[np.float32]) -> tuple[float, float]:
    inside = voxels[voxels != 0]
    if not inside.size:
        return 0.0, 1.0
    low, high = (float(x) for x in np.percentile(inside, [0.5, 99.5]))
    return low, max(high, low + 1e-6)


def _grey(values: NDArray[Any], window: tuple[float, float]) -> NDArray[np.float64]:
    low, high = window
    shade = np.clip(np.nan_to_num((values - low) / (high - low), nan=0.0), 0.0, 1.0)
    return np.repeat(shade[..., None], 3, axis=2)


def _png(rgb: NDArray[np.float64]) -> bytes:
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(np.clip(rgb, 0, 1)), format="png")
    return buffer.getvalue()
