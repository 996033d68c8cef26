"""`scales`: sizes of the network side by side (Figure 4, Tables 2 and 8)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from brainsegfounder.errors import UsageError
from brainsegfounder.evaluation.figures import svg_uri
from brainsegfounder.evaluation.figures_scales import HALVED, ScaleRun, scale_curves
from brainsegfounder.evaluation.report import Cell as TableCell
from brainsegfounder.evaluation.report import Picture, Table
from brainsegfounder.inference.model_config import config_of
from brainsegfounder.models.scales import get_scale
from brainsegfounder.recipes import change_recipe
from brainsegfounder.runs import Run
from brainsegfounder.settings import Recipe
from brainsegfounder.workflows.experiments.arms import Arm, Stage1
from brainsegfounder.workflows.experiments.cells import Cell, Grid
from brainsegfounder.workflows.experiments.crossval import fold_cells
from brainsegfounder.workflows.experiments.results import (
    Results,
    Scored,
    arm_of,
    compare_arms,
    headline_region,
    pivot,
    region_in_words,
    told_in_short,
)
from brainsegfounder.workflows.model_folder import build_network


def scales_cells(
    recipe: Recipe,
    data: Path,
    scales: Sequence[str],
    arms: Sequence[Arm],
    stage1: Stage1,
    folds: Sequence[int],
) -> list[Cell]:
    """The runs of a comparison of scales.

    Args:
        recipe: Of stage 1 alone, which is then pretrained at each scale; or with `finetune`.
        data: The store.
        scales: Names of `models.scales`.
        arms: Ways to begin, where there is a `finetune` section.
        stage1: Made here at each scale; a folder of weights has one scale only.
        folds: Held out.

    Raises:
        RecipeError: There is no such scale.
        UsageError: Weights of one scale are given for several.
    """
    for scale in scales:
        get_scale(scale)
    if recipe.finetune is None:
        made = Stage1(None, recipe, data)
        return [made.begin(f"{s}/", {"model.scale": s})[1][0] for s in scales]
    given = [arm.name for arm in arms if arm.weights is not None]
    if len(scales) > 1 and (given or (stage1.folder and any(arm.has_stage1 for arm in arms))):
        raise UsageError(
            f"scales {', '.join(scales)}: weights of one scale fit no other; expected "
            "--stage1-recipe and --stage1-data, to make stage 1 at each of them."
        )
    cells = []
    for scale in scales:
        changes = {"model.scale": scale}
        start: str | Path | None = None
        if any(arm.has_stage1 for arm in arms):
            start, before = stage1.begin(f"{scale}/", changes)
            cells += before
        changed, tags = change_recipe(recipe, changes), {"scale": scale}
        for arm in arms:
            for fold in folds:
                cells += fold_cells(arm, changed, data, start, fold, group=f"{scale}/", tags=tags)
    return cells


def show_scales(
    grid: Grid, found: Sequence[Scored], folder: Path, published_csv: Path | None = None
) -> Results:
    """Figure 4 and Tables 2 and 8 of these runs, as far as they were made."""
    results = Results(
        title=f"Scales of {grid.cells[0].recipe.name}",
        subtitle="Sizes of the network side by side; all else is the same.",
        tables=[sizes_table([cell.recipe for cell in grid.cells])],
        pictures=_curves(grid, published_csv),
    )
    if found:
        region = headline_region(found)
        caption = f"Dice of {region_in_words(region)}: means over the test cases of each fold."
        results.tables.append(pivot(found, "fold", caption, region, name=_method))
        compared = compare_arms(found, folder / "comparison", name=_method)
        if compared is not None:
            results.links["compared"] = "comparison/report.html"
            results.notes += told_in_short(compared)
    return results


def _method(one: Scored) -> str:
    return f"{one.tags['scale']} {arm_of(one)}"


def sizes_table(recipes: Sequence[Recipe]) -> Table:
    """Table 2: what each scale is, in numbers; of each scale the first recipe counts."""
    rows: list[list[TableCell]] = []
    first: dict[str, Recipe] = {}
    for recipe in recipes:
        first.setdefault(recipe.model.scale, recipe)
    for name, recipe in first.items():
        scale = get_scale(name)
        counts = [
            _count(recipe, "pretraining") if recipe.pretrain else None,
            _count(recipe, "segmentation") if recipe.finetune else None,
        ]
        depths, heads = ("-".join(map(str, of)) for of in (scale.depths, scale.num_heads))
        rows.append([name, scale.feature_size, depths, heads, *counts])
    columns = [
        "scale", "channels", "blocks of each stage", "heads of each stage",
        "parameters in pretraining", "parameters in segmentation",
    ]  # fmt: skip
    return Table("Sizes of the networks.", columns, rows)


def _count(recipe: Recipe, kind: str) -> int:
    with torch.device("meta"):
        what = config_of(recipe, "pretraining" if kind == "pretraining" else "segmentation", {})
        network = build_network(what, recipe.model)
    return sum(parameter.numel() for parameter in network.parameters())


def curves_picture(runs: Sequence[tuple[str, Path]], published_csv: Path | None = None) -> Picture:
    """Figure 4: losses of stage 1 of several scales, each a name and the folder of its run."""
    opened = [(name, Run(folder)) for name, folder in runs]
    curves = [
        ScaleRun(name, run.records("train"), run.records("validation")) for name, run in opened
    ]
    told = f" Below the published curves; {HALVED}." if published_csv else ""
    return Picture(
        svg_uri(scale_curves(curves, published_csv)),
        f"Losses of stage 1 over its steps; thin: as recorded, thick: smoothed.{told}",
        f"Training and validation loss of {', '.join(name for name, _ in runs)}.",
    )


def _curves(grid: Grid, published_csv: Path | None) -> list[Picture]:
    """Figure 4 of the runs of stage 1 in a grid, if it has any."""
    runs = [
        (cell.recipe.model.scale, grid.run(cell))
        for cell in grid.cells
        if cell.name.endswith("/stage1") and grid.is_finished(cell) and cell.verb == "pretrain"
    ]
    return [curves_picture(runs, published_csv)] if runs else []
