"""Lesion-wise Dice and HD95 of BraTS 2023: every lesion of the reference is scored by itself.

Three facts keep this fast without changing a number. Lesions are the parts of the reference in one
component of its dilation, so that component *is* the lesion's dilation, and one look at all voxels
says what touches what. Voxels that share a cell of 2x2x2 are in contact, so the surface of some
26-connected components is a part of the whole mask's surface. And the point of a whole surface
nearest to a place is also the nearest of every part that it belongs to, so only those distances
are measured again whose nearest point belongs to another lesion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainsegfounder.evaluation.conventions import BRATS_2023_PENALTY_MM
from brainsegfounder.evaluation.lesions import Lesions, Matches, find_lesions, touching
from brainsegfounder.evaluation.surfaces import (
    Distances,
    Surface,
    SurfacePair,
    cell_labels,
    distances,
)

Bool = NDArray[np.bool_]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LesionScore:
    """One lesion of the reference.

    Attributes:
        size_vox: Its voxels.
        dice: Of the predicted components that touch its dilation.
        hd95_mm: Of the same.
        found: Whether there is any.
    """

    size_vox: int
    dice: float
    hd95_mm: float
    found: bool


@dataclass(frozen=True, slots=True)
class LesionWise:
    """The lesions that count, and the false ones.

    Attributes:
        lesions: Reference lesions above the smallest volume.
        num_predicted: Components of the prediction.
        num_false: Of these, the ones that touch no lesion, not even one too small to count.
    """

    lesions: tuple[LesionScore, ...]
    num_predicted: int
    num_false: int

    @property
    def dice(self) -> float:
        """Mean over lesions and false ones; 1 where there is none."""
        number = len(self.lesions) + self.num_false
        return sum(one.dice for one in self.lesions) / number if number else 1.0

    @property
    def hd95_mm(self) -> float:
        """Mean over lesions and false ones, which cost 374 mm; 0 where there is none."""
        number = len(self.lesions) + self.num_false
        total_mm = sum(one.hd95_mm for one in self.lesions)
        return (total_mm + BRATS_2023_PENALTY_MM * self.num_false) / number if number else 0.0

    @property
    def matches(self) -> Matches:
        """The same as counts of lesions."""
        sizes_vox = np.array([one.size_vox for one in self.lesions], dtype=np.int64)
        found = np.array([one.found for one in self.lesions], dtype=bool)
        return Matches(self.num_predicted, sizes_vox, found, self.num_false)


def score_lesions(
    prediction: Bool,
    reference: Bool,
    surfaces: SurfacePair | None,
    *,
    dilation_vox: int,
    voxel_mm3: float,
    min_lesion_mm3: float,
) -> LesionWise:
    """Score every lesion of a reference.

    Args:
        prediction: Shape (I, J, K). Both masks may be cut out of a larger grid, as long as the box
            holds all of both.
        reference: The same shape.
        surfaces: Surface elements of both masks and the distances between; None where one is empty.
        dilation_vox: How many steps lesions are dilated.
        voxel_mm3: Volume of a voxel.
        min_lesion_mm3: Lesions of up to this volume are left out.
    """
    predicted = find_lesions(prediction, 26)
    expected, reach = _lesions_by_dilation(reference, dilation_vox)
    lesion_of_pair, component_of_pair, _ = touching(reach, predicted.labels)
    shared_vox = np.bincount(expected.labels[prediction & reference], minlength=len(expected) + 1)
    measured = None
    if surfaces is not None:
        measured = _Measured.of(surfaces, predicted, expected)
    lesions = []
    for lesion in np.flatnonzero(expected.sizes_vox * voxel_mm3 > min_lesion_mm3) + 1:
        first, last = np.searchsorted(lesion_of_pair, [lesion, lesion + 1])
        components = component_of_pair[first:last]
        size_vox = int(expected.sizes_vox[lesion - 1])
        if measured is None or not len(components):
            lesions.append(LesionScore(size_vox, 0.0, BRATS_2023_PENALTY_MM, found=False))
            continue
        total_vox = size_vox + int(predicted.sizes_vox[components - 1].sum())
        dice = float(2.0 * shared_vox[lesion] / total_vox)
        hd95_mm = measured.hd95_mm(int(lesion), components)
        lesions.append(LesionScore(size_vox, dice, hd95_mm, found=True))
    num_false = len(predicted) - len(np.unique(component_of_pair))
    return LesionWise(tuple(lesions), len(predicted), num_false)


def _lesions_by_dilation(reference: Bool, dilation_vox: int) -> tuple[Lesions, NDArray[np.int32]]:
    """Lesions whose dilations do not touch, and which voxels each one's dilation reaches."""
    reach, labels = np.zeros((2, *reference.shape), dtype=np.int32)
    sizes_vox = np.zeros(0, dtype=np.int64)
    for box in ndimage.find_objects(reference.view(np.uint8)):
        window = tuple(slice(max(0, s.start - dilation_vox), s.stop + dilation_vox) for s in box)
        element = ndimage.generate_binary_structure(3, 2)
        here = reference[window]
        dilated = ndimage.binary_dilation(here, element, iterations=dilation_vox)
        numbers = find_lesions(dilated, 26).labels
        reach[window], labels[window] = numbers, numbers * here
        sizes_vox = np.bincount(numbers[here])[1:]
    return Lesions(labels, sizes_vox), reach


@dataclass(frozen=True, slots=True)
class _Measured:
    """Distances between two whole surfaces, with the lesion of every point."""

    pair: SurfacePair
    component_of: NDArray[np.int32]
    lesion_of: NDArray[np.int32]
    trees: dict[bytes, tuple[Numbers, Surface]]

    @classmethod
    def of(cls, pair: SurfacePair, predicted: Lesions, expected: Lesions) -> _Measured:
        component_of = cell_labels(pair.predicted, predicted.labels)
        lesion_of = cell_labels(pair.reference, expected.labels)
        return cls(pair, component_of, lesion_of, {})

    def hd95_mm(self, lesion: int, components: Numbers) -> float:
        """HD95 between one lesion and some components of the prediction."""
        chosen, prediction = self._surface_of(components)
        mine = np.flatnonzero(self.lesion_of == lesion)
        reference = self.pair.reference.part(mine)
        there = _within(self.pair.there, chosen, self.lesion_of == lesion, prediction, reference)
        belongs = np.isin(self.component_of, components)
        back = _within(self.pair.back, mine, belongs, reference, prediction)
        return max(there.percentile_mm(95), back.percentile_mm(95))

    def _surface_of(self, components: Numbers) -> tuple[Numbers, Surface]:
        """Points of some components; kept, as one blob may touch many lesions."""
        key = components.tobytes()
        if key not in self.trees:
            chosen = np.flatnonzero(np.isin(self.component_of, components))
            self.trees.clear()
            self.trees[key] = chosen, self.pair.predicted.part(chosen)
        return self.trees[key]


def _within(
    known: Distances, chosen: Numbers, belongs: Bool, surface: Surface, other: Surface
) -> Distances:
    """Distances of chosen points to a part of the other surface.

    Args:
        known: Distances of all points to all of the other surface.
        chosen: Numbers of the points that are asked for.
        belongs: For each point of the whole other surface whether it is in the part.
        surface: The chosen points.
        other: The part.
    """
    mm = known.mm[chosen]
    elsewhere = np.flatnonzero(~belongs[known.nearest[chosen]])
    if len(elsewhere):
        mm[elsewhere] = distances(surface.part(elsewhere), other).mm
    return Distances(mm, surface.weights, chosen)
