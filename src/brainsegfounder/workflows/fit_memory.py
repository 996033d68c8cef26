"""Fitting a batch to the memory there is, before the first step and without a trace of the trial.

A batch that does not fit is split: fewer cases at once, as many more batches added up, so a step
sees the same cases. Losses are means over cases, so it also has the same gradient, up to the order
of additions. Where a single case does not fit, activations are recomputed (checkpointing).

On a GPU the trial is a forward and a backward pass on noise. On a CPU, where the system would end
the process rather than refuse, the step is counted on the `meta` device instead.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import cast

import torch
from torch import nn

from brainsegfounder.data.loader import Batch
from brainsegfounder.distributed import largest, num_processes, rank, wait
from brainsegfounder.errors import TrainingError
from brainsegfounder.files import write_text
from brainsegfounder.inference.model_config import ModelConfig
from brainsegfounder.models.step_cost import count_step
from brainsegfounder.models.swin import SwinBlock
from brainsegfounder.runs import Run
from brainsegfounder.settings import OURS, FinetuneSettings, ModelSettings
from brainsegfounder.training.loop import LossFunction, autocast
from brainsegfounder.volumes.header import available_memory_gib
from brainsegfounder.workflows.model_folder import build_network
from brainsegfounder.workflows.stage import Stage

log = logging.getLogger(__name__)

FITTED_NAME = "fitted.json"
GIB = 2**30
BYTES = 4  # of a number that is learnt, of its gradient, of a moment
# No network here keeps half as much for a voxel of a patch (big at 96 voxels: 5,125, counted), so
# where even this fits there is nothing to count.
MOST_BYTES_A_VOXEL = 10_000
# What is left to validation, readers and the allocator's gaps.
SHARE_OF_FREE = 0.9


@dataclass(frozen=True, slots=True)
class Fit:
    """How the cases of a step go through the memory.

    Attributes:
        batch_size: Cases at once.
        accumulation: Batches whose gradients are added.
        checkpointing: Whether activations are recomputed.
    """

    batch_size: int
    accumulation: int
    checkpointing: bool

    def __str__(self) -> str:
        told = f"batch_size {self.batch_size}, accumulation {self.accumulation}"
        return f"{told}, checkpointing" if self.checkpointing else told


def fitted(stage: Stage, loss: LossFunction) -> Stage:
    """A stage whose batches fit the memory of its device.

    What was found is kept in the run's `fitted.json`, and a resumed run uses it again, wherever it
    goes on. Nothing is tried where `finetune.fit_memory` is off, or where blocks are sharded: a
    whole network, which the trial needs, is then nowhere.

    Args:
        stage: Before its first step.
        loss: Of a batch, as it will be trained.

    Raises:
        TrainingError: Not even one case fits with activations recomputed.
    """
    settings = cast(FinetuneSettings, stage.settings)
    if not settings.fit_memory or settings.sharding != "none":
        return stage
    asked = _asked(stage)
    found = _remembered(stage.run, asked) or fit(stage, loss)
    wait()  # until all have read what an earlier start has found
    if rank() == 0:
        record = {"asked": asdict(asked), "fitted": asdict(found)}
        write_text(stage.run.folder / FITTED_NAME, json.dumps(record, indent=1))
        stage.run.add_provenance({"memory": record["fitted"]})
    if found != asked:
        log.warning("a batch of the recipe (%s) does not fit the memory; using %s", asked, found)
    return _changed(stage, found)


def fit(stage: Stage, loss: LossFunction) -> Fit:
    """Try how the cases of a step fit the memory, from all at once to one with checkpointing."""
    fits = _fits_gpu if stage.device.type == "cuda" else _fits_cpu
    can_recompute = stage.recipe.model.architecture == OURS
    for candidate in candidates(_asked(stage), can_recompute=can_recompute):
        # All processes do alike, so what does not fit one of them is nobody's.
        if largest(int(not fits(stage, loss, candidate))) == 0:
            return candidate
        log.info("%s: does not fit the memory", candidate)
    size = " x ".join(map(str, stage.settings.patch_size_vox))
    raise TrainingError(
        f"{stage.recipe.name}: one case ({stage.settings.crops_per_case} patches of {size} voxels, "
        f"scale {stage.recipe.model.scale}) does not fit the memory of {stage.device}, even with "
        "activations recomputed. Lower finetune.crops_per_case or finetune.patch_size_vox, choose "
        "a smaller model.scale, or spread the model over GPUs with finetune.sharding=blocks."
    )


def candidates(asked: Fit, *, can_recompute: bool = True) -> Iterator[Fit]:
    """Ways to make the same step with less and less memory, from the one asked for."""
    size = asked.batch_size
    while True:
        count = asked.accumulation * (asked.batch_size // size)
        yield replace(asked, batch_size=size, accumulation=count)
        if size == 1:
            break
        # Half, or what an odd number can be divided into evenly.
        size = next(part for part in range(size // 2, 0, -1) if size % part == 0)
    if can_recompute and not asked.checkpointing:
        yield Fit(1, asked.accumulation * asked.batch_size, checkpointing=True)


def try_batch(network: nn.Module, batch: Batch, loss: LossFunction, precision: str) -> None:
    """One forward and backward pass that changes no weight, gradient or random state.

    Raises:
        torch.OutOfMemoryError: It does not fit.
    """
    device = next(network.parameters()).device
    was_training, gpus = network.training, [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        try:
            network.train()
            with autocast(precision, device):
                total = torch.stack(list(loss(network, batch, 0).parts.values())).sum()
            total.backward()  # type: ignore[no-untyped-call]
        finally:
            network.zero_grad(set_to_none=True)
            network.train(was_training)


def noise_batch(stage: Stage, num_cases: int, device: torch.device) -> Batch:
    """Patches like those of the stage, of noise without a label."""
    settings = stage.settings
    count = num_cases * settings.crops_per_case
    shape = (count, len(stage.recipe.data.contrasts), *settings.patch_size_vox)
    labels = torch.zeros((count, 1, *settings.patch_size_vox), dtype=torch.int16, device=device)
    if device.type == "meta":
        image = torch.empty(shape, device=device)
    else:
        image = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    names = tuple(f"noise-{number}" for number in range(count))
    return Batch(image, labels, None, names, names, tuple(range(count)))


def count_gib(stage: Stage, loss: LossFunction, candidate: Fit) -> float:
    """Memory of a step by count: network, gradients, what is kept, moments and averages.

    Not counted: that frozen weights need less.
    """
    model = stage.recipe.model.model_copy(update={"checkpointing": candidate.checkpointing})
    network = _on_meta(stage.config, model)
    batch = noise_batch(stage, candidate.batch_size, torch.device("meta"))

    def total() -> torch.Tensor:
        return torch.stack(list(loss(network, batch, 0).parts.values())).sum()

    cost = count_step(network, total)
    return (cost.peak_bytes + _beside_bytes(stage, candidate)) / GIB


def most_gib(stage: Stage, candidate: Fit) -> float:
    """More than a step can need, without seconds of counting."""
    size = stage.settings.patch_size_vox
    num_voxels = size[0] * size[1] * size[2] * stage.settings.crops_per_case
    passes = MOST_BYTES_A_VOXEL * num_voxels * candidate.batch_size
    weights = 2 * BYTES * sum(p.numel() for p in stage.network.parameters())
    return (passes + weights + _beside_bytes(stage, candidate)) / GIB


def _fits_cpu(stage: Stage, loss: LossFunction, candidate: Fit) -> bool:
    # As if all processes were on this machine.
    free_gib = SHARE_OF_FREE * available_memory_gib() / num_processes()
    return most_gib(stage, candidate) <= free_gib or count_gib(stage, loss, candidate) <= free_gib


def _fits_gpu(stage: Stage, loss: LossFunction, candidate: Fit) -> bool:
    set_checkpointing(stage.network, candidate.checkpointing)
    beside: list[torch.Tensor] = []
    try:
        num_bytes = _beside_bytes(stage, candidate)
        beside.append(torch.empty(num_bytes, dtype=torch.uint8, device=stage.device))
        # Nothing but the trial holds the batch, so all of it is freed before the next one.
        try_batch(
            stage.network,
            noise_batch(stage, candidate.batch_size, stage.device),
            loss,
            stage.settings.precision,
        )
    except torch.OutOfMemoryError:
        return False
    finally:
        beside.clear()
        set_checkpointing(stage.network, stage.recipe.model.checkpointing)
        torch.cuda.empty_cache()
    return True


def _beside_bytes(stage: Stage, candidate: Fit) -> int:
    """What a step has in memory beside one batch's passes.

    Moments, the moving average, buckets for other processes' gradients, and the other batches.
    """
    settings, parameters = stage.settings, list(stage.network.parameters())
    learnt = sum(p.numel() for p in parameters if p.requires_grad)
    copies = 2 + (num_processes() > 1)
    num_bytes = BYTES * copies * learnt
    if settings.optimizer.ema_decay is not None:
        num_bytes += BYTES * sum(p.numel() for p in parameters)
    size = settings.patch_size_vox
    num_voxels = settings.crops_per_case * size[0] * size[1] * size[2]
    bytes_a_voxel = BYTES * len(stage.recipe.data.contrasts) + 2
    others = candidate.batch_size * (candidate.accumulation - 1)
    return num_bytes + others * num_voxels * bytes_a_voxel


def set_checkpointing(network: nn.Module, wanted: bool) -> None:
    """Let a network recompute the activations of its encoder, or keep them."""
    for module in network.modules():
        if isinstance(module, SwinBlock):
            module.checkpointing = wanted


def _on_meta(config: ModelConfig, model: ModelSettings) -> nn.Module:
    with torch.device("meta"):
        return build_network(config, model)


def _asked(stage: Stage) -> Fit:
    settings = stage.settings
    return Fit(
        settings.batch_size, settings.optimizer.accumulation, stage.recipe.model.checkpointing
    )


def _remembered(run: Run, asked: Fit) -> Fit | None:
    """What an earlier start of the run has found, if it was asked for the same."""
    path = run.folder / FITTED_NAME
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    return Fit(**record["fitted"]) if Fit(**record["asked"]) == asked else None


def _changed(stage: Stage, found: Fit) -> Stage:
    set_checkpointing(stage.network, found.checkpointing)
    provenance = {**stage.config.provenance, "memory": asdict(found)}
    optimizer = stage.settings.optimizer.model_copy(update={"accumulation": found.accumulation})
    changes = {"batch_size": found.batch_size, "optimizer": optimizer}
    return replace(
        stage,
        settings=stage.settings.model_copy(update=changes),
        config=stage.config.model_copy(update={"provenance": provenance}),
    )
