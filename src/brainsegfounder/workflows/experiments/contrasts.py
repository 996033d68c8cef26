"""`contrasts`: which contrasts matter (Table 5): one at a time, or every subset, beside all.

Every subset is trained by itself, stage 1 and stage 2 restricted to it, too, where these are made
here; or one model is trained with contrast dropout, and contrasts are missing at its test.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal

from brainsegfounder.errors import UsageError
from brainsegfounder.recipes import change_recipe
from brainsegfounder.settings import Recipe
from brainsegfounder.workflows.experiments.arms import Arm, Stage1
from brainsegfounder.workflows.experiments.cells import Cell, Grid
from brainsegfounder.workflows.experiments.results import (
    Results,
    Scored,
    arms_of,
    compare_arms,
    headline_region,
    pivot,
    read_scored,
    region_in_words,
    told_in_short,
)
from brainsegfounder.workflows.stored_scores import score_with_contrasts

log = logging.getLogger(__name__)

Subsets = Literal["single", "all"]
COPIES = 4
# Chance that a contrast is missing in training, where the recipe says none.
DROPOUT = 0.25


def subsets_of(contrasts: Sequence[str], which: Subsets) -> list[tuple[str, ...]]:
    """All contrasts first, then fewer: each by itself, or every subset.

    Raises:
        UsageError: There is one contrast only.
    """
    if len(contrasts) < 2:
        raise UsageError(
            f"contrasts: the recipe has {', '.join(contrasts)} only; expected two or more."
        )
    sizes = [1] if which == "single" else range(len(contrasts) - 1, 0, -1)
    return [tuple(contrasts), *(s for size in sizes for s in combinations(contrasts, size))]


def contrasts_cells(
    recipe: Recipe,
    data: Path,
    arms: Sequence[Arm],
    stage1: Stage1,
    subsets: Sequence[Sequence[str]],
    folds: Sequence[int | None],
    *,
    copies: bool = False,
) -> list[Cell]:
    """The runs of a comparison of contrasts, each subset trained by itself.

    Args:
        recipe: With all contrasts; the store has them all.
        data: The store.
        arms: Ways to begin.
        stage1: Where stage 1 comes from; made here, it sees the subset only.
        subsets: Of the contrasts.
        folds: Held out; None for the test subjects that the recipe names.
        copies: Whether a single contrast fills four channels, as in the paper's first runs.
    """
    cells = []
    for subset in subsets:
        group = f"{named(subset)}/"
        times = COPIES if copies and len(subset) == 1 else 1
        shown = {"data.contrasts": [*subset], "data.copies": times}
        changed = change_recipe(recipe, shown)
        start: str | Path | None = None
        if any(arm.has_stage1 for arm in arms):
            start, before = stage1.begin(group, shown)
            cells += before
        for arm in arms:
            for fold in folds:
                tags = {"contrasts": named(subset), **({} if fold is None else {"fold": str(fold)})}
                where = "test" if fold is None else f"fold-{fold}"
                cells += arm.cells(where, changed, data, start, group=group, fold=fold, tags=tags)
    return cells


def dropout_cells(
    recipe: Recipe,
    data: Path,
    arms: Sequence[Arm],
    stage1: Stage1,
    folds: Sequence[int | None],
) -> list[Cell]:
    """One model of all contrasts for each arm and fold, trained to miss some of them."""
    chance = recipe.finetune.contrast_dropout if recipe.finetune else 0.0
    changed = change_recipe(recipe, {"finetune.contrast_dropout": chance or DROPOUT})
    return contrasts_cells(changed, data, arms, stage1, [recipe.data.contrasts], folds)


def score_subsets(
    found: Sequence[Scored], data: Path, subsets: Sequence[Sequence[str]]
) -> list[Scored]:
    """The same models, tested with each subset of contrasts; what was tested before is read.

    Raises:
        UsageError: A model was not trained to miss contrasts.
    """
    scored = []
    for one in found:
        for subset in subsets:
            tags = {**one.tags, "contrasts": named(subset)}
            path = one.path if named(subset) == one.tags["contrasts"] else _test(one, subset)
            if not path.is_file():
                log.info("%s: tested with %s", one.name, named(subset))
                shutil.rmtree(path.parent, ignore_errors=True)
                score_with_contrasts(one.run, data, subset)
            scored.append(read_scored(one.name, one.recipe, tags, path))
    return scored


def _test(one: Scored, subset: Sequence[str]) -> Path:
    return one.run / f"test-{'-'.join(subset)}" / "metrics.json"


def named(subset: Sequence[str]) -> str:
    """A subset in a word, such as `T1w+FLAIR`."""
    return "+".join(subset)


def show_dropout(
    grid: Grid,
    found: Sequence[Scored],
    folder: Path,
    *,
    data: Path,
    subsets: Sequence[Sequence[str]],
) -> Results:
    """Table 5 with one model an arm, contrasts missing at its test."""
    results = show_contrasts(grid, score_subsets(found, data, subsets), folder)
    results.subtitle = "One model was trained with contrast dropout and tested with each subset."
    return results


def show_contrasts(_: Grid, found: Sequence[Scored], folder: Path) -> Results:
    """Table 5 of these runs: arms within each subset, and subsets within the first arm."""
    region = headline_region(found)
    caption = f"Dice of {region_in_words(region)}: means over the test cases."
    results = Results(
        title=f"Contrasts of {found[0].recipe}",
        subtitle="Each subset of contrasts was trained and tested by itself.",
        tables=[pivot(found, "contrasts", caption, region, summed_up=False)],
    )
    first = [one for one in found if one.tags["arm"] == arms_of(found)[0]]
    compared = compare_arms(first, folder / "comparison", name=_subset)
    if compared is not None:
        results.links[f"subsets compared, arm {arms_of(found)[0]}"] = "comparison/report.html"
        results.notes += told_in_short(compared)
    for subset in dict.fromkeys(map(_subset, found)):
        of = [one for one in found if _subset(one) == subset]
        compared = compare_arms(of, folder / f"comparison-{subset}")
        if compared is not None:
            results.links[f"arms compared, {subset}"] = f"comparison-{subset}/report.html"
            results.notes += [f"{subset}: {told}" for told in told_in_short(compared)]
    return results


def _subset(one: Scored) -> str:
    return one.tags["contrasts"]
