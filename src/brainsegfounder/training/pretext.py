"""The three pretext tasks: rotation, contrastive coding, inpainting.

Source: Cox et al. 2024, section 3, after Tang et al. 2022. Every crop is seen in two views, each
turned and cut out by itself. What differs between the paper's code (`three-task`) and what it meant
(`three-task-fixed`) is a setting of the latter.

Shape letters: B crops, C contrasts, I J K voxels; V = 2 B views.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from brainsegfounder.distributed import gather, rank, share
from brainsegfounder.settings import (
    InpaintingSettings,
    ThreeTaskFixedSettings,
    ThreeTaskSettings,
)
from brainsegfounder.training.losses import Losses

ThreeTask = ThreeTaskSettings | ThreeTaskFixedSettings

# Planes of the quarter turns about the first, second and third axis of (C, I, J, K).
PLANES = ((2, 3), (1, 3), (1, 2))


@dataclass(frozen=True, slots=True)
class Views:
    """Two views of every crop: all first views, then all second ones.

    Attributes:
        masked: What the network sees, shape (V, C, I, J, K).
        whole: The same, turned but not cut out; what it has to restore.
        turns: Which rotation each view has, shape (V,): 0 none, then 1 to 3 quarter turns about the
            first axis, the second, the third.
        cut: Where blocks were cut out, shape (V, 1, I, J, K), boolean.
        valid: Where there is anatomy, turned alike, or None where there is everywhere.
    """

    masked: Tensor
    whole: Tensor
    turns: Tensor
    cut: Tensor
    valid: Tensor | None = None


def num_rotations(settings: ThreeTask) -> int:
    """How many rotations are told apart: none and three about each axis."""
    return 1 + 3 * (3 if isinstance(settings, ThreeTaskFixedSettings) and settings.all_axes else 1)


def make_views(
    crops: Tensor,
    settings: ThreeTask,
    generators: Sequence[torch.Generator],
    valid: Tensor | None = None,
) -> Views:
    """Turn and cut out two views of each crop.

    Args:
        crops: Standardised intensities, shape (B, C, I, J, K), with equal sides in every plane of
            rotation.
        settings: The inpainting section says how much is cut out.
        generators: The only source of randomness, one for each crop; CPU generators.
        valid: Where there is anatomy, shape (B, 1, I, J, K), boolean, or None.
    """
    twice = [*generators, *generators]
    num_turns = num_rotations(settings)
    turns = [int(torch.randint(num_turns, (), generator=generator)) for generator in twice]
    whole = _turned(crops, turns)
    masked = whole.clone()
    cut = [cut_out(view, settings.inpainting, generators) for view in masked.chunk(2)]
    return Views(
        masked=masked,
        whole=whole,
        turns=torch.tensor(turns, device=crops.device),
        cut=torch.cat(cut),
        valid=None if valid is None else _turned(valid, turns),
    )


def cut_out(
    view: Tensor, settings: InpaintingSettings, generators: Sequence[torch.Generator]
) -> Tensor:
    """Cut blocks out of each crop of one view, in place.

    First pass: blocks filled with Gaussian noise scaled to [0, 1]. Second pass, with probability
    (B - 1) / B: blocks filled with the same place of another crop, which may be cut out itself.

    Args:
        view: Shape (B, C, I, J, K); changed in place.
        settings: Largest share, block sides, whether there is a second pass.
        generators: The only source of randomness, one for each crop.

    Returns:
        Where something was cut out, shape (B, 1, I, J, K), boolean.
    """
    masks = torch.zeros_like(view[:, :1], dtype=torch.bool)
    for number, (crop, mask, generator) in enumerate(zip(view, masks, generators, strict=True)):
        for block in _blocks(crop.shape[1:], settings, generator):
            noise = torch.randn(crop[block].shape, generator=generator)
            crop[block] = _scaled_to_unit(noise).to(crop)
            mask[block] = True
        partner = int(torch.randint(len(view), (), generator=generator))
        if settings.paste_other and partner != number:
            for block in _blocks(crop.shape[1:], settings, generator):
                crop[block] = view[partner][block]
                mask[block] = True
    return masks


def nt_xent(
    first: Tensor,
    second: Tensor,
    temperature: float,
    *,
    subjects: Sequence[str] | None = None,
    gathered: bool = False,
) -> Tensor:
    """Normalised temperature-scaled cross-entropy (SimCLR) between two views.

    Args:
        first: Embeddings of the first views, shape (B, D).
        second: Embeddings of the second views, in the same order.
        temperature: Divisor of the cosine similarities.
        subjects: Whose brain each crop is of; other crops of the same subject are then no
            negatives. None: all are.
        gathered: Take negatives from all processes; B is then the same on each.

    Returns:
        The mean over this process's 2 B views of -log(softmax at the partner); without any negative
        it is 0.
    """
    share_of, start = (gather, rank() * len(first)) if gathered else (lambda rows: rows, 0)
    ours = functional.normalize(torch.stack([first, second]).to(_wide(first)), dim=-1)
    everyone = torch.cat([share_of(view) for view in ours])
    num_crops = len(everyone) // 2
    rows = torch.arange(start, start + len(first), device=first.device)
    rows = torch.cat([rows, rows + num_crops])
    similarity = ours.flatten(0, 1) @ everyone.T / temperature
    partners = (rows + num_crops) % (2 * num_crops)
    left_out = _one_hot(rows, 2 * num_crops)
    if subjects is not None:
        owners = share_of(_as_numbers(subjects, first.device)).repeat(2)
        same = owners[rows, None] == owners
        left_out |= same & ~_one_hot(partners, 2 * num_crops)
    return functional.cross_entropy(similarity.masked_fill(left_out, float("-inf")), partners)


def pretext_losses(
    rotation_logits: Tensor,
    embedding: Tensor,
    reconstruction: Tensor,
    views: Views,
    settings: ThreeTask,
    subjects: Sequence[str],
) -> Losses:
    """The weighted losses of the three tasks by name; their sum is minimised.

    Args:
        rotation_logits: Shape (V, rotations).
        embedding: Shape (V, D).
        reconstruction: Shape (V, C, I, J, K).
        views: What the network saw.
        settings: Weights and temperature; what is put right.
        subjects: Whose brain each of the B crops is of.

    Returns:
        rotation: cross-entropy; contrastive: NT-Xent; inpainting: mean absolute error, over the
        whole crop or over what was cut out. Watched: the mean absolute error where something was
        cut out and where nothing was.
    """
    fixed = settings if isinstance(settings, ThreeTaskFixedSettings) else None
    rotation = functional.cross_entropy(rotation_logits.to(_wide(rotation_logits)), views.turns)
    first, second = embedding.chunk(2)
    contrastive = nt_xent(
        first,
        second,
        settings.contrastive.temperature,
        subjects=subjects if fixed and not fixed.same_subject_negatives else None,
        gathered=bool(fixed and fixed.gather_negatives),
    )
    error = (reconstruction - views.whole).abs().to(_wide(reconstruction))
    valid = torch.ones_like(views.cut) if views.valid is None else views.valid
    masked, visible = mean_where(error, views.cut & valid), mean_where(error, ~views.cut & valid)
    if fixed is None:
        inpainting = error.mean()
    else:
        inpainting = masked if fixed.masked_only else mean_where(error, valid)
    return Losses(
        {
            "rotation": settings.rotation.weight * rotation,
            "contrastive": settings.contrastive.weight * contrastive,
            "inpainting": settings.inpainting.weight * inpainting,
        },
        {"masked_error": masked.detach(), "visible_error": visible.detach()},
    )


def mean_where(error: Tensor, where: Tensor) -> Tensor:
    """This process's share of the mean of some voxels, over all processes.

    Args:
        error: Shape (B, C, I, J, K).
        where: Which voxels count, boolean, of the same shape or with one channel; none anywhere
            gives 0.
    """
    where = where.expand_as(error)
    return share((error * where).sum(), where.sum())


def _turned(crops: Tensor, turns: Sequence[int]) -> Tensor:
    """Each crop turned once for the first view and once for the second."""
    views = []
    for crop, turn in zip(torch.cat([crops, crops]), turns, strict=True):
        axis, quarters = divmod(turn - 1, 3) if turn else (0, -1)
        views.append(torch.rot90(crop, quarters + 1, dims=PLANES[axis]))
    return torch.stack(views)


def _one_hot(columns: Tensor, width: int) -> Tensor:
    return columns[:, None] == torch.arange(width, device=columns.device)


def _as_numbers(names: Sequence[str], device: torch.device) -> Tensor:
    """The same number for the same name, on every process."""
    digests = [hashlib.sha256(name.encode()).digest()[:7] for name in names]
    return torch.tensor([int.from_bytes(digest, "big") for digest in digests], device=device)


def _wide(tensor: Tensor) -> torch.dtype:
    """At least float32."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _blocks(
    shape_vox: torch.Size, settings: InpaintingSettings, generator: torch.Generator
) -> list[tuple[slice, slice, slice, slice]]:
    """Random boxes until their volumes, overlaps counted twice, reach the drawn share."""
    target = float(torch.rand((), generator=generator)) * settings.max_fraction * shape_vox.numel()
    boxes, covered = [], 0
    while covered < target:
        spans, volume = [], 1
        for side in shape_vox:
            shortest = max(1, int(settings.min_side * side))
            longest = max(shortest + 1, int(settings.max_side * side))
            first = int(torch.randint(side - shortest, (), generator=generator))
            length = int(torch.randint(shortest, longest, (), generator=generator))
            spans.append(slice(first, min(side, first + length)))
            volume *= spans[-1].stop - first
        boxes.append((slice(None), *spans))
        covered += volume
    return [(box[0], box[1], box[2], box[3]) for box in boxes]


def _scaled_to_unit(noise: Tensor) -> Tensor:
    low, high = noise.min(), noise.max()
    return (noise - low) / (high - low).clamp_min(1e-6)
