"""From probabilities to one label map with the data set's own values.

Channels are taken one after the other and each is looked at once, so they may be made on the way
(`Sequence.__getitem__`) and need not be in memory together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainsegfounder.settings import Region

THRESHOLD = 0.5

Channels = Sequence[NDArray[np.float32]] | NDArray[np.float32]


def paint_regions(
    probabilities: Channels,
    regions: Mapping[str, Region],
    smallest_vox: Mapping[str, float] | None = None,
) -> NDArray[Any]:
    """Write each region's value where it is more likely than not; smaller regions paint last.

    Regions of more labels contain those of fewer (WT, then TC, then ET), so the order of
    painting is by number of labels, whatever the order of the channels.

    Args:
        probabilities: A channel (I, J, K) for each region, in their order.
        regions: Label values and the value to write.
        smallest_vox: For some regions the number of voxels below which a part is dropped.

    Returns:
        Labels as int16, shape (I, J, K).
    """
    if len(probabilities) != len(regions):
        raise ValueError(f"{len(probabilities)} channels for {len(regions)} regions")
    labels: NDArray[Any] | None = None
    places = sorted(enumerate(regions.items()), key=lambda pair: -len(pair[1][1].labels))
    for number, (name, region) in places:
        mask = probabilities[number] > THRESHOLD
        labels = np.zeros(mask.shape, dtype=np.int16) if labels is None else labels
        labels[without_small(mask, (smallest_vox or {}).get(name, 0))] = region.paint
    if labels is None:
        raise ValueError("no region; expected at least one")
    return labels


def paint_classes(probabilities: Channels, values: Sequence[int]) -> NDArray[Any]:
    """Write the value of the likeliest class; 0 where the background is, or nothing was predicted.

    Args:
        probabilities: A channel (I, J, K) for each class, background first; of equal ones the
            first wins.
        values: Label value of each class after the background.
    """
    best = np.array(probabilities[0])
    labels = np.zeros(best.shape, dtype=np.int16)
    for number, value in enumerate(values, start=1):
        channel = probabilities[number]
        labels[channel > best] = value
        np.maximum(best, channel, out=best)
    return labels


def without_small(mask: NDArray[np.bool_], smallest_vox: float) -> NDArray[np.bool_]:
    """A mask without its parts (26-connected) of fewer voxels than that."""
    if smallest_vox <= 1 or not mask.any():
        return mask
    parts, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    large = np.bincount(parts.ravel()) >= smallest_vox
    large[0] = False
    kept: NDArray[np.bool_] = large[parts]
    return kept
