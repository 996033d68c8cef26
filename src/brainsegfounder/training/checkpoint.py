"""Checkpoints are folders that exist whole or not at all: written aside, then renamed.

checkpoints/step-00000200/
model.safetensors       the network
optimizer.safetensors   AdamW's moments, named by parameter
ema.safetensors         the moving average of the weights, where there is one
state.json              step, best value so far, what identifies the run
SHA256SUMS              of the others, as `sha256sum -c` reads them; written last

Every file and folder is flushed to the disk before the rename, and the parent after it. The newest
is the one with the highest step that is whole; dates of files and pointers play no part.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from brainsegfounder.distributed import rank
from brainsegfounder.errors import CheckpointError, OtherRunError, SaveError
from brainsegfounder.files import sha256
from brainsegfounder.training.optim import Learner
from brainsegfounder.training.parallel import placed_like, whole_tensor

NUM_KEPT = 2
# Two are kept, and the next is written beside them.
NUM_AT_ONCE = NUM_KEPT + 1
NAME = re.compile(r"^step-(\d{8,})$")
SUM_LINE = re.compile(r"^([0-9a-f]{64})  ([\w.]+)$", re.MULTILINE)
UNFINISHED = ".step-*.partial"
MODEL, OPTIMIZER, AVERAGE = "model.safetensors", "optimizer.safetensors", "ema.safetensors"
STATE, SUMS = "state.json", "SHA256SUMS"
# What identifies a run, in words.
IDENTITY = {
    "recipe": "the recipe",
    "manifest": "the data set (its manifest)",
    "split": "the split",
    "start": "the start weights",
}

Tensors = dict[str, dict[str, Tensor]]
"""The tensors of a checkpoint on the CPU, by file, then by name."""


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Where a run stands, beside its tensors.

    Attributes:
        step: Optimiser steps made or skipped.
        best_value: Best validation value so far, or None.
        best_step: When it was reached, or None.
        identity: Hashes of recipe, data, split and start weights; a resume must match each.
        elapsed_s: Training time so far, by a clock that never jumps.
        skipped_in_a_row: How many steps, up to this one, were skipped as not finite.
        samples: Cases seen, by all processes together; the next one has this number.
        num_processes: How many processes made the last step.
        validation_due: A validation at this step was asked for and has not been made.
    """

    step: int = 0
    best_value: float | None = None
    best_step: int | None = None
    identity: Mapping[str, str | None] = field(default_factory=dict)
    elapsed_s: float = 0.0
    skipped_in_a_row: int = 0
    samples: int = 0
    num_processes: int = 1
    validation_due: bool = False


def reached(point: str) -> None:
    """Called at named points of a save; the fault harness lets a process die or fail there."""


def collect(learner: Learner) -> Tensors:
    """Everything a step changes, whole and on the CPU, for the process that writes it.

    Where the network is sharded, all processes must call this; the others get nothing.
    """
    tensors = {
        MODEL: _on_cpu(learner.model.state_dict()),
        OPTIMIZER: _on_cpu(_moments(learner)),
    }
    if learner.average is not None:
        tensors[AVERAGE] = _on_cpu(learner.average.shadow)
    return tensors


def fill(learner: Learner, tensors: Tensors, source: Path) -> None:
    """Put the tensors of a checkpoint where they were collected.

    Raises:
        CheckpointError: They are not those of this network.
    """
    try:
        now = learner.model.state_dict()
        learner.model.load_state_dict(
            {n: placed_like(v, now[n]) if n in now else v for n, v in tensors[MODEL].items()}
        )
        _restore_moments(learner, tensors[OPTIMIZER])
        if learner.average is not None:
            for name, shadow in learner.average.shadow.items():
                shadow.copy_(placed_like(tensors[AVERAGE][name], shadow))
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{source}: not of this network ({error}); expected the tensors of the recipe's model "
            "and optimiser. Give the recipe the run was started with, or another --out."
        ) from error


def write_checkpoint(folder: Path, tensors: Tensors, state: TrainingState) -> Path:
    """Commit a checkpoint and read it back, then drop all but the newest two that are whole.

    Args:
        folder: The run's `checkpoints` folder.
        tensors: From `collect`.
        state: Where the run stands.

    Returns:
        The committed folder.

    Raises:
        CheckpointError: The disk refused; earlier checkpoints are untouched.
    """
    final = checkpoint_at(folder, state.step)
    partial = folder / f".{final.name}.partial"
    try:
        _write_aside(partial, tensors, state)
        _take_place(partial, final)
        check_checkpoint(final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"{final}: cannot be written: {error}; {_room(folder, tensors)}."
        ) from error
    reached("verified")
    _prune(folder, final)
    return final


def committed(folder: Path) -> list[Path]:
    """All checkpoints that took their place, whole or damaged since, by step."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if NAME.match(path.name)]
    return sorted(found, key=step_of)


def checkpoint_at(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step stands."""
    return folder / f"step-{step:08d}"


def step_of(path: Path) -> int:
    """Of which step a checkpoint is."""
    return int(path.name.removeprefix("step-"))


def check_checkpoint(path: Path) -> list[str]:
    """Compare every file of a checkpoint with its sum.

    Returns:
        Names of the files.

    Raises:
        CheckpointError: A file is missing or changed; the message names it.
    """
    try:
        text = (path / SUMS).read_bytes().decode("utf-8")
        sums = {name: sum_ for sum_, name in SUM_LINE.findall(text)}
        written = "".join(f"{sum_}  {name}\n" for name, sum_ in sums.items())
        if text != written or not {MODEL, OPTIMIZER, STATE} <= sums.keys():
            raise CheckpointError(f"{path / SUMS}: changed or cut off since it was written.")
        for name, expected in sums.items():
            if sha256(path / name) != expected:
                raise CheckpointError(f"{path / name}: changed since it was written.")
        return list(sums)
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint ({error}).") from error


