"""Where the tissues of a drawn brain are: a template, warped anew for each subject.

The anatomy is the ICBM 2009a symmetric template (Fonov et al., NeuroImage 2011), which ships with
its grey- and white-matter maps inside nilearn. A subject is that template seen through a random
affine map, a smooth random displacement and, with a tumour, a push away from its core. Random
fields are cubic splines with knots in millimetres, so a subject is the same at any spacing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from brainsegfounder.errors import VolumeError
from brainsegfounder.volumes.nifti import read_nifti
from brainsegfounder.volumes.volume import Grid, Triple, Volume

Map = NDArray[np.float32]
Points = NDArray[np.float64]

# The template's own brain is about a fifth larger than a typical head (1886 mL).
MEAN_SCALE = 0.92
CENTRE_MM = np.array([0.0, -17.0, 5.0])
FIELD_OF_VIEW_MM = np.array([168.0, 204.0, 180.0])
VENTRICLES_MM = np.array([0.0, -14.0, 14.0])
# The part of the template's files that holds the brain; even lengths, for blocks of two.
CUT_VOX = ((24, 172), (25, 209), (0, 156))
CORNER_MM = np.array([-74.0, -109.0, -72.0])


@dataclass(frozen=True, slots=True)
class Template:
    """Tissue maps on one grid, blurred for the spacing they will be sampled at.

    Attributes:
        maps: Uint8, shape (5, I, J, K): brain, grey and white matter (255 = all of it), texture
            (128 = as the tissue predicts), and depth below the brain's surface in mm.
        grid: Where the maps are, in template space.
    """

    maps: NDArray[np.uint8]
    grid: Grid


@dataclass(frozen=True, slots=True)
class Anatomy:
    """One subject's tissues on the subject's grid; a map has shape (I, J, K).

    Attributes:
        brain: True inside the brain.
        csf: Fraction of the voxel that is cerebrospinal fluid, 0 to 1; `grey` and `white` likewise.
        grey: Grey matter.
        white: White matter.
        texture: How much brighter the T1w template is than its tissues predict, about -0.3 to 0.3.
        depth_mm: Distance to the brain's surface.
        template_mm: Where each voxel is in the template, shape (3, I, J, K).
        scarring: Fraction that is white matter changed by age, beside the ventricles.
        grid: Where the voxels are.
    """

    brain: NDArray[np.bool_]
    csf: Map
    grey: Map
    white: Map
    texture: Map
    depth_mm: Map
    template_mm: Map
    scarring: Map
    grid: Grid


@dataclass(frozen=True, slots=True)
class Push:
    """Tissue that gives way around a place.

    Attributes:
        centre_mm: In the subject's space, shape (3,).
        strength: 0 leaves tissue where it is, 0.5 is much; below 0 draws it in.
        width_mm: Standard deviation of the effect.
    """

    centre_mm: Points
    strength: float
    width_mm: float


@dataclass(frozen=True, slots=True)
class RandomField:
    """A smooth random function of place: cubic B-splines with normal weights, unit variance.

    Attributes:
        weights: One row of knots per component, shape (components, X, Y, Z).
        knot_mm: Distance between knots.
        origin_mm: Where the first knot is, shape (3,).
    """

    weights: Points
    knot_mm: float
    origin_mm: Points

    @classmethod
    def draw(cls, rng: np.random.Generator, knot_mm: float, components: int = 1) -> RandomField:
        """Draw a field that covers the field of view and a margin of three knots."""
        half_mm = FIELD_OF_VIEW_MM / 2 + 3 * knot_mm
        num_knots = np.ceil(2 * half_mm / knot_mm).astype(int) + 1
        weights = rng.standard_normal((components, *num_knots))
        # The squares of the cubic B-splines that meet at a point add up to 151/315 on average.
        return cls(weights * (315 / 151) ** 1.5, knot_mm, CENTRE_MM - half_mm)

    def at(self, axes_mm: Sequence[Points]) -> Points:
        """The field on a grid with these axes, shape (components, I, J, K)."""
        x, y, z = (
            _bspline((axis[:, None] - start) / self.knot_mm - np.arange(n))
            for axis, start, n in zip(axes_mm, self.origin_mm, self.weights.shape[1:], strict=True)
        )
        values: Points = np.einsum("ia,jb,kc,nabc->nijk", x, y, z, self.weights, optimize=True)
        return values


def _bspline(t: Points) -> Points:
    """The cubic B-spline: 2/3 at 0, nothing beyond 2."""
    t = np.abs(t)
    near = 2 / 3 - t**2 + t**3 / 2
    far = np.clip(2 - t, 0, None) ** 3 / 6
    return np.where(t < 1, near, far)


@dataclass(frozen=True, slots=True)
class Warp:
    """Maps a subject's millimetres to the template's; smooth and without folds.

    Attributes:
        linear: Rotation and scaling, shape (3, 3).
        shift_mm: Where the subject's head is off the centre, shape (3,).
        fields: Random displacements, each with its amplitude in mm.
        ventricles: How far the ventricles are widened (negative: narrowed).
        atrophy: How far the furrows are widened, 0 to 1.
        scarring: How far white matter beside the ventricles has changed, 0 to 1.
    """

    linear: Points
    shift_mm: Points
    fields: tuple[tuple[float, RandomField], ...]
    ventricles: float
    atrophy: float
    scarring: float

    @classmethod
    def draw(cls, rng: np.random.Generator, *, larger: float, older: float) -> Warp:
        """Draw a head: ±8 % in size, ±8° in each rotation, about 2.5 mm in displacement.

        Args:
            rng: Source of randomness.
            larger: -1 to 1, adds up to 2 % to the size.
            older: 0 to 1, widens the ventricles and the furrows of the cortex.
        """
        size = MEAN_SCALE * (1 + rng.uniform(-0.04, 0.04) + 0.02 * larger)
        scale = size * (1 + rng.uniform(-0.02, 0.02, size=3))
        turns = np.deg2rad(np.clip(rng.normal(0, 3.5, size=3), -8, 8))
        shift_mm = rng.uniform(-4, 4, size=3)
        fields = (
            (2.4, RandomField.draw(rng, 38.0, 3)),
            (1.3, RandomField.draw(rng, 16.0, 3)),
        )
        ventricles = -0.10 + 0.38 * older + rng.uniform(-0.07, 0.07)
        atrophy = older * rng.uniform(0.4, 1.0)
        scarring = older**2 * rng.uniform(0.2, 1.0)
        return cls(rotation(turns) / scale, shift_mm, fields, ventricles, atrophy, scarring)

    def __call__(self, axes_mm: Sequence[Points], push: Push | None = None) -> Points:
        """Template millimetres of a grid of subject millimetres, shape (3, I, J, K).

        Args:
            axes_mm: The grid's coordinates along each axis.
            push: Where tissue gives way, if it does.
        """
        places_mm = np.stack(np.meshgrid(*axes_mm, indexing="ij"))
        moved_mm = _pushed(places_mm, Push(VENTRICLES_MM + self.shift_mm, self.ventricles, 22.0))
        if push is not None:
            moved_mm = _pushed(moved_mm, push)
        centred_mm = moved_mm - (CENTRE_MM + self.shift_mm)[:, None, None, None]
        mapped_mm: Points = np.tensordot(self.linear, centred_mm, axes=1)
        mapped_mm += CENTRE_MM[:, None, None, None]
        for amplitude_mm, field in self.fields:
            mapped_mm += amplitude_mm * field.at(axes_mm)
        return mapped_mm

    def inverse(self, place_mm: Points) -> Points:
        """The subject's millimetres of one place in the template, by fixed-point iteration."""
        guess_mm = place_mm.copy()
        for _ in range(12):
            reached_mm = self([guess_mm[[0]], guess_mm[[1]], guess_mm[[2]]])[:, 0, 0, 0]
            guess_mm = guess_mm + 0.8 * np.linalg.solve(self.linear, place_mm - reached_mm)
        return guess_mm


