"""Fewer labels: which subjects of a pool are kept, so that curves are fair.

Subsets are nested (the larger holds the smaller), stratified (small and large lesions as in the
pool) and of whole subjects; every arm gets the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

import numpy as np

from brainsegfounder.errors import UsageError

# One to train on, and one to choose the model.
FEWEST = 2


def nested_order(loads: Mapping[str, float], seed: int) -> list[str]:
    """An order of which every beginning is a fair sample.

    Sorted by load, subjects are cut into halves again and again; an order of the whole takes turns
    between those of its halves, and who comes first is drawn. So the first 2, 4, 8, ... are one of
    each half, quarter, eighth, ... of the loads.

    Args:
        loads: Of each subject, such as its lesion load in mL.
        seed: Of the draw.
    """
    draw = np.random.default_rng(seed)

    def spread(names: Sequence[str]) -> list[str]:
        if len(names) < 2:
            return list(names)
        middle = (len(names) + int(draw.integers(2))) // 2
        halves = [spread(names[:middle]), spread(names[middle:])]
        first = int(draw.integers(2)) if len(halves[0]) == len(halves[1]) else _longer(halves)
        turns = zip_longest(halves[first], halves[1 - first])
        return [name for turn in turns for name in turn if name is not None]

    return spread(sorted(loads, key=lambda name: (loads[name], name)))


def num_kept(fraction: float, num_subjects: int) -> int:
    """How many subjects a fraction of a pool is, at least two.

    Raises:
        UsageError: It is no share above 0, at most 1, or the pool is too small.
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"--fractions {fraction:g}: expected shares above 0, at most 1.")
    if num_subjects < FEWEST:
        raise UsageError(
            f"{num_subjects} subjects with labels outside the test part; expected at least "
            f"{FEWEST}: one to train on, one to choose the model."
        )
    return max(FEWEST, round(fraction * num_subjects))


def _longer(halves: Sequence[Sequence[str]]) -> int:
    return int(len(halves[1]) > len(halves[0]))
