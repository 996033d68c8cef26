"""Two scans of what may be one brain, slice under slice, for an eye to judge."""

from __future__ import annotations

import base64
import io

import numpy as np
from matplotlib.image import imsave
from numpy.typing import NDArray

from brainsegfounder.volumes.volume import Volume

CLIP_PERCENTILES = (1.0, 99.5)
GAP_VOX = 4


def pair_picture(one: Volume, other: Volume) -> str:
    """A PNG as a data URI: coronal, sagittal and axial middle slices, the first scan above.

    Args:
        one: One contrast, shape (1, N, N, N), axes towards right, anterior, superior.
        other: The same on the same grid.

    Returns:
        Grey picture; the patient's right is on the left.
    """
    gap = np.zeros((GAP_VOX, 3 * one.shape_vox[0] + 2 * GAP_VOX), np.float32)
    rows = np.concatenate([_row(one), gap, _row(other)])
    content = io.BytesIO()
    imsave(content, np.repeat(rows[..., None], 3, axis=2), format="png")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def _row(volume: Volume) -> NDArray[np.float32]:
    voxels = _grey(volume.voxels[0].astype(np.float32))
    middle = tuple(n // 2 for n in voxels.shape)
    slices = (
        voxels[::-1, middle[1], ::-1].T,
        voxels[middle[0], ::-1, ::-1].T,
        voxels[::-1, ::-1, middle[2]].T,
    )
    gap = np.zeros((voxels.shape[0], GAP_VOX), np.float32)
    return np.concatenate([slices[0], gap, slices[1], gap, slices[2]], axis=1)


def _grey(voxels: NDArray[np.float32]) -> NDArray[np.float32]:
    inside = voxels[voxels != 0]
    low, high = np.percentile(inside, CLIP_PERCENTILES) if inside.size else (0.0, 1.0)
    grey = np.clip((voxels - low) / max(float(high - low), 1e-6), 0, 1)
    return np.where(voxels == 0, 0, grey).astype(np.float32)