def _pushed(places_mm: Points, push: Push) -> Points:
    """Look closer to the centre, so that what is there appears wider."""
    offset_mm = places_mm - push.centre_mm[:, None, None, None]
    fade = np.exp(-(offset_mm**2).sum(axis=0) / (2 * push.width_mm**2))
    moved_mm: Points = places_mm - push.strength * fade * offset_mm
    return moved_mm


def rotation(turns_rad: Points) -> Points:
    """The matrix, shape (3, 3), that turns about K, then J, then I."""
    (ci, cj, ck), (si, sj, sk) = np.cos(turns_rad), np.sin(turns_rad)
    about_i = np.array([[1, 0, 0], [0, ci, -si], [0, si, ci]])
    about_j = np.array([[cj, 0, sj], [0, 1, 0], [-sj, 0, cj]])
    about_k = np.array([[ck, -sk, 0], [sk, ck, 0], [0, 0, 1]])
    turned: Points = about_i @ about_j @ about_k
    return turned


def subject_grid(spacing_mm: float) -> Grid:
    """The grid every subject is drawn on: RAS axes, the same field of view at any spacing."""
    num = np.round(FIELD_OF_VIEW_MM / spacing_mm).astype(int)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = CENTRE_MM - spacing_mm * (num - 1) / 2
    shape_vox: Triple = (int(num[0]), int(num[1]), int(num[2]))
    return Grid(shape_vox, affine)


def axes_of(grid: Grid) -> list[Points]:
    """The coordinates in mm along each axis of a grid that is not rotated."""
    steps, starts = np.diag(grid.affine), grid.affine[:3, 3]
    return [starts[a] + steps[a] * np.arange(n) for a, n in enumerate(grid.shape_vox)]


