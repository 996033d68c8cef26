"""Counts of single lesions and of voxels by probability, as score files hold them, added up.

Columns `lesions_SIZES` and `found_SIZES` say for each case how many reference lesions of some sizes
there are and how many of them were found. A JSON file's `reliability` holds, for each region, bins
of voxels by predicted probability.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from brainsegfounder.errors import DataError, Problem
from brainsegfounder.evaluation.score_rows import ScoreFile

LESIONS, FOUND = "lesions_", "found_"


@dataclass(frozen=True, slots=True)
class SizeBin:
    """Reference lesions of some sizes, and how many of them were found.

    Attributes:
        name: The sizes in words, such as `0.1 to 1 mL`.
        num_lesions: How many there are.
        num_found: How many of them a prediction found, by the convention's rule.
    """

    name: str
    num_lesions: int
    num_found: int


@dataclass(frozen=True, slots=True)
class ProbabilityBin:
    """Voxels with probabilities in one range.

    Attributes:
        mean_probability: Their mean probability.
        share_positive: Share of them that is in the reference.
        num_voxels: How many they are.
    """

    mean_probability: float
    share_positive: float
    num_voxels: int


def detection_of(files: Sequence[ScoreFile], region: str) -> list[SizeBin]:
    """Lesions of a region by size, over all cases and trainings; empty where no file says."""
    counts: dict[str, list[float]] = {}
    for row in (row for file in files for row in file.rows if row.region == region):
        for name, value in row.values.items():
            sizes = name.removeprefix(LESIONS)
            found = row.values.get(FOUND + sizes, math.nan)
            if name.startswith(LESIONS) and math.isfinite(value) and math.isfinite(found):
                total = counts.setdefault(sizes, [0.0, 0.0])
                total[0] += value
                total[1] += found
    return [SizeBin(_in_words(sizes), int(n), int(found)) for sizes, (n, found) in counts.items()]


def calibration_of(files: Sequence[ScoreFile], region: str) -> list[ProbabilityBin]:
    """Bins of probability of a region, over all files; empty where no file has any.

    Raises:
        DataError: A file's bins are not what they must be.
    """
    sums: list[list[float]] = []
    for file in files:
        for place, one in enumerate(_bins(file, region)):
            if place == len(sums):
                sums.append([0.0, 0.0, 0.0])
            sums[place] = [a + b for a, b in zip(sums[place], one, strict=True)]
    return [
        ProbabilityBin(probability / num, positive / num, int(num))
        for num, probability, positive in sums
        if num
    ]


def _bins(file: ScoreFile, region: str) -> list[tuple[float, float, float]]:
    """Number of voxels, sum of probabilities and number in the reference, of each bin."""
    try:
        bins = (file.extra.get("reliability") or {}).get(region, {}).get("bins", [])
        names = ("num_voxels", "sum_probability", "num_positive")
        return [(float(b[names[0]]), float(b[names[1]]), float(b[names[2]])) for b in bins]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            Problem(
                code="reliability_unreadable",
                file=str(file.path),
                field="reliability",
                found=f"{type(error).__name__}: {error}",
                expected="for each region bins with num_voxels, sum_probability and num_positive",
                advice="Evaluate again, or remove the entry.",
            )
        ) from error


def _in_words(sizes: str) -> str:
    """`0.1_to_1_ml` as `0.1 to 1 mL`; `0p1` stands for 0.1, too."""
    text = re.sub(r"(?<=\d)p(?=\d)", ".", sizes).replace("_", " ")
    return re.sub(r"(?<=\d) ?ml\b", " mL", text)
