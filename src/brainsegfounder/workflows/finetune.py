"""`finetune`: a segmentation network, with labels, tested on subjects it never saw."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from brainsegfounder.data.loader import Batch, PatchSampling
from brainsegfounder.data.store import StoredCase
from brainsegfounder.distributed import gather_records, joined, num_processes, rank
from brainsegfounder.errors import DataError
from brainsegfounder.evaluation.metrics import (
    RULES,
    RegionScore,
    dice,
    score_case,
    summarise,
    write_metrics,
)
from brainsegfounder.files import sha256
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
from brainsegfounder.volumes.nifti import write_nifti
from brainsegfounder.workflows.model_folder import add_metrics, load_model
from brainsegfounder.workflows.reports import write_finetune_report
from brainsegfounder.workflows.stage import Stage, finish, open_stage, require, run_stage


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
    cases = stage.cases(stage.split.train, labelled=True)
    if not cases:
        raise DataError(
            f"{data}: none of {len(stage.split.train)} training subjects has a mask; expected "
            "masks beside the scans. Prepare again with a recipe that names data.labels."
        )
    state = run_stage(
        stage,
        sampling=PatchSampling(
            settings.patch_size_vox,
            settings.crops_per_case,
            settings.foreground_fraction,
            settings.augment,
            with_labels=True,
        ),
        cases=cases,
        loss=loss_function(recipe, settings),
        validation=_validation(stage),
        what="fine-tuning",
    )
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
    ours = _share(cases)

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


def _share(cases: Sequence[StoredCase]) -> Sequence[StoredCase]:
    """The cases that this process measures; another one measures each of the others."""
    return cases[rank() :: num_processes()]


def _test(stage: Stage) -> list[RegionScore]:
    """Score the best model on the test cases, each on its file's own grid.

    Each case is scored, and its label file written, by one process.
    """
    cases = stage.cases(stage.split.test, labelled=True)
    if not cases:
        return []
    model = load_model(stage.run.folder, stage.device)
    regions = {name: region.labels for name, region in stage.recipe.data.regions.items()}
    scores = []
    for case in _share(cases):
        image = stage.store.prepared_image(case, stage.recipe.data.contrasts)
        labels = model.segment(image, case.source_grid)
        write_nifti(stage.run.folder / "test" / f"{case.case}_seg.nii.gz", labels)
        scores += score_case(case.case, labels, stage.store.reference(case), regions)
    scores = [RegionScore(**row) for row in gather_records([asdict(row) for row in scores])]
    places = {case.case: place for place, case in enumerate(cases)}
    scores.sort(key=lambda score: places[score.case])
    if rank() > 0:
        return scores
    facts = {"recipe": stage.recipe.name, "split_sha256": stage.split.sha256}
    write_metrics(stage.run.folder / "test", scores, RULES, facts)
    stage.run.record_opening(sha256(stage.run.model / WEIGHTS_NAME), len(cases))
    add_metrics(stage.run.model, {name: asdict(row) for name, row in summarise(scores).items()})
    return scores
