"""How long a window takes in an export, beside what it was made from, on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

ROUNDS = 3


@torch.inference_mode()
def seconds_a_window(
    networks: Mapping[str, Callable[[Tensor], object]], window: Tensor
) -> dict[str, float]:
    """Time networks in turns, so that other work on the machine meets them alike.

    Args:
        networks: By name, from windows to logits.
        window: Shape (1, C, *window).

    Returns:
        Of each, the median of `ROUNDS` in seconds, after a window that does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for count in range(1 + ROUNDS):
        for name, network in networks.items():
            began = time.perf_counter()
            network(window)
            if count:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in seconds.items()}
