"""From the store to batches of patches.

Sample number n of a run is a pure function of the seed and n: which case, which patch, which
augmentation. So a resumed run goes on with the very next sample, whatever the number of workers.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from brainsegfounder.data.augment import augment
from brainsegfounder.data.store import Store, StoredCase
from brainsegfounder.errors import DataError
from brainsegfounder.settings import AugmentSettings
from brainsegfounder.volumes.volume import Triple


@dataclass(frozen=True, slots=True)
class Batch:
    """Patches of several cases.

    Attributes:
        image: Intensities, shape (B, C, I, J, K), B = cases times crops.
        labels: Label values, shape (B, 1, I, J, K), or None.
        valid: False where a scan shows no anatomy (defaced, outside the anatomy mask), shape
            (B, 1, I, J, K), or None where it does everywhere.
        cases: Name of the case each patch came from.
        subjects: Whose brain each patch is of.
        numbers: Of each patch in the run; they seed what is drawn for it.
    """

    image: Tensor
    labels: Tensor | None
    valid: Tensor | None
    cases: tuple[str, ...]
    subjects: tuple[str, ...]
    numbers: tuple[int, ...]

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
    """

    patch_size_vox: Triple
    crops_per_case: int = 1
    foreground_fraction: float = 0.0
    augment: AugmentSettings | None = None
    with_labels: bool = False
    min_brain: float = 0.0
    with_valid: bool = False


# Names of masks in a store: what was removed from a scan, and what of it is anatomy.
HIDING_MASKS = ("deface",)
SHOWING_MASKS = ("anatomy",)
# Draws of a place before the best of them is taken as it is.
MAX_DRAWS = 10


class _Crop(NamedTuple):
    image: Tensor
    labels: NDArray[Any] | None
    valid: NDArray[np.bool_] | None


class PatchDataset(Dataset[Batch]):
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
        self.seed = seed

    def __getitem__(self, number: int) -> Batch:
        """Sample `number` of the run: `crops_per_case` patches of one case."""
        epoch, place = divmod(number, len(self.cases))
        order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.cases))
        case = self.cases[order[place]]
        rng = np.random.default_rng([self.seed, 2, number])
        sampling = self.sampling
        crops = [self._crop(case, rng) for _ in range(sampling.crops_per_case)]
        first = number * sampling.crops_per_case
        return Batch(
            image=torch.stack([crop.image for crop in crops]),
            labels=_stacked([crop.labels for crop in crops]),
            valid=_stacked([crop.valid for crop in crops]),
            cases=(case.case,) * len(crops),
            subjects=(case.subject,) * len(crops),
            numbers=tuple(range(first, first + len(crops))),
        )

    def _crop(self, case: StoredCase, rng: np.random.Generator) -> _Crop:
        """One patch of a case, augmented."""
        sampling, size = self.sampling, self.sampling.patch_size_vox
        start, voxels = self._draw(case, rng)
        image = torch.empty((len(self.channels), *size))
        self._widen(voxels, image)
        labels = _cut(self.store.labels(case), start, size) if sampling.with_labels else None
        valid = self._valid(case, start) if sampling.with_valid else None
        if sampling.augment is not None:
            changed, labels = augment(image.numpy(), labels, sampling.augment, rng)
            image.copy_(torch.from_numpy(changed))
        return _Crop(image, labels, valid)

    def _draw(
        self, case: StoredCase, rng: np.random.Generator
    ) -> tuple[Triple, NDArray[np.float16]]:
        """A place with enough brain, and the voxels there; of too many misses, the best."""
        opened, best = self.store.image(case), (-1.0, (0, 0, 0), np.empty(0, np.float16))
        for _ in range(MAX_DRAWS if self.sampling.min_brain > 0 else 1):
            start = self._start(case, rng)
            voxels = _cut(opened, start, self.sampling.patch_size_vox)
            brain = np.count_nonzero(voxels[self.channels[0]]) / voxels[0].size
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


def batches(
    dataset: PatchDataset, *, first_batch: int, num_batches: int, batch_size: int, num_workers: int
) -> Iterator[Batch]:
    """Batches `first_batch` to `first_batch + num_batches` of a run, in order."""
    first = first_batch * batch_size
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=range(first, first + num_batches * batch_size),
        num_workers=num_workers,
        collate_fn=_join,
        persistent_workers=False,
    )
    yield from _ahead(loader) if num_workers else loader


def _ahead(loader: DataLoader[Batch], depth: int = 2) -> Iterator[Batch]:
    """Take batches over from the workers in a thread, so that a step finds them there.

    To hand a batch over, a worker must stop what it is doing, which takes about 10 ms.
    """
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def fill() -> None:
        try:
            for batch in loader:
                put(batch)
                if stop.is_set():
                    return
        except BaseException as error:  # it is raised where the batch is wanted
            put(error)
        put(None)

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def _join(samples: Sequence[Batch]) -> Batch:
    return Batch(
        image=torch.cat([sample.image for sample in samples]),
        labels=_joined([sample.labels for sample in samples]),
        valid=_joined([sample.valid for sample in samples]),
        cases=tuple(name for sample in samples for name in sample.cases),
        subjects=tuple(name for sample in samples for name in sample.subjects),
        numbers=tuple(number for sample in samples for number in sample.numbers),
    )


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    tensors = [part for part in parts if part is not None]
    return torch.cat(tensors) if tensors else None


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
    voxels = np.asarray(array[tuple(spans)])
    if np.any(widths):
        return np.pad(voxels, widths)
    # A part of a mapped file is not in memory yet, and cannot be changed.
    return voxels if voxels.flags.writeable else np.array(voxels)
