"""The 3-D Swin transformer encoder: attention within small cubes that shift from block to block.

Source: Hatamizadeh et al., Swin UNETR (arXiv 2201.01266), and Liu et al., Swin Transformer
(arXiv 2103.14030). Names and shapes of all weights are those of MONAI's `SwinTransformer`, so that
published weights load; `tests/oracle` holds the outputs equal too.
"""

# Shape letters in this file: B cases, I J K axes of a feature map, C channels, N windows in the
# batch that have one kind, L tokens in such a window, H attention heads, D channels of a head,
# V = B*I*J*K tokens of a batch, O = 13**3 offsets between two tokens of a window.

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from brainsegfounder.errors import RecipeError
from brainsegfounder.models.attention import attend
from brainsegfounder.models.mlp import widen_and_narrow
from brainsegfounder.models.scales import Scale
from brainsegfounder.models.slabs import runs_on_plain_cpu
from brainsegfounder.models.windows import (
    SHIFT,
    WINDOW_SIZE,
    Kind,
    Triple,
    make_layout,
    relative_position_index,
)

Merging = Literal["complete", "legacy", "v2"]

# Which corners of a 2x2x2 cube are joined, in which order. All have the same weight shapes, so
# weights of one load into another without a word, and then compute something else.
MERGING_SLOTS: dict[Merging, tuple[Triple, ...]] = {
    "complete": (
        *((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)),
        *((1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)),
    ),
    # MONAI before 1.5.0, thus the published weights: two corners stand twice, two are lost.
    "legacy": (
        *((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)),
        *((1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1)),
    ),
    "v2": tuple(itertools.product((0, 1), (0, 1), (0, 1))),
}


def check_merging(merging: str) -> Merging:
    """Return the name of a way of merging patches, or raise RecipeError if there is none such."""
    if merging not in MERGING_SLOTS:
        known = ", ".join(get_args(Merging))
        raise RecipeError(f"merging '{merging}': no such way to merge patches, expected {known}")
    return merging


class _Permute(torch.autograd.Function):
    """Reorder rows; the gradient is reordered back, which is faster than the generic scatter."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x_VC: Tensor, order: Tensor, place: Tensor
    ) -> Tensor:
        ctx.save_for_backward(order, place)
        return x_VC.index_select(0, order)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad_VC: Tensor
    ) -> tuple[Tensor, None, None]:
        order, place = ctx.saved_tensors  # type: ignore[attr-defined]
        return _permute(grad_VC, place, order), None, None


def _permute(x_VC: Tensor, order: Tensor, place: Tensor) -> Tensor:
    y_VC: Tensor = _Permute.apply(x_VC, order, place)  # type: ignore[no-untyped-call]
    return y_VC


class _JoinCorners(torch.autograd.Function):
    """Join corners of cubes; each gradient goes straight to its place, without a map of zeros."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x_BIJKC: Tensor, slots: Sequence[Triple]
    ) -> Tensor:
        ctx.shape, ctx.slots = x_BIJKC.shape, slots  # type: ignore[attr-defined]
        return torch.cat([_corner(x_BIJKC, slot) for slot in slots], dim=-1)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad_BIJKC: Tensor
    ) -> tuple[Tensor, None]:
        shape, slots = ctx.shape, ctx.slots  # type: ignore[attr-defined]
        has_all = len(set(slots)) == 8
        whole_BIJKC = grad_BIJKC.new_empty(shape) if has_all else grad_BIJKC.new_zeros(shape)
        for slot, part_BIJKC in zip(slots, grad_BIJKC.chunk(8, dim=-1), strict=True):
            place_BIJKC = _corner(whole_BIJKC, slot)
            place_BIJKC.copy_(part_BIJKC if has_all else place_BIJKC + part_BIJKC)
        return whole_BIJKC, None


def _corner(x_BIJKC: Tensor, slot: Triple) -> Tensor:
    i, j, k = slot
    return x_BIJKC[:, i::2, j::2, k::2]


