"""One measurement of `pretraining.py` in a process of its own: a JSON case in, a JSON line out.

The official side is MONAI's encoder with the heads of the published pretraining network, written
here from their description (four rotations from token 0, 512 numbers from token 1, five times
convolution, instance norm, leaky ReLU and trilinear doubling), and its step as it is described: one
forward pass for each view, one backward pass of the sum. Both sides make their views alike.
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from brainsegfounder.data.loader import Batch
from brainsegfounder.models.scales import get_scale
from brainsegfounder.models.ssl_heads import SSLNetwork
from brainsegfounder.settings import OptimizerSettings, ThreeTaskSettings
from brainsegfounder.training.optim import make_optimizer
from brainsegfounder.training.pretext import make_views
from brainsegfounder.training.randomness import generators
from brainsegfounder.workflows.model_folder import place
from brainsegfounder.workflows.objectives import ask

DEFAULTS = {
    "side": "ours",
    "scale": "tiny",
    "size": 96,
    "contrasts": 1,
    "crops": 1,
    "checkpointing": False,
}
OBJECTIVE = ThreeTaskSettings()
OPTIMIZER = OptimizerSettings(peak_lr=1e-4, weight_decay=0.1)
TEMPERATURE = 0.5
SEED = 7

Parts = dict[str, Tensor]


def main() -> None:
    warnings.simplefilter("ignore")
    case = {**DEFAULTS, **json.loads(sys.argv[1])}
    kinds = {"losses": losses, "step": timings}
    print(json.dumps(kinds[case["what"]](case)))


def timings(case: dict[str, Any]) -> dict[str, Any]:
    """Seconds of whole steps, after one that does not count, and peak memory."""
    imported_gib = peak_gib(is_cuda=False)
    step = make_step(case, make_network(case))
    is_cuda = case["device"] == "cuda"
    step(0)
    seconds, cpu_seconds = [], []
    for number in range(1, 1 + case["repeats"]):
        began, cpu_began = time.perf_counter(), time.process_time()
        step(number)
        if is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        cpu_seconds.append(time.process_time() - cpu_began)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_gib": peak_gib(is_cuda),
        "imported_gib": imported_gib,
        "threads": torch.get_num_threads(),
    }


def losses(case: dict[str, Any]) -> dict[str, Any]:
    """Losses of both sides over some steps from the same weights and views, in float32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    networks = {side: make_network({**case, "side": side}) for side in ("official", "ours")}
    networks["ours"].load_state_dict(networks["official"].state_dict())
    found: dict[str, list[dict[str, float]]] = {}
    for side, network in networks.items():
        step = make_step({**case, "side": side, "precision": "float32"}, network)
        parts = [step(number) for number in range(case["repeats"])]
        found[side] = [{name: float(value) for name, value in row.items()} for row in parts]
    pairs = zip(found["ours"], found["official"], strict=True)
    gaps = [{name: abs(ours[name] - official[name]) for name in ours} for ours, official in pairs]
    return {"first": found["official"][0], "gaps": gaps, "largest_gap": max(gaps[0].values())}


def make_step(case: dict[str, Any], network: nn.Module) -> Callable[[int], Parts]:
    """A whole step: views, forward, losses, backward, optimiser."""
    network.train()
    loss = ask(OBJECTIVE).loss if case["side"] == "ours" else official_loss
    if case["side"] == "ours":
        optimizer = make_optimizer(network, OPTIMIZER)
    else:
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=OPTIMIZER.peak_lr, weight_decay=OPTIMIZER.weight_decay
        )
    in_half = case["device"] == "cuda" and case.get("precision") != "float32"

    def step(number: int) -> Parts:
        batch = make_batch(case, number)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(case["device"], torch.bfloat16, enabled=in_half):
            parts: Parts = loss(network, batch, SEED).parts
        torch.stack(list(parts.values())).sum().backward()
        optimizer.step()
        return {name: part.detach() for name, part in parts.items()}

    return step


