"""Features of an encoder as numbers: how many directions they use.

Shape letters: N images, C channels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float64]


def effective_rank(features: Features) -> float:
    """How many directions a set of features spreads over; near 1, or 0, it has collapsed.

    The exponential of the entropy of the singular values' shares (Roy and Vetterli 2007; as
    RankMe, Garrido et al. 2023), after the mean over all images is taken away: what all images have
    in common tells none of them apart.

    Args:
        features: One row per image, shape (N, C).

    Returns:
        From 1 to `largest_rank`, or 0 where all images have the same features but for rounding.
    """
    features = np.asarray(features, dtype=np.float64)
    if len(features) < 2 or not np.isfinite(features).all():
        return 0.0
    values = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)
    # Features come from float32, whose rounding is no direction.
    rounding = float(np.finfo(np.float32).eps) * max(features.shape) ** 0.5
    values = values[values > rounding * np.linalg.norm(features)]
    if not len(values):
        return 0.0
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def largest_rank(num_images: int, num_channels: int) -> int:
    """The highest effective rank there can be: one direction goes with the mean."""
    return max(0, min(num_images - 1, num_channels))
