"""What a region of a case scored, as a record, and the summary over cases.

A record's fields are the columns of `metrics.csv`. What is not defined for a case, or was not
asked for, is None (NaN for Dice): an empty cell, `null` in JSON, and left out of the aggregates,
each of which says over how many cases it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

from brainsegfounder.evaluation.calibration import ReliabilityBin, add_bins

Empty = Literal["none", "prediction", "reference", "both"]
Value = str | int | float | None


@dataclass(frozen=True, slots=True)
class RegionScore:
    """What one region of one case scored.

    Attributes:
        case: Name of the case.
        region: Name of the region.
        dice: The convention's Dice, 0 to 1; NaN where the convention leaves the case out.
        hd95_mm: The convention's 95 % surface distance.
        volume_ml: Volume of the prediction.
        reference_volume_ml: Volume of the reference.
        volume_difference_ml: Prediction minus reference.
        empty: Which of the two masks had no voxel.
        volume_difference_vox: Absolute difference of the voxel counts.
        lesion_count_difference: Absolute difference of the numbers of lesions.
        lesion_f1: F1 of finding lesions.
        absolute_volume_error_ml: Absolute difference of the volumes.
        relative_volume_error: Difference over the reference's volume.
        iou: Intersection over union.
        sensitivity: Share of the reference that was predicted.
        specificity: Share of the background that was left alone.
        precision: Share of the prediction that is right.
        nsd: Surface Dice, such as `nsd_1mm`, by its column's name.
        mean_surface_distance_mm: Mean of the two directed mean distances.
        whole_dice: Dice of the whole binary masks, whatever the convention.
        whole_hd95_mm: HD95 of the whole masks, by the convention's kind of surface.
        num_lesions: Lesions of the prediction.
        num_reference_lesions: Lesions of the reference that count.
        num_found: Of these, the ones that were found.
        num_missed: And the ones that were not.
        num_false: Lesions of the prediction that are none.
        detection: Lesions by size, and how many were found, by the columns' names.
        average_precision: Of probabilities, over voxels.
        brier: Mean squared error of probabilities.
        ece: Expected calibration error of probabilities.
        reliability: Voxels by tenths of probability; not a column.
    """

    case: str
    region: str
    dice: float
    hd95_mm: float
    volume_ml: float
    reference_volume_ml: float
    volume_difference_ml: float
    empty: Empty
    volume_difference_vox: int | None = None
    lesion_count_difference: int | None = None
    lesion_f1: float | None = None
    absolute_volume_error_ml: float | None = None
    relative_volume_error: float | None = None
    iou: float | None = None
    sensitivity: float | None = None
    specificity: float | None = None
    precision: float | None = None
    nsd: Mapping[str, float] = field(default_factory=dict)
    mean_surface_distance_mm: float | None = None
    whole_dice: float | None = None
    whole_hd95_mm: float | None = None
    num_lesions: int | None = None
    num_reference_lesions: int | None = None
    num_found: int | None = None
    num_missed: int | None = None
    num_false: int | None = None
    detection: Mapping[str, int] = field(default_factory=dict)
    average_precision: float | None = None
    brier: float | None = None
    ece: float | None = None
    reliability: tuple[ReliabilityBin, ...] = ()

    def row(self) -> dict[str, Value]:
        """The record as columns, in the order of `metrics.csv`."""
        values: dict[str, Value] = {}
        for name in COLUMNS:
            value = getattr(self, name)
            if isinstance(value, Mapping):
                values.update(value)
            else:
                values[name] = _defined(value)
        return values


_FIRST = (
    "case",
    "region",
    "dice",
    "hd95_mm",
    "volume_difference_vox",
    "volume_difference_ml",
    "lesion_count_difference",
    "lesion_f1",
)
_ALL = tuple(one.name for one in fields(RegionScore))
_OTHERS = tuple(name for name in _ALL if name not in (*_FIRST, "empty", "reliability"))
# Fields in the order of their columns; `nsd` and `detection` stand for several columns.
COLUMNS = (*_FIRST, *_OTHERS, "empty")


@dataclass(frozen=True, slots=True)
class RegionSummary:
    """One region over all cases; `dice_sd` is None for a single case."""

    num_cases: int
    dice_mean: float
    dice_sd: float | None
    dice_median: float
    hd95_mm_mean: float
    hd95_mm_median: float
    volume_difference_ml_mean: float


def by_region(scores: Sequence[RegionScore]) -> dict[str, list[RegionScore]]:
    """Scores of each region, in order of first appearance."""
    found: dict[str, list[RegionScore]] = {}
    for score in scores:
        found.setdefault(score.region, []).append(score)
    return found


def counted(scores: Sequence[RegionScore]) -> list[RegionScore]:
    """The scores that have a Dice; `published-soft` leaves out cases with an empty reference."""
    return [score for score in scores if not math.isnan(score.dice)]


def summarise(scores: Sequence[RegionScore]) -> dict[str, RegionSummary]:
    """Sum up the scores of each region over its cases, in order of first appearance.

    Cases without a Dice are left out; a region without any other case is not in the summary.
    """
    return {region: _summary(members) for region, members in by_region(counted(scores)).items()}


def aggregate(scores: Sequence[RegionScore]) -> dict[str, dict[str, dict[str, Any]]]:
    """For each region and column of numbers: over how many cases, mean, spread and quartiles."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for region, members in by_region(scores).items():
        rows = [score.row() for score in members]
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row.get(name) for row in rows] for name in names}
        found[region] = {
            name: _spread([v for v in values if isinstance(v, int | float)])
            for name, values in columns.items()
            if any(isinstance(value, int | float) for value in values)
        }
    return found


def reliability(scores: Sequence[RegionScore]) -> dict[str, tuple[ReliabilityBin, ...]]:
    """Voxels of all cases by tenths of probability, for each region that has any."""
    found: dict[str, tuple[ReliabilityBin, ...]] = {}
    for score in scores:
        if score.reliability:
            known = found.get(score.region)
            bins = score.reliability
            found[score.region] = bins if known is None else add_bins(known, bins)
    return found


def _defined(value: Value) -> Value:
    return None if isinstance(value, float) and math.isnan(value) else value


def _spread(values: Sequence[float]) -> dict[str, Any]:
    numbers = np.asarray(values, dtype=np.float64)
    low, median, high = np.percentile(numbers, [25, 50, 75])
    return {
        "num_cases": len(numbers),
        "mean": float(numbers.mean()),
        "sd": float(numbers.std(ddof=1)) if len(numbers) > 1 else None,
        "median": float(median),
        "quartile_1": float(low),
        "quartile_3": float(high),
        "min": float(numbers.min()),
        "max": float(numbers.max()),
    }


def _summary(scores: Sequence[RegionScore]) -> RegionSummary:
    dices = np.array([score.dice for score in scores])
    distances_mm = np.array([score.hd95_mm for score in scores])
    return RegionSummary(
        num_cases=len(scores),
        dice_mean=float(dices.mean()),
        dice_sd=float(dices.std(ddof=1)) if len(scores) > 1 else None,
        dice_median=float(np.median(dices)),
        hd95_mm_mean=float(distances_mm.mean()),
        hd95_mm_median=float(np.median(distances_mm)),
        volume_difference_ml_mean=float(np.mean([s.volume_difference_ml for s in scores])),
    )
