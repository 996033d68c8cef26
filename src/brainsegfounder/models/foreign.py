"""Reading weights that others saved: `.pt` files without running them, and safetensors."""

from __future__ import annotations

import json
import math
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from brainsegfounder.errors import WeightsError
from brainsegfounder.models.pickle_opcodes import ITEM_BYTES
from brainsegfounder.models.weights import load_state

MAX_SECONDS = 60

_DTYPES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16,
    "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16,
    "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ForeignFile:
    """What a file of someone else holds.

    Attributes:
        path: The file.
        tensors: By name, contiguous, in CPU memory.
        shells: Classes whose objects were in it; none was made.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    shells: tuple[str, ...]


def read_foreign(path: Path) -> ForeignFile:
    """Read the tensors of a `.pt`, `.pth` or `.safetensors` file; nothing in it is run.

    A child process with limits finds out where the tensors of a `.pt` file lie; here only their
    bytes are read. A plain symbolic link is followed.

    Raises:
        WeightsError: The file is not a file, not weights, damaged, hostile, or holds NaN.
    """
    _check_regular(path)
    if path.suffix == ".safetensors":
        return ForeignFile(path, load_state(path), ())
    index = _index(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        tensors = {
            name: _read_tensor(file, size, place, f"{path}: '{name}'")
            for name, place in index["tensors"].items()
        }
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"{path}: '{name}' holds NaN or infinity; expected numbers only.")
    return ForeignFile(path, tensors, tuple(index["shells"]))


def _check_regular(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"{path}: cannot be read ({error}); expected a file.") from error
    if not stat.S_ISREG(mode):
        raise WeightsError(f"{path}: not a regular file; expected weights saved by torch.save.")


def _index(path: Path) -> dict[str, Any]:
    command = [sys.executable, "-I", "-m", "brainsegfounder.models.torch_archive"]
    try:
        done = subprocess.run(
            [*command, str(path.resolve())],
            env={},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=MAX_SECONDS,
            check=False,
        )
        result: dict[str, Any] = json.loads(done.stdout)
        reason = result.get("error", "")
    except (subprocess.TimeoutExpired, ValueError) as error:
        result, reason = {}, f"its reader ended early ({type(error).__name__})"
    if "tensors" not in result:
        raise WeightsError(
            f"{path}: refused: {reason}. Expected tensors saved by torch.save; if you trust the "
            "file's author, ask for its state dict as safetensors."
        )
    return result


def _read_tensor(file: Any, file_size: int, place: Mapping[str, Any], what: str) -> Tensor:
    """Read one view; its bounds are checked once more against the file."""
    shape, strides, start = place["shape"], place["strides"], place["start"]
    num_items = math.prod(shape)
    dtype = _DTYPES[place["kind"]]
    if not num_items:
        return torch.empty(shape, dtype=dtype)
    reach = sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + 1
    num_bytes = reach * ITEM_BYTES[place["kind"]]
    if start < 0 or start + num_bytes > file_size:
        raise WeightsError(f"{what} lies outside the file; it was cut short. Fetch it again.")
    file.seek(start)
    buffer = bytearray(num_bytes)
    if file.readinto(buffer) != num_bytes:
        raise WeightsError(f"{what} ends too early; the file changed while it was read.")
    if place["kind"] == "Bool" and any(byte > 1 for byte in set(buffer)):
        raise WeightsError(f"{what} holds truth values that are neither 0 nor 1.")
    flat = torch.frombuffer(buffer, dtype=dtype)
    return torch.as_strided(flat, shape, strides).contiguous()