class WindowAttention(nn.Module):
    """Multi-head attention among the tokens of a window, with a learned bias per offset."""

    relative_position_index: Tensor

    def __init__(
        self, channels: int, num_heads: int, dropout: float = 0.0, attention_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        num_offsets = (2 * WINDOW_SIZE - 1) ** 3
        self.relative_position_bias_table = nn.Parameter(torch.zeros(num_offsets, num_heads))
        self.register_buffer("relative_position_index", torch.from_numpy(relative_position_index()))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.proj_drop = nn.Dropout(dropout)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x_BIJKC: Tensor, shift: int) -> Tensor:
        """Attend within windows moved by `shift` tokens; the shape stays."""
        b, i, j, k, c = x_BIJKC.shape
        layout = make_layout(b, (i, j, k), shift, x_BIJKC.device)
        x_VC = _permute(x_BIJKC.reshape(-1, c), layout.order, layout.place)
        sizes = [kind.num_boxes * kind.num_tokens for kind in layout.kinds]
        parts = self.qkv(x_VC).split(sizes)
        y_VC = torch.cat(
            [self._attend(part, kind) for part, kind in zip(parts, layout.kinds, strict=True)]
        )
        y_VC = _permute(self.proj(y_VC), layout.place, layout.order)
        y_BIJKC: Tensor = self.proj_drop(y_VC).view(x_BIJKC.shape)
        return y_BIJKC

    def _attend(self, qkv_VC: Tensor, kind: Kind) -> Tensor:
        """Attend within boxes of one kind; (N * L, 3 * H * D) gives (N * L, H * D)."""
        n, t, h = kind.num_boxes, kind.num_tokens, self.num_heads
        qkv_NLC = qkv_VC.view(n, t, -1)
        if kind.padding_index.numel():
            # Swin pads with zeros after the norm, so that the layer maps padding to its bias.
            padding = self.qkv.bias.to(qkv_NLC.dtype).expand(n, 1, -1)
            qkv_NLC = torch.cat((qkv_NLC, padding), dim=1)
        q, k, v = qkv_NLC.view(n, qkv_NLC.shape[1], 3, h, -1).permute(2, 0, 3, 1, 4)
        dropout = self.attention_dropout if self.training else 0.0
        y_NHLD = attend(q[:, :, :t], k, v, self._bias(kind), dropout)
        return y_NHLD.transpose(1, 2).reshape(n * t, -1)

    def _bias(self, kind: Kind) -> Tensor:
        """Bias of each head, query and key, shape (H, L, L), or L + 1 keys with padding."""
        t, table_OH = kind.num_tokens, self.relative_position_bias_table
        bias_LLH = table_OH.index_select(0, kind.bias_index).view(t, t, -1)
        if kind.padding_index.numel():
            padding_LPH = functional.embedding(kind.padding_index, table_OH)
            bias_LLH = torch.cat((bias_LLH, padding_LPH.logsumexp(dim=1, keepdim=True)), dim=1)
        return bias_LLH.permute(2, 0, 1).contiguous()


class DropPath(nn.Module):
    """In training, skip a residual branch for a random share of the cases."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Zero whole cases with probability `rate`, scaling the rest up; shapes stay."""
        if self.rate == 0.0 or not self.training:
            return x
        keep = x.new_empty([len(x)] + [1] * (x.dim() - 1)).bernoulli_(1.0 - self.rate)
        return x * keep / (1.0 - self.rate)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them; four times as wide inside."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, 4 * channels)
        self.linear2 = nn.Linear(4 * channels, channels)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        drops = self.training and self.drop.p > 0.0
        if runs_on_plain_cpu(x) and not drops:
            wide, narrow = self.linear1, self.linear2
            x_VC = x.reshape(-1, x.shape[-1])
            y_VC = widen_and_narrow(x_VC, wide.weight, wide.bias, narrow.weight, narrow.bias)
            return y_VC.view(x.shape)
        y: Tensor = self.drop(self.linear2(self.drop(functional.gelu(self.linear1(x)))))
        return y


class SwinBlock(nn.Module):
    """Window attention and an MLP, each on normalised input and added to it."""

    def __init__(
        self,
        channels: int,
        num_heads: int,
        shift: int,
        *,
        dropout: float,
        attention_dropout: float,
        drop_path: float,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.shift = shift
        self.checkpointing = checkpointing
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, num_heads, dropout, attention_dropout)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, dropout)

    def forward(self, x_BIJKC: Tensor) -> Tensor:
        """Map a feature map (B, I, J, K, C) to one of the same shape."""
        if self.checkpointing and torch.is_grad_enabled():
            y: Tensor = checkpoint(self._forward, x_BIJKC, use_reentrant=False)
            return y
        return self._forward(x_BIJKC)

    def _forward(self, x_BIJKC: Tensor) -> Tensor:
        x_BIJKC = x_BIJKC + self.drop_path(self.attn(self.norm1(x_BIJKC), self.shift))
        y: Tensor = x_BIJKC + self.drop_path(self.mlp(self.norm2(x_BIJKC)))
        return y


