"""Taking over a pretrained decoder: all of a SwinUNETR but its encoder and its last layer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from brainsegfounder.errors import WeightsError

_log = logging.getLogger(__name__)

ENCODER = "swinViT."
OUTPUT = "out."
# The two convolutions that see the image itself, one input channel a contrast.
_SEE_CONTRASTS = ("encoder1.layer.conv1.conv.weight", "encoder1.layer.conv3.conv.weight")


def load_decoder(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source_contrasts: Sequence[str],
    target_contrasts: Sequence[str],
    source: str = "weights",
) -> tuple[str, ...]:
    """Fill a network's decoder, and a mask token if it has one, from pretrained weights.

    The last layer keeps its values where it gives other things than the weights' own. With other
    contrasts, so do the two convolutions that see the image itself.

    Args:
        model: A `SwinUNETR` or a network with its names.
        state: Tensors by name, as a pretraining with a decoder leaves them.
        source_contrasts: Contrasts of the weights in channel order.
        target_contrasts: Contrasts of `model` in channel order.
        source: Name of the weights for messages.

    Returns:
        Names of the tensors that keep their initial values.

    Raises:
        WeightsError: The weights have no decoder, or that of another scale; `model` is unchanged.
    """
    same_contrasts = tuple(source_contrasts) == tuple(target_contrasts)
    target = {n: t for n, t in model.state_dict().items() if not n.startswith(ENCODER)}
    kept = [
        name
        for name, tensor in target.items()
        if (name.startswith(OUTPUT) and not _same_output(model, state, tensor, name))
        or (name in _SEE_CONTRASTS and not same_contrasts)
    ]
    wanted = {name: tensor for name, tensor in target.items() if name not in kept}
    missing = [name for name in wanted if name not in state]
    if missing:
        raise WeightsError(
            f"{source}: has no '{missing[0]}'; expected a decoder. Pretrain with an objective that "
            "has one (pretrain.objective.kind=mae), or set transfer to encoder."
        )
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            raise WeightsError(
                f"{source}: '{name}' has shape {tuple(state[name].shape)}, but the network expects "
                f"{tuple(tensor.shape)}. Set the recipe's scale to that of the weights."
            )
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(state[name])
    _log.info("%s: decoder taken over, %d tensors; %d kept", source, len(wanted), len(kept))
    return tuple(kept)


def _same_output(model: nn.Module, state: Mapping[str, Tensor], tensor: Tensor, name: str) -> bool:
    """Whether the last layer restores the image in both; a segmentation's says something else."""
    restores = "mask_token" in model.state_dict() and "mask_token" in state
    return restores and name in state and state[name].shape == tensor.shape
