"""The sizes a network can have, by name.

`tiny`, `small` and `big` are the paper's three (arXiv 2406.10395, Table 2; 62, 64 and 69 million
parameters as a whole SwinUNETR). `nano` is ours: a sixteenth of `tiny`, for machines without a GPU;
`nano-small` and `nano-big` have the depths of `small` and `big`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from types import MappingProxyType

from brainsegfounder.errors import RecipeError

FourCounts = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Scale:
    """How wide and how deep a Swin encoder is.

    Attributes:
        feature_size: Channels after the patch embedding; they double with each of four stages.
        depths: Attention blocks in each stage.
        num_heads: Attention heads in each stage; each divides the channels of its stage.
    """

    feature_size: int
    depths: FourCounts
    num_heads: FourCounts

    @property
    def bottleneck_channels(self) -> int:
        """Channels of the deepest hidden state."""
        return 16 * self.feature_size


SCALES = MappingProxyType(
    {
        "nano": Scale(feature_size=12, depths=(2, 2, 2, 2), num_heads=(3, 6, 12, 24)),
        "nano-small": Scale(feature_size=12, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
        "nano-big": Scale(feature_size=12, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
        "tiny": Scale(feature_size=48, depths=(2, 2, 2, 2), num_heads=(3, 6, 12, 24)),
        "small": Scale(feature_size=48, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
        "big": Scale(feature_size=48, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    }
)


def get_scale(name: str) -> Scale:
    """Look a scale up by its name.

    Raises:
        RecipeError: There is no scale of that name.
    """
    if name in SCALES:
        return SCALES[name]
    close = difflib.get_close_matches(name.lower(), SCALES, n=1, cutoff=0.4)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    raise RecipeError(f"scale '{name}': no such scale, expected one of {', '.join(SCALES)}{hint}")
