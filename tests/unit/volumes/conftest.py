"""Drawn brains of one subject, and a head around one of them."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from brainsegfounder.volumes.phantom import PhantomSubject, draw_subject
from brainsegfounder.volumes.volume import Volume, pad


@pytest.fixture(scope="session")
def subject() -> PhantomSubject:
    """A subject with a tumour in T1w and FLAIR at 4 mm; read only."""
    return draw_subject(0, seed=0, lesion="tumour", contrasts=("T1w", "FLAIR"), spacing_mm=4.0)


@pytest.fixture(scope="session")
def head_around() -> Callable[..., Volume]:
    """Puts fluid, a dark skull and a bright scalp around a stripped brain."""

    def build(brain: Volume, air: float = 0.0) -> Volume:
        padded = pad(brain, (7, 7, 7), (7, 7, 7))
        voxels = padded.voxels[0].copy()
        inside = ndimage.binary_fill_holes(voxels != 0)
        away_mm = ndimage.distance_transform_edt(~inside, sampling=padded.spacing_mm)
        bright = np.percentile(voxels[inside], 90)
        voxels[(away_mm > 0) & (away_mm <= 4)] = 0.3 * bright
        voxels[(away_mm > 4) & (away_mm <= 12)] = 0.05 * bright
        voxels[(away_mm > 12) & (away_mm <= 18)] = 1.3 * bright
        noise = np.abs(np.random.default_rng(0).normal(0, 1, voxels.shape)) * air * bright
        voxels[away_mm > 18] = noise[away_mm > 18]
        return Volume(voxels[None].astype(np.float32), padded.affine, "head.nii")

    return build


@pytest.fixture(scope="session")
def misplaced() -> Callable[[float, tuple[float, float, float]], np.ndarray]:
    """A turn about the upward axis and a shift, as a matrix in millimetres."""

    def build(degrees: float, shift_mm: tuple[float, float, float]) -> np.ndarray:
        angle = np.deg2rad(degrees)
        matrix = np.eye(4)
        matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        matrix[:3, 3] = shift_mm
        return matrix

    return build
