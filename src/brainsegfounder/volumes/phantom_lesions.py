"""Where the lesions of a drawn brain are: exact labels that respect its tissue."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainsegfounder.volumes.phantom_anatomy import (
    Anatomy,
    Map,
    Points,
    Push,
    RandomField,
    Warp,
    axes_of,
    load_template,
    rotation,
)
from brainsegfounder.volumes.volume import Grid

Lesion = Literal["none", "stroke", "tumour"]

STROKE = 1
NECROSIS, OEDEMA, RIM = 1, 2, 4  # the values of the BraTS challenge up to 2022


@dataclass(frozen=True, slots=True)
class LesionPlan:
    """A lesion before it meets the tissue.

    Attributes:
        centre_mm: In template space, shape (3,).
        volume_ml: Of the whole lesion.
        core_ml: Of the tumour's core, rim included; 0 for a stroke.
        stretch: Maps millimetres to those of a sphere of the same volume, shape (3, 3).
    """

    centre_mm: Points
    volume_ml: float
    core_ml: float
    stretch: Points


def plan_lesion(rng: np.random.Generator, lesion: Lesion) -> LesionPlan | None:
    """Choose where a lesion is and how large: strokes of 5-80 mL, tumours of 35-140 mL."""
    if lesion == "none":
        return None
    places_mm = _candidates(lesion)
    centre_mm = places_mm[rng.integers(len(places_mm))] + rng.uniform(-2, 2, size=3)
    if lesion == "stroke":
        volume_ml, core_ml, spread = float(np.exp(rng.uniform(np.log(6), np.log(75)))), 0.0, 0.35
    else:
        volume_ml, spread = float(rng.uniform(42, 140)), 0.16
        core_ml = volume_ml * float(rng.uniform(0.22, 0.45))
    lengths = np.exp(np.clip(rng.normal(0, spread, size=3), -2 * spread, 2 * spread))
    lengths /= np.prod(lengths) ** (1 / 3)
    turn = rotation(rng.uniform(0, np.pi, size=3))
    return LesionPlan(centre_mm, volume_ml, core_ml, turn.T / lengths[:, None])


def mass_effect(warp: Warp, plan: LesionPlan | None) -> Push | None:
    """How a tumour's core makes the tissue around it give way; None for any other lesion."""
    if plan is None or plan.core_ml == 0:
        return None
    return Push(warp.inverse(plan.centre_mm), 0.25, 1.1 * _radius_mm(plan.core_ml))


def draw_labels(
    rng: np.random.Generator, anatomy: Anatomy, plan: LesionPlan, centre_mm: Points
) -> NDArray[np.int16]:
    """Grow a planned lesion into a subject's tissue.

    Args:
        rng: Source of randomness.
        anatomy: The subject.
        plan: From `plan_lesion`.
        centre_mm: The lesion's centre in the subject's space, shape (3,).

    Returns:
        Label values, shape (I, J, K): 1 for a stroke; 1, 2 and 4 for a tumour (necrotic core,
        oedema, enhancing rim). The whole lesion is one connected piece.
    """
    axes_mm = axes_of(anatomy.grid)
    offset_mm = np.stack(np.meshgrid(*axes_mm, indexing="ij")) - centre_mm[:, None, None, None]
    reach_mm = np.linalg.norm(np.tensordot(plan.stretch, offset_mm, axes=1), axis=0)
    rough = 1.0 if plan.core_ml > 0 else 1.6  # an infarct follows vessels, a tumour swells
    wobble = 0.20 * rough * RandomField.draw(rng, 15.0).at(axes_mm)[0]
    wobble += 0.09 * rough * RandomField.draw(rng, 7.0).at(axes_mm)[0]
    reach_mm *= np.exp(np.clip(wobble, -0.6, 0.6))
    reach_mm += 1.5 * _membrane_mm(anatomy, plan)
    if plan.core_ml > 0:
        return _tumour(rng, anatomy, plan, reach_mm)
    tissue = anatomy.brain & (anatomy.csf < 0.5)
    stroke = _nearest(reach_mm * (1 + 0.3 * anatomy.csf), tissue, plan.volume_ml, anatomy.grid)
    return np.where(_main_piece(stroke), STROKE, 0).astype(np.int16)


