"""How far two masks are the same voxels: Dice, IoU, sensitivity, specificity, precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Voxels of two masks, counted; what is undefined by its fraction follows one rule.

    0/0 counts as 0, except that everything is 1 where both masks are empty.

    Attributes:
        both: In both masks (true positive).
        predicted_only: In the prediction only (false positive).
        reference_only: In the reference only (false negative).
        neither: In none (true negative).
    """

    both: int
    predicted_only: int
    reference_only: int
    neither: int

    @property
    def predicted(self) -> int:
        """Voxels of the prediction."""
        return self.both + self.predicted_only

    @property
    def reference(self) -> int:
        """Voxels of the reference."""
        return self.both + self.reference_only

    @property
    def dice(self) -> float:
        """2|P∩R| / (|P|+|R|)."""
        return self._share(2 * self.both, self.predicted + self.reference)

    @property
    def iou(self) -> float:
        """|P∩R| / |P∪R|."""
        return self._share(self.both, self.predicted + self.reference_only)

    @property
    def sensitivity(self) -> float:
        """The share of the reference that was predicted."""
        return self._share(self.both, self.reference)

    @property
    def specificity(self) -> float:
        """The share of the background that was left alone."""
        return self._share(self.neither, self.neither + self.predicted_only)

    @property
    def precision(self) -> float:
        """The share of the prediction that is right."""
        return self._share(self.both, self.predicted)

    def _share(self, part: int, whole: int) -> float:
        if self.predicted == self.reference == 0:
            return 1.0
        return float(part / whole) if whole else 0.0


def count_overlap(prediction: Bool, reference: Bool, num_voxels: int | None = None) -> Overlap:
    """Count the voxels of two masks.

    Args:
        prediction: Any shape.
        reference: The same shape.
        num_voxels: Of the whole grid, where the masks are a box of it that holds all they have.
    """
    both = int(np.count_nonzero(prediction & reference))
    predicted_only = int(np.count_nonzero(prediction)) - both
    reference_only = int(np.count_nonzero(reference)) - both
    total = prediction.size if num_voxels is None else num_voxels
    return Overlap(
        both, predicted_only, reference_only, total - both - predicted_only - reference_only
    )
