"""Probes of a pretraining run: what can be read off the encoder's features of fixed crops.

The crops are the middles of some training and validation subjects, never of held-out ones. Nothing
here draws from a global generator or changes a weight, so a run that is watched makes the same
steps as one that is not.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from brainsegfounder.data.store import Store, StoredCase
from brainsegfounder.errors import UsageError
from brainsegfounder.evaluation.features import effective_rank, largest_rank
from brainsegfounder.evaluation.participants import Participants, subject_key
from brainsegfounder.evaluation.probe import probe_classes, probe_number
from brainsegfounder.settings import PretrainSettings
from brainsegfounder.training.loop import Record
from brainsegfounder.volumes.volume import Triple
from brainsegfounder.workflows.prepare_pictures import spread_evenly
from brainsegfounder.workflows.stage import Stage

MOST_PROBES = 20
# Crops of all probes together, as a share of the passes that training makes (three a crop).
COST_SHARE = 0.05
FEWEST_PROBED, MOST_PROBED = 32, 128
CROPS_AT_ONCE = 4
# Darker than this, in standard deviations of the brain: cerebrospinal fluid on T1w and FLAIR.
DARK_SD = -1.0

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Probed:
    """The subjects whose features are looked at.

    Attributes:
        cases: One of each subject, validation subjects first.
        sex: 1 or 0 by subject, not-a-number where unknown; None where nobody's is known.
        age_years: By subject, likewise.
        num_known: How many of the run's subjects the table of participants names; None without.
    """

    cases: tuple[StoredCase, ...]
    sex: Values | None = None
    age_years: Values | None = None
    num_known: int | None = None

    @property
    def subjects(self) -> list[str]:
        """Whose brain each case is."""
        return [case.subject for case in self.cases]


def probe_steps(steps: int, validate_every: int) -> list[int]:
    """The steps after which features are looked at."""
    validations = [*range(validate_every, steps, validate_every), steps]
    return [0, *spread_evenly(validations, MOST_PROBES)]


def choose_probed(
    stage: Stage, settings: PretrainSettings, participants: Participants | None = None
) -> Probed:
    """Choose subjects to look at: validation and training ones, those with a known age or sex.

    So many that looking costs about a twentieth of training, but at least 32 and at most 128.

    Raises:
        UsageError: The table of participants names no subject of this run.
    """
    subjects = (*stage.split.validation, *stage.split.train)
    first_of = {case.subject: case for case in reversed(stage.cases(subjects))}
    cases = [first_of[subject] for subject in subjects if subject in first_of]
    most = _most_probed(settings)
    if participants is None:
        return Probed(tuple(spread_evenly(cases, most)))
    rows = {
        subject: row for subject, row in participants.rows.items() if {"age", "sex"} & row.keys()
    }
    known = [case for case in cases if subject_key(case.subject) in rows]
    if not known:
        example = cases[0].subject if cases else "none"
        raise UsageError(
            "--participants: the table names no subject of this run with a known age or sex; "
            f"expected some of its {len(cases)} subjects, such as {example}. Go on with another "
            "table and --resume."
        )
    chosen = tuple(spread_evenly(known, most))
    found = [rows[subject_key(case.subject)] for case in chosen]
    ages = np.array([float(row.get("age", "nan")) for row in found])
    return Probed(chosen, _two_classes([row.get("sex") for row in found]), ages, len(known))


def _most_probed(settings: PretrainSettings) -> int:
    crops = settings.batch_size * settings.crops_per_case * settings.optimizer.accumulation
    num_probes = len(probe_steps(settings.steps, settings.validate_every))
    room = int(COST_SHARE * 3 * settings.steps * crops / num_probes)
    return min(MOST_PROBED, max(FEWEST_PROBED, room))


def probe(
    network: nn.Module,
    stage: Stage,
    probed: Probed,
    settings: PretrainSettings,
    step: int,
    stop: Callable[[], bool],
) -> Record | None:
    """Look at the features of the fixed crops.

    Args:
        network: With an encoder `swinViT`; left in the mode it was in.
        stage: Where crops come from.
        probed: Whose.
        settings: Size of the crops.
        step: Steps made so far.
        stop: Whether to give up.

    Returns:
        A record of kind `probe`, or None where it gave up.
    """
    began_s = time.monotonic()
    rows, dark = [], []
    for crops in fixed_crops(stage, probed.cases, settings.patch_size_vox):
        if stop():
            return None
        rows.append(_pooled(network, crops.to(stage.device)))
        dark += [dark_percent(crop[0].numpy()) for crop in crops]
    features = np.concatenate(rows).astype(np.float64)
    return {
        "kind": "probe",
        "step": step,
        "rank": effective_rank(features),
        "largest_rank": largest_rank(*features.shape),
        "num_images": len(features),
        **_number("dark", features, np.array(dark), probed.subjects),
        **_number("age", features, probed.age_years, probed.subjects),
        **_classes("sex", features, probed.sex, probed.subjects),
        "probe_s": time.monotonic() - began_s,
    }


def dark_percent(voxels: NDArray[np.float32]) -> float:
    """Share of the brain's voxels (those that are not 0) that are dark, in percent."""
    brain = voxels[voxels != 0]
    return float(100 * (brain < DARK_SD).mean()) if brain.size else 0.0


