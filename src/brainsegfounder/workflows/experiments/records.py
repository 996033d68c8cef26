"""What grids and stores on disk say of themselves, for tables that are made long after the runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brainsegfounder.errors import DataError, Problem
from brainsegfounder.recipes import load_recipe
from brainsegfounder.runs import FINISHED_NAME, PROVENANCE_NAME, RECIPE_NAME
from brainsegfounder.settings import Recipe
from brainsegfounder.workflows.experiments.cells import GRID_NAME
from brainsegfounder.workflows.experiments.results import Scored, read_scored

# A grid lies at most this many folders below one that is given.
MAX_DEPTH = 3


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run with nothing left to do.

    Attributes:
        folder: Where it is.
        verb: `pretrain` or `finetune`.
        recipe: As it was run.
        facts: Its provenance.
        training_s: Seconds in the training loop, or None.
        tags: What it is in its experiment.
    """

    folder: Path
    verb: str
    recipe: Recipe
    facts: Mapping[str, Any]
    training_s: float | None
    tags: Mapping[str, str]

    @property
    def subjects(self) -> set[str]:
        """Those that it was trained, validated or tested on."""
        parts = ("train_subjects", "validation_subjects", "test_subjects")
        return {subject for part in parts for subject in self.facts.get(part, ())}


@dataclass(frozen=True, slots=True)
class RecordedGrid:
    """A grid as it lies on disk.

    Attributes:
        folder: Where it is.
        kind: Of the experiment.
        runs: Those that are finished.
        num_cells: How many there shall be.
        scored: Finished fine-tunings with their scores.
        summaries: What its comparisons say, a sentence each.
    """

    folder: Path
    kind: str
    runs: Sequence[FinishedRun]
    num_cells: int
    scored: Sequence[Scored]
    summaries: Sequence[str]

    @property
    def name(self) -> str:
        """For headings."""
        return self.folder.name

    @property
    def is_finished(self) -> bool:
        """Whether no run is missing."""
        return len(self.runs) == self.num_cells


def read_grids(folders: Sequence[Path]) -> list[RecordedGrid]:
    """All grids in some folders, or those that they are.

    Raises:
        DataError: A folder has none, or a grid cannot be read.
    """
    grids = []
    for folder in folders:
        found = _grid_files(folder)
        if not found:
            raise DataError(
                Problem(
                    code="no_grid",
                    file=str(folder),
                    found=f"no {GRID_NAME}" if folder.is_dir() else "no such folder",
                    expected="a grid of runs, or a folder of grids",
                    advice="Make one with crossval, fewshot, contrasts or scales.",
                )
            )
        grids += [_read_grid(path) for path in found]
    return grids


def _grid_files(folder: Path) -> list[Path]:
    patterns = ["/".join([*["*"] * depth, GRID_NAME]) for depth in range(MAX_DEPTH + 1)]
    return sorted({path for pattern in patterns for path in folder.glob(pattern)})


def _read_grid(path: Path) -> RecordedGrid:
    folder = path.parent
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        cells = [(str(cell["name"]), cell) for cell in record["cells"]]
        there = [(n, c) for n, c in cells if (folder / "runs" / n / FINISHED_NAME).is_file()]
        runs = [_read_run(folder / "runs" / name, cell) for name, cell in there]
        scored = [
            read_scored(name, str(cell["recipe"]), cell["tags"], scores)
            for name, cell in there
            if (scores := folder / "runs" / name / "test" / "metrics.json").is_file()
        ]
        kind = str(record["kind"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            Problem(
                code="grid_unreadable",
                file=str(path),
                found=f"{type(error).__name__}: {error}",
                expected="what an experiment writes of its runs",
                advice="Call the experiment again; finished runs are not repeated.",
            )
        ) from error
    return RecordedGrid(folder, kind, runs, len(cells), scored, _summaries(folder))


def _read_run(folder: Path, cell: Mapping[str, Any]) -> FinishedRun:
    ended = json.loads((folder / FINISHED_NAME).read_text(encoding="utf-8"))
    facts = json.loads((folder / PROVENANCE_NAME).read_text(encoding="utf-8"))
    recipe = load_recipe(folder / RECIPE_NAME)
    return FinishedRun(
        folder, str(cell["verb"]), recipe, facts, ended.get("training_s"), cell["tags"]
    )


def _summaries(folder: Path) -> list[str]:
    """Sentences of all comparisons in a grid's results."""
    told = []
    for path in sorted((folder / "results").glob("comparison*/comparison.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        told += [str(text) for text in record.get("summary", {}).values()]
    return told
