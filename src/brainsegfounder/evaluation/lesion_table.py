"""Every lesion of a case: how large it is and where it lies.

A lesion is a connected component of a region, by any contact of voxels (26). Numbers run from the
largest to the smallest, in each region anew, so they are no names: a change of one voxel may
renumber them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from brainsegfounder.evaluation.lesions import find_lesions
from brainsegfounder.volumes.location import Atlas, Location, locate
from brainsegfounder.volumes.volume import Affine, Volume

COLUMNS = (
    "region", "lesion", "volume_ml", "diameter_mm", "num_voxels", "x_mm", "y_mm", "z_mm",
    "mni_x_mm", "mni_y_mm", "mni_z_mm", "location",
)  # fmt: skip
# Fewer points than this are measured one against one; a hull saves nothing.
FEW_POINTS = 60

Regions = Mapping[str, Sequence[int]]
Points = NDArray[np.float64]
Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Lesion:
    """One lesion.

    Attributes:
        region: The region it is a part of.
        number: Its place by size in that region, from 1.
        num_voxels: How many voxels it has.
        volume_ml: Its volume.
        diameter_mm: Largest distance between the centres of two of its voxels.
        centre_mm: Mean of its voxels, in the scan's RAS millimetres.
        location: Where that is in the brain, or None where the scan was not registered.
    """

    region: str
    number: int
    num_voxels: int
    volume_ml: float
    diameter_mm: float
    centre_mm: tuple[float, float, float]
    location: Location | None = None

    def row(self) -> dict[str, Cell]:
        """As a line of a table, its columns called `COLUMNS`."""
        place = self.location.centre_mni_mm if self.location else (None, None, None)
        values = (
            self.region, self.number, round(self.volume_ml, 4), round(self.diameter_mm, 2),
            self.num_voxels, *(round(mm, 2) for mm in self.centre_mm),
            *(None if mm is None else round(mm, 1) for mm in place),
            self.location.words if self.location else None,
        )  # fmt: skip
        return dict(zip(COLUMNS, values, strict=True))


@dataclass(frozen=True, slots=True)
class RegionSize:
    """One region of a case.

    Attributes:
        region: Its name.
        volume_ml: Its volume.
        num_lesions: Connected components it has.
    """

    region: str
    volume_ml: float
    num_lesions: int


def lesion_table(
    labels: Volume,
    regions: Regions,
    to_mni: Affine | None = None,
    atlas: Atlas | None = None,
) -> list[Lesion]:
    """All lesions of a label map, region by region, the largest first.

    Args:
        labels: Integers, shape (1, I, J, K).
        regions: Label values whose union each region is.
        to_mni: From the scan's millimetres to the template's, shape (4, 4), or None.
        atlas: To name regions of the brain, or None.
    """
    return [
        lesion
        for region, values in regions.items()
        for lesion in _lesions_of(region, _mask(labels, values), labels, to_mni, atlas)
    ]


def region_sizes(labels: Volume, regions: Regions, lesions: Sequence[Lesion]) -> list[RegionSize]:
    """Volume of each region, and how many lesions it has."""
    voxel_ml = labels.grid.voxel_volume_ml
    return [
        RegionSize(
            region,
            float(np.count_nonzero(_mask(labels, values))) * voxel_ml,
            sum(lesion.region == region for lesion in lesions),
        )
        for region, values in regions.items()
    ]


def largest_diameter_mm(points_mm: Points) -> float:
    """Largest distance between two of some points, shape (N, 3); 0 for a single one.

    The two farthest points are corners of the convex hull, of which there are few.
    """
    centred = points_mm - points_mm.mean(axis=0)
    if len(centred) <= FEW_POINTS:
        return float(pdist(centred).max(initial=0.0))
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ axes[sizes > 1e-6 * sizes[0]].T
    if flat.shape[1] == 1:  # voxels in a row
        return float(np.ptp(flat))
    return float(pdist(flat[ConvexHull(flat).vertices]).max())


def _lesions_of(
    region: str,
    mask: NDArray[np.bool_],
    labels: Volume,
    to_mni: Affine | None,
    atlas: Atlas | None,
) -> Iterator[Lesion]:
    found = find_lesions(mask, 26)
    boxes = ndimage.find_objects(found.labels)
    voxel_ml = labels.grid.voxel_volume_ml
    # A stable sort: equals stay in the order in which they were found.
    for number, index in enumerate(np.argsort(-found.sizes_vox, kind="stable"), start=1):
        box = boxes[index]
        places = np.argwhere(found.labels[box] == index + 1) + [axis.start for axis in box]
        points_mm = places @ labels.affine[:3, :3].T + labels.affine[:3, 3]
        x, y, z = points_mm.mean(axis=0)
        yield Lesion(
            region=region,
            number=number,
            num_voxels=len(places),
            volume_ml=len(places) * voxel_ml,
            diameter_mm=largest_diameter_mm(points_mm),
            centre_mm=(float(x), float(y), float(z)),
            location=None if to_mni is None else locate(points_mm, to_mni, atlas),
        )


def _mask(labels: Volume, values: Sequence[int]) -> NDArray[np.bool_]:
    return np.isin(labels.voxels[0], list(values))
