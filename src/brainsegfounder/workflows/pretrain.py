"""`pretrain`: self-supervision; stage 2 sees the training subjects of the target only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import nn

from brainsegfounder.data.loader import PatchDataset, PatchSampling, batches
from brainsegfounder.settings import PretrainSettings, Recipe, ThreeTaskSettings
from brainsegfounder.training.checkpoint import TrainingState
from brainsegfounder.training.loop import Validation
from brainsegfounder.workflows.objectives import ask
from brainsegfounder.workflows.reports import write_pretrain_report
from brainsegfounder.workflows.stage import Stage, open_stage, require, run_stage

# Crops and pretext tasks of the validation are the same every time.
VALIDATION_SEED = 20406
MAX_VALIDATION_BATCHES = 8


def run_pretrain(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    start: Path | None = None,
    fold: int | None = None,
    resume: bool = False,
    may_change: Collection[str] = (),
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
    """
    settings = require(recipe.pretrain, recipe, "pretrain")

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
    state = run_stage(
        stage,
        sampling=_sampling(settings),
        cases=stage.cases(stage.split.train),
        loss=ask(settings.objective).loss,
        validation=_validation(stage, settings),
        what="pretraining",
    )
    write_pretrain_report(stage, state)
    return state


def _sampling(settings: PretrainSettings) -> PatchSampling:
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
    dataset = PatchDataset(stage.store, cases, contrasts, _sampling(settings), VALIDATION_SEED)
    num_batches = max(1, min(MAX_VALIDATION_BATCHES, len(cases) // settings.batch_size))
    loss = ask(settings.objective).loss

    def measure(model: nn.Module) -> Mapping[str, float]:
        totals: dict[str, float] = {}
        watched: dict[str, float] = {}
        for batch in batches(
            dataset,
            first_batch=0,
            num_batches=num_batches,
            batch_size=settings.batch_size,
            num_workers=0,
        ):
            with torch.inference_mode():
                losses = loss(model, batch.to(stage.device), VALIDATION_SEED)
            for sums, values in ((totals, losses.parts), (watched, losses.watched)):
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + float(value) / num_batches
        return {"loss": sum(totals.values()), **totals, **watched}

    return Validation(measure, key="loss", direction="min")
