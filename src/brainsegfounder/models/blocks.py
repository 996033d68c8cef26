"""The convolutional blocks of the decoder, and what makes them quick without a GPU.

Names and shapes of all weights are those of MONAI's `UnetrBasicBlock`, `UnetrUpBlock` and
`UnetOutBlock`, so that published weights load.
"""

# Shape letters in this file: B cases, C channels, I J K axes of a feature map.

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

NEGATIVE_SLOPE = 0.01

# PyTorch convolves a single float32 case with C * I * J up to this number by a loop that is about
# ten times slower than oneDNN (`use_mkldnn` in ATen/native/Convolution.cpp).
_SMALL_FOR_PYTORCH = 20480
# oneDNN works on blocks of so many channels; other widths are twice as fast with channels last.
_BLOCK_CHANNELS = 16


def instance_norm(x_BCIJK: Tensor) -> Tensor:
    """Give each channel of each case mean 0 and variance 1 over its voxels; the shape stays."""
    if x_BCIJK.device.type == "cpu":
        # The same numbers: one channel a group. Five times faster on a CPU, forward and backward.
        return functional.group_norm(x_BCIJK, x_BCIJK.shape[1])
    return functional.instance_norm(x_BCIJK)


def convolve(x_BCIJK: Tensor, layer: nn.Conv3d) -> Tensor:
    """Apply a convolution, on a CPU along the path of PyTorch that is fastest for the shape."""
    is_plain = x_BCIJK.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    y_BCIJK: Tensor
    if x_BCIJK.device.type != "cpu" or not is_plain or torch.compiler.is_compiling():
        y_BCIJK = layer(x_BCIJK)
    elif len(x_BCIJK) == 1 and x_BCIJK[..., 0].numel() <= _SMALL_FOR_PYTORCH:
        x_BCIJK = x_BCIJK.to_mkldnn()
        y_BCIJK = functional.conv3d(
            x_BCIJK, layer.weight, layer.bias, padding=layer.padding
        ).to_dense()
    elif layer.out_channels % _BLOCK_CHANNELS and layer.kernel_size != (1, 1, 1):
        x_BCIJK = x_BCIJK.contiguous(memory_format=torch.channels_last_3d)
        y_BCIJK = layer(x_BCIJK).contiguous()
    else:
        y_BCIJK = layer(x_BCIJK)
    return y_BCIJK


class InstanceNorm(nn.Module):
    """Instance normalisation without parameters."""

    def forward(self, x_BCIJK: Tensor) -> Tensor:
        """Normalise; the shape stays."""
        return instance_norm(x_BCIJK)


class _Convolution(nn.Module):
    """A bare convolution; the class exists because MONAI's weights are named `...conv.weight`."""

    def __init__(self, in_channels: int, out_channels: int, size: int, *, bias: bool = False):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, size, padding=size // 2, bias=bias)

    def forward(self, x_BCIJK: Tensor) -> Tensor:
        return convolve(x_BCIJK, self.conv)


class _Upsampling(nn.Module):
    """A transposed convolution that doubles each axis."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose3d(in_channels, out_channels, 2, stride=2, bias=False)

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
        y = functional.leaky_relu(instance_norm(self.conv1(x_BCIJK)), NEGATIVE_SLOPE, inplace=True)
        y = instance_norm(self.conv2(y))
        shortcut = x_BCIJK if self.conv3 is None else instance_norm(self.conv3(x_BCIJK))
        return functional.leaky_relu(y + shortcut, NEGATIVE_SLOPE, inplace=True)


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
        joined = torch.cat((self.transp_conv(x_BCIJK), skip_BCIJK), dim=1)
        y_BCIJK: Tensor = self.conv_block(joined)
        return y_BCIJK


class Output(nn.Module):
    """The last 1x1x1 convolution, from features to logits."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = _Convolution(in_channels, out_channels, 1, bias=True)

    def forward(self, x_BCIJK: Tensor) -> Tensor:
        """Map (B, C_in, I, J, K) to (B, C_out, I, J, K)."""
        y_BCIJK: Tensor = self.conv(x_BCIJK)
        return y_BCIJK
