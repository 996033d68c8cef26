"""AdamW and its learning-rate schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from brainsegfounder.settings import OptimizerSettings


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
