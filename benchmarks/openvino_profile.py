"""Where the time of a window goes in OpenVINO, in float32 and in int8, by kind of work.

    python benchmarks/openvino_profile.py EXPORTS

`EXPORTS` is a folder with `openvino` and `openvino-int8`, exports of one model. One thread; times
are OpenVINO's own, the median of all windows. "Attention and element-wise" is what OpenVINO joins
into compiled subgraphs.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from brainsegfounder.inference.backends import precision_beside_int8

RESULT = Path(__file__).parent / "results" / "openvino_profile.json"
KINDS = {
    "Subgraph": "attention and element-wise",
    "MVN": "instance norms",
    "FullyConnected": "linear layers",
    "ConvolutionBackpropData": "transposed convolutions",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exports", type=Path)
    parser.add_argument("--windows", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    scale = json.loads((arguments.exports / "openvino" / "config.json").read_text())["scale"]
    record = {
        "scale": scale,
        "rows": {
            name: milliseconds(arguments.exports / name / "model.xml", arguments.windows)
            for name in ("openvino", "openvino-int8")
        },
    }
    kept = json.loads(arguments.out.read_text()) if arguments.out.is_file() else []
    kept = [one for one in kept if one["scale"] != scale]
    arguments.out.write_text(json.dumps([*kept, record], indent=1) + "\n")
    print(json.dumps(record, indent=1))


def milliseconds(file: Path, windows: int) -> dict[str, float]:
    """Milliseconds of one window by kind of work, the greatest first."""
    core = openvino.Core()
    network = core.read_model(str(file))
    settings = {
        "PERF_COUNT": True,
        "INFERENCE_NUM_THREADS": 1,
        "INFERENCE_PRECISION_HINT": precision_beside_int8(core, network),
    }
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    window = np.random.default_rng(0).standard_normal(network.input(0).shape).astype(np.float32)
    found: dict[str, list[float]] = defaultdict(list)
    for count in range(windows + 1):
        request.infer([window])
        if count:
            for kind, time in of_kinds(request.get_profiling_info()).items():
                found[kind].append(time)
    medians = {kind: round(statistics.median(times), 2) for kind, times in found.items()}
    return dict(sorted(medians.items(), key=lambda item: -item[1]))


def of_kinds(nodes: list[Any]) -> dict[str, float]:
    """Sums over the nodes of one window."""
    sums: dict[str, float] = defaultdict(float)
    for node in nodes:
        sums[kind_of(node)] += node.real_time.total_seconds() * 1e3
    return sums


def kind_of(node: Any) -> str:
    """What a node does, in words."""
    if node.node_type == "Convolution":
        return "convolutions in int8" if node.exec_type.endswith("I8") else "other convolutions"
    return KINDS.get(node.node_type, "moving and the rest")


if __name__ == "__main__":
    main()
