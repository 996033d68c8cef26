"""One window's network as `torch.export`, ONNX and OpenVINO files.

There is one path: the network as plain tensor operations, `torch.export`, from there ONNX, and from
ONNX OpenVINO, which finds more to join in it than in PyTorch's own graph. Batch and window are
fixed: attention is laid out for one size, and on a CPU windows are best taken one by one.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from brainsegfounder.inference.backends import MODEL_FILES, Outside, require
from brainsegfounder.inference.model_config import ModelConfig
from brainsegfounder.models.plain import plain

OPSET = 20
PT2_NAME = "model.pt2"
ONNX_NAME = MODEL_FILES["onnxruntime"]
OPENVINO_NAME = MODEL_FILES["openvino"]
INPUT, OUTPUT = "image", "logits"


def trace(network: nn.Module, config: ModelConfig) -> torch.export.ExportedProgram:
    """The network as a graph, for one window of the config's size."""
    window = torch.zeros(1, len(config.contrasts), *config.patch_size_vox)
    with torch.no_grad(), _quiet():
        fixed = plain(network, config.patch_size_vox)
        return torch.export.export(fixed, (window,), strict=False)


def write_pt2(folder: Path, program: torch.export.ExportedProgram) -> None:
    """Write `model.pt2`."""
    with _quiet():
        torch.export.save(program, folder / PT2_NAME)


def reopen_pt2(folder: Path) -> nn.Module:
    """Read back a `model.pt2` that this process has just written; never one from elsewhere."""
    with _quiet():
        graph = torch.export.load(folder / PT2_NAME).module()
    # It takes one window, and refuses `eval()`, which a predictor calls.
    return Outside(lambda windows: torch.cat([graph(window[None]) for window in windows]))


def write_onnx(folder: Path, program: torch.export.ExportedProgram) -> None:
    """Write `model.onnx`.

    Raises:
        UsageError: onnx or onnxscript is not installed.
    """
    require("onnx")
    optimizer = require("onnxscript").optimizer
    with torch.no_grad(), _quiet():
        # Its own optimisation spends minutes on matching patterns that runtimes match in seconds.
        written: Any = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            optimize=False,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
        optimizer.fold_constants(written.model)
        optimizer.remove_unused_nodes(written.model)
        written.save(str(folder / ONNX_NAME))


def write_openvino(folder: Path, model: Any) -> None:
    """Write `model.xml` and `model.bin`, in the precision that the model has."""
    require("openvino").save_model(model, str(folder / OPENVINO_NAME), compress_to_fp16=False)


def as_openvino(onnx_file: Path) -> Any:
    """An ONNX file as OpenVINO's model.

    Raises:
        UsageError: openvino is not installed.
    """
    return require("openvino").convert_model(str(onnx_file))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of the exporters, which a user can do nothing about."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
