"""Surfaces of masks and the distances between them.

A mask's surface is either its surface *voxels*, each counting the same, or its surface *elements*:
the pieces that marching cubes puts into cells of 2x2x2 voxels, each weighing its area. Elements do
not depend on how an oblique or anisotropic grid cuts a surface into voxels, and are what
google-deepmind/surface-distance measures with; voxels are what MONAI's and MedPy's HD95 uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from brainsegfounder.evaluation.surface_areas import WEIGHTS, areas_mm2

Bool = NDArray[np.bool_]
Points = NDArray[np.int64]
Floats = NDArray[np.float64]
Spacing = Sequence[float] | NDArray[np.float64]

# One point in so many voxels of the box around all of them: above this a distance transform, whose
# cost goes by the box, is faster than a search tree, whose cost goes by the points.
DENSE = 1 / 12


class Surface:
    """Points of a surface, and what each weighs.

    Attributes:
        points_vox: Places in voxels, shape (N, 3). Of elements, the upper corner of their cell.
        weights: Area in mm² of each element, or 1 of each voxel; shape (N,).
        spacing_mm: Distance between voxel centres along I, J, K.
    """

    def __init__(self, points_vox: Points, weights: Floats, spacing_mm: Spacing) -> None:
        self.points_vox = points_vox
        self.weights = weights
        self.spacing_mm = np.asarray(spacing_mm, dtype=np.float64)

    def __len__(self) -> int:
        return len(self.points_vox)

    @cached_property
    def tree(self) -> KDTree:
        """To find the point nearest to a place in mm."""
        return KDTree(self.points_vox * self.spacing_mm, leafsize=32)

    def part(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Surface:
        """Some of its points."""
        return Surface(self.points_vox[chosen], self.weights[chosen], self.spacing_mm)


@dataclass(frozen=True, slots=True)
class Distances:
    """From every point of one surface to the nearest of another.

    Attributes:
        mm: Distances, shape (N,).
        weights: Weight of each point the distance starts from, shape (N,).
        nearest: Number of the nearest point of the other surface, shape (N,).
    """

    mm: Floats
    weights: Floats
    nearest: NDArray[np.int64]

    @property
    def mean_mm(self) -> float:
        """Mean distance, by weight."""
        return float((self.mm * self.weights).sum() / self.weights.sum())

    def percentile_mm(self, percent: float) -> float:
        """The smallest distance within which so much of the weight lies."""
        order = np.lexsort((self.weights, self.mm))
        weights = self.weights[order]
        place = np.searchsorted(np.cumsum(weights) / weights.sum(), percent / 100)
        return float(self.mm[order[min(int(place), len(order) - 1)]])

    def weight_within(self, tolerance_mm: float) -> float:
        """Weight of the points that are no farther away."""
        return float(self.weights[self.mm <= tolerance_mm].sum())


@dataclass(frozen=True, slots=True)
class SurfacePair:
    """Two surfaces that are not empty, and the distances between them both ways."""

    predicted: Surface
    reference: Surface
    there: Distances
    back: Distances

    @property
    def hd95_mm(self) -> float:
        """The larger of the two 95th percentiles, by weight."""
        return max(self.there.percentile_mm(95), self.back.percentile_mm(95))

    @property
    def mean_distance_mm(self) -> float:
        """The mean of the two directed mean distances."""
        return (self.there.mean_mm + self.back.mean_mm) / 2

    def dice(self, tolerance_mm: float) -> float:
        """NSD: the share of both surfaces that lies within a tolerance of the other one."""
        close = self.there.weight_within(tolerance_mm) + self.back.weight_within(tolerance_mm)
        return float(close / (self.predicted.weights.sum() + self.reference.weights.sum()))


def surface_pair(predicted: Surface, reference: Surface) -> SurfacePair:
    """Measure between two surfaces; neither may be empty."""
    there, back = distances(predicted, reference), distances(reference, predicted)
    return SurfacePair(predicted, reference, there, back)


def surface_voxels(mask: Bool, spacing_mm: Sequence[float]) -> Surface:
    """The voxels of a mask that are not in its erosion by face neighbours.

    Args:
        mask: Shape (I, J, K); beyond its border there is background.
        spacing_mm: Distance between voxel centres.
    """
    points = np.argwhere(mask & ~ndimage.binary_erosion(mask))
    return Surface(points, np.ones(len(points)), spacing_mm)


def surface_elements(mask: Bool, spacing_mm: Sequence[float]) -> Surface:
    """The pieces of surface in cells of 2x2x2 voxels, with their areas.

    Args:
        mask: Shape (I, J, K); beyond its border there is background.
        spacing_mm: Distance between voxel centres.
    """
    i, j, k = mask.shape
    codes = np.zeros((i + 1, j + 1, k + 1), dtype=np.uint8)
    voxels = mask.view(np.uint8)
    for (a, b, c), weight in np.ndenumerate(WEIGHTS):
        # A voxel is the upper neighbour of the cell of its own number, and the lower of the next.
        codes[1 - a : 1 - a + i, 1 - b : 1 - b + j, 1 - c : 1 - c + k] += weight * voxels
    # Code 255, a full cell, wraps to 0 and code 0 becomes 1: neither has any surface.
    points = np.argwhere((codes + np.uint8(1)) > 1)
    i_mm, j_mm, k_mm = (float(mm) for mm in spacing_mm)
    areas = areas_mm2((i_mm, j_mm, k_mm))[codes[tuple(points.T)]]
    return Surface(points, areas, spacing_mm)


def cell_labels(surface: Surface, labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """The label of each surface element: the largest of the 2x2x2 voxels of its cell.

    All voxels of a mask that share a cell touch, so where labels number the mask's 26-connected
    components there is only one in a cell.

    Args:
        surface: Made by `surface_elements` of the mask that was labelled.
        labels: Shape (I, J, K), 0 outside the mask.
    """
    found = np.zeros(len(surface), dtype=np.int32)
    last = np.array(labels.shape) - 1
    for corner in np.ndindex(2, 2, 2):
        # At the border the voxel beyond it gives way to its neighbour, which is of the same cell.
        places = np.clip(surface.points_vox - corner, 0, last)
        np.maximum(found, labels[tuple(places.T)], out=found)
    return found


def distances(surface: Surface, other: Surface) -> Distances:
    """From every point of a surface to the nearest of another, which must not be empty."""
    both = np.concatenate([surface.points_vox, other.points_vox])
    start = both.min(axis=0, initial=0) if not len(both) else both.min(axis=0)
    box = both.max(axis=0) + 1 - start if len(both) else start
    if len(both) > DENSE * float(np.prod(box)):
        nearest = _nearest_by_transform(surface, other, start, box)
    else:
        nearest = other.tree.query(surface.points_vox * surface.spacing_mm)[1]
    # From whole voxels, in one fixed order: then equal distances are equal to the last bit.
    apart = (surface.points_vox - other.points_vox[nearest]) * surface.spacing_mm
    apart *= apart
    return Distances(np.sqrt(apart[:, 0] + apart[:, 1] + apart[:, 2]), surface.weights, nearest)


def _nearest_by_transform(
    surface: Surface, other: Surface, start: Points, box: Points
) -> NDArray[np.int64]:
    background = np.ones(tuple(box), dtype=bool)
    numbers = np.zeros(tuple(box), dtype=np.int64)
    places = tuple((other.points_vox - start).T)
    background[places] = False
    numbers[places] = np.arange(len(other))
    feature = ndimage.distance_transform_edt(
        background, sampling=surface.spacing_mm, return_distances=False, return_indices=True
    )
    asked = tuple((surface.points_vox - start).T)
    nearest: NDArray[np.int64] = numbers[tuple(axis[asked] for axis in feature)]
    return nearest
