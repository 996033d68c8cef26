"""Moving voxels between grids, with the way back.

Axes and spacings change only here. Every function keeps voxels and affine together, so that any
result can be carried to any other grid by `resample_to`, and in particular back to the grid of
the file it came from.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray
from scipy import ndimage

from brainsegfounder.volumes.volume import Grid, Triple, Volume, crop, shifted

# Two grids whose corners agree to this fraction of a voxel are one grid.
SAME_GRID_VOX = 0.5
EXACT_VOX = 1e-4


def to_ras(volume: Volume) -> Volume:
    """Turn and flip the voxel axes so that I, J, K run to the right, anterior, superior.

    Only whole axes move: no voxel is interpolated, and an oblique volume stays oblique.

    Returns:
        The same voxels at the same millimetres, shape (C, I', J', K').
    """
    orientation = io_orientation(volume.affine)
    turned = apply_orientation(np.moveaxis(volume.voxels, 0, -1), orientation)
    affine = volume.affine @ inv_ornt_aff(orientation, volume.shape_vox)
    return replace(volume, voxels=np.moveaxis(turned, -1, 0), affine=affine)


def same_grid(one: Grid, other: Grid) -> bool:
    """Whether two grids have one shape and corners within half a voxel of each other."""
    return one.shape_vox == other.shape_vox and one.corner_shift_vox(other) <= SAME_GRID_VOX


def spaced_grid(grid: Grid, spacing_mm: tuple[float, float, float]) -> Grid:
    """The grid that covers the same field of view at another spacing.

    The outer faces of the first voxels coincide; the far side differs by under half a voxel.
    """
    ratio = np.asarray(spacing_mm) / np.asarray(grid.spacing_mm)
    shape = np.maximum(1, np.rint(np.asarray(grid.shape_vox) / ratio)).astype(int)
    affine = grid.affine.copy()
    affine[:3, :3] = grid.affine[:3, :3] * ratio
    affine[:3, 3] += grid.affine[:3, :3] @ ((ratio - 1) / 2)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def resample_to(volume: Volume, grid: Grid) -> Volume:
    """Carry intensities or probabilities to another grid by trilinear interpolation.

    Where the new grid is coarser, the volume is smoothed first (Gaussian, sigma of half the
    excess of the spacing ratio), so fine detail does not alias. Grids that differ by whole axes
    and whole voxels only are copied exactly. Voxels reach half their size beyond their centre:
    there the outermost value holds, and further out the result is 0.

    Args:
        volume: Voxels of shape (C, I, J, K), any float type.
        grid: Where the result lives.

    Returns:
        float32 voxels of shape (C, *grid.shape_vox) with the grid's affine.
    """
    matrix, offset = _index_map(volume.grid, grid)
    sigma_vox = np.maximum(0.0, (np.linalg.norm(matrix, axis=1) - 1.0) / 2.0)
    sigma_vox[sigma_vox < 0.05] = 0.0
    order = 0 if _is_exact(matrix, offset) else 1
    channels = [
        _interpolate(_smooth(channel, sigma_vox), matrix, offset, grid.shape_vox, order)
        for channel in volume.voxels.astype(np.float32, copy=False)
    ]
    return Volume(np.stack(channels), grid.affine.copy(), volume.source)


def resample_within(volume: Volume, grid: Grid) -> Volume:
    """The same as `resample_to`, computed only where the volume reaches; 0 elsewhere.

    Much faster where the volume is a small part of the grid, such as a brain of a whole scan.
    """
    start, size = _reached(volume.grid, grid)
    part = resample_to(volume, Grid(size, shifted(grid.affine, start)))
    voxels = np.zeros((len(volume.voxels), *grid.shape_vox), dtype=np.float32)
    box = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
    voxels[(slice(None), *box)] = part.voxels
    return Volume(voxels, grid.affine.copy(), volume.source)


def resized_grid(grid: Grid, shape_vox: Triple) -> Grid:
    """The grid that covers exactly the same field of view with another number of voxels."""
    ratio = np.asarray(grid.shape_vox) / np.asarray(shape_vox)
    affine = grid.affine.copy()
    affine[:3, :3] = grid.affine[:3, :3] * ratio
    affine[:3, 3] += grid.affine[:3, :3] @ ((ratio - 1) / 2)
    return Grid(shape_vox, affine)


def resize_by_area(volume: Volume, shape_vox: Triple) -> Volume:
    """Carry intensities to the `resized_grid`: each voxel is the mean of all that it touches.

    A voxel that is touched in part counts in full, as in PyTorch's `interpolate(mode="area")` and
    thus in MONAI's `Resize`; nothing aliases. Where a side gets more voxels, they repeat.

    Args:
        volume: Voxels of shape (C, I, J, K).
        shape_vox: Voxels along I, J, K of the result.

    Returns:
        float32 voxels of shape (C, *shape_vox).
    """
    voxels = volume.voxels.astype(np.float32, copy=False)
    for axis, num_voxels in enumerate(shape_vox, start=1):
        shares = _area_shares(voxels.shape[axis], num_voxels)
        voxels = np.moveaxis(np.tensordot(shares, voxels, axes=(1, axis)), 0, axis)
    grid = resized_grid(volume.grid, shape_vox)
    return Volume(np.ascontiguousarray(voxels), grid.affine, volume.source)


def resample_labels_to(volume: Volume, grid: Grid) -> Volume:
    """Carry labels to another grid: each label's share of a voxel decides, the largest wins.

    Args:
        volume: Integer labels, shape (1, I, J, K).
        grid: Where the result lives.

    Returns:
        Labels of the same type, shape (1, *grid.shape_vox); no new values appear.
    """
    matrix, offset = _index_map(volume.grid, grid)
    if _is_exact(matrix, offset):
        exact = _interpolate(volume.voxels[0], matrix, offset, grid.shape_vox, order=0)
        return Volume(exact[None], grid.affine.copy(), volume.source)
    labels = np.zeros(grid.shape_vox, dtype=volume.voxels.dtype)
    best = np.full(grid.shape_vox, -np.inf, dtype=np.float32)
    for value in np.unique(volume.voxels):
        part, start_vox, shape_vox = _around(volume, value, grid)
        place = tuple(slice(a, a + n) for a, n in zip(start_vox, shape_vox, strict=True))
        share = resample_to(part, Grid(shape_vox, shifted(grid.affine, start_vox))).voxels[0]
        won = share > best[place]
        labels[place][won], best[place][won] = value, share[won]
    labels[best <= 0] = 0
    return Volume(labels[None], grid.affine.copy(), volume.source)


def _area_shares(num_before: int, num_after: int) -> NDArray[np.float32]:
    """What each voxel before contributes to each one after, shape (after, before)."""
    edges = np.arange(num_after + 1) * num_before
    first, last = edges[:-1] // num_after, -(-edges[1:] // num_after)
    places = np.arange(num_before)
    touches = (places >= first[:, None]) & (places < last[:, None])
    shares: NDArray[np.float32] = (touches / (last - first)[:, None]).astype(np.float32)
    return shares


def _around(volume: Volume, value: int, grid: Grid) -> tuple[Volume, Triple, Triple]:
    """A label as 0 and 1 in the box where it is, and the box of the grid where it can come to."""
    matrix, _ = _index_map(volume.grid, grid)
    # Smoothing reaches three sigma, half of what the spacing ratio exceeds 1 each; one more for
    # interpolation.
    margin = 1 + np.ceil(1.5 * np.maximum(0.0, np.linalg.norm(matrix, axis=1) - 1.0)).astype(int)
    mask = volume.voxels[0] == value
    start, size = foreground_box(mask, (int(margin[0]), int(margin[1]), int(margin[2])))
    part = crop(replace(volume, voxels=mask[None]), start, size)
    return part, *_reached(part.grid, grid)


def _reached(source: Grid, grid: Grid) -> tuple[Triple, Triple]:
    """Start and size of the part of a grid that a smaller one can reach, a voxel around it too."""
    matrix, offset = _index_map(source, grid)
    faces = [(-1, n) for n in source.shape_vox]
    corners = np.array(list(itertools.product(*faces)), dtype=float)
    reached = (corners - offset) @ np.linalg.inv(matrix).T
    first = np.clip(np.floor(reached.min(axis=0)), 0, np.array(grid.shape_vox) - 1).astype(int)
    last = np.clip(np.ceil(reached.max(axis=0)) + 1, first + 1, grid.shape_vox).astype(int)
    i, j, k = (int(n) for n in first)
    di, dj, dk = (int(n) for n in last - first)
    return (i, j, k), (di, dj, dk)


def foreground_box(mask: NDArray[np.bool_], margin_vox: Triple) -> tuple[Triple, Triple]:
    """The smallest box around a mask, widened by a margin and clipped at the border.

    Returns:
        Start and size along I, J, K; the whole volume where the mask is empty.
    """
    starts, sizes = [], []
    for axis, margin in enumerate(margin_vox):
        hits = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        first = max(0, int(hits[0]) - margin) if hits.size else 0
        last = min(mask.shape[axis], int(hits[-1]) + 1 + margin) if hits.size else mask.shape[axis]
        starts.append(first)
        sizes.append(last - first)
    return (starts[0], starts[1], starts[2]), (sizes[0], sizes[1], sizes[2])


def _index_map(source: Grid, target: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The matrix and offset that take a voxel index of the target to one of the source."""
    full = np.linalg.inv(source.affine) @ target.affine
    return full[:3, :3], full[:3, 3]


def _is_exact(matrix: NDArray[np.float64], offset: NDArray[np.float64]) -> bool:
    whole = np.abs(matrix - np.rint(matrix)).max() < EXACT_VOX / 100
    permutes = np.allclose(np.abs(np.rint(matrix)).sum(axis=0), 1)
    return bool(whole and permutes and np.abs(offset - np.rint(offset)).max() < EXACT_VOX)


def _smooth(channel: NDArray[np.float32], sigma_vox: NDArray[np.float64]) -> NDArray[np.float32]:
    if not sigma_vox.any():
        return channel
    smooth: NDArray[np.float32] = ndimage.gaussian_filter(
        channel, sigma_vox, mode="nearest", truncate=3.0
    )
    return smooth


def _interpolate(
    channel: NDArray[np.generic],
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    shape_vox: Triple,
    order: int,
) -> NDArray[np.generic]:
    if order == 0:
        matrix, offset = np.rint(matrix), np.rint(offset)
    # A diagonal is given as a vector: scipy then interpolates axis by axis, several times faster.
    diagonal = np.diag(matrix)
    is_diagonal = np.allclose(matrix, np.diag(diagonal), atol=1e-9)
    # Half a voxel beyond the last centre still belongs to the image, hence "nearest" there.
    result = ndimage.affine_transform(
        channel,
        diagonal if is_diagonal else matrix,
        offset=offset,
        output_shape=shape_vox,
        order=order,
        mode="nearest",
    )
    matrix = np.diag(diagonal) if is_diagonal else matrix
    for outside in _outside(matrix, offset, channel.shape, shape_vox):
        np.copyto(result, 0, where=outside)
    return np.asarray(result)


def _outside(
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    source_shape_vox: tuple[int, ...],
    shape_vox: Triple,
) -> Iterator[NDArray[np.bool_]]:
    """Along each source axis, which target voxels lie beyond its faces; broadcasts to the target.

    An axis that maps to one axis costs a line of voxels, not a volume.
    """
    indices = np.ogrid[tuple(slice(n) for n in shape_vox)]
    for row, start, extent in zip(matrix, offset, source_shape_vox, strict=True):
        place = start + sum(step * axis for step, axis in zip(row, indices, strict=True) if step)
        yield (place < -0.5 - EXACT_VOX) | (place > extent - 0.5 + EXACT_VOX)
