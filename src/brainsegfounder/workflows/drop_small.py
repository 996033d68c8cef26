"""Below which volume a part of a region is dropped: chosen on validation cases, never on others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

import numpy as np

from brainsegfounder.data.store import Store, StoredCase
from brainsegfounder.evaluation.metrics import dice
from brainsegfounder.inference.postprocess import without_small
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.model_folder import Model

# From nothing to what only a large lesion has.
CANDIDATES_ML = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
# A rule must earn its place.
LEAST_GAIN = 0.001


def choose_smallest_ml(model: Model, store: Store, cases: Sequence[StoredCase]) -> dict[str, float]:
    """For each region the volume that gives the validation cases the best mean Dice.

    Args:
        model: Trained, without a rule.
        store: Where the cases are.
        cases: Of validation, with labels.

    Returns:
        Only regions for which dropping something is better than dropping nothing.
    """
    pairs = [
        (model.segment(store.prepared_image(case, model.contrasts)), store.labels(case)[:][0])
        for case in cases
    ]
    if not pairs:
        return {}
    chosen = {}
    for name, region in model.config.regions.items():
        means = {
            ml: fmean(_dice(found, reference, region.labels, ml) for found, reference in pairs)
            for ml in CANDIDATES_ML
        }
        best = max(means, key=lambda ml: (means[ml], -ml))
        if means[best] >= means[0.0] + LEAST_GAIN:
            chosen[name] = best
    return chosen


def _dice(found: Volume, reference: np.ndarray, labels: Iterable[int], smallest_ml: float) -> float:
    mask = np.isin(found.voxels[0], tuple(labels))
    kept = without_small(mask, smallest_ml / found.grid.voxel_volume_ml)
    return dice(kept, np.isin(reference, tuple(labels)))
