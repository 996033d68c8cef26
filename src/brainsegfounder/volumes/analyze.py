"""OASIS-1, the one data set in Analyze files that is read: its documentation says how they lie.

An Analyze 7.5 header does not say left from right, so Analyze files are refused elsewhere. Those
of OASIS-1 are known by their names and shapes. "Sagittal" and "transverse" are the words of the
OASIS-1 fact sheet (Marcus et al. 2007, oasis-brains.org) for the two spaces; the directions are
those of the unflipped orientations of the Analyze 7.5 format, in which x, y, z run

    sagittal    posterior to anterior, inferior to superior, right to left    (SUBJ_111, RAW)
    transverse  right to left, posterior to anterior, inferior to superior    (T88_111)

For T88_111 left and right therefore rest on the convention of the format alone, and the finding
is a warning. The first agrees with the affine that Clinica (github.com/aramis-lab/clinica, its
converter of OASIS) took from FreeSurfer's conversion of these files: rows (0 0 -1 80),
(1 0 0 -128), (0 1 0 -128).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from brainsegfounder.errors import Problem, VolumeError
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.volume import Affine, Triple, Volume

OASIS1_NAME = re.compile(r"^OAS1_\d{4}_MR\d_mpr(-\d|_n\d)_anon(?P<space>_sbj_111|_111_t88)?\w*$")
# Directions of x, y, z in R, A, S and the shapes that have them.
SAGITTAL = ((0, 0, -1), (1, 0, 0), (0, 1, 0))
TRANSVERSE = ((-1, 0, 0), (0, 1, 0), (0, 0, 1))
SHAPES: dict[str, tuple[Triple, tuple[tuple[int, int, int], ...]]] = {
    "": ((256, 256, 128), SAGITTAL),
    "_sbj_111": ((256, 256, 160), SAGITTAL),
    "_111_t88": ((176, 208, 176), TRANSVERSE),
}
# What the header's `orient` byte means where it is set at all.
ORIENT_BYTE = {0: TRANSVERSE, 2: SAGITTAL}
MAX_HEADER_BYTES = 4096
MAX_VOXEL_BYTES = 256 * 256 * 160 * 8


def is_oasis(path: Path) -> bool:
    """Whether a file has the name of an OASIS-1 scan in Analyze format."""
    return path.suffix.lower() in (".img", ".hdr") and OASIS1_NAME.match(path.stem) is not None


def read_oasis(path: Path) -> Volume:
    """Read an OASIS-1 scan.

    Args:
        path: The `.img` or the `.hdr` of a pair, with the name OASIS-1 gave it.

    Returns:
        A volume of float32 voxels, shape (1, I, J, K), on the grid that the data set's
        documentation says, its origin at the centre; with a finding that says so.

    Raises:
        VolumeError: The name is not of OASIS-1, the pair is not whole, or its shape is not the
            one of its name.
    """
    match = OASIS1_NAME.match(path.stem)
    if match is None or not is_oasis(path):
        raise VolumeError(_not_oasis(path))
    shape, directions = SHAPES[match["space"] or ""]
    image = _load(path)
    found = tuple(int(n) for n in image.shape if n != 1)
    if found != shape:
        raise VolumeError(_other_shape(path, found, shape))
    try:
        voxels = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
    except (OSError, ValueError, EOFError) as error:
        raise VolumeError(_not_whole(path, str(error))) from error
    spacing_mm = np.abs(np.asarray(image.header["pixdim"][1:4], dtype=float))
    if not np.isfinite(spacing_mm).all() or not 0.5 <= spacing_mm.min() <= spacing_mm.max() <= 2:
        raise VolumeError(_other_shape(path, tuple(spacing_mm.tolist()), "about 1 mm"))
    findings = (_as_documented(path, directions), *_doubt(path, image, directions))
    return Volume(voxels[None], _affine(shape, spacing_mm, directions), str(path), findings)


def _load(path: Path) -> nib.AnalyzeImage:
    header, voxels = path.with_suffix(".hdr"), path.with_suffix(".img")
    for part, most in ((header, MAX_HEADER_BYTES), (voxels, MAX_VOXEL_BYTES)):
        if not part.is_file():
            raise VolumeError(_not_whole(path, f"{part.name} is missing"))
        if part.stat().st_size > most:
            raise VolumeError(_not_whole(path, f"{part.name} is larger than {most} bytes"))
    try:
        return nib.AnalyzeImage.from_filename(str(voxels))
    except (ImageFileError, HeaderDataError, OSError, ValueError, KeyError) as error:
        raise VolumeError(_not_whole(path, str(error))) from error


def _affine(
    shape: Triple, spacing_mm: np.ndarray, directions: tuple[tuple[int, int, int], ...]
) -> Affine:
    """Columns of length spacing in the stated directions; voxel shape/2 lies at 0 mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions, dtype=float) * spacing_mm
    affine[:3, 3] = -affine[:3, :3] @ (np.asarray(shape) / 2)
    return affine


def _as_documented(path: Path, directions: tuple[tuple[int, int, int], ...]) -> Finding:
    message = "orientation by the documentation of OASIS-1; an Analyze header does not hold it"
    kind: Literal["note", "warning"] = "note" if directions == SAGITTAL else "warning"
    return Finding("orientation_by_documentation", path.name, message, kind)


def _doubt(
    path: Path, image: nib.AnalyzeImage, directions: tuple[tuple[int, int, int], ...]
) -> tuple[Finding, ...]:
    """A warning where the header's byte for the orientation says something else."""
    byte = int.from_bytes(image.header.binaryblock[252:253], "little")
    if byte == 0 or ORIENT_BYTE.get(byte) == directions:
        return ()
    message = f"the header's orient byte is {byte}, which is not what the documentation says"
    return (Finding("orientation_in_doubt", path.name, message, "warning"),)


def _not_oasis(path: Path) -> Problem:
    return Problem(
        code="analyze_refused",
        file=str(path),
        found="an Analyze file",
        expected="NIfTI, or an OASIS-1 scan named OAS1_0001_MR1_mpr_n4_anon_sbj_111.img",
        advice="Analyze does not say left from right; convert the original to NIfTI.",
    )


def _not_whole(path: Path, found: str) -> Problem:
    return Problem(
        code="analyze_unreadable",
        file=str(path),
        found=found,
        expected="a whole .hdr and .img",
        advice="Unpack the disc's archive again.",
    )


def _other_shape(path: Path, found: object, expected: object) -> Problem:
    return Problem(
        code="analyze_other_shape",
        file=str(path),
        found=f"{found} voxels or mm",
        expected=f"{expected}, as OASIS-1 writes it",
        advice="Its orientation is known for the files of OASIS-1 only; convert it to NIfTI.",
    )
