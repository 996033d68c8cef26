"""`config.json` and `provenance.json` of a model folder: all that stands beside the weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from brainsegfounder.errors import WeightsError
from brainsegfounder.files import write_text
from brainsegfounder.inference.familiarity import Familiar
from brainsegfounder.runs import PROVENANCE_NAME
from brainsegfounder.settings import (
    OURS,
    Architecture,
    Objective,
    PatchSize,
    PredictSettings,
    PreparationSettings,
    Recipe,
    Region,
    Section,
    ThreeTaskSettings,
)

T = TypeVar("T")

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


class DiceLine(Section):
    """How a region's true Dice follows from what its probabilities say; see `expected_dice`."""

    slope: float
    """Of the line."""
    intercept: float
    """Of the line."""
    misses: tuple[float, ...]
    """How far each case is from a line through the others, in order of size."""


class ModelConfig(Section):
    """What a model is, what it wants to see and what it says."""

    format: Literal[1] = 1
    """Version of this file's layout."""
    kind: Literal["segmentation", "pretraining"]
    """A segmentation network, or an encoder with pretext heads."""
    name: str
    """Name of the recipe that made it."""
    architecture: Architecture = OURS
    """Which network; one that is not ours is MONAI's."""
    scale: str
    """Width and depth."""
    merging: Literal["complete", "legacy", "v2"]
    """Order of the corners in patch merging."""
    contrasts: tuple[str, ...]
    """Input channels in order."""
    labels: dict[str, int]
    """Name and value of every label that may be written."""
    regions: dict[str, Region]
    """Regions in the order of the output channels."""
    regions_are: Literal["lesions", "structures"] = "lesions"
    """Whether the parts of a region are listed, as one does with lesions."""
    target: Literal["regions", "classes"]
    """Whether outputs are sigmoids of regions or a softmax over background and labels."""
    preparation: PreparationSettings
    """Orientation, spacing and normalisation of the input."""
    patch_size_vox: PatchSize
    """Window of inference, as in training."""
    predict: PredictSettings
    """Overlap and blending of windows."""
    may_miss_contrasts: bool = False
    """Whether it was trained to do without some of its contrasts, which are then 0 everywhere."""
    objective: Objective = ThreeTaskSettings()
    """What a pretraining network was asked; it decides on its heads."""
    copies: Annotated[int, Field(ge=1)] = 1
    """How many channels of the network each contrast fills; it is given once."""
    members: Annotated[int, Field(ge=1)] = 1
    """Networks of this kind whose probabilities are averaged, such as those of all folds."""
    smallest_ml: dict[str, float] = {}
    """For each region the volume below which a part of it is dropped; chosen on validation."""
    expected_dice: dict[str, DiceLine] = {}
    """For each region that was checked on cases beside the training: what Dice to expect."""
    familiar: Familiar | None = None
    """How the scans look that it was trained on."""
    provenance: dict[str, Any] = {}
    """Where it comes from."""

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Distance between voxel centres that the network sees; None for each scan's own."""
        return self.preparation.spacing_mm

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the network's input channels; copies of a contrast are numbered from 2."""
        copies = [f"{c} ({n})" for n in range(2, self.copies + 1) for c in self.contrasts]
        return (*self.contrasts, *copies)

    @property
    def num_outputs(self) -> int:
        """Output channels of the network."""
        return len(self.regions) if self.target == "regions" else 1 + len(self.labels)


def config_of(
    recipe: Recipe, kind: Literal["segmentation", "pretraining"], provenance: dict[str, Any]
) -> ModelConfig:
    """The config of a model that a recipe trains."""
    stage = recipe.finetune if kind == "segmentation" else recipe.pretrain
    if stage is None:
        raise ValueError(f"{recipe.name} has no section for {kind}")
    return ModelConfig(
        kind=kind,
        name=recipe.name,
        architecture=recipe.model.architecture,
        scale=recipe.model.scale,
        merging=recipe.model.merging,
        contrasts=recipe.data.contrasts,
        copies=recipe.data.copies if kind == "segmentation" else 1,
        labels=recipe.data.labels,
        regions=recipe.data.regions,
        regions_are=recipe.data.regions_are,
        target=recipe.finetune.target if recipe.finetune else "regions",
        preparation=recipe.preparation,
        patch_size_vox=stage.patch_size_vox,
        predict=recipe.predict,
        may_miss_contrasts=recipe.finetune is not None and recipe.finetune.contrast_dropout > 0,
        objective=recipe.pretrain.objective if recipe.pretrain else ThreeTaskSettings(),
        provenance=provenance,
    )


def write_config(folder: Path, config: ModelConfig) -> None:
    """Write `config.json` and `provenance.json` into a model folder."""
    settings = config.model_dump(mode="json", exclude={"provenance"})
    for name, content in ((CONFIG_NAME, settings), (PROVENANCE_NAME, config.provenance)):
        text = json.dumps(content, indent=1, ensure_ascii=False)
        write_text(folder / name, text + "\n")


def read_config(folder: Path) -> ModelConfig:
    """Read the config of a model folder, with its provenance.

    Raises:
        WeightsError: There is none, or it is not valid; the message names the field.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise WeightsError(
            f"{folder}: no {CONFIG_NAME} found; expected a model folder ({WEIGHTS_NAME} and "
            f"{CONFIG_NAME}) or a run that has one."
        )
    config = _validated(path, ModelConfig.model_validate_json)
    provenance = folder / PROVENANCE_NAME
    facts = _validated(provenance, json.loads) if provenance.is_file() else {}
    if not isinstance(facts, dict):
        raise WeightsError(f"{provenance}: not a dictionary. Export or train the model again.")
    return config.model_copy(update={"provenance": facts})


def _validated(path: Path, parse: Callable[[str], T]) -> T:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        reason = "; ".join(_field_errors(error)) if isinstance(error, ValidationError) else error
        raise WeightsError(f"{path}: {reason}. Export or train the model again.") from None


def _field_errors(error: ValidationError) -> list[str]:
    return [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3]]
