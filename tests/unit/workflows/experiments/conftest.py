"""Finished grids made by hand: what experiments and `tables` read, without any training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from brainsegfounder.evaluation.metrics import RULES, RegionScore, write_metrics
from brainsegfounder.recipes import dump_recipe
from brainsegfounder.workflows.experiments.cells import Cell, Grid

REGIONS = ("TC", "WT", "ET")
CASES = tuple(f"case-{n}" for n in range(6))


def scores(seed: int, gain: float, regions: Sequence[str], cases: Sequence[str]):
    """Scores of some cases: the same cases are as hard in every run, and a gain adds to all."""
    made = []
    for case in cases:
        hard = np.random.default_rng(int(case.rpartition("-")[2])).uniform(0.3, 0.8)
        for n, region in enumerate(regions):
            noise = np.random.default_rng([seed, n, len(case)]).normal(0, 0.01)
            dice = float(np.clip(hard + gain + 0.02 * n + noise, 0, 1))
            made.append(
                RegionScore(
                    case, region, dice, 5.0, 10.0, 11.0, -1.0, "none",
                    volume_difference_vox=1000, lesion_count_difference=1, lesion_f1=0.5,
                )
            )  # fmt: skip
    return made


@pytest.fixture
def finish() -> Callable[..., Grid]:
    """Make all runs of a grid look finished; fine-tuned ones get scores."""

    def make(
        folder: Path,
        cells: Sequence[Cell],
        kind: str,
        gains: Callable[[Cell], float] = lambda _: 0.0,
        regions: Sequence[str] = REGIONS,
    ) -> Grid:
        from brainsegfounder.workflows.experiments import cells as module

        grid = Grid(folder, tuple(cells), kind)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "grid.json").write_text(json.dumps(module._record(grid)))
        for number, cell in enumerate(cells):
            run = grid.run(cell)
            run.mkdir(parents=True)
            (run / "recipe.resolved.yaml").write_text(dump_recipe(cell.recipe))
            facts = {
                "train_subjects": ["a", "b", "c"], "validation_subjects": ["d"],
                "test_subjects": ["e", "f"], "processes": 1, "device": "cpu, threads: 1",
                "fold": cell.fold, "seed": cell.recipe.seed, "sha256": {"manifest": "m"},
            }  # fmt: skip
            (run / "provenance.json").write_text(json.dumps(facts))
            lines = [
                {"kind": k, "step": n, "loss": 3 / n}
                for n in (1, 2)
                for k in ("train", "validation")
            ]
            (run / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
            (run / "finished.json").write_text(json.dumps({"steps": 2, "training_s": 360.0}))
            if cell.verb == "finetune":
                fold = cell.fold
                cases = CASES if fold is None else CASES[fold::2]
                found = scores(number, gains(cell), regions, cases)
                write_metrics(run / "test", found, RULES, {"recipe": cell.recipe.name})
        return grid

    return make
