"""Scores of cases that are in a store: a run's test, and the same with contrasts left out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from brainsegfounder.data.store import Store, StoredCase, check_store, open_store
from brainsegfounder.distributed import gather_records, joined, num_processes, rank
from brainsegfounder.errors import OutputExistsError, UsageError
from brainsegfounder.evaluation.metrics import RULES, RegionScore, score_case, write_metrics
from brainsegfounder.files import sha256, write_text
from brainsegfounder.inference.expected_dice import estimate_dice
from brainsegfounder.inference.model_config import WEIGHTS_NAME
from brainsegfounder.recipes import load_recipe
from brainsegfounder.runs import Run
from brainsegfounder.volumes.nifti import write_nifti
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.audit_runs import read_provenance
from brainsegfounder.workflows.model_folder import Model, load_model

ESTIMATES_NAME = "estimates.json"


def score_cases(
    model: Model,
    store: Store,
    cases: Sequence[StoredCase],
    out: Path,
    facts: Mapping[str, Any],
    kept: Sequence[str] | None = None,
) -> list[RegionScore]:
    """Segment stored cases and score each on the grid of its own file.

    Each case is scored, and its label file written, by one process. What the model itself thinks
    of its Dice is kept beside the scores, for `expected_dice`.

    Args:
        model: What segments.
        store: Prepared as the model wants it.
        cases: With labels.
        out: Where `<case>_seg.nii.gz`, `metrics.csv`, `metrics.json` and `estimates.json` go.
        facts: What `metrics.json` says beside the scores.
        kept: Contrasts that the model sees; the others are 0 everywhere. None: all.

    Returns:
        The scores of all cases, in their order.
    """
    regions = {name: region.labels for name, region in model.config.regions.items()}
    scores, estimates = [], []
    for case in share(cases):
        image = store.prepared_image(case, model.contrasts)
        image = image if kept is None else without_others(image, model.contrasts, kept)
        probabilities = model.probabilities(image)
        labels = model.paint(probabilities, case.source_grid)
        told = estimate_dice(probabilities.voxels, model.config)
        estimates.append({"case": case.case, **told})
        write_nifti(out / f"{case.case}_seg.nii.gz", labels)
        scores += score_case(case.case, labels, store.reference(case), regions)
    scores = [RegionScore(**row) for row in gather_records([asdict(row) for row in scores])]
    told_by_all = {row.pop("case"): row for row in gather_records(estimates)}
    places = {case.case: place for place, case in enumerate(cases)}
    scores.sort(key=lambda score: places[score.case])
    if rank() == 0:
        write_metrics(out, scores, RULES, {**facts, "regions_are": model.config.regions_are})
        write_text(out / ESTIMATES_NAME, json.dumps(told_by_all, indent=1) + "\n")
    return scores


def read_estimates(folder: Path) -> dict[str, dict[str, float | None]]:
    """What a model thought of each region's Dice, by case; empty where it was not asked."""
    path = folder / ESTIMATES_NAME
    if not path.is_file():
        return {}
    found: dict[str, dict[str, float | None]] = json.loads(path.read_text(encoding="utf-8"))
    return found


@joined()
def score_with_contrasts(
    run_folder: Path, data: Path, kept: Sequence[str], *, even_untrained: bool = False
) -> list[RegionScore]:
    """Score a finished run's test cases once more, with only some of their contrasts.

    Writes into `RUN/test-A-B` what `RUN/test` has, A and B being the contrasts that are kept, in
    the order of the channels; the run's `test_openings.jsonl` tells of it.

    Args:
        run_folder: A run of `finetune`.
        data: The store it was trained on.
        kept: The contrasts that the model sees.
        even_untrained: Do so although the model never learnt to miss a contrast.

    Raises:
        UsageError: A contrast is not of the model, none is kept, the model has not learnt to miss
            one, or the store is not the run's.
        OutputExistsError: That folder is there already.
    """
    model, run = load_model(run_folder), Run(run_folder)
    kept = _checked(model, kept, run_folder, even_untrained)
    out = run_folder / f"test-{'-'.join(kept)}"
    if out.exists():
        raise OutputExistsError(f"{out}: there already; remove it to score again.")
    store, told = open_store(data), read_provenance(run_folder)
    _check_same_data(store, run_folder, told)
    tested = set(told["test_subjects"])
    cases = [case for case in store.cases if case.subject in tested and case.has_labels]
    facts = {
        "recipe": model.config.name,
        "split_sha256": told["sha256"]["split"],
        "contrasts": list(kept),
    }
    scores = score_cases(model, store, cases, out, facts, kept)
    if rank() == 0:
        run.record_opening(sha256(run.model / WEIGHTS_NAME), len(cases), kept)
    return scores


def without_others(image: Volume, contrasts: Sequence[str], kept: Sequence[str]) -> Volume:
    """A prepared image in which all contrasts but some are 0, as if they were missing.

    Args:
        image: Standardised intensities, shape (C, I, J, K).
        contrasts: Names of its channels.
        kept: Names of those that stay.
    """
    stays = np.isin(contrasts, kept)[:, None, None, None]
    return replace(image, voxels=np.where(stays, image.voxels, np.float32(0)))


def share(cases: Sequence[StoredCase]) -> Sequence[StoredCase]:
    """The cases that this process measures; another one measures each of the others."""
    return cases[rank() :: num_processes()]


def _checked(model: Model, kept: Sequence[str], run: Path, even_untrained: bool) -> tuple[str, ...]:
    """The contrasts to keep, in the order of the channels."""
    strange = [name for name in kept if name not in model.contrasts]
    known = ", ".join(model.contrasts)
    if strange or not kept:
        found = ", ".join(strange) or "none"
        raise UsageError(f"contrasts to keep: found {found}; expected some of {known}.")
    ordered = tuple(name for name in model.contrasts if name in kept)
    if not (model.config.may_miss_contrasts or even_untrained or ordered == model.contrasts):
        raise UsageError(
            f"{run}: its model was never trained without one of {known}, so such scores would say "
            "little. Train it with finetune.contrast_dropout above 0."
        )
    return ordered


def _check_same_data(store: Store, run: Path, told: Mapping[str, Any]) -> None:
    check_store(store, load_recipe(run))
    if store.manifest_sha256 != told["sha256"]["manifest"]:
        raise UsageError(
            f"{store.folder}: not the store that {run} was trained on (its manifest differs); "
            "expected that one."
        )
