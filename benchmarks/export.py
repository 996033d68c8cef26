"""Sizes and times of a window in every format: our network, MONAI's, ONNX Runtime, OpenVINO.

    python benchmarks/export.py EXPORTS --threads 1 --rounds 3

`EXPORTS` is a folder with model folders and exports of one model, as `brainsegfounder export`
writes them: `model` (a model folder) and any of `onnx`, `onnx-int8`, `openvino`, `openvino-int8`.
Every figure comes from a process of its own; the processes take turns, and a time is the median of
all. `cpu_s` is the processor's time, which other work on the machine prolongs less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "export.json"
EXPORTED = {
    "onnx": "onnxruntime",
    "onnx-int8": "onnxruntime",
    "openvino": "openvino",
    "openvino-int8": "openvino",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("exports", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each")
    parser.add_argument("--repeats", type=int, default=3, help="timings in each process")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(work(arguments)))
        return
    there = [name for name in EXPORTED if (arguments.exports / name).is_dir()]
    names = ["ours", "monai", *there]
    runs: dict[str, list[dict[str, list[float]]]] = {name: [] for name in names}
    for _ in range(arguments.rounds):
        for name in names:
            runs[name].append(in_a_process(name, arguments))
    config = json.loads((arguments.exports / "model" / "config.json").read_text())
    record = {
        "scale": config["scale"],
        "window_vox": config["patch_size_vox"],
        "threads": arguments.threads,
        "rows": [row(name, found, arguments.exports) for name, found in runs.items()],
    }
    kept = json.loads(arguments.out.read_text()) if arguments.out.is_file() else []
    key = ("scale", "window_vox", "threads")
    kept = [one for one in kept if [one[k] for k in key] != [record[k] for k in key]]
    arguments.out.write_text(json.dumps([*kept, record], indent=1) + "\n")
    for one in record["rows"]:
        print(json.dumps(one))


def in_a_process(name: str, arguments: argparse.Namespace) -> dict[str, list[float]]:
    words = [sys.executable, __file__, str(arguments.exports), "--worker", name]
    words += ["--threads", str(arguments.threads), "--repeats", str(arguments.repeats)]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(name: str, found: list[dict[str, list[float]]], exports: Path) -> dict[str, Any]:
    """Medians of one format, its size, and how well it agrees."""
    folder = exports / (name if name in EXPORTED else "model")
    files = [path for path in folder.iterdir() if path.name.startswith("model.")]
    record = folder / "export.json"
    facts = json.loads(record.read_text())["agreement"] if record.is_file() else {}
    return {
        "name": name,
        "seconds": statistics.median(s for one in found for s in one["seconds"]),
        "cpu_s": statistics.median(s for one in found for s in one["cpu_s"]),
        "least_cpu_s": min(s for one in found for s in one["cpu_s"]),
        "mb": sum(path.stat().st_size for path in files) / 1e6,
        "dice": facts.get("dice"),
        "largest_logit_difference": facts.get("largest_logit_difference"),
    }


def work(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Time one format, after a window that does not count."""
    warnings.simplefilter("ignore")
    import torch

    from brainsegfounder.inference.backends import open_backend
    from brainsegfounder.inference.model_config import read_config

    torch.set_num_threads(arguments.threads)
    folder, name = arguments.exports, arguments.worker
    config = read_config(folder / "model")
    if name in EXPORTED:
        kind, model = EXPORTED[name], folder / name
    else:
        kind, model = "torch", network_of(name, folder / "model")
    compute = open_backend(kind, model, config.patch_size_vox, arguments.threads)
    generator = torch.Generator().manual_seed(0)
    window = torch.randn(1, len(config.contrasts), *config.patch_size_vox, generator=generator)
    compute(window)
    found: dict[str, list[float]] = {"seconds": [], "cpu_s": []}
    for _ in range(arguments.repeats):
        began, cpu_began = time.perf_counter(), time.process_time()
        compute(window)
        found["seconds"].append(time.perf_counter() - began)
        found["cpu_s"].append(time.process_time() - cpu_began)
    return found


def network_of(name: str, folder: Path) -> Any:
    """Our network, or MONAI's with the same weights."""
    from brainsegfounder.models.scales import get_scale
    from brainsegfounder.workflows.model_folder import load_model

    model = load_model(folder, "cpu")
    if name == "ours":
        return model.network
    from monai.networks.nets import SwinUNETR

    config, size = model.config, get_scale(model.config.scale)
    network = SwinUNETR(
        len(config.contrasts),
        config.num_outputs,
        feature_size=size.feature_size,
        depths=size.depths,
        num_heads=size.num_heads,
    )
    network.load_state_dict(model.network.state_dict())
    return network.eval()


if __name__ == "__main__":
    main()
