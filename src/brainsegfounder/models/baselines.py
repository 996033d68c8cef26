"""Baselines: MONAI's SegResNet, DynUNet and UNETR, for the same loop, predictor and metrics.

MONAI is imported when one of them is built, which takes about ten seconds, and never before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, cast

from torch import Tensor, nn

from brainsegfounder.errors import UsageError
from brainsegfounder.models.nnunet_rule import Sides, levels_of
from brainsegfounder.models.scales import get_scale

# Where the last convolution of each network is.
OUTPUT_LAYERS = MappingProxyType(
    {
        "swin-unetr": "out.conv.conv",
        "segresnet": "conv_final.2.conv",
        "dynunet": "output_block.conv.conv",
        "unetr": "out.conv.conv",
    }
)
SEGRESNET_STRIDE = 8
UNETR_STRIDE = 16
# With fewer levels MONAI's DynUNet has nothing between its first and its last.
FEWEST_LEVELS = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a baseline is built for.

    Attributes:
        in_channels: Contrasts of the image.
        out_channels: Regions or classes to predict.
        is_nano: A small network for machines without a GPU; else that of the papers.
        patch_size_vox: Sides of the patches it will see.
        spacing_mm: Distance between voxel centres.
        dropout: Rate, in the places that the architecture has for it.
    """

    in_channels: int
    out_channels: int
    is_nano: bool
    patch_size_vox: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    dropout: float


