"""Static int8: ranges of activations measured on training cases, weights per channel.

Only convolutions are quantised, where the time is; the one that sees intensities, the one that
makes logits, attention, norms and sums stay float32. With all of it in int8 the labels of a small
glioma model agreed with Dice 0.96 to 0.99 instead of 0.986 to 0.996, and little time was gained.

OpenVINO computes coarse maps in bfloat16 or float32 about as fast, so there only 3x3x3 convolutions
on fine maps are quantised. ONNX Runtime gains from coarse maps, too: about a seventh of its time at
scale `tiny`, and labels agreed as well.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.inference.backends import require
from brainsegfounder.workflows.exporting.portable import (
    INPUT,
    ONNX_NAME,
    OPENVINO_NAME,
    write_openvino,
)

Windows = Sequence[NDArray[np.float32]]

# Share of values at each end that a range leaves out.
LEFT_OUT = 1e-5
NO_OPERATION = ("Constant", "Parameter", "Result")
# A map is fine that has at least this share, as one in so many, of the window's voxels.
FINE = 8
# Of our network, by the names of weights; the first of encoder1 and its shortcut see intensities.
BLOCK_CONVOLUTIONS = re.compile(
    r"(encoder([234]|10)|decoder\d)\..*conv[123]\.conv|encoder1\..*conv2\.conv"
)


def quantise_openvino(float32: Path, folder: Path, windows: Windows) -> None:
    """Write `model.xml` and `model.bin` in int8 into `folder`, by NNCF, from those in `float32`.

    Raises:
        UsageError: nncf or openvino is not installed.
    """
    nncf, openvino = require("nncf"), require("openvino")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = openvino.Core().read_model(str(float32 / OPENVINO_NAME))
    nodes = model.get_ops()
    untouched = {node.get_type_name() for node in nodes} - {"Convolution", *NO_OPERATION}
    coarse = [
        node.get_friendly_name()
        for node in nodes
        if node.get_type_name() == "Convolution" and not _is_fine(node, model)
    ]
    int8 = nncf.quantize(
        model,
        nncf.Dataset(list(windows)),
        subset_size=len(windows),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(types=sorted(untouched), names=coarse, validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=_widest_ranges(require("nncf.quantization"))
        ),
    )
    write_openvino(folder, int8)


def _widest_ranges(quantization: Any) -> Any:
    """Ranges that hold all but one in 100,000 values of each window, so the widest of all windows.

    Lesions are in the tails: NNCF's own choice, the mean over windows of each one's extremes, or a
    thousandth left out, agreed less with float32 in enhancing tumour.
    """
    ranges = quantization.range_estimator

    def end(widest: Any) -> Any:
        return ranges.StatisticsCollectorParameters(
            ranges.StatisticsType.QUANTILE, widest, quantile_outlier_prob=LEFT_OUT
        )

    kinds = ranges.AggregatorType
    return ranges.RangeEstimatorParameters(min=end(kinds.MIN), max=end(kinds.MAX))


def _is_fine(node: Any, model: Any) -> bool:
    """Whether a convolution of OpenVINO's is worth it: 3x3x3, on a fine map, not on the image."""
    window, size = model.input(0).shape[2:], node.output(0).shape[2:]
    sees_image = node.input_value(0).get_node().get_type_name() == "Parameter"
    is_wide = tuple(node.input_value(1).shape[2:]) == (3, 3, 3)
    return is_wide and not sees_image and math.prod(size) * FINE >= math.prod(window)


def quantise_onnx(float32: Path, folder: Path, windows: Windows) -> None:
    """Write `model.onnx` in int8 into `folder`, by ONNX Runtime's tools, from that in `float32`.

    Raises:
        UsageError: onnxruntime is not installed.
    """
    tools, onnx = require("onnxruntime.quantization"), require("onnx")
    source = str(float32 / ONNX_NAME)
    convolutions = [node for node in onnx.load(source).graph.node if node.op_type == "Conv"]
    ours = [node.name for node in convolutions if BLOCK_CONVOLUTIONS.search(node.input[1])]
    with _without_advice():
        tools.quantize_static(
            source,
            str(folder / ONNX_NAME),
            _Reader(windows),
            quant_format=tools.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_quantize=ours or [node.name for node in convolutions],
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
        )


@contextmanager
def _without_advice() -> Iterator[None]:
    """Without ONNX Runtime's advice to simplify a graph whose constants are folded already."""
    root = logging.getLogger()
    root.addFilter(_is_no_advice)
    try:
        yield
    finally:
        root.removeFilter(_is_no_advice)


def _is_no_advice(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Please consider")


class _Reader:
    """Hands out windows one by one, as ONNX Runtime asks for them."""

    def __init__(self, windows: Windows) -> None:
        self._windows: Iterator[NDArray[np.float32]] = iter(windows)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        window = next(self._windows, None)
        return None if window is None else {INPUT: window}
