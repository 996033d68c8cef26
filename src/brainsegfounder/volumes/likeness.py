"""How alike two scans look: one brain or two, whatever was done to the files.

Compared is what is between edges and noise: the brain's texture of about 6 to 25 mm, with its local
contrast made even, so that a bias field, noise, another scale of intensities, resampling, a crop or
a missing skull change little. Correlation is over what both scans show.

Every scan is first turned upright, by rigid registration to a template. Then, from cheap to sure:
`rough_likeness` of all pairs (6 mm, every shift at once), of promising ones (4 mm, within what
both show), and `aligned_likeness` of the few that are left (4 mm, registered to each other).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from brainsegfounder.errors import VolumeError
from brainsegfounder.volumes.geometry import resample_to, spaced_grid, to_ras
from brainsegfounder.volumes.intensity import foreground
from brainsegfounder.volumes.registration import register
from brainsegfounder.volumes.template import template
from brainsegfounder.volumes.volume import Affine, Grid, Volume

FINE_MM, FINE_VOX = 4.0, 48
ROUGH_MM, ROUGH_VOX = 6.0, 32
# Above the highest voxel of the head.
AIR_MM = 12.0
# Standard deviations of the two blurs whose difference is the texture, and of its evening out.
TEXTURE_MM = (2.0, 10.0)
EVEN_MM = 20.0
# Of the smaller scan's inside, how much must lie in the other's for a likeness to mean anything.
MIN_SHARED = 0.5
# Room for shifts: spectra are of this many voxels along each axis.
PADDED_VOX = 64

Cube = NDArray[np.float32]
Spectra = NDArray[np.complex64]


@dataclass(frozen=True, slots=True)
class Look:
    """One contrast of a scan, made small for comparing.

    Attributes:
        upright: From the file's millimetres to the template's, rigid, shape (4, 4).
        small: The scan on a grid of 4 mm around the head's upper part, shape (1, 48, 48, 48).
        texture: What is compared there, about unit variance, 0 outside; shape (48, 48, 48).
        inside: Where the texture counts: the head or brain without its rim.
        rough: Texture on 6 mm, mean 0 and norm 1 inside, 0 outside; shape (32, 32, 32).
    """

    upright: Affine
    small: Volume
    texture: Cube
    inside: NDArray[np.bool_]
    rough: Cube


def look_at(volume: Volume) -> Look:
    """Make a scan small for comparing.

    Args:
        volume: One contrast, shape (1, I, J, K), any axes.

    Raises:
        VolumeError: Every voxel has the same value.
    """
    volume = _not_negative(volume)
    upright = _upright(volume)
    volume = replace(volume, affine=upright @ volume.affine)
    fine = resample_to(volume, _upper_head(volume, FINE_MM, FINE_VOX))
    texture, inside = _texture(fine)
    coarse = resample_to(volume, _upper_head(volume, ROUGH_MM, ROUGH_VOX))
    rough, rough_inside = _texture(coarse)
    rough = np.where(rough_inside, rough - rough[rough_inside].mean(), 0).astype(np.float32)
    norm = float(np.linalg.norm(rough))
    return Look(upright, fine, texture, inside, rough / np.float32(norm or 1.0))


def rough_spectra(looks: list[Look]) -> Spectra:
    """Spectra for `rough_likeness`, shape (N, 32, 32, 17)."""
    spectra: Spectra = fft.rfftn(np.stack([look.rough for look in looks]), axes=(1, 2, 3))
    return spectra


def rough_likeness(one: Spectra, others: Spectra) -> NDArray[np.float32]:
    """Highest correlation over all shifts of one scan with each of several, shape (N,)."""
    size = (ROUGH_VOX,) * 3
    products = fft.irfftn(one[None].conj() * others, s=size, axes=(1, 2, 3))
    highest: NDArray[np.float32] = products.reshape(len(others), -1).max(axis=1)
    return highest


def shifted_likeness(one: Look, other: Look) -> float:
    """Highest correlation over shifts, each within what both scans show there; -1 to 1.

    Masked correlation by Fourier transforms (Padfield 2012, IEEE TIP 21:2706).
    """
    a, b = _spectra_of(one), _spectra_of(other)

    def together(first: int, second: int) -> NDArray[np.float64]:
        size = (PADDED_VOX,) * 3
        joined: NDArray[np.float64] = fft.irfftn(a[first].conj() * b[second], s=size)
        return joined

    shared = together(0, 0)
    enough = shared >= MIN_SHARED * min(one.inside.sum(), other.inside.sum())
    shared = np.maximum(shared, 1.0)
    sum_a, sum_b = together(1, 0), together(0, 1)
    covariance = together(1, 1) - sum_a * sum_b / shared
    variance_a = together(2, 0) - sum_a**2 / shared
    variance_b = together(0, 2) - sum_b**2 / shared
    product = np.maximum(variance_a, 1e-6) * np.maximum(variance_b, 1e-6)
    likeness = np.where(enough, covariance / np.sqrt(product), -1.0)
    return float(likeness.max())


def aligned_likeness(one: Look, other: Look) -> float:
    """Correlation after rigid registration, within what both scans show; -1 to 1.

    Raises:
        VolumeError: The scans cannot be registered.
    """
    found = register(one.small, other.small, "rigid")
    moved = Volume(other.small.voxels, found.matrix @ other.small.affine)
    texture, inside = _texture(resample_to(moved, one.small.grid))
    both = one.inside & inside
    if both.sum() < MIN_SHARED * min(one.inside.sum(), inside.sum()):
        return -1.0
    return float(np.corrcoef(one.texture[both], texture[both])[0, 1])


def pictured(volume: Volume, look: Look, spacing_mm: float = 1.5) -> Volume:
    """The scan as its look has it, on a finer grid: upright, for pictures beside others."""
    upright = replace(_not_negative(volume), affine=look.upright @ volume.affine)
    grid = spaced_grid(look.small.grid, (spacing_mm, spacing_mm, spacing_mm))
    return resample_to(upright, grid)


def _not_negative(volume: Volume) -> Volume:
    """Intensities from 0 on; those of a prepared brain, around 0, are raised inside it."""
    voxels = volume.voxels[:1].astype(np.float32)
    if voxels.min() >= 0:
        return replace(volume, voxels=voxels)
    brain = voxels != 0
    if brain.mean() < 0.9:
        lowest = float(np.percentile(voxels[brain], 0.1))
        voxels = np.where(brain, voxels - lowest, 0).astype(np.float32)
    return replace(volume, voxels=np.maximum(voxels, 0))


def _upright(volume: Volume) -> Affine:
    """How to turn and shift a scan onto the template; not at all where that fails."""
    small = resample_to(volume, _upper_head(volume, FINE_MM, FINE_VOX))
    try:
        found = register(_small_template(), small, "rigid")
    except VolumeError:
        return np.eye(4)
    return found.matrix if found.is_trusted else np.eye(4)


@cache
def _small_template() -> Volume:
    whole = template()
    return resample_to(whole, spaced_grid(whole.grid, (FINE_MM, FINE_MM, FINE_MM)))


def _upper_head(volume: Volume, step_mm: float, size_vox: int) -> Grid:
    """A grid along right, anterior, superior whose top is a little above the head's."""
    ras = to_ras(volume)
    places = np.argwhere(foreground(ras.voxels, volume.source))
    points_mm = places @ ras.affine[:3, :3].T + ras.affine[:3, 3]
    extent_mm = size_vox * step_mm
    corner_mm = points_mm.mean(axis=0) - extent_mm / 2
    corner_mm[2] = np.percentile(points_mm[:, 2], 99.9) + AIR_MM - extent_mm
    affine = np.diag([step_mm, step_mm, step_mm, 1.0])
    affine[:3, 3] = corner_mm + step_mm / 2
    return Grid((size_vox, size_vox, size_vox), affine)