class PatchMerging(nn.Module):
    """Halve each axis and double the channels."""

    def __init__(self, channels: int, merging: Merging) -> None:
        super().__init__()
        self.slots = MERGING_SLOTS[merging]
        self.reduction = nn.Linear(8 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(8 * channels)

    def forward(self, x_BIJKC: Tensor) -> Tensor:
        """Map (B, I, J, K, C) to (B, ceil(I/2), ceil(J/2), ceil(K/2), 2C)."""
        _, i, j, k, _ = x_BIJKC.shape
        if i % 2 or j % 2 or k % 2:
            x_BIJKC = functional.pad(x_BIJKC, (0, 0, 0, k % 2, 0, j % 2, 0, i % 2))
        joined_BIJKC = _JoinCorners.apply(x_BIJKC, self.slots)  # type: ignore[no-untyped-call]
        y: Tensor = self.reduction(self.norm(joined_BIJKC))
        return y


class PatchEmbedding(nn.Module):
    """Turn each cube of 2x2x2 voxels into one token."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, channels, kernel_size=2, stride=2)

    def forward(self, x_BCIJK: Tensor) -> Tensor:
        """Map an image (B, C, I, J, K) to tokens (B, ceil(I/2), ceil(J/2), ceil(K/2), C)."""
        pi, pj, pk = (n % 2 for n in x_BCIJK.shape[2:])
        if pi or pj or pk:
            x_BCIJK = functional.pad(x_BCIJK, (0, pk, 0, pj, 0, pi))
        y_BIJKC: Tensor = self.proj(x_BCIJK).permute(0, 2, 3, 4, 1)
        return y_BIJKC.contiguous()


class Stage(nn.Module):
    """Some blocks, every second one shifted, then a merging of patches."""

    def __init__(
        self,
        channels: int,
        num_heads: int,
        merging: Merging,
        drop_paths: Sequence[float],
        *,
        dropout: float,
        attention_dropout: float,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(
                channels,
                num_heads,
                shift=SHIFT if number % 2 else 0,
                dropout=dropout,
                attention_dropout=attention_dropout,
                drop_path=drop_path,
                checkpointing=checkpointing,
            )
            for number, drop_path in enumerate(drop_paths)
        )
        self.downsample = PatchMerging(channels, merging)

    def forward(self, x_BIJKC: Tensor) -> Tensor:
        """Map (B, I, J, K, C) to (B, ceil(I/2), ceil(J/2), ceil(K/2), 2C)."""
        for block in self.blocks:
            x_BIJKC = block(x_BIJKC)
        y_BIJKC: Tensor = self.downsample(x_BIJKC)
        return y_BIJKC


class SwinTransformer(nn.Module):
    """Encoder from an image to five hidden states, each half as fine as the one before.

    Args:
        in_channels: Contrasts of the image.
        scale: Width, depths and heads.
        merging: How patches are merged; see `MERGING_SLOTS`.
        dropout: Rate on tokens, projections and MLPs.
        attention_dropout: Rate on attention weights.
        drop_path: Rate of skipped branches in the last block; it grows linearly from zero.
        checkpointing: Recompute blocks in the backward pass to save memory.
    """

    layers1: nn.ModuleList
    layers2: nn.ModuleList
    layers3: nn.ModuleList
    layers4: nn.ModuleList

    def __init__(
        self,
        in_channels: int,
        scale: Scale,
        merging: Merging = "complete",
        *,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(in_channels, scale.feature_size)
        self.pos_drop = nn.Dropout(dropout)
        drop_paths = iter(torch.linspace(0, drop_path, sum(scale.depths), device="cpu").tolist())
        for number, (depth, num_heads) in enumerate(
            zip(scale.depths, scale.num_heads, strict=True)
        ):
            stage = Stage(
                scale.feature_size * 2**number,
                num_heads,
                merging,
                list(itertools.islice(drop_paths, depth)),
                dropout=dropout,
                attention_dropout=attention_dropout,
                checkpointing=checkpointing,
            )
            # A list of one, because MONAI's weights are named `layers1.0.blocks...`.
            setattr(self, f"layers{number + 1}", nn.ModuleList([stage]))
        self.apply(_initialise)

    def forward(self, x_BCIJK: Tensor, normalize: bool = True) -> list[Tensor]:
        """Encode an image of any size.

        Args:
            x_BCIJK: Image of shape (B, C, I, J, K).
            normalize: Layer-normalise each hidden state over its channels, without parameters. The
                next stage gets the map before that.

        Returns:
            Five maps: f channels at 1/2 of the size (rounded up), 2f at 1/4, ... 16f at 1/32.
        """
        return self.encode(self.patch_embed(x_BCIJK), normalize)

    def encode(self, x_BIJKC: Tensor, normalize: bool = True) -> list[Tensor]:
        """As `forward`, from tokens of `patch_embed`, shape (B, I, J, K, f)."""
        x_BIJKC = self.pos_drop(x_BIJKC)
        states = [x_BIJKC]
        for stages in (self.layers1, self.layers2, self.layers3, self.layers4):
            x_BIJKC = stages[0](x_BIJKC)
            states.append(x_BIJKC)
        if normalize:
            states = [functional.layer_norm(s_BIJKC, s_BIJKC.shape[-1:]) for s_BIJKC in states]
        return [s_BIJKC.permute(0, 4, 1, 2, 3) for s_BIJKC in states]


def _initialise(module: nn.Module) -> None:
    """Linear layers as in the Swin paper; the rest keeps the defaults of its class."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
