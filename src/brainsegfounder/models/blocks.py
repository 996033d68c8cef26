"""The convolutional blocks of the decoder.

Names and shapes of all weights are those of MONAI's `UnetrBasicBlock`, `UnetrUpBlock` and
`UnetOutBlock`, so that published weights load. Kernels lie in channels-last layout in memory.
"""

# Shape letters in this file: B cases, C channels, I J K axes of a feature map.

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from brainsegfounder.models.activated_convolution import activate_and_convolve
from brainsegfounder.models.convolution import (
    add_convolved_double,
    convolve,
    make_convolution,
    pays_to_join,
)
from brainsegfounder.models.normalisation import normalise_add_and_activate
from brainsegfounder.models.recompute import forget
from brainsegfounder.models.slabs import runs_on_plain_cpu


class _Convolution(nn.Module):
    """A bare convolution; the class exists because MONAI's weights are named `...conv.weight`."""

    def __init__(self, in_channels: int, out_channels: int, size: int, *, bias: bool = False):
        super().__init__()
        self.conv = make_convolution(in_channels, out_channels, size, bias=bias)

    def forward(self, x_BCIJK: Tensor) -> Tensor:
        return convolve(x_BCIJK, self.conv)


class _Upsampling(nn.Module):
    """A transposed convolution that doubles each axis."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose3d(in_channels, out_channels, 2, stride=2, bias=False)
        self.conv.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, x_BCIJK: Tensor) -> Tensor:
        y_BCIJK: Tensor = self.conv(x_BCIJK)
        return y_BCIJK


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions beside a shortcut, instance-normalised without parameters."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = _Convolution(in_channels, out_channels, 3)
        self.conv2 = _Convolution(out_channels, out_channels, 3)
        self.conv3 = (
            _Convolution(in_channels, out_channels, 1) if in_channels != out_channels else None
        )

    def forward(self, x_BCIJK: Tensor) -> Tensor:
        """Map (B, C_in, I, J, K) to (B, C_out, I, J, K)."""
        first_BCIJK = self.conv1(x_BCIJK)
        if self.conv3 is not None:
            return self.finish(first_BCIJK, partial(self.conv3, x_BCIJK))
        second_BCIJK = activate_and_convolve(first_BCIJK, self.conv2.conv)
        return normalise_add_and_activate(second_BCIJK, x_BCIJK, normalise_shortcut=False)

    def finish(self, first_BCIJK: Tensor, make_shortcut: Callable[[], Tensor]) -> Tensor:
        """What follows the first convolution, where the shortcut has a convolution too.

        That one is quick, so that what it gives is made again for the backward pass.
        """
        second_BCIJK = activate_and_convolve(first_BCIJK, self.conv2.conv)
        shortcut_BCIJK = make_shortcut()
        if not (runs_on_plain_cpu(shortcut_BCIJK) and shortcut_BCIJK.requires_grad):
            return normalise_add_and_activate(second_BCIJK, shortcut_BCIJK, normalise_shortcut=True)
        with forget(shortcut_BCIJK, make_shortcut):
            return normalise_add_and_activate(
                second_BCIJK, shortcut_BCIJK, normalise_shortcut=True, shortcut_is_forgotten=True
            )


class EncoderBlock(nn.Module):
    """A residual block on one skip connection."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.layer = ResidualBlock(in_channels, out_channels)

    def forward(self, x_BCIJK: Tensor) -> Tensor:
        """Map (B, C_in, I, J, K) to (B, C_out, I, J, K)."""
        y_BCIJK: Tensor = self.layer(x_BCIJK)
        return y_BCIJK


class DecoderBlock(nn.Module):
    """Double the size, join the skip connection, and blend the two."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.transp_conv = _Upsampling(in_channels, out_channels)
        self.conv_block = ResidualBlock(2 * out_channels, out_channels)

    def forward(self, x_BCIJK: Tensor, skip_BCIJK: Tensor) -> Tensor:
        """Map (B, C_in, I, J, K) and a skip of twice the size to (B, C_out, 2I, 2J, 2K)."""
        block = self.conv_block
        if block.conv3 is not None and pays_to_join(x_BCIJK):
            joined = partial(self._convolve_joined, x_BCIJK, skip_BCIJK)
            return block.finish(joined(block.conv1.conv), partial(joined, block.conv3.conv))
        joined_BCIJK = torch.cat((self.transp_conv(x_BCIJK), skip_BCIJK), dim=1)
        y_BCIJK: Tensor = block(joined_BCIJK)
        return y_BCIJK

    def _convolve_joined(self, x_BCIJK: Tensor, skip_BCIJK: Tensor, layer: nn.Conv3d) -> Tensor:
        """Convolve the doubled map and the skip as if they were one, without ever joining them."""
        doubling_CMIJK = self.transp_conv.conv.weight
        of_doubled, of_skip = layer.weight.chunk(2, dim=1)
        y_BCIJK = convolve(skip_BCIJK, layer, of_skip)
        return add_convolved_double(y_BCIJK, x_BCIJK, doubling_CMIJK, of_doubled)


class Output(nn.Module):
    """The last 1x1x1 convolution, from features to logits."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = _Convolution(in_channels, out_channels, 1, bias=True)

    def forward(self, x_BCIJK: Tensor) -> Tensor:
        """Map (B, C_in, I, J, K) to (B, C_out, I, J, K)."""
        y_BCIJK: Tensor = self.conv(x_BCIJK)
        return y_BCIJK