def make_batch(case: dict[str, Any], number: int) -> Batch:
    """Crops of noise; what they show does not change the time."""
    count = case["crops"]
    generator = torch.Generator().manual_seed(number)
    image = torch.randn(count, case["contrasts"], *[case["size"]] * 3, generator=generator)
    return Batch(
        image=image.to(case["device"]),
        labels=None,
        valid=None,
        cases=("case",) * count,
        subjects=tuple(f"sub-{n}" for n in range(count)),
        numbers=tuple(range(number * count, (number + 1) * count)),
    )


def make_network(case: dict[str, Any]) -> nn.Module:
    """The network of either side with random weights of one seed."""
    torch.manual_seed(0)
    if case["side"] == "official":
        return OfficialNetwork(case["contrasts"], case["scale"], case["checkpointing"]).to(
            case["device"]
        )
    network = SSLNetwork(case["contrasts"], case["scale"], checkpointing=case["checkpointing"])
    return place(network, torch.device(case["device"]))


class OfficialNetwork(nn.Module):
    """MONAI's encoder with the published heads; see the module's docstring."""

    def __init__(self, in_channels: int, scale: str, checkpointing: bool) -> None:
        super().__init__()
        from monai.networks.nets.swin_unetr import SwinTransformer

        size = get_scale(scale)
        f = size.feature_size
        self.swinViT = SwinTransformer(
            in_channels,
            f,
            (7, 7, 7),
            (2, 2, 2),
            size.depths,
            size.num_heads,
            use_checkpoint=checkpointing,
        )
        self.rotation_head = nn.Linear(16 * f, 4)
        self.contrastive_head = nn.Linear(16 * f, 512)
        layers: list[nn.Module] = []
        for wide, narrow in itertools.pairwise((16 * f, 8 * f, 4 * f, 2 * f, f, f)):
            layers += [nn.Conv3d(wide, narrow, 3, padding=1), nn.InstanceNorm3d(narrow)]
            layers += [nn.LeakyReLU(), nn.Upsample(scale_factor=2, mode="trilinear")]
        self.conv = nn.Sequential(*layers, nn.Conv3d(f, in_channels, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        deepest = self.swinViT(x.contiguous())[4]
        tokens = deepest.flatten(2).transpose(1, 2)
        return (
            self.rotation_head(tokens[:, 0]),
            self.contrastive_head(tokens[:, 1]),
            self.conv(deepest),
        )


class _Losses:
    def __init__(self, parts: Parts) -> None:
        self.parts = parts


def official_loss(network: nn.Module, batch: Batch, seed: int) -> _Losses:
    """One forward pass for each view; cross-entropy, NT-Xent and the mean absolute error."""
    views = make_views(batch.image, OBJECTIVE, generators(seed, batch.numbers))
    outputs = [network(view) for view in views.masked.chunk(2)]
    logits, embeddings, restored = zip(*outputs, strict=True)
    return _Losses(
        {
            "rotation": functional.cross_entropy(torch.cat(logits), views.turns),
            "contrastive": _nt_xent(*embeddings),
            "inpainting": functional.l1_loss(torch.cat(restored), views.whole),
        }
    )


def _nt_xent(first: Tensor, second: Tensor) -> Tensor:
    """Of each embedding: how much nearer its partner is than all others."""
    unit = functional.normalize(torch.cat([first, second]), dim=1)
    likeness = (functional.cosine_similarity(unit[:, None], unit[None], dim=2) / TEMPERATURE).exp()
    count = len(unit)
    partners = likeness.diagonal(len(first)).repeat(2)
    others = (likeness * ~torch.eye(count, dtype=torch.bool, device=unit.device)).sum(1)
    return -(partners / others).log().mean()


def peak_gib(is_cuda: bool) -> float:
    """Of the process on a CPU, its libraries included; of the allocator on a GPU."""
    if is_cuda:
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
