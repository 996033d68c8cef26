"""What a drawn brain looks like under each contrast: brightness, bias field and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainsegfounder.volumes.phantom_anatomy import Anatomy, Map, RandomField, axes_of
from brainsegfounder.volumes.phantom_lesions import NECROSIS, OEDEMA, RIM, STROKE, Lesion


@dataclass(frozen=True, slots=True)
class Appearance:
    """How bright each tissue is under one contrast, with healthy white matter at 1.

    Attributes:
        csf: Cerebrospinal fluid.
        grey: Grey matter.
        texture: How strongly, and with which sign, the template's T1w texture shows.
        stroke: A chronic infarct.
        necrosis: A tumour's core.
        oedema: The swelling around a tumour.
        rim: A tumour's enhancing rim.
        scarring: White matter beside the ventricles that age has changed; not a lesion to find.
    """

    csf: float
    grey: float
    texture: float
    stroke: float
    necrosis: float
    oedema: float
    rim: float
    scarring: float


APPEARANCES = {
    "T1w": Appearance(0.26, 0.72, 1.0, 0.42, 0.42, 0.67, 0.64, 0.85),
    "T1ce": Appearance(0.27, 0.74, 1.0, 0.44, 0.44, 0.72, 1.60, 0.85),
    "T2w": Appearance(2.40, 1.35, -0.6, 2.00, 2.10, 1.95, 1.55, 1.30),
    "FLAIR": Appearance(0.30, 1.16, -0.4, 1.65, 0.80, 1.90, 1.50, 1.40),
}


def draw_contrast(
    rng: np.random.Generator,
    anatomy: Anatomy,
    labels: NDArray[np.int16] | None,
    lesion: Lesion,
    look: Appearance,
) -> Map:
    """What a scanner would make of a subject under one contrast.

    Args:
        rng: Source of randomness.
        anatomy: The subject.
        labels: From `draw_labels`, shape (I, J, K), or None without a lesion.
        lesion: What the labels stand for.
        look: One of `APPEARANCES`.

    Returns:
        Whole numbers, shape (I, J, K): at least 1 inside the brain, 0 outside.
    """
    axes_mm = axes_of(anatomy.grid)

    def jitter(spread: float) -> float:
        return float(np.exp(np.clip(rng.normal(0, spread), -2 * spread, 2 * spread)))

    aged = anatomy.scarring
    tissue = (
        anatomy.csf * look.csf * jitter(0.08)
        + anatomy.grey * look.grey * jitter(0.03)
        + anatomy.white
        + anatomy.texture * look.texture
    )
    tissue = tissue * (1 - aged) + look.scarring * aged
    bias = np.exp(0.10 * jitter(0.3) * RandomField.draw(rng, 70.0).at(axes_mm)[0])
    scale = np.exp(rng.uniform(np.log(200), np.log(1200)))
    noise = rng.uniform(0.025, 0.055) * rng.standard_normal((2, *tissue.shape))
    # Last, so that the rest of the picture is the same with and without a lesion.
    signal = tissue if labels is None else _with_lesion(rng, tissue, labels, anatomy, lesion, look)
    magnitude = np.hypot(np.clip(signal, 0.05, None) * bias + noise[0], noise[1])
    # Scanners store whole numbers; they also compress far better.
    stored = np.maximum(np.rint(magnitude * scale), 1) * anatomy.brain
    picture: Map = stored.astype(np.float32)
    return picture


def _with_lesion(
    rng: np.random.Generator,
    tissue: Map,
    labels: NDArray[np.int16],
    anatomy: Anatomy,
    lesion: Lesion,
    look: Appearance,
) -> Map:
    """Blend a lesion into the tissue; its soft border is at half strength where the label ends."""
    regions = {
        "stroke": ((STROKE, look.stroke, 0.92, 1.2, 0.10),),
        "tumour": (
            (NECROSIS, look.necrosis, 0.95, 1.0, 0.08),
            (OEDEMA, look.oedema, 0.80, 1.5, 0.08),
            (RIM, look.rim, 0.95, 0.8, 0.12),
        ),
    }[lesion]
    mottle = RandomField.draw(rng, 10.0).at(axes_of(anatomy.grid))[0]
    signal = tissue.copy()
    for value, brightness, opacity, blur_mm, patchy in regions:
        region = (labels == value).astype(np.float32)
        share = opacity * ndimage.gaussian_filter(region, blur_mm / anatomy.grid.spacing_mm[0])
        own = brightness * np.exp(np.clip(rng.normal(0, 0.06), -0.12, 0.12) + patchy * mottle)
        signal += share * (own - tissue)
    return signal
