"""From probabilities to one label map with the data set's own values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.settings import Region

THRESHOLD = 0.5


def paint_regions(
    probabilities: NDArray[np.float32], regions: Mapping[str, Region]
) -> NDArray[Any]:
    """Write each region's value where it is more likely than not; smaller regions paint last.

    Regions of more labels contain those of fewer (WT, then TC, then ET), so the order of
    painting is by number of labels, whatever the order of the channels.

    Args:
        probabilities: Shape (R, I, J, K), channels in the order of `regions`.
        regions: Label values and the value to write.

    Returns:
        Labels as int16, shape (I, J, K).
    """
    labels = np.zeros(probabilities.shape[1:], dtype=np.int16)
    channels = list(zip(regions.values(), probabilities, strict=True))
    for region, channel in sorted(channels, key=lambda pair: -len(pair[0].labels)):
        labels[channel > THRESHOLD] = region.paint
    return labels


def paint_classes(probabilities: NDArray[np.float32], values: Sequence[int]) -> NDArray[Any]:
    """Write the value of the likeliest class; 0 where the background is, or nothing was predicted.

    Args:
        probabilities: Shape (1 + len(values), I, J, K), background first.
        values: Label value of each class after the background.
    """
    lookup = np.asarray([0, *values], dtype=np.int16)
    labels: NDArray[Any] = lookup[probabilities.argmax(axis=0)]
    return labels
