"""What pretraining needs on GPUs that are not here: a model, and all that it assumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from brainsegfounder.data.loader import Batch
from brainsegfounder.models.step_cost import StepCost, count_step
from brainsegfounder.models.swin import check_merging
from brainsegfounder.settings import PretrainSettings, Recipe, StageSettings
from brainsegfounder.workflows.objectives import ask, build_pretraining_network

GIB = 2**30
# Of an H100 SXM, from its data sheet: dense bfloat16 on tensor cores, plain float32, memory.
NAME = "H100 SXM"
FLOP_PER_S = {"bfloat16": 989e12, "float32": 67e12}
BYTES_PER_S = 3.35e12
MEMORY_GIB = 80e9 / GIB
# No more than this share of FLOP_PER_S is expected, whatever memory allows.
MOST_UTILISATION = 0.3
# Libraries and the driver, beside the allocator.
CONTEXT_GIB = 1.0
MOMENT_BYTES = 8  # AdamW keeps two numbers a parameter


@dataclass(frozen=True, slots=True)
class StepModel:
    """A step of one process on one GPU, by count.

    Attributes:
        cost: Of the forward and backward passes of one batch.
        precision: What the GPU computes in.
        utilisation: Share of the GPU's largest rate that is reached.
        is_given: Whether the user gave it.
    """

    cost: StepCost
    precision: str
    utilisation: float
    is_given: bool

    @property
    def batch_s(self) -> float:
        """Seconds of one batch."""
        return self.cost.flop / (FLOP_PER_S[self.precision] * self.utilisation)

    @property
    def memory_gib(self) -> float:
        """On each GPU; counted in float32."""
        moments = MOMENT_BYTES * self.cost.num_parameters
        return (self.cost.peak_bytes + moments) / GIB + CONTEXT_GIB


@dataclass(frozen=True, slots=True)
class GpuNeeds:
    """What a number of GPUs needs for the whole run.

    Attributes:
        num_gpus: How many.
        accumulation: Batches that each of them adds up before a step.
        cases_per_step: Over all of them.
        step_s: Seconds of a step.
        hours: Of all steps.
        gpu_hours: Hours times GPUs.
        cost: In the currency of the price, or None without a price.
        memory_gib: On each GPU.
        fits: Whether that is what a GPU has.
        cases_per_s: What the loaders of all processes must deliver.
    """

    num_gpus: int
    accumulation: int
    cases_per_step: int
    step_s: float
    hours: float
    gpu_hours: float
    cost: float | None
    memory_gib: float
    fits: bool
    cases_per_s: float


def model_step(recipe: Recipe, settings: PretrainSettings, utilisation: float | None) -> StepModel:
    """Count a step of the recipe's network and objective.

    Args:
        recipe: Contrasts and network.
        settings: Its section for pretraining.
        utilisation: Share of the GPU's largest rate; None: what its memory allows if every
            operation reads its input from memory and writes its result there, at most 0.3.
    """
    with torch.device("meta"):
        network = build_pretraining_network(
            settings.objective,
            len(recipe.data.contrasts),
            recipe.model.scale,
            check_merging(recipe.model.merging),
            **recipe.model.model_dump(include={"dropout", "drop_path", "checkpointing"}),
        )
    batch = blank_batch(recipe, settings, torch.device("meta"))
    loss = ask(settings.objective).loss

    def total() -> torch.Tensor:
        return torch.stack(list(loss(network, batch, 0).parts.values())).sum()

    cost = count_step(network, total)
    precision = "float32" if settings.precision == "float32" else "bfloat16"
    allowed = cost.flop / FLOP_PER_S[precision] / (cost.moved_bytes / BYTES_PER_S)
    return StepModel(
        cost,
        precision,
        utilisation=min(MOST_UTILISATION, allowed) if utilisation is None else utilisation,
        is_given=utilisation is not None,
    )


def needs(
    model: StepModel,
    settings: PretrainSettings,
    num_gpus: int,
    cases_per_step: int,
    price_per_gpu_hour: float | None,
) -> GpuNeeds:
    """What a number of GPUs needs for a step of so many cases, times the recipe's steps."""
    accumulation = math.ceil(cases_per_step / (num_gpus * settings.batch_size))
    cases = accumulation * num_gpus * settings.batch_size
    step_s = accumulation * model.batch_s
    hours = settings.steps * step_s / 3600
    return GpuNeeds(
        num_gpus=num_gpus,
        accumulation=accumulation,
        cases_per_step=cases,
        step_s=step_s,
        hours=hours,
        gpu_hours=hours * num_gpus,
        cost=None if price_per_gpu_hour is None else hours * num_gpus * price_per_gpu_hour,
        memory_gib=model.memory_gib,
        fits=model.memory_gib <= MEMORY_GIB,
        cases_per_s=cases / step_s,
    )


def largest_batch(settings: PretrainSettings, gpus: Sequence[int]) -> int:
    """Cases of a step where the recipe's batch is that of each process of the largest number."""
    return settings.batch_size * settings.optimizer.accumulation * max(gpus)


def blank_batch(
    recipe: Recipe, settings: StageSettings, device: torch.device, first: int = 0
) -> Batch:
    """A batch of crops without a brain, as large as the recipe's; each of another subject."""
    count = settings.batch_size * settings.crops_per_case
    shape = (count, len(recipe.data.contrasts), *settings.patch_size_vox)
    numbers = tuple(range(first * count, (first + 1) * count))
    cases = tuple(f"blank-{n // settings.crops_per_case}" for n in numbers)
    if device.type == "meta":
        image = torch.empty(shape, device=device)
    else:
        image = torch.randn(shape, generator=torch.Generator().manual_seed(first)).to(device)
    return Batch(image, None, None, cases, cases, numbers)


def assumptions(model: StepModel, num_crops: int) -> list[str]:
    """All that the model takes for granted, a sentence each."""
    cost, rate = model.cost, FLOP_PER_S[model.precision] / 1e12
    moved_gb = cost.moved_bytes / 1e9 / num_crops
    reason = (
        "as given"
        if model.is_given
        else f"the smaller of {MOST_UTILISATION:.0%} and what memory of "
        f"{BYTES_PER_S / 1e12:g} TB/s allows if every operation reads and writes its "
        f"{moved_gb:.0f} GB a crop there (counted in float32; fused operations need less)"
    )
    return [
        f"a step is {cost.flop / num_crops / 1e9:,.0f} GFLOP for each crop, forward and backward: "
        "matrix products and convolutions, counted on this network",
        f"a GPU is an {NAME} with {rate:g} TFLOP/s in {model.precision}, of which "
        f"{model.utilisation:.1%} is used: {reason}",
        f"memory: weights, gradients and AdamW in float32 (16 bytes a parameter), what a step "
        f"keeps, counted in float32 (bfloat16 needs half to all of it), {CONTEXT_GIB:g} GiB of "
        "libraries",
        "a GPU loses no time between operations, nor several to each other: "
        f"{4 * cost.num_parameters / 1e6:,.0f} MB of gradients a step are exchanged behind the "
        "backward pass",
        "loaders keep up, and AdamW's own step takes no time",
    ]