def draw_anatomy(warp: Warp, spacing_mm: float, push: Push | None = None) -> Anatomy:
    """See the template through a warp.

    Args:
        warp: The subject's.
        spacing_mm: Distance between voxels along every axis.
        push: Where tissue gives way, if it does.

    Returns:
        Tissue maps on `subject_grid(spacing_mm)`.

    Raises:
        VolumeError: nilearn, which carries the template, is not installed.
    """
    grid, template = subject_grid(spacing_mm), load_template(spacing_mm)
    places_mm = warp(axes_of(grid), push)
    to_vox = np.linalg.inv(template.grid.affine)
    places_vox = np.tensordot(to_vox[:3, :3], places_mm, axes=1) + to_vox[:3, 3, None, None, None]
    brain, grey, white, texture, depth = (
        ndimage.map_coordinates(m, places_vox, output=np.float32, order=1) for m in template.maps
    )
    inside = brain > 127.5
    grey, white = grey / np.maximum(brain, 1), white / np.maximum(brain, 1)
    tissue = np.clip(grey + white, 1e-6, None)
    kept = np.minimum(tissue, 1) ** (1 + warp.atrophy) / tissue * inside
    csf = (1 - np.minimum(tissue, 1) ** (1 + warp.atrophy)) * inside
    deep_csf = np.where((depth > 22) & (places_mm[2] > -5), csf, 0)
    near = ndimage.gaussian_filter(deep_csf, 4.5 / spacing_mm) * white * kept
    return Anatomy(
        brain=inside,
        csf=csf,
        grey=grey * kept,
        white=white * kept,
        texture=(texture - 128) / 255 * inside,
        depth_mm=depth * inside,
        template_mm=places_mm.astype(np.float32),
        scarring=np.clip(4 * warp.scarring * near, 0, 0.9),
        grid=grid,
    )


# --- the template


@cache
def load_template(spacing_mm: float) -> Template:
    """The template's maps, blurred for sampling at a spacing; made once in a process.

    Raises:
        VolumeError: nilearn, which carries the template, is not installed.
    """
    step_vox = 2 if spacing_mm >= 2.5 else 1
    t1w, grey, white, mask = (_block_mean(m, step_vox) for m in fine_maps())
    total = np.maximum(grey + white, 255)
    grey, white = grey * 255 / total, white * 255 / total
    # The template's own brightness: 172 in grey matter, 216 in white, 100 in fluid.
    expected = 100 + (72 * grey + 116 * white) / 255
    texture = np.where(mask > 0.5, t1w / np.maximum(mask, 0.5) - expected, 0) + 128
    maps = [mask * 255, grey, white, texture]
    for m in maps:
        ndimage.gaussian_filter(m, 0.35 * spacing_mm / step_vox, output=m, truncate=3.0)
    maps.append(_depth_mm(mask, step_vox))
    packed = np.clip(np.rint(np.stack(maps)), 0, 255).astype(np.uint8)
    affine = np.diag([step_vox, step_vox, step_vox, 1.0])
    affine[:3, 3] = CORNER_MM + (step_vox - 1) / 2
    return Template(packed, Grid((packed.shape[1], packed.shape[2], packed.shape[3]), affine))


def _depth_mm(mask: Map, step_vox: int) -> Map:
    """Distance below the surface, found at 2 mm, which is four times as fast and near enough."""
    coarse = _block_mean(mask, 2 // step_vox) > 0.5
    depth_mm = 2 * ndimage.distance_transform_edt(coarse).astype(np.float32)
    block = np.ones((2 // step_vox,) * 3, dtype=np.float32)
    spread: Map = np.kron(depth_mm, block)
    return spread


@cache
def fine_maps() -> tuple[Map, Map, Map, Map]:
    """The T1w template, grey and white matter (0 to 255) and mask at 1 mm, cut to the brain."""
    cut = tuple(slice(a, b) for a, b in CUT_VOX)
    t1w, grey, white = (_read_map(name).voxels[0][cut] for name in ("t1", "gm", "wm"))
    mask = (t1w > 0).astype(np.float32)
    return t1w, grey * mask, white * mask, mask


def _read_map(name: str) -> Volume:
    return read_nifti(_data_folder() / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")


def _data_folder() -> Path:
    # Found without importing nilearn, which would take seconds and pull in scikit-learn.
    spec = importlib.util.find_spec("nilearn")
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "datasets" / "data"
        if folder.is_dir():
            return folder
    raise VolumeError(
        "nilearn: not installed; expected its copy of the MNI152 template, from which phantoms "
        "are drawn. Install it: pip install 'nilearn>=0.12'."
    )


def _block_mean(voxels: Map, step_vox: int) -> Map:
    if step_vox == 1:
        return voxels
    i, j, k = (n // step_vox for n in voxels.shape)
    cut = voxels[: i * step_vox, : j * step_vox, : k * step_vox]
    blocks = cut.reshape(i, step_vox, j, step_vox, k, step_vox)
    mean: Map = blocks.mean(axis=(1, 3, 5), dtype=np.float32)
    return mean
