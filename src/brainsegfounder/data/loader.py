"""From the store to batches of patches, made here or ahead of time in other processes."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections.abc import Iterator
from dataclasses import fields
from functools import partial

from torch import Tensor

from brainsegfounder.data.parcels import Parcel, assembled
from brainsegfounder.data.patches import Batch, PatchDataset, PatchSampling
from brainsegfounder.data.quarantine import Quarantine
from brainsegfounder.data.workers import AHEAD, PATIENCE_S, Announce, made_ahead
from brainsegfounder.volumes.header import available_memory_gib

__all__ = ["Batch", "PatchDataset", "PatchSampling", "batches"]

log = logging.getLogger(__name__)

GIB = 2**30


def batches(
    dataset: PatchDataset,
    *,
    first_batch: int,
    num_batches: int,
    batch_size: int,
    num_workers: int,
    first_sample: int = 0,
    rank: int = 0,
    num_processes: int = 1,
    quarantine: Quarantine | None = None,
    patience_s: float = PATIENCE_S,
) -> Iterator[Batch]:
    """Batches `first_batch` to `first_batch + num_batches` of a run, in order.

    Of several processes, each makes its part of the batches that one process would make of all
    their parts: those of rank 0 come first in it. So no sample is made twice, and none is left out.

    Args:
        dataset: Samples by number.
        first_batch: Number of the first one.
        num_batches: How many.
        batch_size: Samples in each.
        first_sample: Number of the sample with which batch 0 begins.
        rank: Which of the processes this is.
        num_processes: How many make batches.
        num_workers: Processes that make them; 0 makes them here. Fewer where memory is short.
        quarantine: Where cases that cannot be read are noted; None: for this call alone.
        patience_s: How long a worker may be at one case while we wait for it.

    Raises:
        DataError: Too many cases cannot be read; see `Quarantine`.
        TrainingError: A worker died or hung twice; see `made_ahead`.
    """
    quarantine = quarantine or Quarantine(len(dataset.cases))
    place = (first_sample + rank * batch_size, num_processes * batch_size)
    make = partial(_make, dataset, batch_size, place)
    wanted = range(first_batch, first_batch + num_batches)
    num_workers = _affordable(dataset, batch_size, num_workers, num_processes)
    if num_workers:
        name_of = partial(_name_of, dataset)
        made = made_ahead(
            make, wanted, num_workers=num_workers, name_of=name_of, patience_s=patience_s
        )
    else:
        made = (assembled(make(number, None)) for number in wanted)
    with contextlib.closing(made):
        for parts in made:
            batch = Batch(**parts)
            quarantine.add(batch.quarantined)
            yield batch


def _make(
    dataset: PatchDataset,
    batch_size: int,
    place: tuple[int, int],
    batch: int,
    announce: Announce | None,
) -> Parcel:
    """One batch in parts; `place` is the first sample of batch 0 and how far the next one is."""
    first = place[0] + batch * place[1]
    samples = [dataset.sample(number, announce) for number in range(first, first + batch_size)]
    tensors, rest = {}, {}
    for field in fields(Batch):
        parts = [getattr(sample, field.name) for sample in samples]
        if isinstance(parts[0], Tensor):
            tensors[field.name] = parts
        else:
            rest[field.name] = None if parts[0] is None else tuple(itertools.chain(*parts))
    return Parcel(tensors, rest)


def _name_of(dataset: PatchDataset, place: int) -> str:
    return dataset.cases[place].case


def _affordable(
    dataset: PatchDataset, batch_size: int, num_workers: int, num_processes: int
) -> int:
    """No more workers than whose batches find room in this process's part of the free memory.

    That is half of it, shared by all processes, as if they were all on this machine.
    """
    sampling = dataset.sampling
    bytes_a_voxel = 4 * len(dataset.channels) + 2 * sampling.with_labels + dataset.with_valid
    num_voxels = batch_size * sampling.crops_per_case * math.prod(sampling.patch_size_vox)
    # What lies ready, and what is being made of parts that are there as well.
    gib_a_worker = num_voxels * bytes_a_voxel * (AHEAD + 2) / GIB
    free_gib = available_memory_gib() / 2 / num_processes
    fitting = max(1, int(min(free_gib / gib_a_worker, num_workers))) if num_workers else 0
    if fitting < num_workers:
        log.warning(
            "%d data workers need %.1f GiB for their batches, this process's half of the free "
            "memory is %.1f GiB; using %d",
            num_workers,
            num_workers * gib_a_worker,
            free_gib,
            fitting,
        )
    return fitting
