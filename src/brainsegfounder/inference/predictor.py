"""The predictor that ships: validation during training and `predict` both run it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from brainsegfounder.inference.model_config import ModelConfig
from brainsegfounder.inference.postprocess import paint_classes, paint_regions
from brainsegfounder.inference.sliding_window import slide
from brainsegfounder.volumes.preparation import undo
from brainsegfounder.volumes.volume import Grid, Volume


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
        self.network.eval()
        with torch.inference_mode():
            voxels = torch.from_numpy(np.ascontiguousarray(image.voxels, dtype=np.float32))
            logits = slide(
                self._logits,
                voxels.to(self.device),
                window=self.config.patch_size_vox,
                overlap=self.config.predict.overlap,
                blending=self.config.predict.blending,
                batch_size=self.config.predict.batch_size,
            )
            is_regions = self.config.target == "regions"
            values = logits.sigmoid() if is_regions else logits.softmax(dim=0)
        return Volume(values.cpu().numpy(), image.affine, image.source)

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
        probabilities = self.probabilities(image)
        if source_grid is not None:
            probabilities = undo(probabilities, source_grid)
        return self.paint(probabilities)

    def paint(self, probabilities: Volume) -> Volume:
        """Labels from probabilities, on their grid; int16 of shape (1, I, J, K)."""
        if self.config.target == "regions":
            labels = paint_regions(probabilities.voxels, self.config.regions)
        else:
            values = list(self.config.labels.values())
            labels = paint_classes(probabilities.voxels, values)
        return Volume(labels[None], probabilities.affine, probabilities.source)

    def _logits(self, windows: Tensor) -> Tensor:
        wanted = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=wanted):
            logits: Tensor = self.network(windows)
        return logits
