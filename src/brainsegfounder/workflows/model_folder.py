"""Model folders, and the network that is in one.

MODEL/
model.safetensors   the weights
config.json         what inference must know
provenance.json     where they come from
README.md           the model card, for people
SHA256SUMS          of all of these; checked at every load
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from brainsegfounder.errors import UsageError, WeightsError
from brainsegfounder.files import replace_folder, sha256, write_text
from brainsegfounder.inference.familiarity import Familiar
from brainsegfounder.inference.model_config import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    DiceLine,
    ModelConfig,
    read_config,
    write_config,
)
from brainsegfounder.inference.predictor import Predictor
from brainsegfounder.models.baselines import build_baseline
from brainsegfounder.models.ensemble import Ensemble
from brainsegfounder.models.swin import check_merging
from brainsegfounder.models.swin_unetr import SwinUNETR
from brainsegfounder.models.weights import load_state, load_whole, save_state
from brainsegfounder.settings import OURS, ModelSettings
from brainsegfounder.workflows.model_card import model_card
from brainsegfounder.workflows.objectives import build_pretraining_network

# What a model that began as another must still say about its origin.
INHERITED = ("trained_on", "licence", "notice_of_origin")
CARD_NAME = "README.md"
SUMS_NAME = "SHA256SUMS"


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
        config: Kind, architecture, scale, merging, contrasts, outputs, patch, spacing.
        settings: Dropout, drop path and checkpointing for training; None for inference.

    Raises:
        UsageError: A baseline cannot be pretrained, does not fit the patch, or needs MONAI.
    """
    if config.members > 1:
        single = config.model_copy(update={"members": 1})
        members = [build_network(single, settings) for _ in range(config.members)]
        return Ensemble(members, config.target)
    settings = settings or ModelSettings()
    num_channels, merging = len(config.channels), check_merging(config.merging)
    if config.architecture != OURS:
        return _with_copies(_build_baseline(config, settings.dropout), config.copies)
    rates = settings.model_dump(include={"dropout", "drop_path", "checkpointing"})
    if config.kind == "pretraining":
        return build_pretraining_network(
            config.objective, num_channels, config.scale, merging, **rates
        )
    network = SwinUNETR(num_channels, config.num_outputs, config.scale, merging, **rates)
    return _with_copies(network, config.copies)


def _with_copies(network: nn.Module, times: int) -> nn.Module:
    """Let a network that has several channels for each contrast be given each contrast once."""
    if times > 1:
        network.register_forward_pre_hook(lambda _, given: given[0].repeat(1, times, 1, 1, 1))
    return network


def _build_baseline(config: ModelConfig, dropout: float) -> nn.Module:
    if config.kind == "pretraining":
        raise UsageError(
            f"architecture {config.architecture}: a baseline, which cannot be pretrained; expected "
            f"{OURS}. Fine-tune it from random weights: brainsegfounder finetune RECIPE ..."
        )
    return build_baseline(
        config.architecture,
        len(config.channels),
        config.num_outputs,
        config.scale,
        patch_size_vox=config.patch_size_vox,
        spacing_mm=config.spacing_mm,
        dropout=dropout,
    )


