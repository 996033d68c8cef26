"""Patches by number: what is sample n of a run?

Sample number n of a run is a pure function of the seed and n: which case, which patch, which
augmentation. So a resumed run goes on with the very next sample, whatever the number of workers.
Where a case cannot be read, another one that follows from the seed and n takes its place.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainsegfounder.data.augment import augment
from brainsegfounder.data.store import Store, StoredCase
from brainsegfounder.errors import DataError, Problem, StoreError
from brainsegfounder.files import sha256
from brainsegfounder.settings import AugmentSettings
from brainsegfounder.volumes.volume import Triple


@dataclass(frozen=True, slots=True)
class Batch:
    """Patches of several cases.

    Attributes:
        image: Intensities, shape (B, C, I, J, K), B = cases times crops.
        labels: Label values, shape (B, 1, I, J, K), or None.
        valid: False where a scan shows no anatomy (defaced, outside the anatomy mask), shape
            (B, 1, I, J, K), or None where no case of the run has such a mask.
        cases: Name of the case each patch came from.
        subjects: Whose brain each patch is of.
        numbers: Of each patch in the run; they seed what is drawn for it.
        quarantined: Cases that could not be read and were replaced, each with the reason.
    """

    image: Tensor
    labels: Tensor | None
    valid: Tensor | None
    cases: tuple[str, ...]
    subjects: tuple[str, ...]
    numbers: tuple[int, ...]
    quarantined: tuple[tuple[str, str], ...] = ()

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        tensors = {"image": self.image, "labels": self.labels, "valid": self.valid}
        moved = {
            name: tensor.to(device, non_blocking=True)
            for name, tensor in tensors.items()
            if tensor is not None
        }
        return replace(self, **moved)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class PatchSampling:
    """How patches are drawn.

    Attributes:
        patch_size_vox: Their size.
        crops_per_case: How many from each case drawn.
        foreground_fraction: Share centred on a labelled voxel.
        augment: Random changes, or None.
        with_labels: Whether label masks are read.
        min_brain: Least share of a patch that is brain; others are drawn again.
        with_valid: Whether deface and anatomy masks are read.
        contrast_dropout: Chance that each contrast of a case drawn is missing, never all of them.
    """

    patch_size_vox: Triple
    crops_per_case: int = 1
    foreground_fraction: float = 0.0
    augment: AugmentSettings | None = None
    with_labels: bool = False
    min_brain: float = 0.0
    with_valid: bool = False
    contrast_dropout: float = 0.0


# Names of masks in a store: what was removed from a scan, and what of it is anatomy.
HIDING_MASKS = ("deface",)
SHOWING_MASKS = ("anatomy",)
# Draws of a place before the best of them is taken as it is.
MAX_DRAWS = 10
# Cases that are tried for one sample before the store itself must be the trouble.
MAX_TRIES = 10
# A case that cannot be read is read again after a moment: network drives fail and come back.
SECONDS_TO_RETRY = 0.5
# Standardised intensities lie within 1 / sqrt(0.001) = 32, since their outer 0.1 % are clipped.
LARGEST_INTENSITY = 100.0


class _Crop(NamedTuple):
    labels: NDArray[Any] | None
    valid: NDArray[np.bool_] | None


class PatchDataset:
    """Samples by number; see the module's docstring."""

    def __init__(
        self,
        store: Store,
        cases: Sequence[StoredCase],
        contrasts: Sequence[str],
        sampling: PatchSampling,
        seed: int,
    ) -> None:
        if not cases:
            raise DataError(f"{store.folder}: no case to draw patches from. Check the split.")
        self.store = store
        self.cases = tuple(cases)
        self.channels = [store.contrasts.index(name) for name in contrasts]
        self.sampling = sampling
        self.with_valid = sampling.with_valid and any(case.masks for case in self.cases)
        self.seed = seed
        self._verified: set[str] = set()

    def __getitem__(self, number: int) -> Batch:
        """Sample `number` of the run: `crops_per_case` patches of one case."""
        return self.sample(number)

    def sample(self, number: int, announce: Callable[[int], None] | None = None) -> Batch:
        """As `[number]`; `announce` is told the place of each case before it is read.

        Raises:
            DataError: No case could be read, of ten that were tried.
        """
        failed: list[tuple[str, str]] = []
        for attempt, place in enumerate(self._tries(number)):
            if announce is not None:
                announce(place)
            try:
                return self._patches(self.cases[place], number, attempt, tuple(failed))
            except StoreError as error:
                failed.append((self.cases[place].case, str(error)))
        raise DataError(
            f"{self.store.folder}: {len(failed)} cases in a row cannot be read; expected at least "
            f"one. Is the folder still there? Last reason: {failed[-1][1]}"
        )

    def _tries(self, number: int) -> Iterator[int]:
        """Places of the cases to try for a sample: its own, then others in an order of its own."""
        num_cases = len(self.cases)
        epoch, place = divmod(number, num_cases)
        first = int(np.random.default_rng([self.seed, 1, epoch]).permutation(num_cases)[place])
        yield first
        others = np.random.default_rng([self.seed, 3, number]).permutation(num_cases)
        yield from itertools.islice((int(n) for n in others if n != first), MAX_TRIES - 1)

    def _patches(
        self, case: StoredCase, number: int, attempt: int, failed: tuple[tuple[str, str], ...]
    ) -> Batch:
        """Patches of one case, which is read again if that fails."""
        stream = [self.seed, 2, number, attempt] if attempt else [self.seed, 2, number]
        num_crops = self.sampling.crops_per_case
        image = torch.empty((num_crops, len(self.channels), *self.sampling.patch_size_vox))
        try:
            crops = self._crops(case, image, np.random.default_rng(stream))
        except StoreError:
            time.sleep(SECONDS_TO_RETRY)
            crops = self._crops(case, image, np.random.default_rng(stream))
        for place in self._missing(number):
            image[:, place] = 0.0
        first = number * num_crops
        return Batch(
            image=image,
            labels=_stacked([crop.labels for crop in crops]),
            valid=_stacked([crop.valid for crop in crops]),
            cases=(case.case,) * len(crops),
            subjects=(case.subject,) * len(crops),
            numbers=tuple(range(first, first + len(crops))),
            quarantined=failed,
        )

    def _crops(self, case: StoredCase, images: Tensor, rng: np.random.Generator) -> list[_Crop]:
        self._verify(case)
        return [self._crop(case, image, rng) for image in images]

    def _missing(self, number: int) -> list[int]:
        """Places of the contrasts that sample `number` lacks; 0 is their background and mean."""
        if self.sampling.contrast_dropout == 0:
            return []
        rng = np.random.default_rng([self.seed, 4, number])
        is_missing = rng.random(len(self.channels)) < self.sampling.contrast_dropout
        if is_missing.all():
            is_missing[rng.integers(len(is_missing))] = False
        return [int(place) for place in np.flatnonzero(is_missing)]

    def _verify(self, case: StoredCase) -> None:
        """Compare its files with their fingerprints, at the first time that this process reads it.

        Damage may decompress to numbers that are wrong and nothing else.
        """
        if case.case in self._verified:
            return
        for name, file in case.files.items():
            if ".reference." in name:  # only for evaluation
                continue
            try:
                found = sha256(self.store.folder / "cases" / name)
            except OSError as error:
                raise _damaged(name, str(error)) from error
            if found != file.sha256:
                raise _damaged(name, f"sha256 {found[:12]}", f"{file.sha256[:12]}, as was written")
        self._verified.add(case.case)

    def _crop(self, case: StoredCase, image: Tensor, rng: np.random.Generator) -> _Crop:
        """One patch of a case, augmented; its intensities go into `image`."""
        sampling, size = self.sampling, self.sampling.patch_size_vox
        start, voxels = self._draw(case, rng)
        self._widen(voxels, image)
        _check_plausible(image, case)
        labels = _cut(self.store.labels(case), start, size) if sampling.with_labels else None
        valid = self._valid(case, start) if self.with_valid else None
        if sampling.augment is not None:
            masks = [mask for mask in (labels, valid) if mask is not None]
            joined = np.concatenate(masks) if masks else None
            changed, joined = augment(image.numpy(), joined, sampling.augment, rng)
            image.copy_(torch.from_numpy(changed))
            labels = None if labels is None or joined is None else joined[:1]
            valid = None if valid is None or joined is None else joined[-1:].astype(bool)
        return _Crop(labels, valid)

    def _draw(
        self, case: StoredCase, rng: np.random.Generator
    ) -> tuple[Triple, NDArray[np.float16]]:
        """A place with enough brain, and the voxels there; of too many misses, the best."""
        opened, best = self.store.image(case), (-1.0, (0, 0, 0), np.empty(0, np.float16))
        for _ in range(MAX_DRAWS):
            start = self._start(case, rng)
            voxels = _cut(opened, start, self.sampling.patch_size_vox)
            if self.sampling.min_brain == 0:
                return start, voxels
            # NumPy counts float16 several times as slowly.
            inside = torch.from_numpy(voxels[self.channels[0]]).count_nonzero()
            brain = int(inside) / voxels[0].size
            if brain > best[0]:
                best = (brain, start, voxels)
            if brain >= self.sampling.min_brain:
                break
        return best[1], best[2]

    def _valid(self, case: StoredCase, start: Triple) -> NDArray[np.bool_]:
        """Where the scan shows anatomy: inside the anatomy mask, outside the deface mask."""
        size = self.sampling.patch_size_vox
        valid = np.ones((1, *size), dtype=bool)
        for name in case.masks:
            inside = _cut(self.store.mask(case, name), start, size) > 0
            if name in HIDING_MASKS:
                valid &= ~inside
            elif name in SHOWING_MASKS:
                valid &= inside
        return valid

    def _widen(self, voxels: NDArray[np.float16], image: Tensor) -> None:
        """Put float16 voxels into a float32 image, contrasts in the order asked for.

        PyTorch does it with the processor's own instruction, ten times as fast as NumPy.
        """
        for place, channel in enumerate(self.channels):
            image[place].copy_(torch.from_numpy(voxels[channel]))

    def _start(self, case: StoredCase, rng: np.random.Generator) -> Triple:
        size = np.asarray(self.sampling.patch_size_vox)
        room = np.asarray(case.shape_vox) - size
        # Where the volume is smaller than the patch, it sits in the middle of it.
        low, high = np.where(room < 0, room // 2, 0), np.where(room < 0, room // 2, room)
        start = rng.integers(low, high + 1)
        if rng.random() < self.sampling.foreground_fraction:
            voxels = self.store.foreground(case)
            if len(voxels):
                value = rng.choice(np.unique(voxels[:, 0]))
                centre = rng.choice(voxels[voxels[:, 0] == value])[1:].astype(int)
                # The voxel lies in the middle half of the patch, so its surroundings vary.
                jitter = rng.integers(-(size // 4), size // 4 + 1)
                start = np.clip(centre - size // 2 + jitter, low, high)
        return int(start[0]), int(start[1]), int(start[2])


def _check_plausible(image: Tensor, case: StoredCase) -> None:
    """Refuse intensities that no preparation gives."""
    low, high = (float(value) for value in torch.aminmax(image))
    if not (low >= -LARGEST_INTENSITY and high <= LARGEST_INTENSITY):
        raise _damaged(case.case, f"intensities from {low:g} to {high:g}")


def _damaged(name: str, found: str, expected: str = "what was written") -> StoreError:
    advice = "Prepare the case again: the same command mends the store."
    return StoreError(Problem("store_file_damaged", name, found, expected, advice))


def _stacked(parts: Sequence[NDArray[Any] | None]) -> Tensor | None:
    arrays = [part for part in parts if part is not None]
    return torch.from_numpy(np.stack(arrays)) if arrays else None


def _cut(array: Any, start: Triple, size: Triple) -> NDArray[Any]:
    """A box that may reach beyond the array, where it is filled with 0."""
    spans, widths = [slice(None)], [(0, 0)]
    for first, length, extent in zip(start, size, array.shape[1:], strict=True):
        low, high = max(0, first), min(extent, first + length)
        spans.append(slice(low, high))
        widths.append((low - first, first + length - high))
    try:
        voxels = np.asarray(array[tuple(spans)])
    except (OSError, RuntimeError, ValueError, ArithmeticError) as error:
        raise _damaged("an array of the store", f"cannot be read ({error})") from error
    if np.any(widths):
        return np.pad(voxels, widths)
    # A part of a mapped file is not in memory yet, and cannot be changed.
    return voxels if voxels.flags.writeable else np.array(voxels)
