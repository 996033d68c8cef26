"""N4 correction of the intensity bias (Tustison et al., IEEE TMI 2010), with SimpleITK.

The field is found on a grid four times coarser, inside the brain, and taken out of every voxel.
One thread, so the same scan gives the same numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.volumes.findings import Finding

# Spacing on which the field is found: it varies over centimetres.
WORK_MM = 4.0
LEVELS = 4
ITERATIONS = 50
# A bias is a factor: with more of the brain below 0 a scan has been standardised before.
MAX_NEGATIVE = 0.05
# A brain of which less than this is positive is hardly in the contrast at all.
MIN_POSITIVE = 0.5


def correct_bias(
    channels: NDArray[np.float32],
    brain: NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
    case: str,
) -> tuple[NDArray[np.float32], tuple[Finding, ...]]:
    """Divide each contrast by its smooth bias field; inside the brain its mean stays.

    Args:
        channels: Intensities, shape (C, I, J, K).
        brain: Where the field is found, shape (I, J, K).
        spacing_mm: Of the voxels.
        case: For findings.

    Returns:
        Corrected intensities, and a warning for each contrast left as it was because more than a
        twentieth of its brain is below 0, or less than half of it above.
    """
    result, findings = channels.copy(), []
    for number, channel in enumerate(channels):
        positive = brain & (channel > 0)
        below, above = (int(mask.sum()) for mask in (brain & (channel < 0), positive))
        size = max(int(brain.sum()), 1)
        if below > MAX_NEGATIVE * size or above < MIN_POSITIVE * size:
            message = (
                f"contrast {number + 1} is below 0 in {below / size:.0%} of the brain and above in "
                f"{above / size:.0%}; left without N4."
            )
            findings.append(Finding("bias_left", case, message, "warning"))
            continue
        corrected = channel / _field(channel, positive, spacing_mm)
        result[number] = corrected * (channel[brain].mean() / corrected[brain].mean())
    return result, tuple(findings)


def _field(
    channel: NDArray[np.float32], mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> NDArray[np.float32]:
    import SimpleITK

    image = _itk(channel, spacing_mm)
    steps = [max(1, round(WORK_MM / mm)) for mm in spacing_mm]
    method = SimpleITK.N4BiasFieldCorrectionImageFilter()
    # One unit of work, not only one thread: sums are then taken in one order.
    method.SetNumberOfThreads(1)
    method.SetNumberOfWorkUnits(1)
    method.SetMaximumNumberOfIterations([ITERATIONS] * LEVELS)
    method.Execute(
        SimpleITK.Shrink(image, steps),
        SimpleITK.Shrink(_itk(mask.astype(np.uint8), spacing_mm), steps),
    )
    log_field = SimpleITK.GetArrayFromImage(method.GetLogBiasFieldAsImage(image)).T
    return np.asarray(np.exp(log_field), dtype=np.float32)


def _itk(voxels: NDArray[Any], spacing_mm: tuple[float, float, float]) -> Any:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.T))
    image.SetSpacing(spacing_mm)
    return image
