"""Seeds that are functions of numbers.

What is drawn depends on the run's seed and on which step or which crop it is for, never on what was
drawn before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def mixed(*numbers: int) -> int:
    """One seed of several numbers (a fixed, order-dependent mix below 2^63)."""
    mix = 0x9E3779B97F4A7C15
    for number in numbers:
        mix = ((mix ^ (number & 0xFFFFFFFF)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mix ^= mix >> 29
    return mix >> 1


def generators(seed: int, numbers: Sequence[int]) -> list[torch.Generator]:
    """One source of randomness for each crop, by its number in the run."""
    return [torch.Generator().manual_seed(mixed(seed, number)) for number in numbers]
