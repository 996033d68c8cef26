"""Objectives of pretraining: which network each needs, what it minimises, and what it restores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from brainsegfounder.data.loader import Batch
from brainsegfounder.models.masked import LightAutoencoder, MaskedAutoencoder
from brainsegfounder.models.ssl_heads import PretextOutputs, SSLNetwork
from brainsegfounder.models.swin import Merging
from brainsegfounder.models.swin_unetr import SwinUNETR
from brainsegfounder.settings import (
    CrossContrastSettings,
    MaeSettings,
    Objective,
    SimMimSettings,
    ThreeTaskFixedSettings,
    ThreeTaskSettings,
)
from brainsegfounder.training.loop import BatchOnDevice, LossFunction
from brainsegfounder.training.losses import Losses
from brainsegfounder.training.masking import drop_contrasts, hide_blocks, restoration_losses
from brainsegfounder.training.pretext import (
    ThreeTask,
    Views,
    make_views,
    num_rotations,
    pretext_losses,
)
from brainsegfounder.training.randomness import generators


class Restored(NamedTuple):
    """What a network makes of crops of which it does not see everything.

    Attributes:
        whole: What it has to restore, shape (B, C, I, J, K).
        seen: What it sees, same shape.
        restored: What it says, same shape.
        hidden: Where it does not see, boolean, same shape.
    """

    whole: Tensor
    seen: Tensor
    restored: Tensor
    hidden: Tensor


@dataclass(frozen=True, slots=True)
class Asking:
    """An objective at work.

    Attributes:
        loss: Of a batch, for the training loop.
        restore: Of a batch and a seed, for pictures.
    """

    loss: LossFunction
    restore: Callable[[nn.Module, Batch, int], Restored]


def ask(objective: Objective) -> Asking:
    """What an objective minimises and restores."""
    if isinstance(objective, ThreeTaskSettings | ThreeTaskFixedSettings):
        return _three_tasks(objective)
    if isinstance(objective, CrossContrastSettings):
        return _cross_contrast()
    return _masked(objective)


def build_pretraining_network(
    objective: Objective, in_channels: int, scale: str, merging: Merging, **rates: Any
) -> nn.Module:
    """The untrained network that an objective needs; `rates` are dropout and the like."""
    match objective:
        case ThreeTaskSettings() | ThreeTaskFixedSettings():
            pooled = isinstance(objective, ThreeTaskFixedSettings) and objective.pooled_heads
            return SSLNetwork(
                in_channels,
                scale,
                merging,
                num_rotations=num_rotations(objective),
                pooled_heads=pooled,
                **rates,
            )
        case MaeSettings(decoder=True):
            return MaskedAutoencoder(in_channels, scale, merging, **rates)
        case CrossContrastSettings(decoder=True):
            return SwinUNETR(in_channels, in_channels, scale, merging, **rates)
        case _:
            hides = not isinstance(objective, CrossContrastSettings)
            return LightAutoencoder(in_channels, scale, merging, hides=hides, **rates)


def _three_tasks(objective: ThreeTask) -> Asking:
    def views_of(batch: Batch, seed: int) -> Views:
        valid = batch.valid if isinstance(objective, ThreeTaskFixedSettings) else None
        return make_views(batch.image, objective, generators(seed, batch.numbers), valid)

    def loss(model: nn.Module, any_batch: BatchOnDevice, seed: int) -> Losses:
        batch = cast(Batch, any_batch)
        views = views_of(batch, seed)
        outputs: PretextOutputs = model(views.masked)
        return pretext_losses(
            outputs.rotation_logits,
            outputs.embedding,
            outputs.reconstruction,
            views,
            objective,
            batch.subjects,
        )

    def restore(model: nn.Module, batch: Batch, seed: int) -> Restored:
        views, num_crops = views_of(batch, seed), len(batch.image)
        outputs: PretextOutputs = model(views.masked)
        first = (views.whole, views.masked, outputs.reconstruction, views.cut)
        return Restored(*(part[:num_crops].expand_as(batch.image) for part in first))

    return Asking(loss, restore)


def _masked(objective: MaeSettings | SimMimSettings) -> Asking:
    error: Literal["squared", "absolute"]
    error = "squared" if isinstance(objective, MaeSettings) else "absolute"

    def hidden_of(batch: Batch, seed: int) -> Tensor:
        return hide_blocks(batch.image, objective, generators(seed, batch.numbers))

    def loss(model: nn.Module, any_batch: BatchOnDevice, seed: int) -> Losses:
        batch = cast(Batch, any_batch)
        hidden = hidden_of(batch, seed)
        restored = model(batch.image, hidden)
        return restoration_losses(restored, batch.image, hidden, batch.valid, error=error)

    def restore(model: nn.Module, batch: Batch, seed: int) -> Restored:
        hidden = hidden_of(batch, seed)
        return _restored(model(batch.image, hidden), batch.image, hidden)

    return Asking(loss, restore)


def _cross_contrast() -> Asking:
    def dropped_of(batch: Batch, seed: int) -> Tensor:
        return drop_contrasts(batch.image, generators(seed, batch.numbers))

    def loss(model: nn.Module, any_batch: BatchOnDevice, seed: int) -> Losses:
        batch = cast(Batch, any_batch)
        dropped = dropped_of(batch, seed)
        restored = model(batch.image.masked_fill(dropped, 0.0))
        return restoration_losses(restored, batch.image, dropped, batch.valid, error="squared")

    def restore(model: nn.Module, batch: Batch, seed: int) -> Restored:
        dropped = dropped_of(batch, seed)
        return _restored(model(batch.image.masked_fill(dropped, 0.0)), batch.image, dropped)

    return Asking(loss, restore)


def _restored(restored: Tensor, whole: Tensor, hidden: Tensor) -> Restored:
    """On the grid of the image, whatever the head's resolution is."""
    if restored.shape != whole.shape:
        restored = torch.nn.functional.interpolate(restored, whole.shape[2:], mode="nearest")
    seen = whole.masked_fill(hidden, 0.0)
    return Restored(whole, seen, restored, hidden.expand_as(whole))
