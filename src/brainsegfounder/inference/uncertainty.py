"""How undecided each voxel is, from its probabilities."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

SMALLEST = 1e-7


def entropy(
    probabilities: NDArray[np.float32], target: Literal["regions", "classes"]
) -> NDArray[np.float32]:
    """Entropy of each voxel, 0 where it is decided and 1 where nothing speaks for any answer.

    Args:
        probabilities: Shape (R, I, J, K).
        target: For `regions` it is that of the least decided region, in bits; for `classes` that
            of all classes together, as a share of the most there can be.

    Returns:
        Shape (I, J, K).
    """
    if target == "classes":
        total = sum(_surprise(channel) for channel in probabilities)
        # Where nothing was predicted all channels are 0, and so is the sum.
        return np.asarray(total / np.log2(len(probabilities)), dtype=np.float32)
    most = np.zeros(probabilities.shape[1:], dtype=np.float32)
    for channel in probabilities:
        np.maximum(most, _surprise(channel) + _surprise(1 - channel), out=most)
    return most


def _surprise(values: NDArray[np.float32]) -> NDArray[np.float32]:
    clipped = np.clip(values, SMALLEST, 1)
    found: NDArray[np.float32] = -values * np.log2(clipped)
    return found