def _membrane_mm(anatomy: Anatomy, plan: LesionPlan) -> Map:
    """How far beyond the falx or the tentorium a voxel is; lesions of the cerebrum seldom cross."""
    x_mm, y_mm, z_mm = anatomy.template_mm
    beyond_falx_mm = np.clip(-x_mm * np.sign(plan.centre_mm[0]), 0, None)
    below_tentorium_mm = np.clip(-11 - 0.2 * np.abs(x_mm) - z_mm, 0, None) * (y_mm < -38)
    crossed: Map = beyond_falx_mm + 2 * below_tentorium_mm
    return crossed


def _tumour(
    rng: np.random.Generator, anatomy: Anatomy, plan: LesionPlan, reach_mm: Points
) -> NDArray[np.int16]:
    axes_mm = axes_of(anatomy.grid)
    room = anatomy.brain & (anatomy.depth_mm > 4)
    core = _nearest(reach_mm * (1 + 0.7 * anatomy.csf), room, plan.core_ml, anatomy.grid)
    core = ndimage.binary_fill_holes(_main_piece(core))
    spacing_mm = anatomy.grid.spacing_mm
    depth_mm = ndimage.distance_transform_edt(core, spacing_mm) - min(spacing_mm) / 2
    thickness_mm = 3.3 + 0.8 * RandomField.draw(rng, 18.0).at(axes_mm)[0]
    thinnest_mm = max(2.0, min(spacing_mm) / 2)  # one voxel at least, so that the rim has no gaps
    rim = core & (depth_mm <= np.clip(thickness_mm, thinnest_mm, 5))
    # Oedema creeps along white matter and hardly enters the cortex.
    white = ndimage.gaussian_filter(anatomy.white, 1.5 / min(spacing_mm))
    beyond_mm = 3 + np.clip(reach_mm - _radius_mm(plan.core_ml), 0, None)
    creep = beyond_mm / (0.12 + white**2)
    creep *= np.exp(0.35 * RandomField.draw(rng, 24.0).at(axes_mm)[0])
    soft = room & ~core & (anatomy.csf < 0.4)
    oedema = _nearest(creep, soft, plan.volume_ml - plan.core_ml, anatomy.grid)
    whole = _main_piece(core | oedema, core)
    labels = np.where(whole, OEDEMA, 0)
    labels[core] = RIM
    labels[_main_piece(core & ~rim)] = NECROSIS
    return labels.astype(np.int16)


def _nearest(
    cost: NDArray[Any], allowed: NDArray[np.bool_], volume_ml: float, grid: Grid
) -> NDArray[np.bool_]:
    """The allowed voxels of least cost that make up a volume."""
    num = min(max(round(volume_ml / grid.voxel_volume_ml), 1), int(allowed.sum()))
    limit = np.partition(cost[allowed], num - 1)[num - 1]
    chosen: NDArray[np.bool_] = allowed & (cost <= limit)
    return chosen


def _main_piece(
    mask: NDArray[np.bool_], around: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """The largest connected piece, or the one that holds most of another mask."""
    pieces, num = ndimage.label(mask)
    if num < 2:
        return mask
    sizes = np.bincount(pieces[mask if around is None else mask & around])
    largest: NDArray[np.bool_] = pieces == sizes.argmax()
    return largest


def _radius_mm(volume_ml: float) -> float:
    return float(10 * (3 * volume_ml / (4 * np.pi)) ** (1 / 3))


@cache
def _candidates(lesion: Lesion) -> Points:
    """Template millimetres where a lesion may be centred, shape (N, 3)."""
    template = load_template(3.0)
    _, grey, white, _, depth_mm = template.maps
    places_vox = np.indices(white.shape).astype(float)
    to_mm = template.grid.affine
    places_mm = np.tensordot(to_mm[:3, :3], places_vox, axes=1) + to_mm[:3, 3, None, None, None]
    x_mm, _, z_mm = places_mm
    cerebrum = (z_mm > -12) & (np.abs(x_mm) > 14)
    if lesion == "tumour":
        allowed = cerebrum & (white > 160) & (depth_mm > 20) & (np.abs(x_mm) > 18)
    else:
        allowed = cerebrum & (grey + white.astype(int) > 220) & (depth_mm > 5)
    return places_mm[:, allowed].T