def save_model(folder: Path, network: nn.Module, config: ModelConfig) -> None:
    """Write a model folder in place of an older one; it is there whole or not at all."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save_state(unfinished / WEIGHTS_NAME, network.state_dict())
    write_facts(unfinished, config)
    seal(unfinished)
    replace_folder(unfinished, folder)


def save_ensemble(
    folder: Path,
    members: Sequence[Path],
    facts: Mapping[str, Any],
    expected_dice: Mapping[str, DiceLine] | None = None,
) -> None:
    """Write one model folder that averages the probabilities of several models.

    Args:
        folder: The new model folder.
        members: Runs or model folders, of one kind: the same network, contrasts, regions,
            preparation and window.
        facts: What else its provenance says.
        expected_dice: How true Dice follows from what the members' probabilities say.

    Raises:
        WeightsError: A member is damaged, or not as the first one.
    """
    models = [load_model(path, "cpu") for path in members]
    first = models[0].config
    for path, model in zip(members, models, strict=True):
        if model.config.model_copy(update=_of_its_own(first)) != first:
            raise WeightsError(
                f"{path}: another kind of model than {members[0]}; expected the same network, "
                "contrasts, regions, preparation and window. Leave it out of the ensemble."
            )
    network = Ensemble([model.network for model in models], first.target)
    origins = [model.config.provenance for model in models]
    seen = {scan for origin in origins for scan in origin.get("seen_scans", ())}
    provenance = {
        **{key: origins[0][key] for key in (*INHERITED, "versions") if key in origins[0]},
        "members": [
            {**{k: v for k, v in origin.items() if k != "seen_scans"}, "weights_sha256": sha}
            for origin, sha in zip(origins, map(_weights_sha256, members), strict=True)
        ],
        "seen_scans": sorted(seen),
        **facts,
    }
    changes = {"members": len(models), "provenance": provenance}
    changes |= {"expected_dice": dict(expected_dice or {}), "familiar": _widest(models)}
    # What one member's validation chose says nothing of the mean of all.
    changes["smallest_ml"] = {}
    save_model(folder, network, first.model_copy(update=changes))


def _of_its_own(config: ModelConfig) -> dict[str, Any]:
    """What each member of an ensemble has of its own."""
    own = ("provenance", "familiar", "expected_dice", "smallest_ml")
    return {name: getattr(config, name) for name in own}


def _widest(models: Sequence[Model]) -> Familiar | None:
    """What is usual for the member that saw most scans; every two folds share most of theirs."""
    known = [model.config.familiar for model in models if model.config.familiar is not None]
    return max(known, key=lambda familiar: familiar.num_scans, default=None)


def add_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Tell in a model's card and provenance how it did on its test cases."""
    config = read_config(folder)
    write_facts(
        folder,
        config.model_copy(update={"provenance": {**config.provenance, "metrics": dict(metrics)}}),
    )
    seal(folder)


def change_config(folder: Path, **changes: Any) -> None:
    """Keep in a model what was learnt of it after its weights; fields of `ModelConfig`."""
    write_facts(folder, read_config(folder).model_copy(update=changes))
    seal(folder)


def write_facts(folder: Path, config: ModelConfig) -> None:
    """Write all of a model folder but the weights and the sums."""
    write_config(folder, config)
    write_text(folder / CARD_NAME, model_card(config))


def seal(folder: Path) -> None:
    """Write the sums of all files of a model folder, as `sha256sum -c` reads them."""
    names = sorted(path.name for path in folder.iterdir() if path.name != SUMS_NAME)
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names if not name.startswith(".")]
    write_text(folder / SUMS_NAME, "".join(lines))


def check_sums(folder: Path, needed: Sequence[str] = (WEIGHTS_NAME, CONFIG_NAME)) -> None:
    """Compare every file of a model folder with its sum.

    Args:
        folder: Of a model, or of an export of one.
        needed: Files that must be there.

    Raises:
        WeightsError: A sum is missing or malformed, or a file is missing or was changed.
    """
    path = folder / SUMS_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise WeightsError(
            f"{path}: cannot be read; expected the sums of a model folder. Get the folder again, "
            "whole."
        ) from None
    sums = dict(line.split("  ", 1)[::-1] for line in text.splitlines() if "  " in line)
    unlisted = [name for name in needed if name not in sums]
    if unlisted:
        raise WeightsError(f"{path}: has no sum of {unlisted[0]}. Get the folder again, whole.")
    for name, expected in sums.items():
        file = folder / name
        if Path(name).name != name or not file.is_file():
            raise WeightsError(f"{file}: listed in {SUMS_NAME}, but not there. Get it again.")
        if sha256(file) != expected:
            raise WeightsError(
                f"{file}: its SHA-256 is not the one in {SUMS_NAME}; it was changed or damaged. "
                "Get the folder again, whole."
            )


def _weights_sha256(path: Path) -> str:
    return sha256(model_folder(path) / WEIGHTS_NAME)


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
    check_sums(folder)
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
    """Move a network to a device, all its kernels in channels-last layout."""
    placed: nn.Module = network.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return placed


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device asked for; `auto` is a GPU where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)
