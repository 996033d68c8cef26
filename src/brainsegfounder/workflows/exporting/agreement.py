"""How well an exported model agrees with the one it came from, on one case."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from brainsegfounder.errors import WeightsError
from brainsegfounder.inference.model_config import ModelConfig
from brainsegfounder.settings import Region
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.model_folder import Model

# Sums in another order differ by about 1e-5 of the largest logit.
LARGEST_SHARE_OF_LOGIT = 1e-3
# An ensemble takes its logit from a mean probability, which float32 holds too coarsely beyond this.
SUREST_LOGIT = 8.0
LEAST_DICE = {"float32": 0.999, "int8": 0.99}


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a comparison found.

    Attributes:
        case: What they were compared on.
        shape_vox: Voxels of the prepared case.
        largest_logit: Largest absolute logit of the model in the windows compared; of an ensemble,
            at most `SUREST_LOGIT`.
        largest_logit_difference: Between the two, in the same windows; of an ensemble, with logits
            beyond `SUREST_LOGIT` taken as that.
        largest_probability_difference: Anywhere in the case.
        dice: Of the labels of each region; None where neither has any.
        voxels: Of each region in the labels of the model.
    """

    case: str
    shape_vox: tuple[int, int, int]
    largest_logit: float
    largest_logit_difference: float
    largest_probability_difference: float
    dice: dict[str, float | None]
    voxels: dict[str, int]

    def record(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    @property
    def least_dice(self) -> float | None:
        """Of the region that agrees least; None where no region has a voxel."""
        found = [value for value in self.dice.values() if value is not None]
        return min(found, default=None)


def compare(model: Model, exported: nn.Module, image: Volume, case: str) -> Agreement:
    """Run a model and its export over one prepared case.

    Args:
        model: The model.
        exported: From windows to logits.
        image: Prepared intensities in the model's contrasts, shape (C, I, J, K).
        case: Its name.
    """
    surest = SUREST_LOGIT if model.config.members > 1 else math.inf
    windows = _windows(model.config, image)
    largest, difference = _compare_logits(model.network, exported, windows, surest)
    theirs = replace(model, network=exported)
    expected, found = model.probabilities(image), theirs.probabilities(image)
    expected_labels, labels = model.paint(expected).voxels[0], model.paint(found).voxels[0]
    regions = model.config.regions
    i, j, k = image.shape_vox
    return Agreement(
        case,
        (i, j, k),
        largest,
        difference,
        float(np.abs(expected.voxels - found.voxels).max()),
        dice_of_regions(expected_labels, labels, regions),
        {name: int(np.isin(expected_labels, r.labels).sum()) for name, r in regions.items()},
    )


def dice_of_regions(
    expected: NDArray[Any], found: NDArray[Any], regions: Mapping[str, Region]
) -> dict[str, float | None]:
    """Overlap of two label maps in each region; None where neither has a voxel of it."""
    dice: dict[str, float | None] = {}
    for name, region in regions.items():
        a, b = np.isin(expected, region.labels), np.isin(found, region.labels)
        total = int(a.sum() + b.sum())
        dice[name] = 2 * int((a & b).sum()) / total if total else None
    return dice


def check(agreement: Agreement, precision: str, what: str) -> None:
    """Refuse an export that gives something else than its model.

    Args:
        agreement: What was found.
        precision: `float32` or `int8`, which has a limit of its own.
        what: The export, for the message.

    Raises:
        WeightsError: Logits (of float32) or labels differ too much, or an int8 export could not be
            judged because nothing was found in the case.
    """
    found = agreement
    limit = LARGEST_SHARE_OF_LOGIT * max(1.0, found.largest_logit)
    # Written this way round, so that a difference that is no number is refused too.
    if precision == "float32" and not found.largest_logit_difference <= limit:
        raise WeightsError(
            f"{what}: logits differ by {found.largest_logit_difference:.2g} on {found.case}; "
            f"expected {limit:.2g} at most. It was removed. This is a fault of the conversion: "
            "export to another format, and report it."
        )
    least, needed = found.least_dice, LEAST_DICE[precision]
    if least is None and precision == "int8":
        raise WeightsError(
            f"{what}: the model finds nothing in {found.case}, so that the agreement of labels "
            "cannot be told. It was removed. Give a case in which it does: --case FOLDER"
        )
    if least is not None and least < needed:
        told = ", ".join(f"{k} {v:.4f}" for k, v in found.dice.items() if v is not None)
        advice = "Calibrate on more cases, or export without --int8."
        raise WeightsError(
            f"{what}: labels of {found.case} agree with the model's with Dice {told}; expected "
            f"{needed} or more. It was removed. "
            f"{advice if precision == 'int8' else 'Export to another format, and report it.'}"
        )


@torch.inference_mode()
def _compare_logits(
    network: nn.Module, exported: nn.Module, windows: list[Tensor], surest: float
) -> tuple[float, float]:
    pairs = [
        (network(window).clamp(-surest, surest), exported(window).clamp(-surest, surest))
        for window in windows
    ]
    largest = torch.stack([expected.abs().max() for expected, _ in pairs]).max()
    # `max` of tensors hands on what is no number, that of Python may lose it.
    gaps = torch.stack([(expected - found).abs().max() for expected, found in pairs])
    return float(largest), float(gaps.max())


def first_window(config: ModelConfig, image: Volume) -> Tensor:
    """The window at the first voxel of a case, shape (1, C, *patch_size_vox)."""
    return _windows(config, image)[0]


def _windows(config: ModelConfig, image: Volume) -> list[Tensor]:
    """Windows at the start and at the end of a case."""
    sides = config.patch_size_vox
    missing = [max(0, side - n) for side, n in zip(sides, image.shape_vox, strict=True)]
    voxels = np.pad(image.voxels.astype(np.float32), [(0, 0), *((0, m) for m in missing)])
    last = [n - side for n, side in zip(voxels.shape[1:], sides, strict=True)]
    windows = []
    for box in dict.fromkeys([(0, 0, 0), tuple(last)]):
        spans = [slice(first, first + n) for first, n in zip(box, sides, strict=True)]
        windows.append(np.ascontiguousarray(voxels[(slice(None), *spans)])[None])
    return [torch.from_numpy(window) for window in windows]
