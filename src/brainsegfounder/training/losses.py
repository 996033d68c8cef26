"""Losses of fine-tuning: soft Dice, alone or with cross-entropy, on regions or classes.

Shape letters: B patches, R output channels (regions, or background and classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

SMOOTH = 1e-5


@dataclass(frozen=True, slots=True)
class Losses:
    """What a batch gave, each a scalar.

    Attributes:
        parts: By name; their sum is minimised.
        watched: By name; only recorded, and without gradient.
    """

    parts: dict[str, Tensor]
    watched: dict[str, Tensor] = field(default_factory=dict)


def region_targets(labels: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """Which voxels belong to each region.

    Args:
        labels: Label values, shape (B, 1, I, J, K).
        regions: Label values of each region.

    Returns:
        0 or 1 as float32, shape (B, R, I, J, K).
    """
    parts = [torch.isin(labels, labels.new_tensor(list(values))) for values in regions]
    return torch.cat(parts, dim=1).float()


def class_targets(labels: Tensor, values: Sequence[int]) -> Tensor:
    """Background and each label value, one of which holds in every voxel.

    Returns:
        0 or 1 as float32, shape (B, 1 + len(values), I, J, K).
    """
    classes = region_targets(labels, [[value] for value in values])
    return torch.cat([1 - classes.sum(dim=1, keepdim=True), classes], dim=1)


def soft_dice_loss(probabilities: Tensor, targets: Tensor) -> Tensor:
    """One minus the soft Dice of each patch and channel, averaged.

    Dice = 2 Σpg / (Σp + Σg), with a small constant that makes an empty channel without false
    voxels perfect.

    Args:
        probabilities: Between 0 and 1, shape (B, R, I, J, K).
        targets: 0 or 1, same shape.
    """
    axes = (2, 3, 4)
    overlap = (probabilities * targets).sum(axes)
    total = probabilities.sum(axes) + targets.sum(axes)
    return 1 - ((2 * overlap + SMOOTH) / (total + SMOOTH)).mean()


def segmentation_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    target: Literal["regions", "classes"],
    loss: Literal["dice", "dice-ce"],
) -> Losses:
    """The parts of the fine-tuning loss by name.

    Args:
        logits: Network output, shape (B, R, I, J, K).
        targets: From `region_targets` or `class_targets`, same shape.
        target: regions are sigmoids, classes one softmax whose background is left out of Dice.
        loss: With or without cross-entropy.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets = targets.to(logits)
    if target == "regions":
        parts = {"dice": soft_dice_loss(logits.sigmoid(), targets)}
        if loss == "dice-ce":
            parts["ce"] = functional.binary_cross_entropy_with_logits(logits, targets)
        return Losses(parts)
    parts = {"dice": soft_dice_loss(logits.softmax(dim=1)[:, 1:], targets[:, 1:])}
    if loss == "dice-ce":
        parts["ce"] = functional.cross_entropy(logits, targets)
    return Losses(parts)