def read_checkpoint(path: Path) -> tuple[TrainingState, Tensors]:
    """Read a checkpoint that is whole.

    Raises:
        CheckpointError: A file is missing, changed or not what it should be.
    """
    names = check_checkpoint(path)
    try:
        record: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
        tensors = {name: load_file(path / name) for name in names if name != STATE}
        return TrainingState(**record), tensors
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint ({error}).") from error


def check_identity(
    path: Path, found: Mapping[str, str | None], wanted: Mapping[str, str | None]
) -> None:
    """Refuse a checkpoint of another run.

    Raises:
        OtherRunError: With what differs.
    """
    changed = [
        f"{IDENTITY.get(key, key)} was {_brief(found.get(key))}, now {_brief(wanted.get(key))}"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key)
    ]
    if changed:
        raise OtherRunError(
            f"{path}: belongs to another recipe, data set or start weights "
            f"({'; '.join(changed)}); expected those of this run. Choose another --out, or what "
            "it was started with."
        )


def clean(folder: Path) -> None:
    """Remove what savers that were killed left half done; it never counts as a checkpoint."""
    for partial in folder.glob(UNFINISHED):
        shutil.rmtree(partial, ignore_errors=True)


def check_room(folder: Path, learner: Learner) -> None:
    """Refuse to start where the checkpoints of a run will not fit on the disk.

    Three are on it at once for a moment; those that are there already are not counted again.

    Raises:
        SaveError: With the bytes needed and the bytes free.
    """
    parameters = list(learner.model.parameters())
    num_copies = 2 if learner.average is None else 3  # of what is trained: two moments, an average
    num_bytes = sum(map(_bytes, learner.model.state_dict().values()))
    num_bytes += num_copies * sum(_bytes(p) for p in parameters if p.requires_grad)
    there = sum(file.stat().st_size for path in committed(folder) for file in path.iterdir())
    needed, free = NUM_AT_ONCE * num_bytes - there, _free_bytes(folder)
    if needed > free:
        raise SaveError(
            f"{folder}: about {needed} bytes needed for checkpoints, {free} bytes free; nothing "
            "was trained. Free space there, or choose another --out."
        )


def _write_aside(partial: Path, tensors: Tensors, state: TrainingState) -> None:
    """Write and flush all files of a checkpoint, the sums last."""
    reached("before it is begun")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    reached("begun")
    for name, named in tensors.items():
        save_file(named, partial / name)
        reached(f"written {name}")
    (partial / STATE).write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
    reached(f"written {STATE}")
    names = (*tensors, STATE)
    for name in names:
        _flush(partial / name)
    sums = "".join(f"{sha256(partial / name)}  {name}\n" for name in names)
    (partial / SUMS).write_text(sums, encoding="utf-8")
    reached(f"written {SUMS}")
    _flush(partial / SUMS)
    _flush(partial)
    reached("flushed")


def _take_place(partial: Path, final: Path) -> None:
    # What stands there was passed over as damaged, or is the try before.
    _drop(final)
    partial.rename(final)
    reached("renamed")
    _flush(final.parent)
    reached("committed")


def _prune(folder: Path, verified: Path) -> None:
    """Keep what is at least as new as the second-newest checkpoint that is whole."""
    num_whole = 0
    for path in reversed(committed(folder)):
        if num_whole >= NUM_KEPT:
            reached("before one is dropped")
            _drop(path)
            reached("one dropped")
        elif path == verified or _is_whole(path):
            num_whole += 1


def _drop(path: Path) -> None:
    """Remove a checkpoint; one half removed is never taken for a checkpoint."""
    if path.exists():
        doomed = path.with_name(f".{path.name}.dropped.partial")
        shutil.rmtree(doomed, ignore_errors=True)
        try:
            path.rename(doomed)
        except OSError:  # it stays, which costs space and nothing else
            return
        reached("being dropped")
        shutil.rmtree(doomed, ignore_errors=True)


def _is_whole(path: Path) -> bool:
    try:
        check_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _moments(learner: Learner) -> dict[str, Tensor]:
    return {
        f"{key}:{name}": value
        for name, parameter in learner.model.named_parameters()
        for key, value in learner.optimizer.state.get(parameter, {}).items()
    }


def _restore_moments(learner: Learner, moments: dict[str, Tensor]) -> None:
    parameters: dict[str, nn.Parameter] = dict(learner.model.named_parameters())
    for key_and_name, value in moments.items():
        key, _, name = key_and_name.partition(":")
        # AdamW keeps its step counter on the CPU; its moments lie in memory as the weights do.
        # A copy in either case: what was read is a view of a file that will be dropped.
        held = parameters[name]
        like = value if key == "step" else held.detach()
        learner.optimizer.state[held][key] = torch.empty_like(like).copy_(placed_like(value, like))


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    held = {}
    for name, value in tensors.items():
        whole = whole_tensor(value.detach())
        if rank() == 0:
            held[name] = whole.cpu().contiguous()
    return held


def _room(folder: Path, tensors: Tensors) -> str:
    needed = sum(_bytes(value) for named in tensors.values() for value in named.values())
    return f"about {needed} bytes needed, {_free_bytes(folder)} bytes free"


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _free_bytes(folder: Path) -> int:
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def _brief(sum_: str | None) -> str:
    return "none" if sum_ is None else sum_[:12]


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
