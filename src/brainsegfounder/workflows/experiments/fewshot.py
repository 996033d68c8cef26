"""`fewshot`: what pretraining is worth when labels are few (the paper's Figure 5 and Table 9).

Protocol `fixed`: one test part that nothing ever sees; of the other subjects with labels nested,
stratified subsets, drawn anew for each repeat and the same for every arm. Protocol `official`: each
repeat draws its own fifth of all subjects as test part, and the first of the others in a random
order, as the published code does; scores of its repeats are not of the same cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

import numpy as np

from brainsegfounder.data.folds import lesion_load_ml
from brainsegfounder.data.store import Store, StoredCase, open_store
from brainsegfounder.errors import UsageError
from brainsegfounder.evaluation.report import Cell as TableCell
from brainsegfounder.evaluation.report import Table
from brainsegfounder.recipes import change_recipe
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
    region_in_words,
    told_in_short,
)
from brainsegfounder.workflows.experiments.subsets import nested_order, num_kept
from brainsegfounder.workflows.stage import included, split_of

OFFICIAL_TEST_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class FewshotOptions:
    """What is asked of few-shot curves.

    Attributes:
        fractions: Of the labelled pool.
        repeats: How many times subsets (and seeds) are drawn.
        fold: Whose test subjects are the test part; None: those the recipe names, else fold 0.
        stage2_on: Images that stage 2 sees: all of the pool, or those with kept labels only.
        protocol: `fixed` or `official`.
    """

    fractions: Sequence[float] = (0.05, 0.1, 0.2, 0.4, 1.0)
    repeats: int = 5
    fold: int | None = None
    stage2_on: Literal["pool", "labelled"] = "pool"
    protocol: Literal["fixed", "official"] = "fixed"


@dataclass(frozen=True, slots=True)
class _Draw:
    """One repeat: who is tested, and in which order the others are labelled.

    Attributes:
        number: Of the repeat.
        test: Subjects.
        order: The labelled subjects of the pool.
        unlabelled: The others of the pool.
    """

    number: int
    test: tuple[str, ...]
    order: tuple[str, ...]
    unlabelled: tuple[str, ...]


def fewshot_cells(
    recipe: Recipe, data: Path, arms: Sequence[Arm], stage1: Stage1, options: FewshotOptions
) -> list[Cell]:
    """The runs of few-shot curves.

    Raises:
        UsageError: A number is impossible, or nobody is tested or left to train on.
    """
    if options.repeats < 1:
        raise UsageError(f"--repeats {options.repeats}: expected 1 or more.")
    store = open_store(data)
    draws = [_draw(store, recipe, options, number) for number in range(options.repeats)]
    start, before = stage1.begin("", {}) if any(arm.has_stage1 for arm in arms) else (None, [])
    cells = {cell.name: cell for cell in before}
    for arm in arms:
        for draw in draws:
            for fraction in sorted(set(options.fractions)):
                for cell in _cells(recipe, data, arm, start, draw, fraction, options):
                    cells.setdefault(cell.name, cell)
    return list(cells.values())


def _cells(
    recipe: Recipe,
    data: Path,
    arm: Arm,
    stage1: str | Path | None,
    draw: _Draw,
    fraction: float,
    options: FewshotOptions,
) -> list[Cell]:
    """The fine-tuning of an arm on a subset, after the stage 2 that it shares with others."""
    kept = num_kept(fraction, len(draw.order))
    left_out = (*draw.order[kept:], *draw.unlabelled)
    where = f"labels-{kept}_repeat-{draw.number}"
    stage2 = (where, _of(recipe, draw, left_out, draw.number))
    if options.stage2_on == "pool" and options.protocol == "fixed":
        stage2 = ("pool", _of(recipe, draw, (), 0))
    elif options.stage2_on == "pool":
        stage2 = (f"pool_repeat-{draw.number}", _of(recipe, draw, (), draw.number))
    tags = {"labels": str(kept), "seed": str(draw.number)}
    changed = _of(recipe, draw, left_out, draw.number)
    return arm.cells(where, changed, data, stage1, tags=tags, stage2=stage2)


def _of(recipe: Recipe, draw: _Draw, left_out: Sequence[str], repeat: int) -> Recipe:
    """The recipe for some subjects of a draw."""
    return change_recipe(
        recipe,
        {
            "seed": recipe.seed + repeat,
            "data.exclude_subjects": sorted({*recipe.data.exclude_subjects, *left_out}),
            "split.test_subjects": sorted(draw.test),
            "split.folds_file": "",
            "split.by": "subject",
            "split.stratify": "none",
        },
    )


def _draw(store: Store, recipe: Recipe, options: FewshotOptions, number: int) -> _Draw:
    cases = included(store, recipe)
    labelled = sorted({case.subject for case in cases if case.has_labels})
    others = {case.subject for case in cases} - set(labelled)
    if options.protocol == "official":
        seed = np.random.SeedSequence([recipe.split.seed, number])
        shuffled = [labelled[n] for n in np.random.default_rng(seed).permutation(len(labelled))]
        num_test = max(1, round(OFFICIAL_TEST_SHARE * len(shuffled)))
        test, order = shuffled[:num_test], shuffled[num_test:]
    else:
        test = _tested(store, recipe, options)
        pool = [case for case in cases if case.has_labels and case.subject not in set(test)]
        order = nested_order(_loads(pool), _seed(recipe, number))
    tested = set(test)
    if not tested & set(labelled):
        raise UsageError("the test part has no subject with labels; expected at least one.")
    return _Draw(number, tuple(test), tuple(order), tuple(sorted(others - tested)))


def _tested(store: Store, recipe: Recipe, options: FewshotOptions) -> list[str]:
    """The fixed test part."""
    fold = options.fold
    if fold is None and not recipe.split.test_subjects:
        fold = 0
    return list(split_of(store, recipe, fold).test)


def _loads(cases: Sequence[StoredCase]) -> dict[str, float]:
    """Mean lesion load of each subject, in mL."""
    loads: dict[str, list[float]] = {}
    for case in cases:
        loads.setdefault(case.subject, []).append(lesion_load_ml(case))
    return {subject: float(np.mean(of)) for subject, of in loads.items()}


def _seed(recipe: Recipe, repeat: int) -> int:
    return int(np.random.SeedSequence([recipe.split.seed, repeat]).generate_state(1)[0])


def show_fewshot(_: Grid, found: Sequence[Scored], folder: Path) -> Results:
    """Table 9 and Figure 5 of these runs, with paired tests and intervals."""
    repeats = len({one.tags["seed"] for one in found})
    results = Results(
        title=f"Few-shot curves of {found[0].recipe}",
        subtitle=f"{repeats} subsets of each size, the same for every arm; what differs is where "
        "the encoder begins.",
        highlights=arm_highlights(found),
        tables=[labels_table(found)],
    )
    compared = compare_arms(found, folder / "comparison", by_labels=True)
    if compared is not None:
        results.links["arms compared, with curves"] = "comparison/report.html"
        results.notes += told_in_short(compared)
    return results


def labels_table(found: Sequence[Scored], of_what: str = "") -> Table:
    """A row for each number of labels and arm, with every repeat, and their mean and spread.

    Where a repeat is missing there is no mean: repeats differ more than arms do.
    """
    region, arms = headline_region(found), arms_of(found)
    repeats = sorted({int(one.tags["seed"]) for one in found})
    rows: list[list[TableCell]] = []
    for labels in sorted({int(one.tags["labels"]) for one in found}):
        for arm in arms:
            of = {
                int(one.tags["seed"]): one.mean(region)
                for one in found
                if one.tags["arm"] == arm and int(one.tags["labels"]) == labels
            }
            values = [of.get(repeat) for repeat in repeats]
            is_whole = len(of) == len(repeats)
            spread = stdev(of.values()) if is_whole and len(of) > 1 else None
            numbers = [fmean(of.values()) if is_whole else None, spread, *values]
            rows.append([labels, arm, *(None if n is None else round(n, 4) for n in numbers)])
    columns = ["labels", "arm", "mean", "SD", *(f"repeat {repeat}" for repeat in repeats)]
    caption = f"Dice of {region_in_words(region)}: means over the test cases, by labelled subjects."
    return Table(f"{of_what}: {caption}" if of_what else caption, columns, rows)
