"""A prediction within the memory there is: fewer windows at once, results on disk, another device.

On a CPU the system would end the process rather than refuse, so what a window takes is counted on
the `meta` device beforehand, and only where a generous bound does not fit anyway.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from brainsegfounder.errors import Problem, VolumeError
from brainsegfounder.inference.model_config import ModelConfig
from brainsegfounder.inference.predictor import Opinion
from brainsegfounder.models.step_cost import count_forward
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.header import available_memory_gib
from brainsegfounder.volumes.preparation import Prepared
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.model_folder import Model, build_network, place

log = logging.getLogger(__name__)

GIB = 2**30
BYTES = 4
# No network here needs as much for a voxel of a window (tiny at 96 voxels: 2,110, counted).
MOST_BYTES_A_VOXEL = 4_000
# Volumes of the scan's own grid that are there at once on the way back: a channel, where it comes
# from, labels, entropy.
VOLUMES_BACK = 4

Into = Callable[[tuple[int, ...]], Tensor]


@dataclass(frozen=True, slots=True)
class Room:
    """How a prediction goes through the memory.

    Attributes:
        batch_size: Windows at once.
        on_disk: Whether probabilities are kept in a file.
    """

    batch_size: int
    on_disk: bool


def opinion_within(
    model: Model, image: Volume, prepared: Prepared, *, disagreement: bool
) -> tuple[Opinion, str, tuple[Finding, ...]]:
    """What a model thinks of an image, computed in the memory there is.

    Args:
        model: What segments.
        image: In the model's channels.
        prepared: Where it comes from.
        disagreement: See `Predictor.opinion`.

    Returns:
        The opinion, the device that computed it, and what had to be done for it.

    Raises:
        VolumeError: Not even one window fits.
    """
    if model.device.type != "cpu":
        return _on_gpu(model, image, disagreement)
    room = find_room(model, image, prepared)
    fitted = _with_batch(model, room.batch_size)
    into = _in_a_file if room.on_disk else torch.empty
    opinion = fitted.opinion(image, disagreement=disagreement, into=into)
    found = []
    if room.on_disk:
        message = "too little memory for all probabilities; they were kept in a file."
        found.append(Finding("on_disk", image.source, message, "note"))
    return opinion, "cpu", tuple(found)


def find_room(model: Model, image: Volume, prepared: Prepared) -> Room:
    """How much is computed at once, and where the result goes, so that all fits.

    Raises:
        VolumeError: Not even one window fits.
    """
    config, free = model.config, available_memory_gib() * GIB
    wanted = config.predict.batch_size
    result = config.num_outputs * np.prod(image.shape_vox) * BYTES
    back = VOLUMES_BACK * np.prod(prepared.source_grid.shape_vox) * BYTES
    bound = MOST_BYTES_A_VOXEL * int(np.prod(config.patch_size_vox))
    if wanted * bound + result + back <= free:
        return Room(wanted, on_disk=False)
    window = window_bytes(config)
    for taken, on_disk in ((result + back, False), (back, True)):
        fitting = int((free - taken) // window)
        if fitting >= 1:
            return Room(min(fitting, wanted), on_disk)
    raise VolumeError(
        Problem(
            "too_little_memory", image.source,
            f"{(window + back) / GIB:.2f} GiB are needed beside what is taken, and "
            f"{free / GIB:.2f} GiB available", "enough for one window and the way back",
            "Raise --max-memory, use a model of a smaller scale or window, or another machine.",
        )
    )  # fmt: skip


def window_bytes(config: ModelConfig) -> int:
    """Memory that computing one window takes beside the weights, by count; an upper bound."""
    fields = (config.model_dump_json(exclude={"provenance", "familiar", "expected_dice"}),)
    return _counted(*fields)


@cache
def _counted(config_text: str) -> int:
    config = ModelConfig.model_validate_json(config_text).model_copy(update={"members": 1})
    with torch.device("meta"):
        network = build_network(config).eval()
        window = torch.empty((1, len(config.contrasts), *config.patch_size_vox))
    weights = sum(p.numel() for p in network.parameters()) * BYTES
    return count_forward(network, window) - weights


def _on_gpu(
    model: Model, image: Volume, disagreement: bool
) -> tuple[Opinion, str, tuple[Finding, ...]]:
    """On a GPU, one window at a time if need be; on the CPU where that does not fit either."""
    for candidate in (model, _with_batch(model, 1)):
        try:
            return candidate.opinion(image, disagreement=disagreement), str(model.device), ()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    log.warning("%s: too little memory on %s; computed on the CPU", image.source, model.device)
    message = f"too little memory on {model.device}; computed on the CPU."
    found = (Finding("on_cpu", image.source, message, "note"),)
    device = torch.device("cpu")
    try:
        slower = _with_batch(Model(_moved(model.network, device), model.config, device), 1)
        return slower.opinion(image, disagreement=disagreement), "cpu", found
    finally:
        _moved(model.network, model.device)


def _moved(network: nn.Module, device: torch.device) -> nn.Module:
    return place(network, device)


def _with_batch(model: Model, batch_size: int) -> Model:
    if batch_size == model.config.predict.batch_size:
        return model
    predict = model.config.predict.model_copy(update={"batch_size": batch_size})
    return Model(model.network, model.config.model_copy(update={"predict": predict}), model.device)


def _in_a_file(shape: tuple[int, ...]) -> Tensor:
    """An array in a file without a name, which is gone with it."""
    with tempfile.TemporaryFile(prefix="brainsegfounder-") as file:
        return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=shape))
