"""The pretraining network: the Swin encoder with one head for each of the three pretext tasks.

Source: method sheet of BrainSegFounder (arXiv 2406.10395; the tasks are those of Tang et al.,
arXiv 2111.14791): which quarter turn, which other view is of the same crop, what was cut out.
"""

# Shape letters in this file: B cases, C channels, I J K axes of an image or feature map,
# T tokens of the deepest map.

from __future__ import annotations

import itertools
from typing import NamedTuple, cast

from torch import Tensor, nn
from torch.nn import functional

from brainsegfounder.models.convolution import convolve, make_convolution
from brainsegfounder.models.normalisation import normalise_and_activate
from brainsegfounder.models.scales import get_scale
from brainsegfounder.models.swin import Merging, SwinTransformer, check_merging
from brainsegfounder.models.swin_unetr import check_input

EMBEDDING_CHANNELS = 512
ROTATION_TOKEN = 0
CONTRASTIVE_TOKEN = 1


class PretextOutputs(NamedTuple):
    """What the pretraining network says about a batch of crops.

    Attributes:
        rotation_logits: One logit per rotation that is told apart, shape (B, num_rotations).
        embedding: Vector for the contrastive task, shape (B, 512), not normalised.
        reconstruction: The crop without its cut-outs, shape (B, C, I, J, K).
    """

    rotation_logits: Tensor
    embedding: Tensor
    reconstruction: Tensor


class ReconstructionHead(nn.Module):
    """Five times a convolution and a doubling, from 16f channels back to the image.

    The convolutions are named 0, 4, 8, 12, 16 and 20, as in published weights. The last one, of
    1x1x1 voxels, stands before the last doubling instead of after it: the two commute, and on the
    coarse map it has an eighth of the work.
    """

    def __init__(self, feature_size: int, out_channels: int) -> None:
        super().__init__()
        widths = [16 * feature_size, 8 * feature_size, 4 * feature_size, 2 * feature_size]
        widths += [feature_size, feature_size]
        sizes = [(wide, narrow, 3) for wide, narrow in itertools.pairwise(widths)]
        for number, (wide, narrow, size) in enumerate([*sizes, (feature_size, out_channels, 1)]):
            self.add_module(str(4 * number), make_convolution(wide, narrow, size, bias=True))

    def forward(self, x_BCIJK: Tensor) -> Tensor:
        """Map (B, 16f, I, J, K) to (B, out_channels, 32I, 32J, 32K)."""
        *convolutions, to_image = (cast(nn.Conv3d, layer) for layer in self.children())
        for number, layer in enumerate(convolutions):
            x_BCIJK = _double(x_BCIJK) if number else x_BCIJK
            x_BCIJK = normalise_and_activate(convolve(x_BCIJK, layer), overwrite=True)
        return _double(convolve(x_BCIJK, to_image))


def _double(x_BCIJK: Tensor) -> Tensor:
    return functional.interpolate(x_BCIJK, scale_factor=2, mode="trilinear", align_corners=False)


class SSLNetwork(nn.Module):
    """Swin encoder with heads for rotation, contrast and reconstruction.

    Args:
        in_channels: Contrasts of the image.
        scale: Name of a scale; see `scales.SCALES`.
        merging: How patches are merged; see `swin.MERGING_SLOTS`.
        num_rotations: How many rotations are told apart: 4 about one axis, 10 about all three.
        pooled_heads: Feed both linear heads the mean token, instead of two corner tokens as the
            paper's code does.
        dropout: Rate on the encoder's tokens, projections and MLPs.
        drop_path: Rate of skipped branches in the encoder's last block.
        checkpointing: Recompute encoder blocks in the backward pass to save memory.
    """

    def __init__(
        self,
        in_channels: int,
        scale: str = "tiny",
        merging: Merging = "complete",
        *,
        num_rotations: int = 4,
        pooled_heads: bool = False,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.scale = scale
        self.merging = check_merging(merging)
        self.pooled_heads = pooled_heads
        size = get_scale(scale)
        self.swinViT = SwinTransformer(
            in_channels,
            size,
            self.merging,
            dropout=dropout,
            drop_path=drop_path,
            checkpointing=checkpointing,
        )
        self.rotation_head = nn.Linear(size.bottleneck_channels, num_rotations)
        self.contrastive_head = nn.Linear(size.bottleneck_channels, EMBEDDING_CHANNELS)
        self.conv = ReconstructionHead(size.feature_size, in_channels)

    def forward(self, x_BCIJK: Tensor) -> PretextOutputs:
        """Solve the three tasks on crops whose sides are multiples of 32, not all three of them 32.

        Args:
            x_BCIJK: Rotated crops with parts cut out, shape (B, in_channels, I, J, K).

        Raises:
            UsageError: The shape does not fit; see `swin_unetr.check_input`.
        """
        check_input(x_BCIJK, self.in_channels)
        deepest_BCIJK = self.swinViT(x_BCIJK)[-1]
        tokens_BTC = deepest_BCIJK.flatten(2).transpose(1, 2)
        rotation_BC, contrastive_BC = (
            tokens_BTC[:, ROTATION_TOKEN],
            tokens_BTC[:, CONTRASTIVE_TOKEN],
        )
        if self.pooled_heads:
            rotation_BC = contrastive_BC = tokens_BTC.mean(dim=1)
        return PretextOutputs(
            rotation_logits=self.rotation_head(rotation_BC),
            embedding=self.contrastive_head(contrastive_BC),
            reconstruction=self.conv(deepest_BCIJK),
        )
