"""`finetune`: a segmentation network, with labels, tested on subjects it never saw."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from brainsegfounder.data.loader import Batch, PatchSampling
from brainsegfounder.data.store import StoredCase
from brainsegfounder.distributed import joined, rank, wait
from brainsegfounder.errors import DataError
from brainsegfounder.evaluation.metrics import RegionScore, dice, summarise
from brainsegfounder.files import sha256
from brainsegfounder.inference.familiarity import learn_usual
from brainsegfounder.inference.model_config import WEIGHTS_NAME
from brainsegfounder.inference.predictor import Predictor
from brainsegfounder.models.baselines import output_layer
from brainsegfounder.settings import FinetuneSettings, Recipe
from brainsegfounder.training.checkpoint import TrainingState
from brainsegfounder.training.loop import BatchOnDevice, LossFunction, Validation
from brainsegfounder.training.losses import (
    Losses,
    class_targets,
    region_targets,
    segmentation_loss,
)
from brainsegfounder.training.optim import freeze
from brainsegfounder.volumes.appearance import appearance
from brainsegfounder.workflows.drop_small import choose_smallest_ml
from brainsegfounder.workflows.fit_memory import fitted
from brainsegfounder.workflows.model_folder import add_metrics, change_config, load_model
from brainsegfounder.workflows.reports import write_finetune_report
from brainsegfounder.workflows.stage import Stage, finish, open_stage, require, run_stage
from brainsegfounder.workflows.stored_scores import score_cases, share

log = logging.getLogger(__name__)

# Training scans that are looked at for what is usual.
MOST_LOOKED_AT = 200


@joined()
def run_finetune(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    start: Path | None = None,
    fold: int | None = None,
    resume: bool = False,
    may_change: Collection[str] = (),
) -> tuple[TrainingState, list[RegionScore]]:
    """Fine-tune on the training subjects, choose on the validation ones, score the test ones.

    Args:
        recipe: With a `finetune` section.
        data: A store prepared as the recipe says, with masks.
        out: The run's folder; its `model` folder is ready for `predict`.
        start: A run or model folder to take the encoder from, or None for random weights.
        fold: Which fold is tested, or None for the test subjects the recipe names.
        resume: Go on in `out`.
        may_change: Fields of the recipe that may be other than `out` was started with.

    Returns:
        The final training state, and the scores of the test cases on their files' own grids.
    """
    settings = require(recipe.finetune, recipe, "finetune")

    stage = open_stage(
        recipe,
        settings,
        "segmentation",
        data=data,
        out=out,
        start=start,
        fold=fold,
        resume=resume,
        may_change=may_change,
    )
    _start_from_prior(output_layer(stage.network, recipe.model.architecture), settings)
    _freeze(stage, settings)
    cases = stage.cases(stage.split.train, labelled=True)
    if not cases:
        raise DataError(_no_labels(stage, data))
    loss = loss_function(recipe, settings)
    stage = fitted(stage, loss)
    state = run_stage(
        stage,
        sampling=PatchSampling(
            settings.patch_size_vox,
            settings.crops_per_case,
            settings.foreground_fraction,
            settings.augment,
            with_labels=True,
            contrast_dropout=settings.contrast_dropout,
        ),
        cases=cases,
        loss=loss,
        validation=_validation(stage),
        what="fine-tuning",
    )
    if rank() == 0:
        _learn_beside(stage, cases)
    wait()
    scores = _test(stage)
    if rank() == 0:
        write_finetune_report(stage, state, scores)
        finish(stage.run, state)
    return state, scores


def loss_function(recipe: Recipe, settings: FinetuneSettings) -> LossFunction:
    """The loss of a batch by what its labels are, regions or classes."""
    regions = [region.labels for region in recipe.data.regions.values()]
    values = list(recipe.data.labels.values())

    def loss(model: nn.Module, batch: BatchOnDevice, _: int) -> Losses:
        labels = cast(Tensor, cast(Batch, batch).labels)
        is_regions = settings.target == "regions"
        targets = region_targets(labels, regions) if is_regions else class_targets(labels, values)
        logits = model(cast(Batch, batch).image)
        return segmentation_loss(logits, targets, target=settings.target, loss=settings.loss)

    return loss


def _freeze(stage: Stage, settings: FinetuneSettings) -> None:
    """Keep the encoder as the start weights have it, where the recipe says so."""
    if settings.freeze == "none":
        return
    if stage.transfer is None:
        log.warning("freeze: %s, but nothing was loaded; expected --from", settings.freeze)
    log.info("frozen: %d numbers (%s)", freeze(stage.network, settings.freeze), settings.freeze)


def _no_labels(stage: Stage, data: Path) -> str:
    """What to do where no training subject has a mask."""
    held_out = (*stage.split.validation, *stage.split.test)
    elsewhere = len(stage.cases(held_out, labelled=True))
    told = f"{data}: none of {len(stage.split.train)} training subjects has a mask"
    if elsewhere:
        return (
            f"{told}, but cases that validate or test have ({elsewhere}); expected masks to learn "
            "from. Take another fold (--fold), other folds (--set split.folds=N), or add masks."
        )
    return f"{told}; expected some. Prepare again with a recipe that names data.labels."


def _start_from_prior(output: nn.Conv3d, settings: FinetuneSettings) -> None:
    """Let every output begin at a small probability.

    Lesions fill a few percent of a brain. Outputs that begin at one half spend the first hundred
    steps on unlearning that, and the Dice loss hardly moves meanwhile.
    """
    bias = cast(Tensor, output.bias)
    with torch.no_grad():
        bias.fill_(math.log(settings.output_prior / (1 - settings.output_prior)))
        if settings.target == "classes":
            bias[0] = 0.0


def _validation(stage: Stage) -> Validation | None:
    """Dice of the validation cases by the shipped predictor, on the prepared grid."""
    cases = stage.cases(stage.split.validation, labelled=True)
    if not cases:
        return None
    regions = stage.recipe.data.regions
    ours = share(cases)

    def measure(model: nn.Module) -> dict[str, dict[str, float]]:
        predictor = Predictor(model, stage.config, stage.device)
        values: dict[str, dict[str, float]] = {}
        for case in ours:
            image = stage.store.prepared_image(case, stage.recipe.data.contrasts)
            predicted = torch.from_numpy(predictor.segment(image).voxels)
            reference = torch.from_numpy(stage.store.labels(case)[:])
            for name, region in regions.items():
                wanted = torch.tensor(region.labels)
                one, other = torch.isin(predicted, wanted), torch.isin(reference, wanted)
                values.setdefault(case.case, {})[name] = dice(one.numpy(), other.numpy())
        return values

    def summarise(found: list[dict[str, dict[str, float]]]) -> Mapping[str, float]:
        of_case = {case: row for values in found for case, row in values.items()}
        rows = [of_case[case.case] for case in cases]
        means = {f"dice_{name}": sum(row[name] for row in rows) / len(rows) for name in regions}
        return {"dice": sum(means.values()) / len(means), **means}

    return Validation(measure, key="dice", direction="max", summarise=summarise)


def _learn_beside(stage: Stage, cases: Sequence[StoredCase]) -> None:
    """Keep in the model what it learns beside its weights.

    How its training scans look (some of them, if many), and which small parts to drop.
    """
    contrasts = stage.recipe.data.contrasts
    step = max(1, len(cases) // MOST_LOOKED_AT)
    looks = [
        appearance(stage.store.prepared_image(case, contrasts), contrasts) for case in cases[::step]
    ]
    change_config(stage.run.model, familiar=learn_usual(looks))
    chooses = stage.cases(stage.split.validation, labelled=True)
    if stage.recipe.predict.drop_small == "validated" and chooses:
        model = load_model(stage.run.folder, stage.device)
        smallest = choose_smallest_ml(model, stage.store, chooses)
        change_config(stage.run.model, smallest_ml=smallest)


def _test(stage: Stage) -> list[RegionScore]:
    """Score the best model on the test cases, each on its file's own grid."""
    cases = stage.cases(stage.split.test, labelled=True)
    if not cases:
        return []
    model = load_model(stage.run.folder, stage.device)
    facts = {"recipe": stage.recipe.name, "split_sha256": stage.split.sha256}
    scores = score_cases(model, stage.store, cases, stage.run.folder / "test", facts)
    if rank() == 0:
        stage.run.record_opening(sha256(stage.run.model / WEIGHTS_NAME), len(cases))
        add_metrics(stage.run.model, {name: asdict(row) for name, row in summarise(scores).items()})
    return scores
