"""`crossval`: every fold is tested once, by models that never saw it (Tables 4 and 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from brainsegfounder.data.splits import fold_numbers
from brainsegfounder.data.store import open_store
from brainsegfounder.errors import UsageError
from brainsegfounder.evaluation.score_rows import REGION_MEAN
from brainsegfounder.inference.expected_dice import fit_lines
from brainsegfounder.inference.model_config import DiceLine
from brainsegfounder.settings import Recipe
from brainsegfounder.workflows.experiments.arms import Arm, Stage1
from brainsegfounder.workflows.experiments.cells import Cell, Grid
from brainsegfounder.workflows.experiments.results import (
    Results,
    Scored,
    arm_highlights,
    arms_of,
    compare_arms,
    headline_region,
    pivot,
    pooled,
    region_in_words,
    regions_of,
    told_in_short,
)
from brainsegfounder.workflows.model_folder import save_ensemble
from brainsegfounder.workflows.stage import included
from brainsegfounder.workflows.stored_scores import read_estimates


def crossval_cells(
    recipe: Recipe,
    data: Path,
    arms: Sequence[Arm],
    stage1: Stage1,
    folds: Sequence[int] | None = None,
) -> list[Cell]:
    """The runs of a cross-validation; stage 2 is made once per fold, without its test subjects.

    Args:
        recipe: With a `finetune` section.
        data: The store.
        arms: Ways to begin.
        stage1: Where stage 1 comes from.
        folds: Which; None: all there are.

    Raises:
        UsageError: A fold does not exist.
        DataError: The folds cannot be made.
    """
    start, before = stage1.begin("", {}) if any(arm.has_stage1 for arm in arms) else (None, [])
    return [
        *before,
        *(
            cell
            for arm in arms
            for fold in wanted_folds(recipe, data, folds)
            for cell in fold_cells(arm, recipe, data, start, fold)
        ),
    ]


def wanted_folds(recipe: Recipe, data: Path, folds: Sequence[int] | None) -> list[int]:
    """The folds that are asked for, or all there are.

    Raises:
        UsageError: A fold does not exist.
        DataError: The folds cannot be made.
    """
    there = fold_numbers(included(open_store(data), recipe), recipe.split)
    wanted = there if folds is None else list(folds)
    if strange := [fold for fold in wanted if fold not in there]:
        raise UsageError(f"--folds {strange[0]}: expected some of {', '.join(map(str, there))}.")
    return wanted


def fold_cells(
    arm: Arm,
    recipe: Recipe,
    data: Path,
    stage1: str | Path | None,
    fold: int,
    *,
    group: str = "",
    tags: Mapping[str, str] | None = None,
) -> list[Cell]:
    """The runs of one arm on one fold."""
    named = {"fold": str(fold), **(tags or {})}
    return arm.cells(f"fold-{fold}", recipe, data, stage1, group=group, fold=fold, tags=named)


def show_crossval(_: Grid, found: Sequence[Scored], folder: Path) -> Results:
    """Tables 4 and 8 of these folds, arms compared, and an ensemble of each arm's folds."""
    region = headline_region(found)
    folds = len({one.tags["fold"] for one in found})
    results = Results(
        title=f"{folds}-fold cross-validation of {found[0].recipe}",
        subtitle="Every case is tested once by each arm, by a model that never saw its subject.",
        highlights=arm_highlights(found),
        tables=[
            pivot(
                found,
                "fold",
                f"Dice of {region_in_words(region)}: means over the test cases.",
                region,
            )
        ],
    )
    if region == REGION_MEAN:
        results.tables += [pivot(found, "fold", f"Dice of {n}.", n) for n in regions_of(found)]
    compared = compare_arms(found, folder / "comparison")
    if compared is not None:
        results.links["arms compared"] = "comparison/report.html"
        results.notes += told_in_short(compared)
    for arm in arms_of(found):
        of_arm = [one for one in found if one.tags["arm"] == arm]
        if len(of_arm) > 1:
            name = f"{arm}-ensemble"
            _save_ensemble(of_arm, folder / name)
            results.links[f"ensemble of {arm}"] = name
    return results


def _save_ensemble(found: Sequence[Scored], folder: Path) -> None:
    """The models of an arm's folds as one, with what each scored on the cases it never saw."""
    lines = _expected_dice(found)
    save_ensemble(
        folder,
        [one.run for one in found],
        {
            "metrics": {region: pooled(found, region) for region in regions_of(found)},
            "metrics_are": "Of the single models, each on the test cases of its fold; the ensemble "
            "itself has seen all of these cases.",
        },
        expected_dice=lines,
    )


def _expected_dice(found: Sequence[Scored]) -> dict[str, DiceLine]:
    """What Dice to expect of each region, from each fold's own estimates on its test cases."""
    estimates: dict[str, dict[str, float | None]] = {}
    truths: dict[str, dict[str, float]] = {}
    for one in found:
        for case, told in read_estimates(one.path.parent).items():
            for region, value in told.items():
                estimates.setdefault(region, {})[case] = value
        for row in one.rows:
            truths.setdefault(row.region, {})[row.case] = row.values["dice"]
    return fit_lines(estimates, truths)