def build_baseline(
    architecture: str,
    in_channels: int,
    out_channels: int,
    scale: str = "tiny",
    *,
    patch_size_vox: tuple[int, int, int] = (96, 96, 96),
    spacing_mm: tuple[float, float, float] | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """An untrained network of MONAI's, from patches (B, in_channels, I, J, K) to logits.

    Args:
        architecture: `segresnet`, `dynunet` or `unetr`.
        in_channels: Contrasts of the image.
        out_channels: Regions or classes to predict.
        scale: `nano`, `nano-small` and `nano-big` are one size, `tiny`, `small` and `big` another.
        patch_size_vox: Sides of the patches it will see. They decide on the levels of a DynUNet
            and on the positions of a UNETR.
        spacing_mm: Distance between voxel centres, which decides on the strides and kernels of a
            DynUNet; None is taken as the same along all axes.
        dropout: Of SegResNet after its first convolution, of UNETR in its transformer. A DynUNet
            has none.

    Raises:
        UsageError: There is no such architecture, the patch does not fit it, it has no dropout,
            or MONAI is not installed.
        RecipeError: There is no such scale.
    """
    get_scale(scale)
    if architecture not in BUILDERS:
        raise UsageError(
            f"architecture '{architecture}': no baseline; expected one of {', '.join(BUILDERS)}."
        )
    wanted = Wanted(
        in_channels,
        out_channels,
        scale.startswith("nano"),
        patch_size_vox,
        spacing_mm or (1.0, 1.0, 1.0),
        dropout,
    )
    _check_sides(architecture, patch_size_vox, _divisor(architecture, wanted))
    try:
        network = BUILDERS[architecture](_monai(), wanted)
    except ImportError as error:
        raise UsageError(
            f"architecture {architecture}: needs MONAI, which is not installed ({error}). "
            "Install it: pip install 'brainsegfounder[baselines]'"
        ) from None
    network.register_forward_pre_hook(partial(_check_input, architecture, wanted))
    return network


def output_layer(network: nn.Module, architecture: str) -> nn.Conv3d:
    """The last convolution of a segmentation network, ours or a baseline: a logit a channel."""
    return cast(nn.Conv3d, network.get_submodule(OUTPUT_LAYERS[architecture]))


def _segresnet(nets: Any, wanted: Wanted) -> nn.Module:
    """Of Myronenko (arXiv 1810.11654), without its autoencoder: 32 filters, 19 M; nano 16, 5 M."""
    network: nn.Module = nets.SegResNet(
        spatial_dims=3,
        init_filters=16 if wanted.is_nano else 32,
        in_channels=wanted.in_channels,
        out_channels=wanted.out_channels,
        dropout_prob=wanted.dropout or None,
        blocks_down=(1, 2, 2, 4),
        blocks_up=(1, 1, 1),
    )
    return network


def _dynunet(nets: Any, wanted: Wanted) -> nn.Module:
    """nnU-Net's plain U-Net: 32 to 320 filters, 17 M (31 M from patches of 128); nano half of it.

    Without deep supervision, as the other networks are: one loss, at full resolution.
    """
    levels = levels_of(wanted.patch_size_vox, wanted.spacing_mm)
    _check_dynunet(wanted, len(levels.strides))
    first, most = (16, 160) if wanted.is_nano else (32, 320)
    network: nn.Module = nets.DynUNet(
        spatial_dims=3,
        in_channels=wanted.in_channels,
        out_channels=wanted.out_channels,
        kernel_size=levels.kernels,
        strides=levels.strides,
        upsample_kernel_size=levels.strides[1:],
        filters=[min(first * 2**n, most) for n in range(len(levels.strides))],
        norm_name=("INSTANCE", {"affine": True}),
        act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
        deep_supervision=False,
        res_block=False,
    )
    # Second names of what is in `skip_layers`; the forward pass does not use them, and a file of
    # weights may hold each tensor only once.
    for name in ("input_block", "downsamples", "bottleneck", "upsamples"):
        delattr(network, name)
    return network


def _check_dynunet(wanted: Wanted, num_levels: int) -> None:
    if num_levels < FEWEST_LEVELS:
        raise UsageError(
            f"architecture dynunet: patches of {wanted.patch_size_vox} voxels can be halved "
            f"{num_levels - 1} times; expected {FEWEST_LEVELS - 1} or more. Set patch_size_vox to "
            "at least 16."
        )
    if wanted.dropout:
        raise UsageError(
            f"architecture dynunet: dropout {wanted.dropout:g}; expected 0, as nnU-Net has none. "
            "Set model.dropout=0."
        )


def _unetr(nets: Any, wanted: Wanted) -> nn.Module:
    """Of Hatamizadeh (arXiv 2103.10504): ViT-B/16, 102 M; nano with an eighth of its width, 4 M."""
    network: nn.Module = nets.UNETR(
        in_channels=wanted.in_channels,
        out_channels=wanted.out_channels,
        img_size=wanted.patch_size_vox,
        feature_size=12 if wanted.is_nano else 16,
        hidden_size=96 if wanted.is_nano else 768,
        mlp_dim=384 if wanted.is_nano else 3072,
        num_heads=6 if wanted.is_nano else 12,
        dropout_rate=wanted.dropout,
    )
    # Norms of a cross-attention that is not there: they would never get a gradient, which
    # processes that train together wait for.
    for block in network.vit.blocks:  # type: ignore[union-attr]
        block.norm_cross_attn = nn.Identity()
    return network


BUILDERS: Mapping[str, Callable[[Any, Wanted], nn.Module]] = MappingProxyType(
    {"segresnet": _segresnet, "dynunet": _dynunet, "unetr": _unetr}
)


def _monai() -> Any:
    with warnings.catch_warnings():
        # What its many imports warn of is nothing that a user can change.
        warnings.simplefilter("ignore")
        import monai.networks.nets

    return monai.networks.nets


def _divisor(architecture: str, wanted: Wanted) -> Sides:
    """What the sides of a patch must be multiples of."""
    if architecture == "dynunet":
        return levels_of(wanted.patch_size_vox, wanted.spacing_mm).divisor
    return (SEGRESNET_STRIDE if architecture == "segresnet" else UNETR_STRIDE,) * 3


def _check_sides(architecture: str, size_vox: Sides, divisor: Sides) -> None:
    if any(n <= 0 or n % side for n, side in zip(size_vox, divisor, strict=True)):
        raise UsageError(
            f"architecture {architecture}: patches of {size_vox} voxels; expected multiples of "
            f"{divisor}. Set patch_size_vox, or pad the image."
        )


def _check_input(architecture: str, wanted: Wanted, _: nn.Module, inputs: tuple[Tensor]) -> None:
    """Refuse what a network was not built for, before MONAI fails somewhere inside it."""
    shape = tuple(inputs[0].shape)
    if len(shape) != 5 or shape[1] != wanted.in_channels:
        raise UsageError(
            f"architecture {architecture}: a tensor of shape {shape}; expected (cases, "
            f"{wanted.in_channels}, I, J, K). Give it the contrasts that it was built for."
        )
    if architecture == "unetr" and shape[2:] != wanted.patch_size_vox:
        raise UsageError(
            f"architecture unetr: patches of {shape[2:]} voxels; expected {wanted.patch_size_vox}, "
            "the only positions it knows. Train one for others."
        )
    _check_sides(architecture, shape[2:], _divisor(architecture, wanted))
