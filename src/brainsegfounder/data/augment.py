"""Random changes of a training patch; the mask follows every spatial one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.settings import AugmentSettings

NOISE_CHANCE = 0.2


def augment(
    image: NDArray[np.float32],
    labels: NDArray[Any] | None,
    settings: AugmentSettings,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[Any] | None]:
    """Flip, then change the intensities inside the brain; the background stays 0.

    Args:
        image: Standardised intensities, shape (C, I, J, K).
        labels: Label values, shape (1, I, J, K), or None.
        settings: Chances and strengths.
        rng: The only source of randomness.

    Returns:
        New arrays of the same shapes.
    """
    axes = tuple(axis for axis in (1, 2, 3) if rng.random() < settings.flip)
    image = np.flip(image, axes).copy()
    labels = None if labels is None else np.flip(labels, axes).copy()
    num_contrasts = (len(image), 1, 1, 1)
    brain = image != 0
    image *= 1 + rng.uniform(-1, 1, num_contrasts).astype(np.float32) * settings.scale_intensity
    image += rng.uniform(-1, 1, num_contrasts).astype(np.float32) * settings.shift_intensity
    if settings.noise and rng.random() < NOISE_CHANCE:
        image += rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(0, settings.noise)
    image *= brain
    return image, labels
