"""A grid: training runs that belong to one experiment, and the order they depend on.

GRID/
grid.json               what it is made of
runs/<cell>/            a run each, as `pretrain` and `finetune` make them
runs/<cell>.launch/     its recipe, and what it said
results/                tables, pictures and a page, once runs are finished
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brainsegfounder.data.store import check_store, open_store
from brainsegfounder.errors import OutputExistsError, RunError, UsageError
from brainsegfounder.files import sha256, write_changed
from brainsegfounder.inference.model_config import WEIGHTS_NAME
from brainsegfounder.recipes import dump_recipe, load_recipe
from brainsegfounder.runs import FINISHED_NAME, PROVENANCE_NAME, RECIPE_NAME
from brainsegfounder.settings import Recipe
from brainsegfounder.workflows.model_folder import model_folder
from brainsegfounder.workflows.order import Order, Verb

GRID_NAME = "grid.json"


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a grid.

    Attributes:
        name: Where it is below `runs/`, such as `scratch/fold-0`.
        verb: `pretrain` or `finetune`.
        recipe: Complete.
        data: The store.
        fold: Held-out fold, or None for the test subjects that the recipe names.
        start: The name of the cell whose encoder it starts from, a folder of weights, or None.
        tags: What it is in its experiment, such as arm, fold, seed and labels.
    """

    name: str
    verb: Verb
    recipe: Recipe
    data: Path
    fold: int | None = None
    start: str | Path | None = None
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def needs(self) -> str | None:
        """The cell that must be finished before."""
        return self.start if isinstance(self.start, str) else None

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        section = self.recipe.pretrain if self.verb == "pretrain" else self.recipe.finetune
        return section.steps if section is not None else 0


@dataclass(frozen=True, slots=True)
class Grid:
    """All runs of an experiment, each after what it needs.

    Attributes:
        folder: Where it is.
        cells: In order.
        kind: Of the experiment: `crossval`, `fewshot`, `contrasts` or `scales`.
    """

    folder: Path
    cells: Sequence[Cell]
    kind: str = ""

    def run(self, cell: Cell) -> Path:
        """The folder of a cell's run."""
        return self.folder / "runs" / cell.name

    @property
    def results(self) -> Path:
        """Where tables and pictures go."""
        return self.folder / "results"

    def order(self, cell: Cell) -> Order:
        """How a cell is started."""
        start = cell.start if cell.needs is None else self.folder / "runs" / cell.needs
        return Order(
            cell.verb,
            cell.recipe,
            cell.data,
            self.run(cell),
            Path(start) if start is not None else None,
            cell.fold,
            resume=True,
        )

    def is_finished(self, cell: Cell) -> bool:
        """Whether nothing of a cell is left to do."""
        return (self.run(cell) / FINISHED_NAME).is_file()

    @property
    def unfinished(self) -> list[Cell]:
        """Cells with something left to do."""
        return [cell for cell in self.cells if not self.is_finished(cell)]

    def steps_done(self, cell: Cell) -> int:
        """Steps of a cell that are recorded, for a progress bar; the test counts as the last."""
        if self.is_finished(cell):
            return cell.steps
        return min(cell.steps - 1, _last_step(self.run(cell) / "metrics.jsonl"))


def open_grid(folder: Path, cells: Sequence[Cell], kind: str = "") -> Grid:
    """Make a grid's folder, or go on in one; a grid may grow by cells, but none may change.

    Raises:
        UsageError: Two cells share a name, or one needs a cell that is none.
        OutputExistsError: The folder holds something else, or a run of a cell was made with
            another recipe, store, fold or start.
        StoreError: A store does not fit a recipe.
    """
    grid = Grid(folder, tuple(cells), kind)
    _check_names(cells)
    for data in dict.fromkeys(cell.data for cell in cells):
        store = open_store(data)
        for cell in cells:
            if cell.data == data:
                check_store(store, cell.recipe)
                _check_unchanged(grid, cell, store.manifest_sha256)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / GRID_NAME).is_file():
        raise OutputExistsError(
            f"{folder}: has content that is no grid's; expected a new folder, or one to go on in. "
            "Choose another --out."
        )
    write_changed(folder / GRID_NAME, json.dumps(_record(grid), indent=1) + "\n")
    return grid


def _check_names(cells: Sequence[Cell]) -> None:
    seen: set[str] = set()
    for cell in cells:
        if cell.name in seen:
            raise UsageError(f"{cell.name}: stands twice in the grid; expected it once.")
        if cell.needs is not None and cell.needs not in seen:
            raise RunError(f"{cell.name}: needs {cell.needs}, which does not come before it.")
        seen.add(cell.name)


def _check_unchanged(grid: Grid, cell: Cell, manifest_sha256: str) -> None:
    """Refuse to count a run as this cell's that was made otherwise."""
    run = grid.run(cell)
    if not (run / PROVENANCE_NAME).is_file() or not (run / RECIPE_NAME).is_file():
        return
    if dump_recipe(load_recipe(run / RECIPE_NAME)) != dump_recipe(cell.recipe):
        raise OutputExistsError(_changed(run, "recipe"))
    facts = json.loads((run / PROVENANCE_NAME).read_text(encoding="utf-8"))
    if facts.get("sha256", {}).get("manifest") != manifest_sha256:
        raise OutputExistsError(_changed(run, "store"))
    if facts.get("fold") != cell.fold:
        raise OutputExistsError(_changed(run, "fold"))
    if cell.needs is None and facts.get("sha256", {}).get("start") != _start_sha256(cell):
        raise OutputExistsError(_changed(run, "start"))


def _changed(run: Path, what: str) -> str:
    return (
        f"{run}: was made with another {what}; expected that of this grid, as its runs are "
        f"compared. Give the {what} it began with, or choose another --out."
    )


def _record(grid: Grid) -> dict[str, Any]:
    return {
        "kind": grid.kind,
        "cells": [
            {
                "name": cell.name,
                "verb": cell.verb,
                "recipe": cell.recipe.name,
                "steps": cell.steps,
                "fold": cell.fold,
                "needs": cell.needs,
                "start_sha256": _start_sha256(cell),
                "tags": cell.tags,
            }
            for cell in grid.cells
        ],
    }


def _start_sha256(cell: Cell) -> str | None:
    """Of the weights a cell starts from, where these are not a cell's own."""
    if not isinstance(cell.start, Path):
        return None
    weights = model_folder(cell.start) / WEIGHTS_NAME
    if not weights.is_file():
        raise UsageError(
            f"{cell.start}: no weights found; expected a run or a model folder. Make one with "
            "`pretrain` or `convert-weights`."
        )
    return sha256(weights)


def _last_step(metrics: Path, tail_bytes: int = 4096) -> int:
    """The highest step in the last lines of a run's records."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, metrics.stat().st_size - tail_bytes))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return 0
    steps = [0]
    for line in lines:
        try:
            steps.append(int(json.loads(line).get("step", 0)))
        except (ValueError, AttributeError, TypeError):
            continue  # a line that was cut off
    return max(steps)
