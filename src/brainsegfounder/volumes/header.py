"""What a header says about an image, once it has been checked; the same for every format."""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.errors import VolumeError
from brainsegfounder.volumes.gzip_stream import GZIP_MAGIC
from brainsegfounder.volumes.source_file import SourceFile
from brainsegfounder.volumes.volume import Affine, Grid, Triple

# A head at 0.35 mm is under this; a decompression bomb is over it.
MAX_VOXELS = 1 << 28
# While a scan is read and prepared, this many float32 copies of it are held.
COPIES = 3
GIB = 1 << 30
_LIMIT_GIB: ContextVar[float | None] = ContextVar("memory limit", default=None)
# Beyond these no scanner and no registration goes, whatever it looks at.
SPACING_LIMITS_MM = (1e-2, 1e2)
MAX_ORIGIN_MM = 1e7
FAR_ORIGIN_MM = 1e3
# Axes of a grid are at right angles; of a sheared one, nearly. 1 is right, 0 is singular.
MIN_INDEPENDENCE = 0.3
ROUNDING_MM = 1e-3
STRAIGHTEN_VOX = 0.5


@dataclass(frozen=True, slots=True)
class Header:
    """Where the voxels of an image are, in its file and in space.

    Attributes:
        shape: As stored, three axes, or four where there are several volumes.
        dtype: As stored, with its byte order.
        offset_bytes: Where the first voxel begins.
        scaling: Slope and intercept of the stored values, or None.
        affine: Maps a voxel index to RAS+ millimetres, shape (4, 4).
        voxels_in: The file they are in, where that is another one.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset_bytes: int
    scaling: tuple[float, float] | None
    affine: Affine
    voxels_in: Path | None = None

    @property
    def num_bytes(self) -> int:
        """How long the file must be."""
        return self.offset_bytes + math.prod(self.shape) * self.dtype.itemsize


def check_content(content: bytes, num_bytes: int, file: SourceFile) -> None:
    """Name what is no image at all, and what is too short to be one.

    Raises:
        VolumeError: A web page, a git-lfs pointer, a stream compressed twice, another format,
            or fewer bytes than a header has.
    """
    head = content[:200].lstrip().lower()
    code, reason = "", ""
    if not content:
        raise VolumeError(
            file.problem("empty", "the file is empty", "a NIfTI image", "Copy it again.")
        )
    if head.startswith((b"<!doctype", b"<html")):
        code, reason = "html_page", "it is an HTML page, so a download went wrong"
    elif head.startswith(b"version https://git-lfs"):
        code, reason = "lfs_pointer", "it is a git-lfs pointer; fetch the file itself"
    elif content.startswith(GZIP_MAGIC):
        code, reason = "nested_gzip", "it is compressed twice; unpack it once"
    elif content.startswith(b"NRRD"):
        code, reason = "other_format", "it is an NRRD file"
    elif content.startswith((b"ObjectType", b"NDims")):
        code, reason = "other_format", "it is a MetaImage file"
    elif content[128:132] == b"DICM":
        code, reason = "other_format", "it is a DICOM file; give its folder"
    elif len(content) < num_bytes:
        code, reason = "not_nifti", f"{len(content)} bytes are less than a header"
    if code:
        raise not_nifti(file, code, reason)


def not_nifti(file: SourceFile, code: str, reason: str, header_field: str = "") -> VolumeError:
    """The error for a file that is something else."""
    return VolumeError(
        file.problem(
            code,
            f"not a NIfTI image ({reason})",
            ".nii or .nii.gz (or FreeSurfer's .mgz)",
            "Convert or copy it again.",
            header_field,
        )
    )


def check_budget(shape: tuple[int, ...], itemsize: int, file: SourceFile) -> None:
    """Refuse what will not fit, before anything is allocated.

    Raises:
        VolumeError: More voxels than any head scan has (unless `any_size`), or than the memory
            that is available.
    """
    num_voxels = math.prod(shape)
    needed_gib = num_voxels * (itemsize + 4 * COPIES) / GIB
    available_gib = available_memory_gib()
    memory = f"{needed_gib:.2f} GiB are needed and {available_gib:.2f} GiB available"
    if num_voxels > MAX_VOXELS and not file.reading.any_size:
        raise VolumeError(
            file.problem(
                "too_many_voxels",
                f"{num_voxels} voxels ({memory})",
                f"at most {MAX_VOXELS}",
                "Resample it first, or allow any size.",
                "dim",
            )
        )
    if needed_gib > available_gib:
        raise VolumeError(
            file.problem(
                "too_little_memory",
                f"{num_voxels} voxels: {memory}",
                "a scan that fits into memory",
                "Resample it first, allow more memory, or use a machine that has more.",
                "dim",
            )
        )


def available_memory_gib() -> float:
    """Memory that this process may still take; infinite where the system does not say."""
    free = [_meminfo_bytes(), _cgroup_bytes(), _budget_bytes()]
    return min((n for n in free if n is not None), default=math.inf) / GIB


@contextmanager
def memory_limit(limit_gib: float | None) -> Iterator[None]:
    """Let this process take no more memory than that in all, as far as it plans what it takes.

    Args:
        limit_gib: Of everything it holds, its libraries included; None is no limit.
    """
    token = _LIMIT_GIB.set(limit_gib)
    try:
        yield
    finally:
        _LIMIT_GIB.reset(token)


def _budget_bytes() -> int | None:
    """What the limit leaves beside what is taken."""
    limit_gib = _LIMIT_GIB.get()
    if limit_gib is None:
        return None
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        taken = pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return max(0, int(limit_gib * GIB) - taken)


def _meminfo_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration, ValueError):
        return None


def _cgroup_bytes() -> int | None:
    """What a container's limit leaves; its file cache counts as free."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return limit - used + int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return None


