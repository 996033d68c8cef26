"""What the processes of these tests do: `child.py TASK OUT`; the launcher's variables say who.

Each task returns what JSON can hold, and the main process writes it to OUT.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from brainsegfounder import distributed
from brainsegfounder.data.loader import Batch
from brainsegfounder.distributed import (
    World,
    alone,
    gather_records,
    joined,
    largest,
    means,
    num_processes,
    rank,
)
from brainsegfounder.errors import BrainSegFounderError, Interrupted, TrainingError
from brainsegfounder.models import scales
from brainsegfounder.models.swin_unetr import SwinUNETR
from brainsegfounder.runs import Run
from brainsegfounder.settings import (
    MaeSettings,
    Objective,
    StageSettings,
    ThreeTaskFixedSettings,
    ThreeTaskSettings,
)
from brainsegfounder.training import loop as training_loop
from brainsegfounder.training.checkpoint import TrainingState
from brainsegfounder.training.job import Job, LossFunction, Validation
from brainsegfounder.training.loop import train
from brainsegfounder.training.losses import Losses, region_targets, segmentation_loss
from brainsegfounder.training.optim import make_learner
from brainsegfounder.training.parallel import Sharding, is_finite, spread, whole_tensor
from brainsegfounder.workflows.objectives import ask, build_pretraining_network

CPU = torch.device("cpu")
# One block a stage: the same code as every scale.
SMALLEST = scales.Scale(feature_size=12, depths=(1, 1, 1, 1), num_heads=(3, 6, 12, 24))
SHAPE_VOX = (64, 32, 32)


def joined_batch(num_crops: int) -> Batch:
    """What one process would read; two crops of the same subject are never in one half."""
    generator = torch.Generator().manual_seed(5)
    image = torch.randn(num_crops, 1, *SHAPE_VOX, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, image.shape, generator=generator, dtype=torch.uint8)
    # Another number of voxels counts in each crop, so a mean of means would be another mean.
    valid = torch.rand(image.shape, generator=generator) < torch.linspace(0.3, 0.9, num_crops).view(
        -1, 1, 1, 1, 1
    )
    names = tuple(f"case{n}" for n in range(num_crops))
    owners = tuple(f"subject{n % 3}" for n in range(num_crops))
    return Batch(image, labels, valid, names, owners, tuple(range(num_crops)))


def part(batch: Batch, start: int, stop: int) -> Batch:
    """Some crops of a batch."""
    cut = {
        name: getattr(batch, name)[start:stop]
        for name in ("image", "labels", "valid", "cases", "subjects", "numbers")
    }
    return replace(batch, **cut)


def segmentation(model: nn.Module, batch: Any, _: int) -> Losses:
    """The loss of fine-tuning."""
    targets = region_targets(batch.labels, [[1], [1, 2]])
    return segmentation_loss(model(batch.image), targets, target="regions", loss="dice-ce")


def problem(kind: str) -> tuple[nn.Module, LossFunction]:
    """A network in float64 and what it minimises."""
    scales.SCALES = MappingProxyType({**scales.SCALES, "smallest": SMALLEST})
    torch.manual_seed(0)
    if kind == "finetune":
        return SwinUNETR(1, 2, "smallest", "complete").double(), segmentation
    objectives: dict[str, Objective] = {
        "mae": MaeSettings(),
        "three-task": ThreeTaskSettings(),
        # Blocks are pasted from other crops of the process; that is another thing in each process.
        "three-task-fixed": ThreeTaskFixedSettings.model_validate(
            {"all_axes": False, "inpainting": {"paste_other": False}}
        ),
    }
    objective = objectives[kind]
    network = build_pretraining_network(objective, 1, "smallest", "complete")
    return network.double(), ask(objective).loss


def gradients(
    network: nn.Module, loss: LossFunction, parts: list[Batch], sharding: Sharding = "none"
) -> tuple[float, dict[str, Tensor]]:
    """The loss, mean over processes and parts, and its gradients, added up over the parts."""
    held = spread(network, sharding)
    total = 0.0
    for number, batch in enumerate(parts):
        with held.collecting(is_last=number == len(parts) - 1):
            value = torch.stack(list(loss(held.forward, batch, 3).parts.values())).sum()
            (value / len(parts)).backward()
        total += means({"loss": float(value.detach())})["loss"] / len(parts)
    return total, {
        name: whole_tensor(p.grad)
        for name, p in held.model.named_parameters()
        if p.grad is not None
    }


# How many crops one process would read, over how many backward passes, and how they are held.
CASES: tuple[tuple[str, int, int, tuple[Sharding, ...]], ...] = (
    ("mae", 4, 2, ("none",)),
    ("finetune", 2, 1, ("none",)),
    ("three-task-fixed", 2, 1, ("none", "blocks")),
    ("three-task", 4, 1, ("none",)),
)


def equality(_: World, __: Path) -> dict[str, Any]:
    """How far two processes are from one with the joined batch, for each objective."""
    found = {}
    for kind, num_crops, num_passes, shardings in CASES:
        batch, size = joined_batch(num_crops), num_crops // (2 * num_passes)
        starts = [number * 2 * size for number in range(num_passes)]
        ours = [part(batch, s + rank() * size, s + (rank() + 1) * size) for s in starts]
        got = {sharding: gradients(*problem(kind), ours, sharding) for sharding in shardings}
        if rank() > 0:
            continue
        # By definition the mean of two half-batches, each with its own negatives.
        spans = [(0, size), (size, 2 * size)] if kind == "three-task" else None
        spans = spans or [(s, s + 2 * size) for s in starts]
        with alone():
            wanted = gradients(*problem(kind), [part(batch, *span) for span in spans])
        for sharding in shardings:
            found[f"{kind} {sharding}"] = _difference(got[sharding], wanted)
    return found


def _difference(
    got: tuple[float, dict[str, Tensor]], wanted: tuple[float, dict[str, Tensor]]
) -> dict[str, float]:
    assert got[1].keys() == wanted[1].keys()
    largest_gradient = max(float(value.abs().max()) for value in wanted[1].values())
    apart = max(float((got[1][name] - value).abs().max()) for name, value in wanted[1].items())
    return {"loss": abs(got[0] - wanted[0]), "gradient": apart, "largest": largest_gradient}


# --- a tiny run: the loop with a small network ---------------------------------------------------


def tiny_network() -> nn.Module:
    """Dropout, so that randomness must be a function of step and process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))


