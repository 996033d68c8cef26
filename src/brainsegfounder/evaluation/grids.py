"""A prediction on its reference's grid: whole axes are turned, nothing is interpolated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from brainsegfounder.errors import LabelError
from brainsegfounder.volumes.geometry import same_grid
from brainsegfounder.volumes.volume import Affine, Volume


def on_grid_of(reference: Volume, volume: Volume) -> Volume:
    """The volume on the reference's grid, moving whole voxels only.

    Args:
        reference: Where the result must be.
        volume: The same physical grid, perhaps in another axis order or with axes flipped.

    Returns:
        The volume itself where the grids agree within half a voxel, otherwise a turned copy with
        the reference's affine.

    Raises:
        LabelError: The two are different grids; the message names both.
    """
    if same_grid(reference.grid, volume.grid):
        return volume
    turned = _turned(volume, np.linalg.inv(reference.affine) @ volume.affine)
    if turned is None or not same_grid(reference.grid, turned.grid):
        raise LabelError(_grid_message(reference, volume))
    return replace(turned, affine=reference.affine)


def _turned(volume: Volume, to_reference: Affine) -> Volume | None:
    """Permute and flip the voxel axes to run along the reference's; None where none fits.

    Seen from the reference's axes, so two oblique grids are compared with each other and never
    with the scanner's.
    """
    order = np.abs(to_reference[:3, :3]).argmax(axis=1)
    if len(set(order.tolist())) < 3:
        return None
    back = np.zeros((4, 4))
    back[3, 3] = 1.0
    voxels = volume.voxels.transpose(0, *(1 + order))
    for axis, old_axis in enumerate(order):
        flipped = to_reference[axis, old_axis] < 0
        back[old_axis, axis] = -1.0 if flipped else 1.0
        if flipped:
            back[old_axis, 3] = volume.shape_vox[old_axis] - 1
            voxels = np.flip(voxels, axis=axis + 1)
    return replace(volume, voxels=voxels, affine=volume.affine @ back)


def _grid_message(reference: Volume, volume: Volume) -> str:
    def described(one: Volume) -> str:
        rows = "; ".join(" ".join(f"{x:.4g}" for x in row) for row in one.affine[:3])
        return f"{one.shape_vox} voxels with affine [{rows}]"

    return (
        f"{volume.source}: {described(volume)}, but the reference {reference.source} has "
        f"{described(reference)}; expected one physical grid (within half a voxel, axes may be "
        "turned). Write the prediction on the grid of its input image, or resample it to the "
        "reference with nearest neighbour."
    )
