"""What a section of a recipe is, and the kinds of numbers in it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Contrast = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
PatchSize = tuple[Count, Count, Count]
Architecture = Literal["swin-unetr", "segresnet", "dynunet", "unetr"]

# The architecture that can be pretrained; the others are baselines.
OURS: Architecture = "swin-unetr"


class Section(BaseModel):
    """A group of settings: frozen, complete, closed to unknown names."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )
