"""AdamW, its learning-rate schedule, and all that a step changes."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from brainsegfounder.settings import OptimizerSettings
from brainsegfounder.training.average import MovingAverage
from brainsegfounder.training.parallel import Sharding, Spread, spread

# Names of the encoder's parameters, which are those of published weights.
ENCODER = "swinViT."
STAGE = re.compile(r"layers([1-4])\.0\.(?:blocks\.(\d+)\.|downsample\.)")
MERGING = 1000  # beyond the last block of a stage


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
        """One optimiser step at a learning rate, with the gradients that are there.

        Groups of `layer_decay` get their share of the rate.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_share"]
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
    """AdamW; weight decay spares biases, norms and position-bias tables.

    With `layer_decay` each depth of the encoder has groups of its own, whose `lr_share` says how
    much of the learning rate they get; see `depths`.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    is_decaying = settings.layer_decay not in (None, 1.0)
    depth_of = depths([name for name, _ in model.named_parameters()]) if is_decaying else {}
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {(0, False): [], (0, True): []}
    for name, parameter in trained:
        is_spared = parameter.ndim < 2 or "position_bias" in name
        groups.setdefault((depth_of.get(name, 0), is_spared), []).append(parameter)
    share = settings.layer_decay or 1.0
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": 0.0 if is_spared else settings.weight_decay,
                "lr_share": share**depth,
            }
            for (depth, is_spared), parameters in groups.items()
        ],
        lr=settings.peak_lr,
    )


def freeze(network: nn.Module, what: Literal["encoder", "encoder-but-patch-embedding"]) -> int:
    """Let parameters of a Swin encoder stay as they are: no gradient, no decay, no step.

    Returns:
        How many numbers are frozen.
    """
    kept = f"{ENCODER}patch_embed." if what == "encoder-but-patch-embedding" else None
    frozen = [
        parameter
        for name, parameter in network.named_parameters()
        if name.startswith(ENCODER) and not (kept and name.startswith(kept))
    ]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return sum(parameter.numel() for parameter in frozen)


def depths(names: Sequence[str]) -> dict[str, int]:
    """How deep each parameter of a Swin encoder lies below the decoder.

    0 for what is no part of the encoder, 1 for its last block, one more for every block before, and
    most for the patch embedding. Patch merging goes with the last block before it. (As BEiT,
    arXiv 2106.08254, and its followers for Swin have it.)

    Args:
        names: Of all parameters of a network, as `named_parameters` gives them.
    """
    places = {name: _place(name) for name in names}
    blocks = sorted({place for place in places.values() if place is not None})
    # Merging has no block of its own; its place is beyond the last one of its stage.
    order = {place: number for number, place in enumerate(p for p in blocks if p[1] < MERGING)}
    last = {stage: max(order[p] for p in order if p[0] == stage) for stage, _ in order}

    def depth(place: tuple[int, int] | None) -> int:
        if place is None:
            return 0
        number = order.get(place, last.get(place[0], -1))
        return len(order) - number

    return {name: depth(place) for name, place in places.items()}


def _place(name: str) -> tuple[int, int] | None:
    """Stage and block of a parameter of the encoder; None where it is no part of one."""
    if not name.startswith(ENCODER):
        return None
    found = STAGE.match(name.removeprefix(ENCODER))
    if found is None:
        return (0, MERGING)
    stage, block = found.groups()
    return int(stage), MERGING if block is None else int(block)


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