def middle_of(store: Store, case: StoredCase, channels: Sequence[int], size: Triple) -> Tensor:
    """The middle of a stored case, shape (C, *size); where it is smaller, 0 around it."""
    room = np.asarray(case.shape_vox) - np.asarray(size)
    first = np.maximum(room, 0) // 2
    spans = [slice(int(a), int(a) + n) for a, n in zip(first, size, strict=True)]
    voxels = np.asarray(store.image(case)[(slice(None), *spans)])[list(channels)]
    before = np.maximum(-room, 0) // 2
    after = np.asarray(size) - before - voxels.shape[1:]
    widths = [(int(a), int(b)) for a, b in zip(before, after, strict=True)]
    return torch.from_numpy(np.pad(voxels, [(0, 0), *widths]).astype(np.float32))


def fixed_crops(stage: Stage, cases: Sequence[StoredCase], size: Triple) -> Iterator[Tensor]:
    """The middles of cases, a few at once, shape (B, C, *size)."""
    channels = [stage.store.contrasts.index(name) for name in stage.recipe.data.contrasts]
    for start in range(0, len(cases), CROPS_AT_ONCE):
        some = cases[start : start + CROPS_AT_ONCE]
        yield torch.stack([middle_of(stage.store, case, channels, size) for case in some])


@contextlib.contextmanager
def looking(network: nn.Module) -> Iterator[nn.Module]:
    """A network for evaluation, without what wraps it; afterwards it is as it was."""
    bare: nn.Module = getattr(network, "module", network)
    was_training = bare.training
    bare.eval()
    try:
        with torch.inference_mode():
            yield bare
    finally:
        bare.train(was_training)


def _pooled(network: nn.Module, crops: Tensor) -> NDArray[np.float32]:
    """The mean of the encoder's deepest map, shape (B, C)."""
    with looking(network) as bare:
        deepest: Tensor = bare.swinViT(crops)[-1]  # type: ignore[operator]
        pooled: NDArray[np.float32] = deepest.float().mean(dim=(2, 3, 4)).cpu().numpy()
    return pooled


def _number(
    name: str, features: Values, values: Values | None, subjects: Sequence[str]
) -> dict[str, float]:
    if values is None or not np.isfinite(features).all():
        return {}
    found = probe_number(features, values, subjects)
    if found is None:
        return {}
    return {
        f"{name}_r2": found.r2,
        f"{name}_mae": found.mae,
        f"{name}_chance_mae": found.chance_mae,
        f"{name}_images": found.num_images,
    }


def _classes(
    name: str, features: Values, is_first: Values | None, subjects: Sequence[str]
) -> dict[str, float]:
    if is_first is None or not np.isfinite(features).all():
        return {}
    found = probe_classes(features, is_first, subjects)
    if found is None:
        return {}
    return {
        f"{name}_auc": found.auc,
        f"{name}_accuracy": found.accuracy,
        f"{name}_chance_accuracy": found.chance_accuracy,
        f"{name}_images": found.num_images,
    }


def _two_classes(names: Sequence[str | None]) -> Values | None:
    """1 for the more frequent of the two most frequent names, 0 for the other."""
    common = [name for name, _ in Counter(name for name in names if name).most_common(2)]
    if len(common) < 2:
        return None
    number = {common[0]: 1.0, common[1]: 0.0}
    return np.array([number.get(name or "", np.nan) for name in names])