def _texture(volume: Volume) -> tuple[Cube, NDArray[np.bool_]]:
    step_mm = volume.spacing_mm[0]
    voxels = volume.voxels[0].astype(np.float32)
    whole = _filled(voxels)
    weight = whole.astype(np.float32)

    def blur(values: Cube, sd_mm: float) -> Cube:
        sd_vox = sd_mm / step_mm
        share = np.maximum(ndimage.gaussian_filter(weight, sd_vox), 1e-3)
        return np.asarray(ndimage.gaussian_filter(values * weight, sd_vox) / share, np.float32)

    fine_mm, broad_mm = TEXTURE_MM
    texture = blur(voxels, fine_mm) - blur(voxels, broad_mm)
    texture /= np.sqrt(blur(texture**2, EVEN_MM)) + np.float32(1e-6)
    rim = max(1, round(8.0 / step_mm))
    inside = ndimage.binary_erosion(whole, iterations=rim)
    return np.where(inside, texture, 0).astype(np.float32), inside


def _filled(voxels: Cube) -> NDArray[np.bool_]:
    bright = (
        voxels > 0.05 * np.percentile(voxels[voxels > 0], 95) if voxels.max() > 0 else voxels > 0
    )
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(ndimage.binary_opening(bright))
    return filled


def _spectra_of(look: Look) -> list[NDArray[np.complex128]]:
    """Of the inside, of the texture there and of its square."""
    inside = look.inside.astype(np.float64)
    texture = look.texture.astype(np.float64)
    size = (PADDED_VOX,) * 3
    return [fft.rfftn(values, s=size) for values in (inside, texture, texture**2)]
