"""`pretrain`: self-supervision; stage 2 sees the training subjects of the target only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from brainsegfounder.data.loader import Batch, PatchDataset, PatchSampling
from brainsegfounder.models.ssl_heads import PretextOutputs
from brainsegfounder.settings import PretrainSettings, Recipe, TaskSettings
from brainsegfounder.training.checkpoint import TrainingState
from brainsegfounder.training.loop import BatchOnDevice, LossParts, Validation
from brainsegfounder.training.pretext import make_views, pretext_losses
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
) -> TrainingState:
    """Pretrain an encoder on the training subjects of a split.

    Args:
        recipe: With a `pretrain` section.
        data: A store prepared as the recipe says.
        out: The run's folder; its `model` folder holds the best encoder and heads.
        start: A run or model folder to take the encoder from (stage 2), or None.
        fold: Fold whose subjects are not seen, or None for the test subjects the recipe names.
        resume: Go on in `out`.
    """
    settings = require(recipe.pretrain, recipe, "pretrain")

    stage = open_stage(
        recipe, settings, "pretraining", data=data, out=out, start=start, fold=fold, resume=resume
    )
    state = run_stage(
        stage,
        sampling=PatchSampling(settings.patch_size_vox, settings.crops_per_case),
        cases=stage.cases(stage.split.train),
        loss=lambda model, batch, generator: _loss(model, batch, generator, settings.tasks),
        validation=_validation(stage, settings),
        what="pretraining",
    )
    write_pretrain_report(stage, state)
    return state


def _loss(
    model: nn.Module, batch: BatchOnDevice, generator: torch.Generator, tasks: TaskSettings
) -> LossParts:
    crops: Tensor = cast(Batch, batch).image
    views = make_views(crops, tasks, generator)
    outputs: PretextOutputs = model(views.masked)
    return pretext_losses(
        outputs.rotation_logits, outputs.embedding, outputs.reconstruction, views, tasks
    )


def _validation(stage: Stage, settings: PretrainSettings) -> Validation | None:
    """The mean losses on fixed crops of the validation subjects; the lowest total is best."""
    cases = stage.cases(stage.split.validation)
    if not cases:
        return None
    contrasts = stage.recipe.data.contrasts
    sampling = PatchSampling(settings.patch_size_vox, settings.crops_per_case)
    dataset = PatchDataset(stage.store, cases, contrasts, sampling, VALIDATION_SEED)
    num_batches = max(1, min(MAX_VALIDATION_BATCHES, len(cases) // settings.batch_size))

    def measure(model: nn.Module) -> Mapping[str, float]:
        totals: dict[str, float] = {}
        for number in range(num_batches):
            first = number * settings.batch_size
            samples = [dataset[first + n] for n in range(settings.batch_size)]
            images = torch.cat([sample.image for sample in samples]).to(stage.device)
            generator = torch.Generator().manual_seed(VALIDATION_SEED + number)
            with torch.inference_mode():
                parts = _loss(model, Batch(images, None, ()), generator, settings.tasks)
            for name, value in parts.items():
                totals[name] = totals.get(name, 0.0) + float(value) / num_batches
        return {"loss": sum(totals.values()), **totals}

    return Validation(measure, key="loss", direction="min")
