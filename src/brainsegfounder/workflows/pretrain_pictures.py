"""Pictures of a pretraining run: what it restores of the same few crops, over its steps.

RUN/pictures/cases.json                    which case and contrast each number is
RUN/pictures/step-00000100_1_input.png     the first case, and _masked.png: what the network sees
RUN/pictures/step-00000100_1_restored.png  what it makes of it after 100 steps, and _error.png
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from brainsegfounder.data.loader import Batch
from brainsegfounder.data.store import StoredCase
from brainsegfounder.evaluation.mosaic_restored import RestoredCrop, restored_pictures
from brainsegfounder.files import write_bytes, write_text
from brainsegfounder.settings import PretrainSettings
from brainsegfounder.workflows.objectives import Restored, ask
from brainsegfounder.workflows.pretrain_probe import fixed_crops, looking
from brainsegfounder.workflows.stage import Stage

NUM_PICTURED = 4
PICTURE_SEED = 86028


@dataclass(frozen=True, slots=True)
class Pictured:
    """What a row of pictures is of.

    Attributes:
        case: Its name.
        contrast: Which is restored.
        seen: Which the picture of what is seen shows.
    """

    case: str
    contrast: str
    seen: str


def take_pictures(network: nn.Module, stage: Stage, settings: PretrainSettings, step: int) -> None:
    """Write pictures of what a network restores of the fixed cases: validation ones, if any."""
    cases = _cases(stage)
    images = torch.cat(list(fixed_crops(stage, cases, settings.patch_size_vox)))
    batch = Batch(
        image=images,
        labels=None,
        valid=None,
        cases=tuple(case.case for case in cases),
        subjects=tuple(case.subject for case in cases),
        numbers=tuple(range(len(cases))),
    )
    with looking(network) as bare:
        shown = ask(settings.objective).restore(bare, batch.to(stage.device), PICTURE_SEED)
    rows: list[dict[str, str]] = []
    for number, case in enumerate(cases):
        contrast, seen = _contrasts(shown, number)
        names = stage.recipe.data.contrasts
        rows.append({"case": case.case, "contrast": names[contrast], "seen": names[seen]})
        for name, png in restored_pictures(_crop(shown, number, contrast, seen)).items():
            write_bytes(picture_path(stage, step, number, name), png)
    write_text(stage.run.folder / "pictures" / "cases.json", json.dumps(rows, indent=1))


def pictured(stage: Stage) -> list[Pictured]:
    """What each row of the pictures taken so far is of; none yet, none."""
    path = stage.run.folder / "pictures" / "cases.json"
    if not path.is_file():
        return []
    return [Pictured(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def picture_path(stage: Stage, step: int, number: int, name: str) -> Path:
    """Where the picture of a case (counted from 0) after some steps is kept."""
    return stage.run.folder / "pictures" / f"step-{step:08d}_{number + 1}_{name}.png"


def _cases(stage: Stage) -> Sequence[StoredCase]:
    return stage.cases(stage.split.validation or stage.split.train)[:NUM_PICTURED]


def _contrasts(shown: Restored, number: int) -> tuple[int, int]:
    """Which contrast of a crop is drawn, and which of what is seen.

    Each in turn; where whole contrasts are left out, one of them, and one that is seen.
    """
    share = shown.hidden[number].float().mean(dim=(1, 2, 3))
    if share.min() < share.max():
        return int(share.argmax()), int(share.argmin())
    return number % len(share), number % len(share)


def _crop(shown: Restored, number: int, contrast: int, seen: int) -> RestoredCrop:
    return RestoredCrop(
        whole=shown.whole[number, contrast].float().cpu().numpy(),
        seen=shown.seen[number, seen].float().cpu().numpy(),
        restored=shown.restored[number, contrast].float().cpu().numpy(),
        hidden=shown.hidden[number, seen].cpu().numpy(),
    )
