"""MNI152 as a place: the affine map of a scan onto the template, and its grid in the scan.

The template is the ICBM 2009a symmetric brain that ships with nilearn. A prepared grid in MNI
space has its voxels on the template's lattice, while its affine keeps telling scanner
millimetres: the inverse of the map is folded into it. So the way back to the file is the same one
resampling as ever, and volumes in mL are the patient's. `Registration.matrix` times that affine
is the same grid in MNI millimetres.
"""

from __future__ import annotations

import numpy as np

from brainsegfounder.errors import Problem, VolumeError
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.geometry import foreground_box, resample_to, spaced_grid
from brainsegfounder.volumes.phantom_anatomy import CORNER_MM, fine_maps
from brainsegfounder.volumes.registration import Registration, register
from brainsegfounder.volumes.volume import Affine, Grid, Triple, Volume

NAME = "MNI152 2009a symmetric, 1 mm (nilearn)"
# Brains larger than the template's still lie within the lattice.
FRAME_MARGIN_VOX = 20
MIN_DICE = 0.85
# A brain is stretched by this much at most; beyond it the registration went astray.
STRETCH = (0.6, 1.7)


def template() -> Volume:
    """The template's T1w brain at 1 mm, zeros around it, shape (1, 148, 184, 156)."""
    affine = np.eye(4)
    affine[:3, 3] = CORNER_MM
    return Volume(fine_maps()[0][None], affine, "MNI152")


def register_to_template(image: Volume, tissue: Volume, is_brain: bool) -> Registration:
    """The affine map of a scan's first contrast onto the template.

    Args:
        image: Contrasts in RAS order, shape (C, I, J, K).
        tissue: Brain or head, shape (1, I, J, K).
        is_brain: Whether `tissue` is a brain: then what lies outside is not looked at.

    Raises:
        VolumeError: The map found is no map of a brain: mirrored, or stretched beyond reason.
    """
    first = image.voxels[:1] * tissue.voxels if is_brain else image.voxels[:1]
    found = register(template(), Volume(first, image.affine, image.source), "affine")
    stretch = np.linalg.svd(found.matrix[:3, :3], compute_uv=False)
    upright = np.diag(found.matrix)[:3].min() > 0.5 * stretch.min()
    if not upright or stretch.min() < STRETCH[0] or stretch.max() > STRETCH[1]:
        raise VolumeError(
            Problem(
                "not_registered_to_mni", image.source,
                f"registered to MNI152 with a stretch of {stretch.min():.2f} to "
                f"{stretch.max():.2f}", f"{STRETCH[0]} to {STRETCH[1]}, upright",
                "Look at the scan, or prepare it with preparation.space=native.",
            )
        )  # fmt: skip
    return found


def template_grid(
    matrix: Affine, tissue: Volume, spacing_mm: tuple[float, float, float] | None, margin_mm: float
) -> Grid:
    """The part of the template's lattice around the brain, in the scan's own millimetres.

    Args:
        matrix: From the scan's millimetres to the template's.
        tissue: The brain, shape (1, I, J, K).
        spacing_mm: Of the lattice, in template millimetres; None is 1 mm.
        margin_mm: Kept around the brain.
    """
    lattice = spaced_grid(_frame(), spacing_mm or (1.0, 1.0, 1.0))
    in_scan = Grid(lattice.shape_vox, np.linalg.inv(matrix) @ lattice.affine)
    inside = resample_to(tissue, in_scan).voxels[0] > 0.5
    i, j, k = (int(np.ceil(margin_mm / mm)) for mm in lattice.spacing_mm)
    start, size = foreground_box(inside, (i, j, k))
    return _cut(in_scan, start, size)


def check_in_template(
    found: Registration, tissue: Volume, is_brain: bool
) -> tuple[float, tuple[Finding, ...]]:
    """Dice of the brain and the template's, and a warning where it is poor.

    For a whole head it is the share of the template's brain that lies within the head.
    """
    atlas = template()
    moved = Volume(tissue.voxels, found.matrix @ tissue.affine)
    brain, other = resample_to(moved, atlas.grid).voxels[0] > 0.5, atlas.voxels[0] > 0
    total = brain.sum() + other.sum() if is_brain else 2 * other.sum()
    dice = 2 * float((brain & other).sum()) / float(total)
    if dice >= MIN_DICE:
        return dice, ()
    message = f"registered to MNI152, but the brains share only {dice:.0%}; look at this case."
    return dice, (Finding("mni_doubtful", tissue.source, message, "warning"),)


def _frame() -> Grid:
    grid = template().grid
    affine = grid.affine.copy()
    affine[:3, 3] -= FRAME_MARGIN_VOX
    i, j, k = (n + 2 * FRAME_MARGIN_VOX for n in grid.shape_vox)
    return Grid((i, j, k), affine)


def _cut(grid: Grid, start_vox: Triple, size_vox: Triple) -> Grid:
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.asarray(start_vox, dtype=float)
    return Grid(size_vox, affine)