def checked_affine(affine: Affine, shape_vox: Triple, file: SourceFile) -> Affine:
    """An affine in millimetres that is plausible and, where that is a matter of rounding, square.

    A small shear is taken away about the centre of the volume; a large one is kept, since all
    resampling goes through the full affine.

    Raises:
        VolumeError: Spacing or origin are beyond any scan's.
    """
    spacing_mm, origin_mm = column_lengths(affine), np.abs(affine[:3, 3]).max()
    low, high = SPACING_LIMITS_MM
    absurd = spacing_mm.min() < low or spacing_mm.max() > high
    if (absurd and not file.reading.any_size) or origin_mm > MAX_ORIGIN_MM:
        raise VolumeError(
            file.problem(
                "implausible_affine",
                f"voxels of {_join(spacing_mm)} mm, {origin_mm:.4g} mm from the origin",
                f"{low:g} to {high:g} mm",
                "Check the units and the affine of the header.",
                "pixdim",
            )
        )
    centre_mm = affine @ [*((n - 1) / 2 for n in shape_vox), 1.0]
    away_mm = float(np.linalg.norm(centre_mm[:3]))
    if away_mm > FAR_ORIGIN_MM:
        file.notice("note", "far_origin", f"the scan lies {away_mm / 1000:.4g} m from the origin")
    return _straightened(affine, shape_vox, file)


def is_sound(affine: Affine) -> bool:
    """Whether an affine is finite and its three axes are independent."""
    if not np.isfinite(affine).all():
        return False
    lengths = column_lengths(affine)
    if lengths.min() <= 0:
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / lengths)) >= MIN_INDEPENDENCE)


def column_lengths(affine: Affine) -> NDArray[np.float64]:
    """The voxel sizes of an affine."""
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))


def _straightened(affine: Affine, shape_vox: Triple, file: SourceFile) -> Affine:
    lengths = column_lengths(affine)
    left, _, right = np.linalg.svd(affine[:3, :3] / lengths)
    straight = affine.copy()
    straight[:3, :3] = (left @ right) * lengths
    centre = (np.asarray(shape_vox) - 1) / 2
    straight[:3, 3] += (affine - straight)[:3, :3] @ centre
    shift_vox = Grid(shape_vox, affine).corner_shift_vox(Grid(shape_vox, straight))
    if shift_vox * lengths.min() <= ROUNDING_MM:
        return affine
    if shift_vox <= STRAIGHTEN_VOX:
        file.notice(
            "repair",
            "shear_removed",
            f"axes are not at right angles; made so, which moves corners by {shift_vox:.2g} voxels",
        )
        return straight
    file.notice(
        "warning",
        "shear_kept",
        f"axes are not at right angles (corners by {shift_vox:.1f} voxels); kept as it is, and "
        "resampled through the full affine",
    )
    return affine


def _join(values: NDArray[np.float64]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
