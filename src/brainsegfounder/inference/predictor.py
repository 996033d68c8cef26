"""The predictor that ships: validation during training and `predict` both run it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from brainsegfounder.inference.model_config import ModelConfig
from brainsegfounder.inference.postprocess import (
    Channels,
    paint_classes,
    paint_regions,
    without_small,
)
from brainsegfounder.inference.sliding_window import plan_windows, slide
from brainsegfounder.inference.voices import Voices
from brainsegfounder.volumes.preparation import undo
from brainsegfounder.volumes.session import InputGrid
from brainsegfounder.volumes.volume import Grid, Volume

AXES = (-3, -2, -1)
# All ways to mirror a window; the first one leaves it as it is.
FLIPS = tuple(axes for n in range(4) for axes in itertools.combinations(AXES, n))


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a model thinks of a prepared image, on the prepared grid.

    Attributes:
        probabilities: float32 of shape (R, I, J, K).
        disagreement: Standard deviation of the probability over the members of an ensemble and the
            mirrored views, the largest of all channels, shape (1, I, J, K); None where there is
            one member and one view.
    """

    probabilities: Volume
    disagreement: Volume | None


@dataclass(frozen=True, slots=True)
class Predictor:
    """A segmentation network with the settings it was trained for.

    Attributes:
        network: From (B, C, *patch) to logits (B, R, *patch).
        config: Contrasts, regions, preparation, window.
        device: Where the network is.
    """

    network: nn.Module
    config: ModelConfig
    device: torch.device

    def probabilities(self, image: Volume) -> Volume:
        """Probabilities of a prepared image, on the prepared grid.

        Args:
            image: Standardised intensities in the config's contrast order, shape (C, I, J, K).

        Returns:
            float32 of shape (R, I, J, K).
        """
        return self.opinion(image).probabilities

    def opinion(
        self,
        image: Volume,
        *,
        disagreement: bool = False,
        into: Callable[[tuple[int, ...]], Tensor] = torch.empty,
    ) -> Opinion:
        """Probabilities of a prepared image, and how far they are from being unanimous.

        Windows stand around what is not 0 in the image, the brain; what lies in none of them is
        background.

        Args:
            image: As for `probabilities`.
            disagreement: Whether to ask for it.
            into: Makes the array of the result.
        """
        settings = self.config.predict
        window, size = self.config.patch_size_vox, image.shape_vox
        voices = self._voices(disagreement)
        self.network.eval()
        with torch.inference_mode():
            voxels = torch.from_numpy(np.ascontiguousarray(image.voxels, dtype=np.float32))
            inside: NDArray[np.bool_] = np.asarray(image.voxels.any(axis=0))
            blended = slide(
                voices,
                voxels.to(self.device),
                window=window,
                blending=settings.blending,
                batch_size=settings.batch_size,
                starts=plan_windows(size, window, settings.overlap, inside),
                finish=voices.finish,
                into=into,
            ).numpy()
        number = len(blended) - voices.tells_spread
        spread = Volume(blended[number:], image.affine, image.source)
        return Opinion(
            Volume(blended[:number], image.affine, image.source),
            spread if voices.tells_spread else None,
        )

    def segment(self, image: Volume, source_grid: Grid | None = None) -> Volume:
        """Labels of a prepared image.

        Args:
            image: As for `probabilities`.
            source_grid: The grid to return to (`Prepared.source_grid`); None stays on the
                prepared one. Probabilities are carried back, then thresholded, which keeps the
                outline smoother than carrying labels.

        Returns:
            The data set's label values as int16, shape (1, I, J, K).
        """
        return self.paint(self.probabilities(image), source_grid)

    def paint(self, probabilities: Volume, source_grid: Grid | InputGrid | None = None) -> Volume:
        """Labels from probabilities, int16 of shape (1, I, J, K).

        Args:
            probabilities: Shape (R, I, J, K).
            source_grid: As for `segment`, or one of `Prepared.input_grids`; channels are carried
                there one at a time.
        """
        if source_grid is None:
            grid = probabilities.grid
            channels: Channels = probabilities.voxels
        else:
            grid = source_grid.grid if isinstance(source_grid, InputGrid) else source_grid
            channels = Returned(probabilities, source_grid)
        labels = self._labels(channels, grid.voxel_volume_ml)
        return Volume(labels[None], grid.affine.copy(), probabilities.source)

    def _labels(self, channels: Channels, voxel_ml: float) -> NDArray[np.int16]:
        smallest = {name: ml / voxel_ml for name, ml in self.config.smallest_ml.items()}
        if self.config.target == "regions":
            return paint_regions(channels, self.config.regions, smallest)
        labels = paint_classes(channels, list(self.config.labels.values()))
        for name, smallest_vox in smallest.items():
            mask = np.isin(labels, self.config.regions[name].labels)
            labels[mask & ~without_small(mask, smallest_vox)] = 0
        return labels

    def _voices(self, tells_spread: bool) -> Voices:
        flips = FLIPS if self.config.predict.flips else FLIPS[:1]
        return Voices(self.network, flips, self.config.target, self.device, tells_spread)


class Returned(Sequence[NDArray[np.float32]]):
    """Channels of probabilities on a file's own grid, each carried there when it is asked for."""

    def __init__(self, probabilities: Volume, source_grid: Grid | InputGrid) -> None:
        self._probabilities, self._grid = probabilities, source_grid

    def __len__(self) -> int:
        return len(self._probabilities.voxels)

    @overload
    def __getitem__(self, number: int) -> NDArray[np.float32]: ...

    @overload
    def __getitem__(self, number: slice) -> list[NDArray[np.float32]]: ...

    def __getitem__(self, number: int | slice) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        whole = self._probabilities
        one = Volume(whole.voxels[number : number + 1], whole.affine, whole.source)
        carried: NDArray[np.float32] = undo(one, self._grid).voxels[0]
        return carried
