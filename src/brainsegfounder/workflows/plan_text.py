"""A plan of pretraining in lines for people."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from brainsegfounder.workflows.plan import Plan
from brainsegfounder.workflows.plan_gpus import GpuNeeds
from brainsegfounder.workflows.plan_here import Here


def plan_lines(plan: Plan) -> Iterator[str]:
    """The plan: the run, this machine, GPUs, what is assumed, what is left out."""
    epochs = plan.samples / plan.subjects
    yield f"{plan.recipe}: {plan.num_parameters:,} parameters, {plan.steps:,} steps"
    yield (
        f"one process: {plan.cases_per_step} cases a step, {plan.samples:,} in all "
        f"({epochs:,.1f} times {plan.subjects:,} subjects)"
    )
    yield (
        f"disk: {plan.checkpoints_gib:.1f} GiB for checkpoints and the model, "
        f"{'' if plan.reads_store else 'at most '}{plan.store_gib:,.1f} GiB for the store"
    )
    yield ""
    yield "This machine, measured:"
    yield from (f"  {line}" for line in _here_lines(plan.here))
    yield ""
    yield "GPUs, by a model:"
    yield from (f"  {line}" for line in _gpu_table(plan.gpus))
    yield "which assumes:"
    yield from (f"  - {sentence}" for sentence in plan.assumptions)
    yield f"Not included: {'; '.join(plan.not_included)}."


def _here_lines(here: Here | None) -> Iterator[str]:
    if here is None:
        yield "a step does not fit its memory; make batch_size or patch_size_vox smaller,"
        yield "or set model.checkpointing=true"
        return
    seconds, waits = statistics.median(here.step_s), sum(here.wait_s) / sum(here.step_s)
    spread = f"{min(here.step_s):.2f} to {max(here.step_s):.2f}"
    yield f"{here.device}; crops of {here.crops}"
    yield f"{seconds:.2f} s a step ({spread}, {len(here.step_s)} steps after one to warm up)"
    yield f"{waits:.1%} of that is waiting for data"
    yield f"{duration(here.hours)} in all{_price(here.cost)}"
    yield f"{here.peak_memory_gib:.1f} GiB of memory at most, without data workers"


def _gpu_table(rows: tuple[GpuNeeds, ...]) -> Iterator[str]:
    for row in rows:
        batches = f"{row.accumulation} x " if row.accumulation > 1 else ""
        share = row.cases_per_step // (row.num_gpus * row.accumulation)
        fits = "" if row.fits else ", which it does not have"
        yield (
            f"{row.num_gpus:>4} GPU{'s' if row.num_gpus > 1 else ' '} "
            f"({row.cases_per_step} cases a step = {row.num_gpus} x {batches}{share}): "
            f"{duration(row.hours)}, {row.gpu_hours:,.1f} GPU-hours{_price(row.cost)}, "
            f"{row.memory_gib:.0f} GiB on each{fits}, {row.cases_per_s:,.0f} cases/s to read"
        )


def _price(cost: float | None) -> str:
    return "" if cost is None else f", costs {cost:,.2f}"


def duration(hours: float) -> str:
    """Hours in the unit that suits them."""
    if hours < 1:
        return f"{hours * 60:.1f} minutes"
    return f"{hours:.1f} hours" if hours < 72 else f"{hours / 24:.1f} days"
