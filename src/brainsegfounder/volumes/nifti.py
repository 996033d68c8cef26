"""Reading and writing NIfTI: every header is checked, every output gets a fresh header.

A file is read through to its end, so a truncated or flipped gzip stream is an error and never a
volume with zeros at its end.
"""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from brainsegfounder.errors import LabelError, VolumeError
from brainsegfounder.files import write_bytes
from brainsegfounder.volumes.volume import Affine, Volume

SUFFIXES = (".nii.gz", ".nii")
GZIP_MAGIC = b"\x1f\x8b"
# A whole-body volume at 0.3 mm is under this; a decompression bomb is over it.
MAX_FILE_BYTES = 4 << 30
MAX_LABEL_ROUNDING = 1e-3


def is_nifti(path: Path) -> bool:
    """Whether the name ends as a NIfTI file's does (any case)."""
    return path.name.lower().endswith(SUFFIXES)


def stem(path: Path) -> str:
    """The file's name without `.nii` or `.nii.gz`."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def read_nifti(path: str | os.PathLike[str]) -> Volume:
    """Read an image with its intensities.

    Args:
        path: A `.nii` or `.nii.gz` file with one 3-D volume (or 4-D with one volume).

    Returns:
        A volume of float32 voxels, shape (1, I, J, K), in the file's own axis order. Voxels that
        are not finite become 0.

    Raises:
        VolumeError: The file is missing, unreadable, truncated, not 3-D, or its affine is not
            invertible.
    """
    image = _load(Path(path))
    data = _scaled(image, Path(path)).astype(np.float32)
    np.nan_to_num(data, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    return Volume(data[None], _affine(image, Path(path)), str(path))


def read_labels(path: str | os.PathLike[str]) -> Volume:
    """Read a mask with its integer label values.

    Args:
        path: A `.nii` or `.nii.gz` file with one 3-D volume of whole numbers.

    Returns:
        A volume of int16 voxels, shape (1, I, J, K), in the file's own axis order.

    Raises:
        VolumeError: As for `read_nifti`.
        LabelError: A voxel is not a whole number (off by more than 0.001), or beyond int16.
    """
    image = _load(Path(path))
    data = _scaled(image, Path(path))
    rounded = np.rint(data)
    worst = float(np.abs(data - rounded).max(initial=0.0))
    if not worst <= MAX_LABEL_ROUNDING:
        raise LabelError(
            f"{path}: label values are not whole numbers (off by {worst:.3g}); expected a mask. "
            "Was it resampled with interpolation? Resample labels with nearest neighbour."
        )
    if np.abs(rounded).max(initial=0) > np.iinfo(np.int16).max:
        raise LabelError(f"{path}: label {rounded.max():.0f} found; expected values under 32768.")
    return Volume(rounded.astype(np.int16)[None], _affine(image, Path(path)), str(path))


def write_nifti(path: str | os.PathLike[str], volume: Volume) -> None:
    """Write one channel with a fresh header; the same voxels always give the same bytes.

    Args:
        path: Where to write; `.nii.gz` is compressed. Written beside it first, then renamed.
        volume: Shape (1, I, J, K). Integers are stored as uint8 or int16, others as float32.

    Raises:
        VolumeError: The volume has more than one channel.
        RunError: The file cannot be written.
    """
    if volume.voxels.shape[0] != 1:
        raise VolumeError(f"{path}: {volume.voxels.shape[0]} channels; one file holds one.")
    data = _storable(volume.voxels[0])
    image = nib.Nifti1Image(data, volume.affine)
    image.header.set_data_dtype(data.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.affine, code=1)
    image.set_qform(volume.affine, code=1, strip_shears=True)
    content = image.to_bytes()
    if Path(path).name.lower().endswith(".gz"):
        content = gzip.compress(content, compresslevel=6, mtime=0)
    write_bytes(Path(path), content)


def _storable(voxels: NDArray[Any]) -> NDArray[Any]:
    if not np.issubdtype(voxels.dtype, np.integer) and voxels.dtype != np.bool_:
        return voxels.astype(np.float32)
    small = voxels.min(initial=0) >= 0 and voxels.max(initial=0) <= np.iinfo(np.uint8).max
    return voxels.astype(np.uint8 if small else np.int16)


def _load(path: Path) -> nib.Nifti1Image:
    content = _read_bytes(path)
    if not content:
        raise VolumeError(f"{path}: the file is empty; expected a NIfTI image. Copy it again.")
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        try:
            return kind.from_bytes(content)
        except (ImageFileError, HeaderDataError, ValueError, TypeError, OverflowError) as error:
            reason = error
    raise VolumeError(
        f"{path}: not a NIfTI image ({_looks_like(content) or reason}); "
        "expected .nii or .nii.gz. Convert or copy it again."
    )


def _read_bytes(path: Path) -> bytes:
    if not path.exists():
        raise VolumeError(f"{path}: no such file; expected a .nii or .nii.gz image.")
    if not path.is_file():
        raise VolumeError(f"{path}: not a regular file; expected a .nii or .nii.gz image.")
    try:
        content = path.read_bytes()
        if content[:2] == GZIP_MAGIC:
            return _inflated(content, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise VolumeError(
            f"{path}: damaged gzip stream ({error}); expected a whole file. Copy it again."
        ) from error
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read: {error.strerror or error}.") from error
    return content


def _inflated(content: bytes, path: Path) -> bytes:
    """The whole stream, with its checksum checked, up to `MAX_FILE_BYTES`."""
    chunks, total, rest = [], 0, content
    while rest[:2] == GZIP_MAGIC:
        inflate = zlib.decompressobj(wbits=31)
        chunks.append(inflate.decompress(rest, MAX_FILE_BYTES - total))
        total += len(chunks[-1])
        if not inflate.eof:
            if total >= MAX_FILE_BYTES:
                raise VolumeError(f"{path}: inflates to more than {MAX_FILE_BYTES >> 30} GiB.")
            raise EOFError("it ends too early")
        rest = inflate.unused_data
    return b"".join(chunks)


def _looks_like(content: bytes) -> str:
    head = content[:200].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html")):
        return "it is an HTML page, so a download went wrong"
    if head.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer; fetch the file itself"
    return ""


def _scaled(image: nib.Nifti1Image, path: Path) -> NDArray[Any]:
    """The voxels as a 3-D array, scaled as the header says."""
    shape = tuple(image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        raise VolumeError(
            f"{path}: an image of shape {tuple(image.shape)}; expected one 3-D volume. "
            "Split a 4-D file into single volumes first."
        )
    if image.get_data_dtype().kind not in "iufb":
        raise VolumeError(f"{path}: voxels of type {image.get_data_dtype()}; expected numbers.")
    try:
        return np.asarray(image.dataobj).reshape(shape)
    except (OSError, ValueError, MemoryError, EOFError) as error:
        raise VolumeError(f"{path}: the voxels cannot be read: {error}. Copy it again.") from error


def _affine(image: nib.Nifti1Image, path: Path) -> Affine:
    affine = np.asarray(image.affine, dtype=np.float64)
    scale_mm = np.linalg.norm(affine[:3, :3], axis=0) if np.isfinite(affine).all() else np.zeros(3)
    if min(scale_mm) == 0 or abs(np.linalg.det(affine[:3, :3] / scale_mm)) < 1e-3:
        raise VolumeError(
            f"{path}: the affine is not invertible: {affine[:3].tolist()}; expected three "
            "independent axes. Repair the header's sform or qform."
        )
    return affine
