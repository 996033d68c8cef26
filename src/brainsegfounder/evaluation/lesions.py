"""Lesions: connected components of a mask, and which of them were found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainsegfounder.evaluation.conventions import Connectivity

Bool = NDArray[np.bool_]
Labels = NDArray[np.int32]
Counts = NDArray[np.int64]

# Limits of the size bins in mL, and how the bins are called in files.
SIZE_LIMITS_ML = (0.1, 1.0, 10.0)
SIZE_BINS = ("under_0.1ml", "0.1_to_1ml", "1_to_10ml", "from_10ml")


@dataclass(frozen=True, slots=True)
class Lesions:
    """The lesions of a mask.

    Attributes:
        labels: Number of the lesion at each voxel, from 1 on, 0 outside; shape (I, J, K).
        sizes_vox: Voxels of each lesion, in order of their numbers.
    """

    labels: Labels
    sizes_vox: Counts

    def __len__(self) -> int:
        return len(self.sizes_vox)


@dataclass(frozen=True, slots=True)
class Matches:
    """Which lesions were found.

    Attributes:
        num_predicted: Lesions of the prediction.
        sizes_vox: Voxels of each reference lesion that counts.
        found: Whether it was found.
        num_false: Predicted lesions that are none.
    """

    num_predicted: int
    sizes_vox: Counts
    found: Bool
    num_false: int

    @property
    def num_reference(self) -> int:
        """Lesions of the reference that count."""
        return len(self.sizes_vox)

    @property
    def num_found(self) -> int:
        """Of these, the ones that were found."""
        return int(np.count_nonzero(self.found))

    @property
    def num_missed(self) -> int:
        """And the ones that were not."""
        return self.num_reference - self.num_found

    @property
    def f1(self) -> float:
        """TP / (TP + (FP + FN) / 2); 1 where there is no lesion on either side."""
        wrong = self.num_false + self.num_missed
        if self.num_found + wrong == 0:
            return 1.0
        return self.num_found / (self.num_found + wrong / 2)

    def by_size(self, voxel_ml: float) -> dict[str, int]:
        """How many lesions of each size there are, and how many of these were found."""
        bins = np.searchsorted(SIZE_LIMITS_ML, self.sizes_vox * voxel_ml, side="right")
        counts = {}
        for number, name in enumerate(SIZE_BINS):
            counts[f"lesions_{name}"] = int(np.count_nonzero(bins == number))
            counts[f"found_{name}"] = int(np.count_nonzero(self.found[bins == number]))
        return counts


def find_lesions(mask: Bool, connectivity: Connectivity) -> Lesions:
    """Number the connected components of a mask.

    Args:
        mask: Shape (I, J, K).
        connectivity: 6 for contact by faces, 26 for any contact.
    """
    structure = ndimage.generate_binary_structure(3, 1 if connectivity == 6 else 3)
    labels, _ = ndimage.label(mask, structure, output=np.int32)
    return Lesions(labels, np.bincount(labels[mask])[1:])


def touching(one: Labels, other: Labels) -> tuple[Counts, Counts, Counts]:
    """Numbers of the lesions of two maps that share voxels, in order, and how many they share."""
    where = np.flatnonzero((one > 0) & (other > 0))
    width = int(other.max(initial=0)) + 1
    pairs = one.ravel()[where].astype(np.int64) * width + other.ravel()[where]
    found, shared = np.unique(pairs, return_counts=True)
    return found // width, found % width, shared


def match_by_overlap(prediction: Lesions, reference: Lesions) -> Matches:
    """Found is what shares a voxel with any predicted lesion; false what shares none."""
    predicted, expected, _ = touching(prediction.labels, reference.labels)
    found = np.zeros(len(reference), dtype=bool)
    found[expected - 1] = True
    num_false = len(prediction) - len(np.unique(predicted))
    return Matches(len(prediction), reference.sizes_vox, found, num_false)


def match_one_to_one(prediction: Lesions, reference: Lesions, min_iou: float) -> Matches:
    """Pairs of lesions from the largest IoU down, each lesion once.

    Pairs of equal IoU are taken in the order of the reference's numbers, then the prediction's.

    Args:
        prediction: Predicted lesions.
        reference: Lesions of the reference, on the same grid.
        min_iou: Smallest intersection over union of a pair.
    """
    predicted, expected, shared = touching(prediction.labels, reference.labels)
    union = prediction.sizes_vox[predicted - 1] + reference.sizes_vox[expected - 1] - shared
    iou = shared / union
    taken = np.zeros(len(prediction), dtype=bool)
    found = np.zeros(len(reference), dtype=bool)
    for pair in np.lexsort((predicted, expected, -iou)):
        p, r = predicted[pair] - 1, expected[pair] - 1
        if iou[pair] >= min_iou and not taken[p] and not found[r]:
            taken[p] = found[r] = True
    num_false = len(prediction) - int(np.count_nonzero(taken))
    return Matches(len(prediction), reference.sizes_vox, found, num_false)
