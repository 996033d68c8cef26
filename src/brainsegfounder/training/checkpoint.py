"""Checkpoints are folders that exist whole or not at all: written aside, then renamed.

checkpoints/step-00000200/
model.safetensors       the network
optimizer.safetensors   AdamW's moments, named by parameter
state.json              step, best value so far, fingerprint of the run; SHA-256 of the others
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from brainsegfounder.errors import CheckpointError
from brainsegfounder.files import sha256

NUM_KEPT = 2
NAME = re.compile(r"^step-(\d{8})$")
TENSOR_FILES = ("model.safetensors", "optimizer.safetensors")


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Where a run stands, beside its tensors.

    Attributes:
        step: Optimiser steps made.
        best_value: Best validation value so far, or None.
        best_step: When it was reached, or None.
        fingerprint: Identifies recipe, data and start weights; a resume must match it.
        elapsed_s: Training time so far.
    """

    step: int
    best_value: float | None
    best_step: int | None
    fingerprint: str
    elapsed_s: float


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState
) -> Path:
    """Commit a checkpoint, then drop all but the newest two.

    Args:
        folder: The run's `checkpoints` folder.
        model: Its whole state is kept.
        optimizer: AdamW over the model's parameters.
        state: Step, best value, fingerprint.

    Returns:
        The committed folder.

    Raises:
        CheckpointError: The disk refused; earlier checkpoints are untouched.
    """
    final = folder / f"step-{state.step:08d}"
    partial = folder / f".{final.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_contiguous(model.state_dict()), partial / TENSOR_FILES[0])
        save_file(_optimizer_tensors(model, optimizer), partial / TENSOR_FILES[1])
        hashes = {name: sha256(partial / name) for name in TENSOR_FILES}
        record = {**asdict(state), "sha256": hashes}
        (partial / "state.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        for path in (*partial.iterdir(), partial):
            _flush(path)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(f"{final}: cannot be written: {error}.") from error
    for old in committed(folder)[:-NUM_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def committed(folder: Path) -> list[Path]:
    """All committed checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if NAME.match(path.name))


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str
) -> TrainingState:
    """Fill a model and its optimiser from a checkpoint.

    Raises:
        CheckpointError: A file is missing or changed, or it belongs to another run.
    """
    try:
        record: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
        hashes = record.pop("sha256")
        state = TrainingState(**record)
        for name in TENSOR_FILES:
            if sha256(path / name) != hashes[name]:
                raise CheckpointError(f"{path / name}: changed since it was written.")
        tensors = load_file(path / TENSOR_FILES[0])
        moments = load_file(path / TENSOR_FILES[1])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint ({error}).") from error
    if state.fingerprint != fingerprint:
        raise CheckpointError(
            f"{path}: belongs to another recipe, data set or start weights; expected those of "
            "this run. Choose another --out, or the recipe it was started with."
        )
    model.load_state_dict(tensors)
    _restore_optimizer(model, optimizer, moments)
    return state


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return _contiguous(
        {
            f"{key}:{name}": value
            for name, parameter in model.named_parameters()
            for key, value in optimizer.state.get(parameter, {}).items()
        }
    )


def _restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]
) -> None:
    parameters = dict(model.named_parameters())
    for key_and_name, value in moments.items():
        key, _, name = key_and_name.partition(":")
        parameter = parameters[name]
        # AdamW keeps its step counter on the CPU.
        place = value if key == "step" else value.to(parameter.device)
        optimizer.state[parameter][key] = place


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
