"""Several opinions on one window, averaged: members of an ensemble, and mirrored views.

With one member and one view, what is blended over windows are logits. With more, it is the logit
of the mean probability, and beside it, if asked for, how far the opinions are apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

# A probability nearer to 0 or 1 than this has no logit worth keeping in float32.
SMALLEST = 1e-6

Axes = tuple[int, ...]


class Voices:
    """From windows (B, C, *window) to what is blended, (B, R, *window) or one channel more.

    Args:
        network: From windows to logits; if it has `members`, each of them is heard.
        flips: Axes along which each view is mirrored; `()` is the window as it is.
        target: `regions` (a sigmoid for each channel) or `classes` (a softmax over channels).
        device: Where the network is.
        tells_spread: Whether a last channel holds the standard deviation of the probability over
            all opinions, the largest of all channels; there is none where the opinion is one.
    """

    def __init__(
        self,
        network: nn.Module,
        flips: Sequence[Axes],
        target: Literal["regions", "classes"],
        device: torch.device,
        tells_spread: bool,
    ) -> None:
        members = getattr(network, "members", None)
        self._networks: list[nn.Module] = [network] if members is None else list(members)
        self._flips, self._target, self._device = flips, target, device
        self._number = len(self._networks) * len(flips)
        self.tells_spread = tells_spread and self._number > 1

    def __call__(self, windows: Tensor) -> Tensor:
        """Logits of the mean opinion, and the spread of opinions as one more channel."""
        if self._number == 1:
            return self._logits(self._networks[0], windows)
        mean, squares = self._moments(windows)
        logits = self._as_logits(mean)
        if not self.tells_spread:
            return logits
        variance = (squares - mean.square()).clamp_min(0)
        return torch.cat([logits, variance.amax(dim=1, keepdim=True).sqrt()], dim=1)

    def finish(self, blended: Tensor) -> Tensor:
        """Probabilities of blended planes (R, n, J, K), in place; the spread stays as it is."""
        logits = blended[:-1] if self.tells_spread else blended
        if self._target == "regions":
            logits.sigmoid_()
        else:
            logits.copy_(logits.softmax(dim=0))
        return blended

    def _moments(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean probability, and mean of its square (0 where the spread is not asked for)."""
        mean, squares = None, None
        for network in self._networks:
            for axes in self._flips:
                seen = windows.flip(axes) if axes else windows
                logits = self._logits(network, seen)
                told = self._probabilities(logits.flip(axes) if axes else logits)
                if mean is None or squares is None:
                    mean, squares = torch.zeros_like(told), torch.zeros_like(told)
                mean += told
                if self.tells_spread:
                    squares += told.square()
        if mean is None or squares is None:
            raise ValueError("an ensemble without members")
        return mean / self._number, squares / self._number

    def _logits(self, network: nn.Module, windows: Tensor) -> Tensor:
        wanted = self._device.type == "cuda" and torch.cuda.is_bf16_supported()
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=wanted):
            logits: Tensor = network(windows)
        return logits.float()

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self._target == "regions" else logits.softmax(dim=1)

    def _as_logits(self, mean: Tensor) -> Tensor:
        mean = mean.clamp(SMALLEST, 1 - SMALLEST)
        return torch.logit(mean) if self._target == "regions" else mean.log()
