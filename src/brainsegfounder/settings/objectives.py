"""What pretraining asks of the network: one `kind` each, with its own settings."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from brainsegfounder.settings.section import Fraction, PatchSize, Positive, Section

# Of fewer blocks, no share of them is near the one that is asked for.
MIN_BLOCKS = 8

Weight = Annotated[float, Field(ge=0.0)]


class RotationSettings(Section):
    """By how many quarter turns was the crop rotated, about which axis?"""

    weight: Weight = 1.0
    """Its share in the total loss."""


class ContrastiveSettings(Section):
    """NT-Xent between the embeddings of two views of a crop."""

    weight: Weight = 1.0
    """Its share in the total loss."""
    temperature: Positive = 0.5
    """Divisor of the cosine similarities."""


class InpaintingSettings(Section):
    """Restore a crop from which blocks were cut out."""

    weight: Weight = 1.0
    """Its share in the total loss."""
    max_fraction: Fraction = 0.3
    """Blocks are cut until a share drawn from U(0, this) of the crop is covered."""
    min_side: Fraction = 0.05
    """Smallest block side, as a share of the crop's."""
    max_side: Fraction = 0.25
    """Largest block side, as a share of the crop's."""
    paste_other: bool = True
    """A second pass pastes blocks of another crop of the batch."""


class ThreeTaskSettings(Section):
    """Rotation, contrastive coding and inpainting, as the paper's code has them."""

    kind: Literal["three-task"] = "three-task"
    """Quarter turns about the first axis; heads on two corner tokens; negatives of this process,
    other crops of the same subject among them; the mean error over the whole crop."""
    rotation: RotationSettings = RotationSettings()
    """Rotation prediction."""
    contrastive: ContrastiveSettings = ContrastiveSettings()
    """Contrastive coding."""
    inpainting: InpaintingSettings = InpaintingSettings()
    """Inpainting of cut-out blocks."""

    def misfit(self, patch_size_vox: PatchSize) -> str:
        """Why crops of this size cannot be asked this; empty where they can."""
        if patch_size_vox[1] != patch_size_vox[2]:
            return (
                "the last two sides must be equal, since the rotation task turns them into each "
                "other"
            )
        return ""


class ThreeTaskFixedSettings(Section):
    """The three tasks with what the paper's code got wrong put right; each can be switched back."""

    kind: Literal["three-task-fixed"] = "three-task-fixed"
    """The three tasks, put right."""
    rotation: RotationSettings = RotationSettings()
    """Rotation prediction."""
    contrastive: ContrastiveSettings = ContrastiveSettings()
    """Contrastive coding."""
    inpainting: InpaintingSettings = InpaintingSettings()
    """Inpainting of cut-out blocks."""
    all_axes: bool = True
    """Quarter turns about all three axes (ten classes), instead of the first (four)."""
    pooled_heads: bool = True
    """Heads read the mean token, instead of two corner tokens."""
    gather_negatives: bool = True
    """Negatives come from all processes, instead of this one."""
    same_subject_negatives: bool = False
    """Whether other crops of the same subject are negatives."""
    masked_only: bool = True
    """Restoration is judged where something was cut out, instead of everywhere."""
    min_brain: Fraction = 0.1
    """Least share of a crop that is brain; crops with less are drawn again."""

    def misfit(self, patch_size_vox: PatchSize) -> str:
        """Why crops of this size cannot be asked this; empty where they can."""
        if self.all_axes and len(set(patch_size_vox)) > 1:
            return "all sides must be equal, since the rotation task turns them into each other"
        if patch_size_vox[1] != patch_size_vox[2]:
            return (
                "the last two sides must be equal, since the rotation task turns them into each "
                "other"
            )
        return ""


class MaskingSettings(Section):
    """Which blocks of a crop are hidden."""

    block_vox: Annotated[int, Field(ge=4, le=64, multiple_of=4)] = 16
    """Side of a hidden block; the crop's sides must be multiples of it."""
    min_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.6
    """Least share of the blocks that is hidden; it is drawn for each crop."""
    max_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.75
    """Largest share."""
    min_brain: Fraction = 0.1
    """Least share of a crop that is brain; crops with less are drawn again."""

    @model_validator(mode="after")
    def _ratios_are_ordered(self) -> MaskingSettings:
        if self.min_ratio > self.max_ratio:
            raise ValueError(f"min_ratio {self.min_ratio} is above max_ratio {self.max_ratio}")
        return self

    def misfit(self, patch_size_vox: PatchSize) -> str:
        """Why crops of this size cannot be asked this; empty where they can."""
        if any(side % self.block_vox for side in patch_size_vox):
            return f"every side must be a multiple of objective.block_vox ({self.block_vox})"
        if math.prod(side // self.block_vox for side in patch_size_vox) < MIN_BLOCKS:
            return f"objective.block_vox ({self.block_vox}) leaves fewer than {MIN_BLOCKS} blocks"
        return ""


class MaeSettings(MaskingSettings):
    """Masked reconstruction: restore hidden blocks; only they are judged."""

    kind: Literal["mae"] = "mae"
    """Learned mask tokens, and the decoder that fine-tuning has."""
    decoder: bool = True
    """Restore with SwinUNETR's decoder, which fine-tuning can take over; else a light head."""


class SimMimSettings(MaskingSettings):
    """Masked reconstruction by the encoder and one linear layer, at a quarter of the resolution."""

    kind: Literal["simmim"] = "simmim"
    """Learned mask tokens, and a light head."""


class CrossContrastSettings(Section):
    """Restore contrasts that were left out from those that were not."""

    kind: Literal["cross-contrast"] = "cross-contrast"
    """For several contrasts, as in stage 2."""
    decoder: bool = True
    """Restore with SwinUNETR's decoder, which fine-tuning can take over; else a light head."""
    min_brain: Fraction = 0.1
    """Least share of a crop that is brain; crops with less are drawn again."""

    def misfit(self, patch_size_vox: PatchSize) -> str:  # noqa: ARG002
        """Crops of every size can be asked this."""
        return ""


def _kind(value: object) -> str:
    found = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return str(found or "three-task")


Objective = Annotated[
    Annotated[ThreeTaskSettings, Tag("three-task")]
    | Annotated[ThreeTaskFixedSettings, Tag("three-task-fixed")]
    | Annotated[MaeSettings, Tag("mae")]
    | Annotated[SimMimSettings, Tag("simmim")]
    | Annotated[CrossContrastSettings, Tag("cross-contrast")],
    Discriminator(_kind),
]
KINDS = ("three-task", "three-task-fixed", "mae", "simmim", "cross-contrast")
