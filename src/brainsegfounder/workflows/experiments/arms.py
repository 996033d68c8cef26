"""Arms of an experiment: where the encoder that is fine-tuned comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brainsegfounder.errors import UsageError
from brainsegfounder.recipes import change_recipe
from brainsegfounder.settings import Recipe
from brainsegfounder.workflows.experiments.cells import Cell

NAMES = ("scratch", "stage1", "stage2", "stage1+2")
NAMED = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.+-]*)=(?P<folder>.+)")
WEIGHTS = "weights:"
# What means something else in the words of `compare`, or in a path.
UNFIT = re.compile(r"[^A-Za-z0-9_.+-]")


@dataclass(frozen=True, slots=True)
class Stage1:
    """Where the encoders of stage 1 come from: a folder of weights, or a run of the grid.

    Attributes:
        folder: A run or model folder, or None.
        recipe: What to pretrain with, or None.
        data: The store to pretrain on, or None.
    """

    folder: Path | None = None
    recipe: Recipe | None = None
    data: Path | None = None

    @property
    def is_given(self) -> bool:
        """Whether there is one."""
        return self.folder is not None or self.is_made

    @property
    def is_made(self) -> bool:
        """Whether it is trained in the grid."""
        return self.recipe is not None and self.data is not None

    def begin(self, group: str, changes: Mapping[str, Any]) -> tuple[str | Path | None, list[Cell]]:
        """What fine-tuning starts from, and the runs that must be made for it.

        Args:
            group: Of the runs, such as `scale-tiny/`, or empty.
            changes: Of the recipe for this group.
        """
        if self.recipe is None or self.data is None:
            return self.folder, []
        cell = Cell(f"{group}stage1", "pretrain", change_recipe(self.recipe, changes), self.data)
        return cell.name, [cell]


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to begin.

    Attributes:
        name: As in tables and folders.
        weights: A folder of weights that are no stage 1 of this experiment, or None.
        has_stage1: Whether it starts from stage 1.
        has_stage2: Whether it is pretrained on the target's images before fine-tuning.
    """

    name: str
    weights: Path | None = None
    has_stage1: bool = False
    has_stage2: bool = False

    def cells(
        self,
        where: str,
        recipe: Recipe,
        data: Path,
        stage1: str | Path | None,
        *,
        group: str = "",
        fold: int | None = None,
        tags: Mapping[str, str] | None = None,
        stage2: tuple[str, Recipe] | None = None,
    ) -> list[Cell]:
        """The fine-tuning of this arm, after its stage 2, if it has one.

        Args:
            where: What tells this fine-tuning from others of the arm, such as `fold-0`.
            recipe: For it.
            data: The store.
            stage1: What `Stage1.begin` gave.
            group: Before the names of cells.
            fold: Held out.
            tags: Of the fine-tuning, beside the arm.
            stage2: The same as `where` and `recipe` for stage 2, if they are others.
        """
        start = stage1 if self.has_stage1 else self.weights
        before = []
        if self.has_stage2:
            place, its_recipe = stage2 or (where, recipe)
            name = f"{group}{self.name}/stage2_{place}"
            before = [Cell(name, "pretrain", its_recipe, data, fold, start)]
            start = name
        named = {"arm": self.name, **(tags or {})}
        name = f"{group}{self.name}/{where}"
        return [*before, Cell(name, "finetune", recipe, data, fold, start, named)]


def parse_arms(words: Sequence[str], stage1: Stage1, recipe: Recipe) -> list[Arm]:
    """Arms by their names.

    Args:
        words: `scratch`, `stage1`, `stage2` (no stage 1 before), `stage1+2`, `weights:FOLDER` or
            `NAME=FOLDER`; the first one is what the others are compared with.
        stage1: Where stage 1 comes from.
        recipe: Must have a `pretrain` section where an arm has a stage 2.

    Raises:
        UsageError: An arm is unknown, stands twice, or needs what is not given.
    """
    arms = [_arm(word.strip()) for word in words if word.strip()]
    names = [arm.name for arm in arms]
    twice = next((name for name in names if names.count(name) > 1), None)
    if not arms or twice:
        raise UsageError(
            f"--arms {','.join(words)}: {f'{twice} stands twice' if twice else 'no arm'}; expected "
            f"different ones of {', '.join(NAMES)}, {WEIGHTS}FOLDER, NAME=FOLDER."
        )
    for arm in arms:
        if arm.has_stage1 and not stage1.is_given:
            raise UsageError(
                f"--arms {arm.name}: needs stage 1; expected --stage1 FOLDER (a run or a model), "
                "or --stage1-recipe and --stage1-data to make it here."
            )
        if arm.has_stage2 and recipe.pretrain is None:
            raise UsageError(
                f"{arm.name}: {recipe.name} has no `pretrain` section; expected one for stage 2."
            )
    return arms


def _arm(word: str) -> Arm:
    if word in NAMES:
        has_stage1, has_stage2 = word.startswith("stage1"), word.endswith("2")
        return Arm(word, None, has_stage1, has_stage2)
    match = NAMED.fullmatch(word)
    if word.startswith(WEIGHTS):
        folder = Path(word.removeprefix(WEIGHTS))
        return Arm(UNFIT.sub("-", _there(folder).resolve().name), folder)
    if match is not None:
        return Arm(match["name"], _there(Path(match["folder"])))
    raise UsageError(
        f"--arms {word}: no such arm; expected {', '.join(NAMES)}, {WEIGHTS}FOLDER or NAME=FOLDER."
    )


def _there(folder: Path) -> Path:
    if not folder.is_dir():
        raise UsageError(f"--arms {folder}: no such folder; expected a run or a model folder.")
    return folder
