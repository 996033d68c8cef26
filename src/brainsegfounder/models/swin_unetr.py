"""SwinUNETR: the Swin encoder, and a convolutional decoder that returns to every voxel.

Source: Hatamizadeh et al., Swin UNETR (arXiv 2201.01266). Names and shapes of all weights are those
of MONAI's `SwinUNETR`, so that published weights load.
"""

# Shape letters in this file: B cases, C channels, I J K axes of an image or feature map.

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from brainsegfounder.errors import UsageError
from brainsegfounder.models.blocks import DecoderBlock, EncoderBlock, Output
from brainsegfounder.models.scales import get_scale
from brainsegfounder.models.swin import Merging, SwinTransformer, check_merging

STRIDE = 32


def check_input(x_BCIJK: Tensor, in_channels: int) -> None:
    """Refuse an image that the network cannot halve five times.

    Raises:
        UsageError: Not five axes, other channels, a side that is no multiple of 32, or 32 along all
            three sides: the deepest map would be a single voxel, and instance normalisation takes
            the mean over the voxels of one map, which would leave zero of any value.
    """
    shape = tuple(x_BCIJK.shape)
    if len(shape) != 5 or shape[1] != in_channels:
        raise UsageError(
            f"the network got a tensor of shape {shape}, but expects (cases, {in_channels}, I, J, "
            f"K): {in_channels} contrasts. Give it as many contrasts as it was built with."
        )
    size_vox = shape[2:]
    if any(n == 0 or n % STRIDE for n in size_vox):
        fitting = tuple(max(STRIDE, -(-n // STRIDE) * STRIDE) for n in size_vox)
        raise UsageError(
            f"the network got patches of {size_vox} voxels, but each side must be a multiple of "
            f"{STRIDE}, because it is halved five times. Pad to {fitting}, or set `patch_size_vox`."
        )
    if size_vox == (STRIDE, STRIDE, STRIDE):
        raise UsageError(
            f"the network got patches of {size_vox} voxels: the deepest feature map would have one "
            "voxel, and instance normalisation needs two or more to take a mean and a spread. Make "
            f"at least one side {2 * STRIDE} or more."
        )


class SwinUNETR(nn.Module):
    """Segmentation network: an image in, a logit per output channel and voxel out.

    Args:
        in_channels: Contrasts of the image.
        out_channels: Regions or classes to predict.
        scale: Name of a scale; see `scales.SCALES`.
        merging: `complete` to train; `legacy` for weights published with MONAI before 1.5.
        dropout: Rate on the encoder's tokens, projections and MLPs.
        drop_path: Rate of skipped branches in the encoder's last block.
        checkpointing: Recompute encoder blocks in the backward pass to save memory.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        scale: str = "tiny",
        merging: Merging = "complete",
        *,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.scale = scale
        self.merging = check_merging(merging)
        self.swinViT = SwinTransformer(
            in_channels,
            get_scale(scale),
            self.merging,
            dropout=dropout,
            drop_path=drop_path,
            checkpointing=checkpointing,
        )
        f = get_scale(scale).feature_size
        self.encoder1 = EncoderBlock(in_channels, f)
        self.encoder2 = EncoderBlock(f, f)
        self.encoder3 = EncoderBlock(2 * f, 2 * f)
        self.encoder4 = EncoderBlock(4 * f, 4 * f)
        self.encoder10 = EncoderBlock(16 * f, 16 * f)
        self.decoder5 = DecoderBlock(16 * f, 8 * f)
        self.decoder4 = DecoderBlock(8 * f, 4 * f)
        self.decoder3 = DecoderBlock(4 * f, 2 * f)
        self.decoder2 = DecoderBlock(2 * f, f)
        self.decoder1 = DecoderBlock(f, f)
        self.out = Output(f, out_channels)

    def forward(self, x_BCIJK: Tensor) -> Tensor:
        """Segment patches whose sides are multiples of 32, not all three of them 32.

        Args:
            x_BCIJK: Prepared image, shape (B, in_channels, I, J, K).

        Returns:
            Logits of shape (B, out_channels, I, J, K).

        Raises:
            UsageError: The shape does not fit; see `check_input`.
        """
        check_input(x_BCIJK, self.in_channels)
        return self.decode(x_BCIJK, self.swinViT(x_BCIJK))

    def decode(self, x_BCIJK: Tensor, states: Sequence[Tensor]) -> Tensor:
        """From the image and its five hidden states to logits (B, out_channels, I, J, K)."""
        y = self.decoder5(self.encoder10(states[4]), states[3])
        y = self.decoder4(y, self.encoder4(states[2]))
        y = self.decoder3(y, self.encoder3(states[1]))
        y = self.decoder2(y, self.encoder2(states[0]))
        y = self.decoder1(y, self.encoder1(x_BCIJK))
        logits_BCIJK: Tensor = self.out(y)
        return logits_BCIJK
