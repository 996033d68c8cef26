"""Counted operations against those of MONAI's encoder, which pads and masks where ours cuts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from brainsegfounder.models.scales import get_scale
from brainsegfounder.models.swin import SwinTransformer

pytestmark = pytest.mark.filterwarnings("ignore")
LAYERS = ("addmm", "mm", "convolution", "convolution_backward")


def _counts(encoder: torch.nn.Module, size: int) -> dict[str, int]:
    encoder = encoder.to("meta")
    with FlopCounterMode(display=False) as counter:
        states = encoder(torch.empty(1, 2, size, size, size, device="meta"))
        states[-1].square().mean().backward()
    counts = counter.get_flop_counts()["Global"]
    return {str(operation).removeprefix("aten."): found for operation, found in counts.items()}


def _encoders(monai_nets):
    size = get_scale("tiny")
    ours = SwinTransformer(2, size)
    theirs = monai_nets.SwinTransformer(
        2, size.feature_size, (7, 7, 7), (2, 2, 2), size.depths, size.num_heads
    )
    return ours, theirs


def test_linear_layers_and_convolutions_cost_as_much_where_monai_pads_nothing(monai_nets) -> None:
    # At 224 voxels all four maps (112, 56, 28, 14 tokens) are whole windows of 7.
    ours, theirs = (_counts(encoder, 224) for encoder in _encoders(monai_nets))
    # Which of addmm and mm a layer calls depends on the shape of its input.
    assert sum(ours.get(name, 0) for name in LAYERS) == sum(theirs[name] for name in LAYERS)


def test_a_crop_costs_a_little_less_than_monai_with_its_padding(monai_nets) -> None:
    ours, theirs = (sum(_counts(encoder, 96).values()) for encoder in _encoders(monai_nets))
    assert 0.8 < ours / theirs < 1.0
