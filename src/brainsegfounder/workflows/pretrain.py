"""`pretrain`: self-supervision; stage 2 sees the training subjects of the target only."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from brainsegfounder.data.loader import PatchDataset, PatchSampling, batches
from brainsegfounder.distributed import joined, num_processes, rank, world
from brainsegfounder.errors import Interrupted
from brainsegfounder.evaluation.participants import read_participants
from brainsegfounder.settings import PretrainSettings, Recipe, ThreeTaskSettings
from brainsegfounder.training.checkpoint import TrainingState
from brainsegfounder.training.loop import Record, Validation
from brainsegfounder.workflows.objectives import ask
from brainsegfounder.workflows.pretrain_page import write_pretrain_page
from brainsegfounder.workflows.pretrain_probe import choose_probed
from brainsegfounder.workflows.pretrain_watch import Watcher
from brainsegfounder.workflows.stage import Stage, finish, open_stage, require, run_stage
from brainsegfounder.workflows.trackers import Tracker, tensorboard_tracker

# Crops and pretext tasks of the validation are the same every time.
VALIDATION_SEED = 20406
MAX_VALIDATION_BATCHES = 8

_Measured = tuple[int, dict[str, float], dict[str, float]]
"""Number of a batch, what is minimised of it and what is watched, by name."""


@joined()
def run_pretrain(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    start: Path | None = None,
    fold: int | None = None,
    resume: bool = False,
    may_change: Collection[str] = (),
    participants: Path | None = None,
    tensorboard: bool = False,
) -> TrainingState:
    """Pretrain an encoder on the training subjects of a split.

    Args:
        recipe: With a `pretrain` section.
        data: A store prepared as the recipe says.
        out: The run's folder; its `model` folder holds the best encoder and heads.
        start: A run or model folder to take the encoder from (stage 2), or None.
        fold: Fold whose subjects are not seen, or None for the test subjects the recipe names.
        resume: Go on in `out`.
        may_change: Fields of the recipe that may be other than `out` was started with.
        participants: A table of the subjects' age and sex, which are then probed; see
            `pretrain_probe`.
        tensorboard: Write what is recorded for TensorBoard, too, into `out/tensorboard`.
    """
    settings = require(recipe.pretrain, recipe, "pretrain")
    people = None if participants is None else read_participants(participants)
    tells = tensorboard and world().is_main
    trackers = [tensorboard_tracker(out / "tensorboard")] if tells else []
    stage = open_stage(
        recipe,
        settings,
        "pretraining",
        data=data,
        out=out,
        start=start,
        fold=fold,
        resume=resume,
        may_change=may_change,
    )
    probed = choose_probed(stage, settings, people)

    def record(values: Record) -> None:
        stage.run.record(values)
        for tracker in trackers:
            tracker(values)

    watcher = Watcher(stage, settings, probed, record)
    with _closing(watcher, trackers):
        state = run_stage(
            stage,
            sampling=crop_sampling(settings),
            cases=stage.cases(stage.split.train),
            loss=ask(settings.objective).loss,
            validation=_validation(stage, settings),
            what="pretraining",
            record=record,
            watch=watcher if world().is_main else lambda *_: None,
        )
    if world().is_main:
        minutes = state.elapsed_s / 60
        ended = f"Finished after {state.step:,} steps and {minutes:.1f} min of training."
        write_pretrain_page(stage, settings, state, probed, ended)
        finish(stage.run, state)
    return state


@contextlib.contextmanager
def _closing(watcher: Watcher, trackers: Sequence[Tracker]) -> Iterator[None]:
    """At the end let trackers go; where it is not the planned one, the page says so."""
    try:
        yield
    except (Exception, Interrupted) as error:
        if watcher.state is not None:
            how = str(error) or type(error).__name__
            watcher.write_page(watcher.state, f"Not finished: {how.rstrip('.')}.")
        raise
    finally:
        for tracker in trackers:
            tracker.close()


def crop_sampling(settings: PretrainSettings) -> PatchSampling:
    """How crops of an objective are drawn: with brain in them, and with masks of anatomy."""
    objective = settings.objective
    return PatchSampling(
        settings.patch_size_vox,
        settings.crops_per_case,
        min_brain=0.0 if isinstance(objective, ThreeTaskSettings) else objective.min_brain,
        with_valid=not isinstance(objective, ThreeTaskSettings),
    )


def _validation(stage: Stage, settings: PretrainSettings) -> Validation | None:
    """The mean losses on fixed crops of the validation subjects; the lowest total is best."""
    cases = stage.cases(stage.split.validation)
    if not cases:
        return None
    contrasts = stage.recipe.data.contrasts
    dataset = PatchDataset(stage.store, cases, contrasts, crop_sampling(settings), VALIDATION_SEED)
    num_batches = max(1, min(MAX_VALIDATION_BATCHES, len(cases) // settings.batch_size))
    loss = ask(settings.objective).loss

    # Every process takes its share of the batches that one process would measure.
    ours = range(rank(), num_batches, num_processes())

    def measure(model: nn.Module) -> list[_Measured]:
        source = batches(
            dataset,
            first_batch=0,
            num_batches=len(ours),
            batch_size=settings.batch_size,
            num_workers=0,
            rank=ours.start,
            num_processes=ours.step,
        )
        measured = []
        for number, batch in zip(ours, source, strict=True):
            with torch.inference_mode():
                losses = loss(model, batch.to(stage.device), VALIDATION_SEED)
            parts, watched = (_as_floats(values) for values in (losses.parts, losses.watched))
            measured.append((number, parts, watched))
        return measured

    return Validation(measure, key="loss", direction="min", summarise=_mean_losses)


def _mean_losses(found: list[list[_Measured]]) -> Mapping[str, float]:
    """The means over all batches, added up in their order, whoever has measured them."""
    measured = sorted((row for rows in found for row in rows), key=lambda row: row[0])
    totals: dict[str, float] = {}
    watched: dict[str, float] = {}
    for _, *both in measured:
        for sums, values in zip((totals, watched), both, strict=True):
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value / len(measured)
    return {"loss": sum(totals.values()), **totals, **watched}


def _as_floats(values: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