def tiny_batches(seen: list[int]) -> Any:
    """Two samples a batch, each its number; they are noted in `seen`."""

    def source(first_sample: int) -> Any:
        start = first_sample + rank() * 2
        while True:
            numbers = (start, start + 1)
            rows = [torch.randn(4, generator=torch.Generator().manual_seed(n)) for n in numbers]
            seen.extend(numbers)
            names = tuple(f"case{n}" for n in numbers)
            yield Batch(torch.stack(rows), None, None, names, names, numbers)
            start += 2 * num_processes()

    return source


def tiny_loss(model: nn.Module, batch: Any, _: int) -> Losses:
    """To the sum of the inputs."""
    return Losses({"error": (model(batch.image)[:, 0] - batch.image.sum(1)).square().mean()})


def tiny_job(out: Path, steps: int, seen: list[int], **changes: Any) -> Job:
    """A run of a few milliseconds."""
    settings = StageSettings.model_validate(
        {
            "steps": 50,
            "batch_size": 2,
            "checkpoint_every": 5,
            "validate_every": 20,
            "optimizer": {"peak_lr": 0.01, "warmup_steps": 2, "accumulation": 2, "ema_decay": 0.9},
            "sharding": changes.pop("sharding", "none"),
        }
    )
    records = changes.pop("records", [])

    def record(values: Any) -> None:
        records.append(dict(values))
        if values["kind"] == "train" and values["step"] == steps < 50:
            os.kill(os.getpid(), signal.SIGTERM)

    values: dict[str, Any] = {
        "settings": settings,
        "seed": 7,
        "loss": tiny_loss,
        "batches": tiny_batches(seen),
        "validation": None,
        "checkpoints": out / "checkpoints",
        "bad_batches": out / "bad_batches.json",
        "resumed": lambda _: None,
        "identity": {"recipe": "same"},
        "record": record,
        "keep_best": lambda *_: None,
        "advance": lambda *_: None,
    }
    return Job(**{**values, **changes})


