"""Model folders: `model.safetensors` and `config.json`, and the network they make together."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from brainsegfounder.errors import WeightsError
from brainsegfounder.inference.model_config import (
    WEIGHTS_NAME,
    ModelConfig,
    read_config,
    write_config,
)
from brainsegfounder.inference.predictor import Predictor
from brainsegfounder.models.ssl_heads import SSLNetwork
from brainsegfounder.models.swin import check_merging
from brainsegfounder.models.swin_unetr import SwinUNETR
from brainsegfounder.models.weights import load_state, load_whole, save_state
from brainsegfounder.recipes import ModelSettings


class Model(Predictor):
    """A loaded segmentation model; `load_model` makes one."""

    @property
    def contrasts(self) -> tuple[str, ...]:
        """Contrasts it wants to see, in channel order."""
        return self.config.contrasts

    @property
    def labels(self) -> dict[str, int]:
        """Name and value of every label it may write."""
        return self.config.labels

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Voxel spacing its network sees; None for each scan's own."""
        return self.config.spacing_mm


def build_network(config: ModelConfig, settings: ModelSettings | None = None) -> nn.Module:
    """The untrained network that a config describes.

    Args:
        config: Kind, scale, merging, contrasts, outputs.
        settings: Dropout, drop path and checkpointing for training; None for inference.
    """
    settings = settings or ModelSettings()
    num_contrasts, merging = len(config.contrasts), check_merging(config.merging)
    if config.kind == "pretraining":
        return SSLNetwork(
            num_contrasts,
            config.scale,
            merging,
            pooled_heads=config.pooled_heads,
            dropout=settings.dropout,
            drop_path=settings.drop_path,
            checkpointing=settings.checkpointing,
        )
    return SwinUNETR(
        num_contrasts,
        config.num_outputs,
        config.scale,
        merging,
        dropout=settings.dropout,
        drop_path=settings.drop_path,
        checkpointing=settings.checkpointing,
    )


def save_model(folder: Path, network: nn.Module, config: ModelConfig) -> None:
    """Write a model folder; weights first, so a folder with a config is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    save_state(folder / WEIGHTS_NAME, network.state_dict())
    write_config(folder, config)


def model_folder(path: str | os.PathLike[str]) -> Path:
    """The model folder itself, or the one inside a run."""
    folder = Path(path)
    if not folder.is_dir():
        raise WeightsError(
            f"{folder}: no such folder; expected a model folder or a run. "
            "Train one (brainsegfounder finetune), or make one (brainsegfounder demo)."
        )
    inner = folder / "model"
    return inner if (inner / WEIGHTS_NAME).is_file() else folder


def load_model(path: str | os.PathLike[str], device: str | torch.device = "auto") -> Model:
    """Load a segmentation model.

    Args:
        path: A model folder (`model.safetensors`, `config.json`) or a run that holds one.
        device: `auto` takes a GPU where there is one.

    Returns:
        A model with `.contrasts`, `.labels` and `.spacing_mm`, ready for `predict`.

    Raises:
        WeightsError: A file is missing or damaged, the weights do not fit the config, or the
            model is an encoder without a segmentation decoder.
    """
    folder = model_folder(path)
    config = read_config(folder)
    if config.kind != "segmentation":
        raise WeightsError(
            f"{folder}: a pretrained encoder, which cannot segment yet. "
            f"Fine-tune it first: brainsegfounder finetune RECIPE --from {folder} ..."
        )
    chosen = choose_device(device)
    network = build_network(config)
    load_whole(network, load_state(folder / WEIGHTS_NAME), str(folder / WEIGHTS_NAME))
    return Model(place(network, chosen).eval(), config, chosen)


def place(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, its 3x3x3 kernels in the layout that is fast there.

    Channels-last pays on GPUs; on CPUs it made no difference at `nano` and cost a tenth at `tiny`.
    """
    if device.type == "cuda":
        channels_last: nn.Module = network.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        return channels_last
    return network.to(device)


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device asked for; `auto` is a GPU where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)
