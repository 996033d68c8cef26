"""The three pretext tasks: rotation, contrastive coding, inpainting.

Source: Cox et al. 2024, section 3, after Tang et al. 2022. Every crop is seen in two views, each
turned and cut out by itself.

Shape letters: B crops, C contrasts, I J K voxels; V = 2 B views.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from brainsegfounder.settings import InpaintingSettings, TaskSettings

NUM_TURNS = 4


@dataclass(frozen=True, slots=True)
class Views:
    """Two views of every crop: all first views, then all second ones.

    Attributes:
        masked: What the network sees, shape (V, C, I, J, K).
        whole: The same, turned but not cut out; what it has to restore.
        turns: Quarter turns of each view, shape (V,), 0 to 3.
        cut: Where blocks were cut out, shape (V, 1, I, J, K), boolean.
    """

    masked: Tensor
    whole: Tensor
    turns: Tensor
    cut: Tensor


def make_views(crops: Tensor, settings: TaskSettings, generator: torch.Generator) -> Views:
    """Turn and cut out two views of each crop.

    Args:
        crops: Standardised intensities, shape (B, C, I, J, K) with J = K.
        settings: The inpainting section says how much is cut out.
        generator: The only source of randomness; a CPU generator.
    """
    turns = torch.randint(NUM_TURNS, (2 * len(crops),), generator=generator)
    whole = torch.stack(
        [
            torch.rot90(crop, int(turn), dims=(2, 3))
            for crop, turn in zip(torch.cat([crops, crops]), turns, strict=True)
        ]
    )
    masked, cut = whole.clone(), []
    for view in masked.chunk(2):
        cut.append(cut_out(view, settings.inpainting, generator))
    return Views(masked, whole, turns.to(crops.device), torch.cat(cut))


def cut_out(view: Tensor, settings: InpaintingSettings, generator: torch.Generator) -> Tensor:
    """Cut blocks out of each crop of one view, in place.

    First pass: blocks filled with Gaussian noise scaled to [0, 1]. Second pass, with probability
    (B - 1) / B: blocks filled with the same place of another crop, which may be cut out itself.

    Args:
        view: Shape (B, C, I, J, K); changed in place.
        settings: Largest share, block sides, whether there is a second pass.
        generator: The only source of randomness.

    Returns:
        Where something was cut out, shape (B, 1, I, J, K), boolean.
    """
    num_crops = len(view)
    masks = torch.zeros_like(view[:, :1], dtype=torch.bool)
    for number, (crop, mask) in enumerate(zip(view, masks, strict=True)):
        for block in _blocks(crop.shape[1:], settings, generator):
            noise = torch.randn(crop[block].shape, generator=generator)
            crop[block] = _scaled_to_unit(noise).to(crop)
            mask[block] = True
        partner = int(torch.randint(num_crops, (), generator=generator))
        if settings.paste_other and partner != number:
            for block in _blocks(crop.shape[1:], settings, generator):
                crop[block] = view[partner][block]
                mask[block] = True
    return masks


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy (SimCLR) between two views.

    Args:
        first: Embeddings of the first views, shape (B, D).
        second: Embeddings of the second views, in the same order.
        temperature: Divisor of the cosine similarities.

    Returns:
        The mean over all 2 B views of -log(softmax at the partner); with B = 1 there is no
        negative and it is 0.
    """
    embeddings = functional.normalize(torch.cat([first, second]).float(), dim=1)
    similarity = embeddings @ embeddings.T / temperature
    similarity.fill_diagonal_(float("-inf"))
    partners = torch.arange(len(embeddings), device=first.device).roll(len(first))
    return functional.cross_entropy(similarity, partners)


def pretext_losses(
    rotation_logits: Tensor,
    embedding: Tensor,
    reconstruction: Tensor,
    views: Views,
    settings: TaskSettings,
) -> dict[str, Tensor]:
    """The weighted losses of the three tasks by name; their sum is minimised.

    Args:
        rotation_logits: Shape (V, 4).
        embedding: Shape (V, D).
        reconstruction: Shape (V, C, I, J, K).
        views: What the network saw.
        settings: Weights and temperature.

    Returns:
        rotation: cross-entropy; contrastive: NT-Xent; inpainting: mean absolute error over the
        whole crop, cut out or not.
    """
    first, second = embedding.chunk(2)
    rotation = functional.cross_entropy(rotation_logits.float(), views.turns)
    contrastive = nt_xent(first, second, settings.contrastive.temperature)
    inpainting = functional.l1_loss(reconstruction.float(), views.whole)
    return {
        "rotation": settings.rotation.weight * rotation,
        "contrastive": settings.contrastive.weight * contrastive,
        "inpainting": settings.inpainting.weight * inpainting,
    }


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