def tiny_run(out: Path, steps: int = 50, **changes: Any) -> tuple[TrainingState, nn.Module, Any]:
    """Train to the end, or until this process gets a signal after a step."""
    network, seen = tiny_network(), []
    job = tiny_job(out, steps, seen, **changes)
    return train(network, job, CPU), network, seen


def until(step: int, act: Any, on_rank: int = 1) -> Any:
    """The tiny loss, with something that happens in one process in a step (of two batches)."""
    calls = iter(range(10**6))

    def loss(model: nn.Module, batch: Any, seed: int) -> Losses:
        losses = tiny_loss(model, batch, seed)
        if next(calls) // 2 + 1 == step and rank() == on_rank:
            return act(losses) or losses
        return losses

    return loss


def stop(_: Losses) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def spoil(losses: Losses) -> Losses:
    return Losses({name: value * float("nan") for name, value in losses.parts.items()})


def weights(network: nn.Module) -> dict[str, list[float]]:
    return {name: value.flatten().tolist() for name, value in network.state_dict().items()}


def stopped(out: Path, step: int, **changes: Any) -> dict[str, Any]:
    """A run that one process has a signal in: what each process was told."""
    seen: list[int] = []
    try:
        train(tiny_network(), tiny_job(out, 50, seen, loss=until(step, stop), **changes), CPU)
    except Interrupted as error:
        told = str(error)
    return {"told": gather_records([told]), "seen": gather_records(seen)}


def resume(_: World, out: Path) -> dict[str, Any]:
    """An uninterrupted run, and one that was stopped by a signal in rank 1 alone and resumed."""
    whole, network, seen = tiny_run(out / "whole")
    first = stopped(out / "parts", 23)
    state, resumed, rest = tiny_run(out / "parts")
    return {
        **first,
        "states": [[s.step, s.samples, s.num_processes] for s in (whole, state)],
        "weights": [weights(network), weights(resumed)],
        "seen": [gather_records(seen), first["seen"] + gather_records(rest)],
    }


def sharded(_: World, out: Path) -> dict[str, Any]:
    """A run that was sharded until a signal, and goes on unsharded."""
    _, network, _ = tiny_run(out / "unsharded")
    first = stopped(out / "both", 23, sharding="blocks")
    files = sorted(path.name for path in (out / "both/checkpoints").glob("*/*"))
    _, resumed, _ = tiny_run(out / "both")
    return {**first, "files": files, "weights": [weights(network), weights(resumed)]}


def skip(_: World, out: Path) -> dict[str, Any]:
    """Losses of rank 1 that are not numbers: once, then time after time."""
    learners: list[Any] = []

    def kept(*values: Any) -> Any:
        learners.append(make_learner(*values))
        return learners[-1]

    training_loop.make_learner = kept  # type: ignore[assignment]
    snapshots: list[Any] = []

    def snapshot() -> Any:
        moments = learners[-1].optimizer.state_dict()["state"]
        flat = {f"{n}{k}": v.tolist() for n, row in moments.items() for k, v in row.items()}
        return {**weights(learners[-1].model), **flat, "average": str(learners[-1].average.shadow)}

    def watched(model: nn.Module, batch: Any, seed: int) -> Losses:
        snapshots.append(snapshot())
        return spoiled(model, batch, seed)

    spoiled = until(4, spoil)
    records: list[Any] = []
    state, _, _ = tiny_run(out / "once", loss=watched, records=records)
    # Steps of two batches, from 1: before step 4, before step 5, before step 6.
    told = gather_records([[snapshots[6] == snapshots[8], snapshots[8] == snapshots[10]]])
    always = dict.fromkeys(range(3, 20))
    nan = until(0, spoil)

    def from_three(model: nn.Module, batch: Any, seed: int) -> Losses:
        losses = nan(model, batch, seed)
        calls.append(0)
        return spoil(losses) if rank() == 1 and len(calls) > 4 and always else losses

    calls: list[int] = []
    try:
        tiny_run(out / "always", loss=from_three)
        ended = "it went on"
    except TrainingError as error:
        ended = str(error)
    return {
        "unchanged, then changed": told,
        "skipped": [record["step"] for record in records if record.get("skipped")],
        "step": state.step,
        "ended": gather_records([ended]),
        "bad batches": json.loads((out / "always/bad_batches.json").read_text()),
    }


