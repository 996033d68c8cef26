"""Networks that restore what is hidden of an image: with SwinUNETR's decoder, or with a light head.

Sources: He et al., Masked autoencoders (arXiv 2111.06377), for learned mask tokens and a decoder;
Xie et al., SimMIM (arXiv 2111.09886), for hidden tokens that a hierarchical encoder still sees, and
a head of one linear layer.
"""

# Shape letters in this file: B cases, C channels, I J K axes of an image or feature map.

from __future__ import annotations

import torch
from torch import Tensor, nn

from brainsegfounder.models.scales import get_scale
from brainsegfounder.models.swin import Merging, SwinTransformer, check_merging
from brainsegfounder.models.swin_unetr import STRIDE, SwinUNETR, check_input

# The light head restores the mean of each cube with this side.
LIGHT_STRIDE_VOX = 4
TOKEN_VOX = 2
TOKEN_STD = 0.02


class MaskedAutoencoder(SwinUNETR):
    """SwinUNETR that restores its input; hidden tokens are one learned vector.

    All weights but that vector are those of a `SwinUNETR` with as many outputs as contrasts.

    Args:
        in_channels: Contrasts of the image.
        scale: Name of a scale; see `scales.SCALES`.
        merging: How patches are merged; see `swin.MERGING_SLOTS`.
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
        dropout: float = 0.0,
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(
            in_channels,
            in_channels,
            scale,
            merging,
            dropout=dropout,
            drop_path=drop_path,
            checkpointing=checkpointing,
        )
        self.mask_token = _make_token(get_scale(scale).feature_size)

    def forward(self, x_BCIJK: Tensor, hidden_B1IJK: Tensor) -> Tensor:  # type: ignore[override]
        """Restore an image.

        Args:
            x_BCIJK: Image, shape (B, in_channels, I, J, K); what is hidden of it has no effect.
            hidden_B1IJK: Where it is hidden, boolean, in blocks of 2 x 2 x 2 voxels or more.

        Returns:
            The image, shape (B, in_channels, I, J, K).

        Raises:
            UsageError: The shape does not fit; see `swin_unetr.check_input`.
        """
        check_input(x_BCIJK, self.in_channels)
        seen_BCIJK = x_BCIJK.masked_fill(hidden_B1IJK, 0.0)
        tokens_BIJKC = _hide(self.swinViT.patch_embed(seen_BCIJK), hidden_B1IJK, self.mask_token)
        return self.decode(seen_BCIJK, self.swinViT.encode(tokens_BIJKC))


class LightAutoencoder(nn.Module):
    """The encoder and one linear layer, which restores the image at a quarter of its resolution.

    With `hides`, hidden tokens are one learned vector. Other arguments as of `MaskedAutoencoder`.
    """

    def __init__(
        self,
        in_channels: int,
        scale: str = "tiny",
        merging: Merging = "complete",
        *,
        hides: bool = True,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        size = get_scale(scale)
        self.in_channels = in_channels
        self.scale = scale
        self.merging = check_merging(merging)
        self.swinViT = SwinTransformer(
            in_channels,
            size,
            self.merging,
            dropout=dropout,
            drop_path=drop_path,
            checkpointing=checkpointing,
        )
        if hides:
            self.mask_token = _make_token(size.feature_size)
        self.side = STRIDE // LIGHT_STRIDE_VOX
        self.head = nn.Linear(size.bottleneck_channels, in_channels * self.side**3)

    def forward(self, x_BCIJK: Tensor, hidden_B1IJK: Tensor | None = None) -> Tensor:
        """Restore an image.

        Args:
            x_BCIJK: Image, shape (B, in_channels, I, J, K); what is hidden of it has no effect.
            hidden_B1IJK: Where it is hidden, boolean, in blocks of 2 x 2 x 2 voxels or more; None:
                nowhere.

        Returns:
            Means of cubes of 4 x 4 x 4 voxels, shape (B, in_channels, I / 4, J / 4, K / 4).

        Raises:
            UsageError: The shape does not fit; see `swin_unetr.check_input`.
        """
        check_input(x_BCIJK, self.in_channels)
        if hidden_B1IJK is None:
            tokens_BIJKC = self.swinViT.patch_embed(x_BCIJK)
        else:
            seen_BCIJK = x_BCIJK.masked_fill(hidden_B1IJK, 0.0)
            tokens_BIJKC = self.swinViT.patch_embed(seen_BCIJK)
            tokens_BIJKC = _hide(tokens_BIJKC, hidden_B1IJK, self.mask_token)
        deepest_BCIJK = self.swinViT.encode(tokens_BIJKC)[-1]
        return self._unfold(self.head(deepest_BCIJK.permute(0, 2, 3, 4, 1)))

    def _unfold(self, y_BIJKC: Tensor) -> Tensor:
        """Spread the values of each token over the cube that it stands for."""
        b, i, j, k, _ = y_BIJKC.shape
        n = self.side
        cubes = y_BIJKC.view(b, i, j, k, self.in_channels, n, n, n)
        cubes = cubes.permute(0, 4, 1, 5, 2, 6, 3, 7)
        return cubes.reshape(b, self.in_channels, i * n, j * n, k * n)


def _make_token(channels: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(channels) * TOKEN_STD)


def _hide(x_BIJKC: Tensor, hidden_B1IJK: Tensor, token_C: Tensor) -> Tensor:
    """Tokens, those of hidden cubes replaced."""
    step = slice(None, None, TOKEN_VOX)
    hidden_BIJK = hidden_B1IJK[:, 0, step, step, step]
    return torch.where(hidden_BIJK.unsqueeze(-1), token_C.to(x_BIJKC.dtype), x_BIJKC)
