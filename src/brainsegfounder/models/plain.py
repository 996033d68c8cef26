"""A network as plain tensor operations for one size of patch, so that other programs can run it.

`torch.export` takes the branches of this package that are not for a CPU, because they ask whether
something is being compiled. What is left is attention: its layout of windows depends on the size
of the patch, and is written down here as constants.
"""

# Shape letters in this file: I J K axes of a feature map, C = H * D channels, V = I*J*K tokens,
# N windows of one kind, L tokens in such a window, S keys (L, or L + 1 with padding), H attention
# heads, D channels of a head.

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from brainsegfounder.models.swin import SwinTransformer, WindowAttention
from brainsegfounder.models.windows import Triple, make_layout


def plain(network: nn.Module, patch_size_vox: Triple) -> nn.Module:
    """The same network for single patches of one size, ready for `torch.export`.

    Args:
        network: A segmentation network, an ensemble, or a baseline; it is left as it is.
        patch_size_vox: Sides of the patches that the result takes.

    Returns:
        From (1, C, *patch_size_vox) to logits (1, R, *patch_size_vox), in evaluation mode.
    """
    twin = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    for module in list(twin.modules()):
        if isinstance(module, SwinTransformer):
            _fix_encoder(module, patch_size_vox)
        elif isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)) and module.bias is None:
            # Where there is none, PyTorch 2.13 writes one of zeros into ONNX, of the wrong rank.
            module.bias = nn.Parameter(torch.zeros(module.out_channels), requires_grad=False)
    return twin


def _fix_encoder(encoder: SwinTransformer, patch_size_vox: Triple) -> None:
    i, j, k = patch_size_vox
    for stages in (encoder.layers1, encoder.layers2, encoder.layers3, encoder.layers4):
        i, j, k = (math.ceil(n / 2) for n in (i, j, k))
        for block in stages[0].blocks:  # type: ignore[union-attr]
            block.attn = FixedAttention(block.attn, (i, j, k), block.shift)


class FixedAttention(nn.Module):
    """Window attention on feature maps of one size and shift; see `swin.WindowAttention`."""

    order: Tensor
    place: Tensor

    def __init__(self, attention: WindowAttention, grid: Triple, shift: int) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.qkv, self.proj = attention.qkv, attention.proj
        layout = make_layout(1, grid, shift, torch.device("cpu"))
        self.counts = [(kind.num_boxes, kind.num_tokens) for kind in layout.kinds]
        self.register_buffer("order", layout.order.int())
        self.register_buffer("place", layout.place.int())
        with torch.no_grad():
            for number, kind in enumerate(layout.kinds):
                self.register_buffer(f"bias_{number}", attention._bias(kind))

    def forward(self, x_BIJKC: Tensor, _: int) -> Tensor:
        """As `WindowAttention.forward`, with the shift that it was made for; B is 1."""
        x_VC = x_BIJKC.reshape(-1, x_BIJKC.shape[-1]).index_select(0, self.order)
        sizes = [count * length for count, length in self.counts]
        q, k, v = (one.split(sizes) for one in self.qkv(x_VC).chunk(3, dim=-1))
        kinds = range(len(sizes))
        y_VC = torch.cat([self._attend(n, q[n], k[n], v[n]) for n in kinds])
        y_BIJKC: Tensor = self.proj(y_VC.index_select(0, self.place)).view(x_BIJKC.shape)
        return y_BIJKC

    def _attend(self, number: int, q_VC: Tensor, k_VC: Tensor, v_VC: Tensor) -> Tensor:
        bias_HLS = getattr(self, f"bias_{number}")
        _, k_bias_C, v_bias_C = self.qkv.bias.chunk(3)
        q_NLHD = self._heads(number, q_VC)
        k_NSHD, v_NSHD = self._heads(number, k_VC), self._heads(number, v_VC)
        if bias_HLS.shape[1] < bias_HLS.shape[2]:
            k_NSHD, v_NSHD = self._padded(k_NSHD, k_bias_C), self._padded(v_NSHD, v_bias_C)
        scale = q_NLHD.shape[-1] ** -0.5
        scores_NHLS = (q_NLHD.permute(0, 2, 1, 3) * scale) @ k_NSHD.permute(0, 2, 3, 1) + bias_HLS
        y_NHLD: Tensor = scores_NHLS.softmax(-1) @ v_NSHD.permute(0, 2, 1, 3)
        return y_NHLD.permute(0, 2, 1, 3).reshape(q_VC.shape)

    def _heads(self, number: int, x_VC: Tensor) -> Tensor:
        return x_VC.reshape(*self.counts[number], self.num_heads, -1)

    def _padded(self, x_NLHD: Tensor, bias_C: Tensor) -> Tensor:
        """Swin's padding, which a layer maps to its bias, as one more token."""
        n, _, h, d = x_NLHD.shape
        return torch.cat((x_NLHD, bias_C.view(1, 1, h, d).expand(n, -1, -1, -1)), dim=1)
