"""The case that an export is compared on, and the windows that int8 is calibrated on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.data.layouts import read_cases
from brainsegfounder.data.store import STORE_NAME, Store, StoredCase, open_store
from brainsegfounder.errors import ContrastError, DataError, StoreError
from brainsegfounder.inference.model_config import ModelConfig
from brainsegfounder.volumes.phantom import draw_subject
from brainsegfounder.volumes.phantom_contrasts import APPEARANCES
from brainsegfounder.volumes.preparation import prepare, prepare_case
from brainsegfounder.volumes.volume import Volume

log = logging.getLogger(__name__)

PHANTOM = "the embedded phantom"
# Of a phantom, so many windows along each axis are enough; a case that is given is taken whole.
PHANTOM_WINDOWS = 1.5


def choose_case(config: ModelConfig, case: Path | None) -> tuple[str, Volume]:
    """A prepared case in the model's contrasts, and what to call it.

    Args:
        config: Contrasts and preparation.
        case: A folder with the scans of one case, a store (its first case), a case of a store
            (`STORE/CASE`), or None for the embedded phantom.

    Raises:
        DataError: It cannot be read, is more than one, lacks a contrast, or was prepared for
            something else.
    """
    if case is None:
        return PHANTOM, _phantom(config)
    for folder, name in ((case, None), (case.parent, case.name)):
        if (folder / STORE_NAME).is_file():
            store = store_for(folder, config)
            chosen = _stored(store, name)
            return chosen.case, store.prepared_image(chosen, config.contrasts)
    return _scans(case, config)


def store_for(folder: Path, config: ModelConfig) -> Store:
    """Open a store that was prepared as a model wants.

    Raises:
        StoreError: It was not.
    """
    store = open_store(folder)
    absent = [name for name in config.contrasts if name not in store.contrasts]
    if absent or store.preparation != config.preparation:
        found = f"no {', '.join(absent)}" if absent else "another preparation"
        raise StoreError(
            f"{folder}: prepared with {found} than the model wants; expected the store that it was "
            "trained on, or one prepared by the same recipe."
        )
    return store


def calibration_windows(
    folder: Path, config: ModelConfig, number: int
) -> tuple[list[NDArray[np.float32]], list[str]]:
    """Windows of training cases around brain voxels, and the names of the cases.

    Only cases that the model saw, in training or validation, are taken; test cases are left out.

    Args:
        folder: A store.
        config: Of the model.
        number: Windows in all; always the same ones.

    Returns:
        Windows of shape (1, C, *patch_size_vox), and the cases they are from.

    Raises:
        StoreError: The store was prepared for something else, or the model saw none of its cases.
    """
    store = store_for(folder, config)
    cases = _seen(store, config)
    if not cases:
        raise StoreError(
            f"{folder}: the model has seen none of its {len(store.cases)} cases; expected training "
            "cases to calibrate on. Give the store that it was trained on."
        )
    generator = np.random.default_rng(0)
    used = cases[:number]
    counts = [len(part) for part in np.array_split(np.arange(number), len(used))]
    windows = []
    for case, count in zip(used, counts, strict=True):
        image = store.prepared_image(case, config.contrasts)
        windows += [_random_window(image, config, generator) for _ in range(count)]
    return windows, [case.case for case in used]


def _seen(store: Store, config: ModelConfig) -> list[StoredCase]:
    """The cases that a model was trained or validated on, by the fingerprints of their scans."""
    seen = config.provenance.get("seen_scans")
    if seen is None:
        log.warning(
            "%s does not say what it was trained on: int8 is calibrated on all %d cases, which may "
            "be some that it is tested on.",
            config.name,
            len(store.cases),
        )
        return list(store.cases)
    return [case for case in store.cases if set(case.fingerprints) <= set(seen)]


def _stored(store: Store, name: str | None) -> StoredCase:
    for case in store.cases:
        if name in (None, case.case):
            return case
    raise StoreError(
        f"{store.folder}: no case '{name}'; expected one of "
        f"{', '.join(case.case for case in store.cases[:5])} ..."
    )


def _scans(path: Path, config: ModelConfig) -> tuple[str, Volume]:
    cases = read_cases([path])
    if len(cases) != 1:
        names = ", ".join(case.case for case in cases[:3])
        raise DataError(
            f"{path}: {len(cases)} cases ({names} ...); expected one to compare the export on. "
            "Give the folder of one case."
        )
    case = cases[0]
    absent = [name for name in config.contrasts if name not in case.contrasts]
    if absent:
        raise ContrastError(
            f"{path}: no {', '.join(absent)}; expected {', '.join(config.contrasts)}, which the "
            "model was trained on. Give another case."
        )
    prepared = prepare_case(
        case.case, case.contrasts, config.contrasts, config.preparation, masks=case.masks
    )
    return case.case, prepared.image


def _phantom(config: ModelConfig) -> Volume:
    """A drawn brain with a tumour; stripped and aligned as it comes, so neither is done."""
    unknown = [name for name in config.contrasts if name not in APPEARANCES]
    if unknown:
        raise ContrastError(
            f"{config.name}: the embedded phantom has no {', '.join(unknown)}, only "
            f"{', '.join(APPEARANCES)}. Give a case to compare the export on: --case FOLDER"
        )
    spacing_mm = max(0.5, min(config.spacing_mm or (1.0,)))
    drawn = draw_subject(
        0, seed=0, lesion="tumour", contrasts=config.contrasts, spacing_mm=spacing_mm
    )
    channels = [drawn.volumes[name].voxels for name in config.contrasts]
    affine = drawn.volumes[config.contrasts[0]].affine
    settings = config.preparation.model_copy(
        update={
            "registration": "never",
            "brain": "foreground",
            "bias_correction": False,
            "space": "native",
        }
    )
    image = prepare(Volume(np.concatenate(channels), affine, PHANTOM), settings).image
    return centre(image, [int(PHANTOM_WINDOWS * n) for n in config.patch_size_vox])


def centre(image: Volume, at_most_vox: Sequence[int]) -> Volume:
    """The middle of a volume, as it is where it is smaller."""
    spans = []
    for size, wanted in zip(image.shape_vox, at_most_vox, strict=True):
        first = max(0, (size - wanted) // 2)
        spans.append(slice(first, first + min(size, wanted)))
    return Volume(image.voxels[(slice(None), *spans)], image.affine, image.source)


def _random_window(
    image: Volume, config: ModelConfig, generator: np.random.Generator
) -> NDArray[np.float32]:
    """A window around some voxel that is not background."""
    sides = config.patch_size_vox
    inside = np.argwhere(image.voxels.any(axis=0))
    centre = inside[generator.integers(len(inside))]
    missing = [max(0, side - n) for side, n in zip(sides, image.shape_vox, strict=True)]
    padded = np.pad(image.voxels, [(0, 0), *((m // 2, m - m // 2) for m in missing)])
    spans = []
    for middle, lost, side, size in zip(centre, missing, sides, padded.shape[1:], strict=True):
        first = int(np.clip(middle + lost // 2 - side // 2, 0, size - side))
        spans.append(slice(first, first + side))
    return np.ascontiguousarray(padded[(slice(None), *spans)][None], dtype=np.float32)
