"""From the store to batches of patches.

Sample number n of a run is a pure function of the seed and n: which case, which patch, which
augmentation. So a resumed run goes on with the very next sample, whatever the number of workers.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
        cases: Name of the case each patch came from.
    """

    image: Tensor
    labels: Tensor | None
    cases: tuple[str, ...]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        return Batch(self.image.to(device, non_blocking=True), labels, self.cases)


@dataclass(frozen=True, slots=True)
class PatchSampling:
    """How patches are drawn.

    Attributes:
        patch_size_vox: Their size.
        crops_per_case: How many from each case drawn.
        foreground_fraction: Share centred on a labelled voxel.
        augment: Random changes, or None.
        with_labels: Whether masks are read.
    """

    patch_size_vox: Triple
    crops_per_case: int = 1
    foreground_fraction: float = 0.0
    augment: AugmentSettings | None = None
    with_labels: bool = False


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
        opened = self.store.image(case)
        masks = self.store.labels(case) if sampling.with_labels else None
        shape = (sampling.crops_per_case, len(self.channels), *sampling.patch_size_vox)
        images, labels = torch.empty(shape), []
        for image in images:
            start = self._start(case, rng)
            self._widen(_cut(opened, start, sampling.patch_size_vox), image)
            mask = None if masks is None else _cut(masks, start, sampling.patch_size_vox)
            if sampling.augment is not None:
                changed, mask = augment(image.numpy(), mask, sampling.augment, rng)
                image.copy_(torch.from_numpy(changed))
            if mask is not None:
                labels.append(mask)
        stacked = torch.from_numpy(np.stack(labels)) if labels else None
        return Batch(images, stacked, (case.case,) * len(images))

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
    labels = [sample.labels for sample in samples if sample.labels is not None]
    return Batch(
        image=torch.cat([sample.image for sample in samples]),
        labels=torch.cat(labels) if labels else None,
        cases=tuple(name for sample in samples for name in sample.cases),
    )


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
