"""AdamW, its learning-rate schedule, and all that a step changes."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import torch
from torch import nn

from brainsegfounder.settings import OptimizerSettings
from brainsegfounder.training.average import MovingAverage
from brainsegfounder.training.parallel import Sharding, Spread, spread


@dataclass(frozen=True, slots=True)
class Learner:
    """All that a step changes.

    Attributes:
        model: The network; where it is sharded, this process's parts of it.
        optimizer: AdamW over its parameters.
        average: Moving average of its weights, or None.
        spread: How the processes of the run hold the network.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    spread: Spread

    def step(self, rate: float) -> None:
        """One optimiser step at a learning rate, with the gradients that are there."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model)

    def at_best(self) -> contextlib.AbstractContextManager[None]:
        """A while in which the network has the weights that are validated and kept."""
        return (
            contextlib.nullcontext() if self.average is None else self.average.in_place(self.model)
        )


def make_learner(
    network: nn.Module, settings: OptimizerSettings, sharding: Sharding = "none"
) -> Learner:
    """A network with its optimiser and, where the settings ask for one, its moving average."""
    spread_out = spread(network, sharding)
    model, decay = spread_out.model, settings.ema_decay
    average = None if decay is None else MovingAverage(model, decay)
    return Learner(model, make_optimizer(model, settings), average, spread_out)


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW; weight decay spares biases, norms and position-bias tables."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    spared = {name for name, p in trained if p.ndim < 2 or "position_bias" in name}
    groups = [
        {
            "params": [p for name, p in trained if name not in spared],
            "weight_decay": settings.weight_decay,
        },
        {"params": [p for name, p in trained if name in spared], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.peak_lr)


def learning_rate(step: int, num_steps: int, settings: OptimizerSettings) -> float:
    """Linear warm-up to the peak, then a cosine to its final share.

    Args:
        step: Which step is about to be made, from 0.
        num_steps: Steps of the whole run.
        settings: Peak, warm-up and final share.
    """
    if step < settings.warmup_steps:
        return settings.peak_lr * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, num_steps - settings.warmup_steps)
    cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    final = settings.final_lr_fraction
    return settings.peak_lr * (final + (1 - final) * cosine)
