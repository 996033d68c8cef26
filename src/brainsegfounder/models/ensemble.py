"""Several networks of one shape as one: the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

# A probability nearer to 0 or 1 than this has no logit worth keeping in float32.
SMALLEST = 1e-6


class Ensemble(nn.Module):
    """Members that see the same window; what they say is averaged as probabilities.

    Args:
        members: Networks from (B, C, *patch) to logits (B, R, *patch).
        target: `regions` (a sigmoid for each channel) or `classes` (a softmax over channels).
    """

    def __init__(
        self, members: Iterable[nn.Module], target: Literal["regions", "classes"] = "regions"
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.target = target

    def forward(self, x_BCIJK: Tensor) -> Tensor:
        """Logits of the mean probability; one member after the other, so that memory is one's."""
        first, *others = self.members
        total = self._probabilities(first(x_BCIJK))
        for member in others:
            total += self._probabilities(member(x_BCIJK))
        mean = (total / len(self.members)).clamp(SMALLEST, 1 - SMALLEST)
        return torch.logit(mean) if self.target == "regions" else mean.log()

    def _probabilities(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        return logits.sigmoid() if self.target == "regions" else logits.softmax(dim=1)
