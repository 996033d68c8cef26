"""Static int8: ranges of activations measured on training cases, weights per channel.

What stays float32, because it costs accuracy and gains no time: softmax and products of attention,
norms, and the layers at the border of the network, which see intensities or give logits.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.inference.backends import require
from brainsegfounder.workflows.exporting.portable import INPUT, ONNX_NAME

Windows = Sequence[NDArray[np.float32]]


def quantise_openvino(model: Any, windows: Windows) -> Any:
    """OpenVINO's model in int8, by NNCF.

    Raises:
        UsageError: nncf is not installed.
    """
    nncf = require("nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf.quantize(
        model,
        nncf.Dataset(list(windows)),
        subset_size=len(windows),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
    )


def quantise_onnx(folder: Path, windows: Windows) -> None:
    """Replace `model.onnx` by one in int8, by ONNX Runtime's own tools.

    Raises:
        UsageError: onnxruntime is not installed.
    """
    tools = require("onnxruntime.quantization")
    path = folder / ONNX_NAME
    with tempfile.TemporaryDirectory(dir=folder) as place:
        float32 = path.rename(Path(place) / ONNX_NAME)
        tools.quantize_static(
            str(float32),
            str(path),
            _Reader(windows),
            quant_format=tools.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
        )


class _Reader:
    """Hands out windows one by one, as ONNX Runtime asks for them."""

    def __init__(self, windows: Windows) -> None:
        self._windows: Iterator[NDArray[np.float32]] = iter(windows)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        window = next(self._windows, None)
        return None if window is None else {INPUT: window}
