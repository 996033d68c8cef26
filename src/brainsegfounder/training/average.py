"""A moving average of the weights, which validates better than the weights of any one step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class MovingAverage:
    """Exponential moving average of a network's parameters; buffers are not averaged.

    Attributes:
        decay: What is kept of the average in a step.
        shadow: The averages, by parameter name.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow: dict[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in model.named_parameters()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the weights as they are; called after every step that was made."""
        for name, parameter in model.named_parameters():
            self.shadow[name].lerp_(parameter.detach(), 1 - self.decay)

    @contextlib.contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """The network has the averages as its weights; afterwards its own, bit for bit."""
        own = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        try:
            _copy(self.shadow, model)
            yield
        finally:
            _copy(own, model)


@torch.no_grad()
def _copy(values: dict[str, Tensor], model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(values[name])
