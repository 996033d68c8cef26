"""Where the brain is, in tiers: a given mask, a stripped scan, deepbet for T1w, the foreground.

Which tier a case took is recorded, since intensities are standardised inside this mask: a study
in which some heads kept their skulls is a study with two scales.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainsegfounder.errors import Problem, VolumeError
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.intensity import STRIPPED_ZERO_FRACTION, foreground
from brainsegfounder.volumes.volume import Volume

Method = Literal["foreground", "given", "stripped", "deepbet"]

DEEPBET_TIMEOUT_S = 600.0
# What can be a brain; the largest and smallest on record are about 2000 and 300 mL.
BRAIN_ML = (200.0, 2600.0)
# is_stripped: where a skull would be, as a share of the greatest depth, and how dark it may be.
DECIMATED_MM = 3.0
SKULL_DEPTH = (0.12, 0.25)
DARK_LEVEL = 0.1
# A real head has 0.27; 149 stripped scans of all contrasts have 0.07 at most.
MAX_DARK_FRACTION = 0.13


@dataclass(frozen=True, slots=True)
class Brain:
    """A brain mask and how it was found.

    Attributes:
        mask: Shape (I, J, K).
        method: The tier that was taken.
        findings: A warning where that is not what was hoped for.
    """

    mask: NDArray[np.bool_]
    method: Method
    findings: tuple[Finding, ...] = ()


def find_brain(
    image: Volume,
    contrasts: Sequence[str],
    setting: Literal["foreground", "auto", "deepbet"],
    given: NDArray[np.bool_] | None = None,
) -> Brain:
    """Find the brain as `PreparationSettings.brain` says.

    Args:
        image: All contrasts in RAS order, shape (C, I, J, K).
        contrasts: Their names; empty where they are not known.
        setting: foreground: what is not background; auto: the first tier that works; deepbet: as
            auto, but refuse where only the foreground is left.
        given: A mask that came with the case, on the image's grid.

    Raises:
        VolumeError: The given mask is empty, or no tier is left (`deepbet`).
    """
    if setting == "foreground":
        return Brain(foreground(image.voxels, image.source), "foreground")
    if given is not None:
        return Brain(_checked(given, image), "given")
    if is_stripped(image):
        return Brain(foreground(image.voxels, image.source), "stripped")
    found = _try_deepbet(image, contrasts)
    if not isinstance(found, str):
        return Brain(found, "deepbet")
    if setting == "deepbet":
        raise VolumeError(
            Problem(
                "brain_not_found", image.source, f"the brain was not found: {found}",
                "a brain mask, a skull-stripped scan, or a T1w for deepbet",
                "Give a mask, or set preparation.brain to auto or foreground.",
            )
        )  # fmt: skip
    message = f"the skull is not removed ({found}); the whole foreground counts as brain."
    warning = Finding("brain_is_foreground", image.source, message, "warning")
    return Brain(foreground(image.voxels, image.source), "foreground", (warning,))


def is_stripped(volume: Volume) -> bool:
    """Whether the skull was removed: zeros around a brain-sized thing without a dark shell.

    Zeros alone do not tell: defaced scans, and those of some scanners, have them around a whole
    head. But a head is larger than a brain, and an eighth to a quarter of the way in it has a
    skull, dark in every contrast, where a brain has cortex and white matter.

    Args:
        volume: One or more contrasts, shape (C, I, J, K); the first one is looked at for bone.

    Returns:
        False also where nothing can be told.
    """
    steps = [max(1, round(DECIMATED_MM / mm)) for mm in volume.spacing_mm]
    voxels = volume.voxels[:, :: steps[0], :: steps[1], :: steps[2]]
    tissue = (voxels != 0).any(axis=0)
    if not tissue.any() or tissue.mean() > 1 - STRIPPED_ZERO_FRACTION:
        return False
    whole = np.pad(_largest_filled(tissue), 1)
    spacing_mm = np.asarray(volume.spacing_mm) * steps
    if whole.sum() * spacing_mm.prod() / 1000 > BRAIN_ML[1]:
        return False
    depth = ndimage.distance_transform_edt(whole, sampling=spacing_mm)
    shell = (depth > SKULL_DEPTH[0] * depth.max()) & (depth <= SKULL_DEPTH[1] * depth.max())
    intensities = np.pad(voxels[0], 1)
    low, high = np.percentile(intensities[whole], (1, 90))
    dark = intensities[shell] <= low + DARK_LEVEL * (high - low)
    return bool(dark.size and dark.mean() < MAX_DARK_FRACTION)


def deepbet_mask(
    t1w: NDArray[np.float32], timeout_s: float = DEEPBET_TIMEOUT_S
) -> NDArray[np.bool_] | str:
    """The brain in a T1w scan by deepbet, in a child process; a text says why there is none.

    Args:
        t1w: Intensities in RAS order, shape (I, J, K).
        timeout_s: How long the child may take.
    """
    if importlib.util.find_spec("deepbet") is None:
        return 'deepbet is not installed: pip install "brainsegfounder[strip]"'
    with tempfile.TemporaryDirectory(prefix="brainsegfounder-") as folder:
        source, target = Path(folder) / "t1w.npy", Path(folder) / "mask.npy"
        np.save(source, t1w, allow_pickle=False)
        # -P: what lies in the working folder is not imported.
        child = "brainsegfounder.volumes.deepbet_child"
        command = [sys.executable, "-P", "-m", child, str(source), str(target)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired:
            return f"deepbet took longer than {timeout_s:.0f} s"
        if done.returncode != 0 or not target.is_file():
            return f"deepbet failed (exit code {done.returncode})"
        mask: NDArray[np.bool_] = np.load(target, allow_pickle=False) > 0
    return mask if mask.shape == t1w.shape else "deepbet gave a mask of another shape"


def _try_deepbet(image: Volume, contrasts: Sequence[str]) -> NDArray[np.bool_] | str:
    if "T1w" not in contrasts:
        return "there is no T1w"
    found = deepbet_mask(image.voxels[list(contrasts).index("T1w")])
    if isinstance(found, str):
        return found
    volume_ml = float(found.sum()) * image.grid.voxel_volume_ml
    if not BRAIN_ML[0] <= volume_ml <= BRAIN_ML[1]:
        return f"deepbet found {volume_ml:.0f} mL, which is no brain"
    return found


def _checked(given: NDArray[np.bool_], image: Volume) -> NDArray[np.bool_]:
    if given.any():
        return given
    raise VolumeError(
        Problem(
            "empty_brain_mask", image.source, "the brain mask that was given is empty there",
            "a mask of the brain", "Correct the mask, or leave it out.",
        )
    )  # fmt: skip


def _largest_filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    components, _ = ndimage.label(mask)
    largest = int(np.bincount(components.ravel())[1:].argmax()) + 1
    return np.asarray(ndimage.binary_fill_holes(components == largest))
