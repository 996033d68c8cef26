"""What computes a window: PyTorch, or OpenVINO or ONNX Runtime from an exported model.

A backend maps windows (B, C, *window) to logits (B, R, *window), float32 on the CPU. OpenVINO and
ONNX Runtime take their network from an export (`brainsegfounder export`), never from a trained
model on the fly: an export was compared with the model it came from, and conversion takes a minute.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from brainsegfounder.errors import UsageError, WeightsError

TELEMETRY = "openvino_telemetry"

Kind = Literal["torch", "openvino", "onnxruntime"]
Triple = tuple[int, int, int]
Backend = Callable[[Tensor], Tensor]
# One window of float32, shape (1, C, *window), to its logits; the result may be overwritten later.
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]

# What each needs in an export's folder.
MODEL_FILES = MappingProxyType({"openvino": "model.xml", "onnxruntime": "model.onnx"})
# How `export --to` calls it.
FORMATS = MappingProxyType({"openvino": "openvino", "onnxruntime": "onnx"})


def open_backend(
    kind: str, model: nn.Module | Path, window: Triple, threads: int | None = None
) -> Backend:
    """Open what computes windows.

    Args:
        kind: `torch`, `openvino` or `onnxruntime`.
        model: A network for `torch`; else the folder of an export.
        window: Sides of the windows that will come.
        threads: Of OpenVINO or ONNX Runtime; None takes as many as PyTorch does.

    Returns:
        From windows (B, C, *window), a tensor or an array, to logits (B, R, *window) as float32.

    Raises:
        UsageError: There is no such backend, its package is not installed, or `model` is not what
            it needs.
        WeightsError: The export lacks the file, is damaged, or takes windows of another size.
    """
    if kind not in get_args(Kind):
        raise UsageError(
            f"backend '{kind}': no such backend; expected {', '.join(get_args(Kind))}."
        )
    if isinstance(model, nn.Module) != (kind == "torch"):
        wanted = "a loaded network" if kind == "torch" else "the folder of an export"
        raise UsageError(f"backend {kind}: got {type(model).__name__}; expected {wanted}.")
    if isinstance(model, nn.Module):
        return _torch(model)
    file = _existing_file(kind, model)
    opened = _openvino if kind == "openvino" else _onnxruntime
    runtime = require(kind)
    try:
        run, expected = opened(runtime, file, threads or torch.get_num_threads())
    except Exception as error:  # their own exception types differ from version to version
        raise WeightsError(
            f"{file}: {kind} cannot open it: {str(error).strip().splitlines()[-1]}. Export the "
            "model again."
        ) from None
    if expected[2:] != window:
        raise WeightsError(
            f"{file}: takes windows of {expected[2:]} voxels, but {window} are asked for. Keep the "
            "config.json that it was exported with, or export the model again."
        )
    return _one_by_one(run, expected)


class Outside(nn.Module):
    """A backend in the place of a network, as `Predictor` has one."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self.backend = backend

    def forward(self, windows: Tensor) -> Tensor:
        """Map windows (B, C, *window) to logits (B, R, *window)."""
        return self.backend(windows)


def require(package: str) -> Any:
    """Import an optional package of exports.

    Raises:
        UsageError: It is not installed; the message names the extra.
    """
    _without_telemetry()
    try:
        return import_module(package)
    except ImportError as error:
        raise UsageError(
            f"{package}: not installed ({error}); expected for this format or backend. Install it: "
            "pip install 'brainsegfounder[export]'"
        ) from None


def _without_telemetry() -> None:
    """Keep OpenVINO and NNCF from telling their makers what is done here.

    Both send statistics through a package of their own unless it cannot be imported; then they
    have a stub. Nothing in this package opens a connection.
    """
    sys.modules.setdefault(TELEMETRY, None)  # type: ignore[arg-type]


def _existing_file(kind: str, folder: Path) -> Path:
    file = folder / MODEL_FILES[kind]
    if not file.is_file():
        raise WeightsError(
            f"{folder}: no {file.name} found; backend {kind} needs an export. Make one: "
            f"brainsegfounder export MODEL --to {FORMATS[kind]} --out FOLDER"
        )
    return file


def _torch(network: nn.Module) -> Backend:
    def compute(windows: Tensor | NDArray[np.float32]) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = network(torch.as_tensor(windows))
        return logits

    return compute


def _openvino(openvino: Any, file: Path, threads: int) -> tuple[Run, tuple[int, ...]]:
    core = openvino.Core()
    network = core.read_model(str(file))
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": precision_beside_int8(core, network),
    }
    compiled = core.compile_model(network, "CPU", settings)
    request = compiled.create_infer_request()
    return lambda window: request.infer([window])[0], tuple(compiled.input(0).shape)


def precision_beside_int8(core: Any, network: Any) -> str:
    """Of what is not int8.

    Left to itself OpenVINO takes bfloat16 for a float32 network, too, where the processor has it,
    and gives other logits than elsewhere. Beside int8 it changes little and saves a fifth of the
    time.
    """
    is_int8 = any(node.get_type_name() == "FakeQuantize" for node in network.get_ops())
    has_bfloat16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if is_int8 and has_bfloat16 else "f32"


def _onnxruntime(onnxruntime: Any, file: Path, threads: int) -> tuple[Run, tuple[int, ...]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    return lambda window: session.run(None, {entry.name: window})[0], tuple(entry.shape)


def _one_by_one(run: Run, expected: tuple[int, ...]) -> Backend:
    """Windows one after the other, which on a CPU is as fast as all at once."""

    def compute(windows: Tensor | NDArray[np.float32]) -> Tensor:
        voxels = np.ascontiguousarray(torch.as_tensor(windows).cpu().numpy(), dtype=np.float32)
        if voxels.shape[1:] != expected[1:]:
            raise UsageError(
                f"the exported network got windows of shape {voxels.shape[1:]}; expected "
                f"{expected[1:]}: channels and voxels. Set the window that it was exported with."
            )
        logits = [np.array(run(voxels[n : n + 1])) for n in range(len(voxels))]
        return torch.from_numpy(np.concatenate(logits))

    return compute