def validate(_: World, out: Path) -> dict[str, Any]:
    """Three cases for two processes, one of which is slow."""
    mine: list[int] = []
    here, size = rank(), num_processes()

    def measure(_: nn.Module) -> list[int]:
        # Whatever is measured must not wait for the others.
        assert (rank(), num_processes(), largest(here)) == (0, 1, here)
        time.sleep(0.3 * here)
        ours = [0, 1, 2][here::size]
        mine.extend(ours)
        return ours

    def summarise(found: list[list[int]]) -> dict[str, float]:
        cases = [case for part_of in found for case in part_of]
        return {"cases": float(len(cases)), "different": float(len(set(cases))), "score": 1.0}

    records: list[Any] = []
    validation = Validation(measure, "score", "max", summarise)
    state, _, _ = tiny_run(out, validation=validation, records=records)
    found = [r for r in records if r["kind"] == "validation"]
    return {"records": found, "best": state.best_step, "measured": gather_records(mine)}


def finite(_: World, __: Path) -> dict[str, Any]:
    """One weight of one process is not finite."""
    network = tiny_network()
    before = gather_records([is_finite(network)])
    if rank() == 1:
        network[0].bias.data[0] = float("inf")
    return {"before": before, "after": gather_records([is_finite(network)])}


def begin(_: World, out: Path) -> None:
    """Ten steps, then a signal."""
    tiny_run(out, loss=until(10, stop))


def fail(_: World, out: Path) -> None:
    """Rank 1 fails while rank 0 is at something that has no end."""
    distributed.GRACE_S = 1.0
    tiny_run(out, loss=until(3, _hang, on_rank=0) if rank() == 0 else until(3, _raise))


def _hang(_: Losses) -> None:
    time.sleep(1000)


def _raise(_: Losses) -> None:
    raise ValueError("a fault in the middle of a step")


def restart(me: World, out: Path) -> dict[str, Any]:
    """Rank 1 is killed at step 12, then at step 31; the third attempt has no fault."""
    run, seen = Run(out), []
    out.mkdir(exist_ok=True)
    faults = {0: 12, 1: 31 - 10}  # the second attempt begins after step 10
    changes: dict[str, Any] = {"record": run.record, "resumed": run.rewind}
    if me.attempt in faults:
        changes["loss"] = until(faults[me.attempt], _die)
    state = train(tiny_network(), tiny_job(out, 50, seen, **changes), CPU)
    return {"attempt": me.attempt, "step": state.step, "samples": state.samples}


def _die(_: Losses) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


LOOP = (resume, sharded, skip, validate, finite)


def loop(me: World, out: Path) -> dict[str, Any]:
    """All that a tiny run can show, in one start of the processes."""
    return {task.__name__: task(me, out / task.__name__) for task in LOOP}


def main() -> None:
    task, out = globals()[sys.argv[1]], Path(sys.argv[2])
    with joined() as me:
        found = task(me, out / "work")
        if me.is_main:
            (out / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        main()
    except Interrupted as stopped_by:
        sys.exit(stopped_by.exit_code)
    except BrainSegFounderError as error:  # as on the command line
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
