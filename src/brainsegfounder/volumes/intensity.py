"""Intensities of MRI have no unit: each contrast is standardised inside its own brain."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainsegfounder.errors import Problem, VolumeError

# A skull-stripped volume has a good part of its voxels at exactly zero; a raw one has hardly any.
STRIPPED_ZERO_FRACTION = 0.1
CLIP_PERCENTILES = (0.1, 99.9)
# A spike lies this many times the brain's own range beyond it; no tissue or vessel does.
SPIKE_RANGES = 10.0


def foreground(channels: NDArray[np.float32], source: str = "<memory>") -> NDArray[np.bool_]:
    """Where there is tissue, judged over all contrasts together.

    A volume whose background is exactly zero (skull-stripped) gives every voxel that is not
    zero in some contrast. Otherwise Otsu's threshold on the first contrast separates head from
    air; its largest component with holes filled is returned.

    Args:
        channels: Intensities, shape (C, I, J, K).
        source: The file, for messages.

    Returns:
        A mask of shape (I, J, K).

    Raises:
        VolumeError: Nothing but one value in the whole volume.
    """
    if channels.size == 0 or float(np.ptp(channels)) == 0.0:
        raise VolumeError(
            Problem(
                code="no_contrast",
                file=source,
                found="every voxel has the same value",
                expected="an image",
                advice="Check the conversion that wrote this file.",
            )
        )
    mask: NDArray[np.bool_] = (channels != 0).any(axis=0)
    if mask.mean() <= 1 - STRIPPED_ZERO_FRACTION:
        return mask
    return _largest_filled(channels[0] > _otsu(channels[0]))


def fingerprint(channel: NDArray[np.float32]) -> str:
    """The same for the same scan, however its file was renamed, compressed, padded or cropped.

    Args:
        channel: Intensities in RAS order, shape (I, J, K).

    Returns:
        The first 16 digits of the SHA-256 of the values that are not zero, in order.
    """
    return hashlib.sha256(channel[channel != 0].tobytes()).hexdigest()[:16]


def clip_spikes(
    channels: NDArray[np.float32], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], tuple[int, ...]]:
    """Cut spikes down to the brain's range, before interpolation spreads them.

    A spike lies more than ten times the range from the 0.1 to the 99.9 percentile of the brain
    beyond these percentiles. Scans without one, which is nearly all, come back as they are.

    Args:
        channels: Intensities, shape (C, I, J, K).
        mask: The brain, shape (I, J, K).

    Returns:
        The intensities, copied only where there was a spike, and the number of spikes in each
        contrast. Voxels of exactly 0 are background and never spikes.
    """
    result, counts = channels, []
    for number, channel in enumerate(channels):
        inside = channel[mask] if mask.any() else channel
        low, high = (float(value) for value in np.percentile(inside, CLIP_PERCENTILES))
        reach = SPIKE_RANGES * (high - low)
        spikes = ((channel > high + reach) | (channel < low - reach)) & (channel != 0)
        if spikes.any():
            result = channels.copy() if result is channels else result
            result[number][spikes] = np.clip(channel[spikes], low, high)
        counts.append(int(spikes.sum()))
    return result, tuple(counts)


def zscore_inside(
    channels: NDArray[np.float32], mask: NDArray[np.bool_], source: str = "<memory>"
) -> NDArray[np.float32]:
    """Mean 0 and standard deviation 1 inside the mask, exactly 0 outside, contrast by contrast.

    Values beyond the 0.1 and 99.9 percentiles inside the mask are clipped first, so that one
    spike does not set the scale. There is no fixed window: MRI has no absolute unit.

    Args:
        channels: Intensities, shape (C, I, J, K).
        mask: The brain, shape (I, J, K).
        source: The file, for messages.

    Raises:
        VolumeError: A contrast has one single value inside the mask.
    """
    result = np.zeros(channels.shape, dtype=np.float32)
    for out, channel in zip(result, channels, strict=True):
        inside = channel[mask].astype(np.float64)
        if inside.size:
            inside = np.clip(inside, *np.percentile(inside, CLIP_PERCENTILES))
        if inside.size == 0 or np.ptp(inside) == 0:
            raise VolumeError(
                Problem(
                    code="no_contrast",
                    file=source,
                    found="one contrast has a single value inside the brain",
                    expected="an image",
                    advice="Check the conversion that wrote this file.",
                )
            )
        out[mask] = (inside - inside.mean()) / max(float(inside.std()), 1e-12)
    return result


def _otsu(channel: NDArray[np.float32]) -> float:
    """The threshold that best separates two classes (Otsu 1979), on 256 bins."""
    low, high = np.percentile(channel.astype(np.float64), CLIP_PERCENTILES)
    if not low < high:
        return float(low)
    # float32 cannot tell bins apart where the range is narrow against the values.
    is_narrow = high - low < 1e-3 * max(abs(low), abs(high))
    values = channel.astype(np.float64) if is_narrow else channel
    counts, edges = np.histogram(values, bins=256, range=(float(low), float(high)))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = sums / below - (sums[-1] - sums) / above
    return float(centres[int(np.nanargmax(below * above * np.square(gap)))])


def _largest_filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    components, number = ndimage.label(mask)
    if number == 0:
        return mask
    largest = int(np.bincount(components.ravel())[1:].argmax()) + 1
    return np.asarray(ndimage.binary_fill_holes(components == largest))
