"""One measurement of `model.py` in a process of its own: a JSON case in, a JSON line out."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEFAULTS = {"side": "ours", "scale": "tiny", "size": 96, "batch": 1, "checkpointing": False}


def main() -> None:
    warnings.simplefilter("ignore")
    case = {**DEFAULTS, **json.loads(sys.argv[1])}
    kinds: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "difference": difference,
        "flop": count_flop,
        "matrix rate": matrix_rate,
        "write model": write_model,
        "first window": first_window,
        "import torch": import_torch,
        "import monai": import_monai,
    }
    print(json.dumps(kinds.get(case["what"], timings)(case)))


def timings(case: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a forward or training step, after one that does not count, and peak memory."""
    import torch

    network, image = make_network(case), make_image(case)
    target = network.swinViT if case["what"].startswith("encoder") else network
    trains = "training" in case["what"]
    network.train(trains)
    is_cuda = case["device"] == "cuda"

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=is_cuda):
            out = target(image)
        if trains:
            states = out if isinstance(out, (list, tuple)) else [out]
            sum(state.float().square().mean() for state in states).backward()
            network.zero_grad(set_to_none=True)
        if is_cuda:
            torch.cuda.synchronize()

    seconds = []
    with torch.inference_mode(not trains):
        step()
        for _ in range(case["repeats"]):
            began = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "peak_gib": peak_gib(is_cuda)}


def make_network(case: dict[str, Any]) -> Any:
    """A SwinUNETR of either side, 4 contrasts to 3 outputs, with random weights of one seed."""
    import torch

    from brainsegfounder.models.scales import get_scale

    torch.manual_seed(0)
    if case["side"] == "ours":
        from brainsegfounder.models.swin_unetr import SwinUNETR
        from brainsegfounder.workflows.model_folder import place

        network = SwinUNETR(4, 3, case["scale"], checkpointing=case["checkpointing"])
        return place(network, torch.device(case["device"]))
    from monai.networks.nets import SwinUNETR as MonaiSwinUNETR

    size = get_scale(case["scale"])
    return MonaiSwinUNETR(
        4,
        3,
        feature_size=size.feature_size,
        depths=size.depths,
        num_heads=size.num_heads,
        use_checkpoint=case["checkpointing"],
    ).to(case["device"])


def make_image(case: dict[str, Any]) -> Any:
    import torch

    generator = torch.Generator().manual_seed(1)
    image = torch.randn(case["batch"], 4, *[case["size"]] * 3, generator=generator)
    return image.to(case["device"])


def peak_gib(is_cuda: bool) -> float:
    """Of the process on a CPU, its libraries included; of the allocator on a GPU."""
    if is_cuda:
        import torch

        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def difference(case: dict[str, Any]) -> dict[str, Any]:
    """Largest difference of logits and hidden states in float32, MONAI's weights in both."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    ours, monai = (make_network({**case, "side": side}).eval() for side in ("ours", "monai"))
    ours.load_state_dict(monai.state_dict())
    image = make_image(case)
    with torch.inference_mode():
        logits, expected = ours(image), monai(image)
        states, expected_states = ours.swinViT(image), monai.swinViT(image)
    gaps = [(a - b).abs().max().item() for a, b in zip(states, expected_states, strict=True)]
    return {
        "logits": (logits - expected).abs().max().item(),
        "largest_logit": expected.abs().max().item(),
        "encoder": max(gaps),
    }


def count_flop(case: dict[str, Any]) -> dict[str, Any]:
    """Floating-point operations of MONAI's forward pass for one case."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network, image = make_network(case).eval(), make_image({**case, "batch": 1})
    with FlopCounterMode(display=False) as counter, torch.inference_mode(False), torch.no_grad():
        network(image)
    return {"flop": counter.get_total_flops()}


def matrix_rate(case: dict[str, Any]) -> dict[str, Any]:
    """What this card reaches in one large bf16 matrix product."""
    import torch

    n = 8192
    a, b = (torch.randn(n, n, device=case["device"], dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(50):
        a @ b
    torch.cuda.synchronize()
    name = torch.cuda.get_device_name()
    return {"flop_per_s": 50 * 2 * n**3 / (time.perf_counter() - began), "device": name}


def write_model(_: dict[str, Any]) -> dict[str, Any]:
    """A model folder of 62 M parameters with random weights."""
    from brainsegfounder.inference.model_config import config_of
    from brainsegfounder.recipes import load_recipe
    from brainsegfounder.workflows.model_folder import build_network, save_model

    folder = Path(tempfile.mkdtemp())
    config = config_of(load_recipe("paper-brats21", ["model.scale=tiny"]), "segmentation", {})
    save_model(folder, build_network(config), config)
    return {"folder": str(folder)}


def first_window(case: dict[str, Any]) -> dict[str, Any]:
    """When the first window enters the network of a model that was just loaded."""
    import numpy as np

    import brainsegfounder
    from brainsegfounder.volumes.volume import Volume

    model = brainsegfounder.load_model(case["folder"], "cpu")
    entered: list[float] = []

    def stop(*_: object) -> None:
        entered.append(time.time())
        raise KeyboardInterrupt

    model.network.register_forward_pre_hook(stop)
    with contextlib.suppress(KeyboardInterrupt):
        model.segment(Volume(np.zeros((4, 96, 96, 96), np.float32), np.eye(4)))
    return {"at": entered[0]}


def import_torch(_: dict[str, Any]) -> dict[str, Any]:
    import torch  # noqa: F401

    return {"at": time.time()}


def import_monai(_: dict[str, Any]) -> dict[str, Any]:
    from monai.networks.nets import SwinUNETR  # noqa: F401

    return {"at": time.time()}


if __name__ == "__main__":
    main()
