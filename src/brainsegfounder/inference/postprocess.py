"""From probabilities to one label map with the data set's own values.

Channels are taken one after the other and each is looked at once, so they may be made on the way
(`Sequence.__getitem__`) and need not be in memory together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.settings import Region

THRESHOLD = 0.5

Channels = Sequence[NDArray[np.float32]] | NDArray[np.float32]


def paint_regions(probabilities: Channels, regions: Mapping[str, Region]) -> NDArray[Any]:
    """Write each region's value where it is more likely than not; smaller regions paint last.

    Regions of more labels contain those of fewer (WT, then TC, then ET), so the order of
    painting is by number of labels, whatever the order of the channels.

    Args:
        probabilities: A channel (I, J, K) for each region, in their order.
        regions: Label values and the value to write.

    Returns:
        Labels as int16, shape (I, J, K).
    """
    if len(probabilities) != len(regions):
        raise ValueError(f"{len(probabilities)} channels for {len(regions)} regions")
    labels: NDArray[Any] | None = None
    places = sorted(enumerate(regions.values()), key=lambda pair: -len(pair[1].labels))
    for number, region in places:
        channel = probabilities[number]
        labels = np.zeros(channel.shape, dtype=np.int16) if labels is None else labels
        labels[channel > THRESHOLD] = region.paint
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
