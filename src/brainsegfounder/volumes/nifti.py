"""Reading and writing NIfTI: every header is checked, every output gets a fresh header.

A file is read through to its end, so a truncated or flipped gzip stream is an error and never a
volume with zeros at its end. What is repaired is logged; what cannot be is refused.
"""

from __future__ import annotations

import gzip
import logging
import math
import os
import warnings
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from brainsegfounder.errors import LabelError, VolumeError
from brainsegfounder.files import write_bytes
from brainsegfounder.volumes.volume import Affine, Volume

log = logging.getLogger(__name__)

SUFFIXES = (".nii.gz", ".nii")
GZIP_MAGIC = b"\x1f\x8b"
# A head at 0.35 mm is under this; a decompression bomb is over it.
MAX_VOXELS = 1 << 28
MAX_FILE_BYTES = 4 << 30
MAX_TRAILING_BYTES = 64 << 10
MAX_BROKEN_FRACTION = 0.5
MAX_LABEL_ROUNDING = 1e-3
# Lengths of the headers. A NIfTI-2 file begins with its own, in either byte order.
NIFTI1_BYTES = 348
NIFTI2_BYTES = 540
NIFTI2_STARTS = (NIFTI2_BYTES.to_bytes(4, "little"), NIFTI2_BYTES.to_bytes(4, "big"))
HEADER_ERRORS = (
    ImageFileError, HeaderDataError, WrapStructError, KeyError, OverflowError, TypeError, ValueError
)  # fmt: skip
# Codes of xyzt_units that are not millimetres, and their length in mm.
UNITS_MM = {1: 1000.0, 3: 0.001}


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
        VolumeError: The file is missing, unreadable, truncated, not 3-D, most of it is not a
            number, or neither sform nor qform is an invertible affine.
    """
    image, affine = _load(Path(path))
    with np.errstate(over="ignore"):
        data = _scaled(image, Path(path)).astype(np.float32)
    broken = ~np.isfinite(data)
    if broken.mean() > MAX_BROKEN_FRACTION:
        raise VolumeError(
            f"{path}: {broken.mean():.0%} of the voxels are not finite float32 numbers; expected "
            "an image. Check the conversion that wrote this file."
        )
    if broken.any():
        log.warning("%s: %d voxels are not finite; they count as 0", path, broken.sum())
        data[broken] = 0.0
    return Volume(data[None], affine, str(path))


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
    image, affine = _load(Path(path))
    data = _scaled(image, Path(path))
    rounded = np.rint(data)
    with np.errstate(invalid="ignore"):
        worst = float(np.abs(data - rounded).max(initial=0.0))
    if not worst <= MAX_LABEL_ROUNDING:
        raise LabelError(
            f"{path}: label values are not whole numbers (off by {worst:.3g}); expected a mask. "
            "Was it resampled with interpolation? Resample labels with nearest neighbour."
        )
    if np.abs(rounded).max(initial=0) > np.iinfo(np.int16).max:
        raise LabelError(f"{path}: label {rounded.max():.0f} found; expected values under 32768.")
    return Volume(rounded.astype(np.int16)[None], affine, str(path))


def write_nifti(path: str | os.PathLike[str], volume: Volume) -> None:
    """Write one channel with a fresh header; the same voxels always give the same bytes.

    Args:
        path: Where to write; `.nii.gz` is compressed. Written beside it first, then renamed.
        volume: Shape (1, I, J, K). Integers are stored as uint8 or int16, others as float32.

    Raises:
        VolumeError: The volume has more than one channel.
        LabelError: An integer is beyond int16.
        RunError: The file cannot be written.
    """
    if volume.voxels.shape[0] != 1:
        raise VolumeError(f"{path}: {volume.voxels.shape[0]} channels; one file holds one.")
    data = _storable(volume.voxels[0], Path(path))
    image = nib.Nifti1Image(data, volume.affine)
    image.header.set_data_dtype(data.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.affine, code=1)
    image.set_qform(volume.affine, code=1, strip_shears=True)
    content = image.to_bytes()
    if Path(path).name.lower().endswith(".gz"):
        content = gzip.compress(content, compresslevel=6, mtime=0)
    write_bytes(Path(path), content)


def _storable(voxels: NDArray[Any], path: Path) -> NDArray[Any]:
    if not np.issubdtype(voxels.dtype, np.integer) and voxels.dtype != np.bool_:
        return voxels.astype(np.float32)
    low, high = voxels.min(initial=0), voxels.max(initial=0)
    limits = np.iinfo(np.int16)
    if low < limits.min or high > limits.max:
        raise LabelError(f"{path}: labels from {low} to {high}; expected values under 32768.")
    small = low >= 0 and high <= np.iinfo(np.uint8).max
    return voxels.astype(np.uint8 if small else np.int16)


def _load(path: Path) -> tuple[nib.Nifti1Image, Affine]:
    """An image whose voxels are not read yet, and its affine in millimetres."""
    content = _read_bytes(path)
    if not content:
        raise VolumeError(f"{path}: the file is empty; expected a NIfTI image. Copy it again.")
    kind = nib.Nifti2Image if content.startswith(NIFTI2_STARTS) else nib.Nifti1Image
    try:
        raw = _raw_header(content)
        if raw["magic"] == raw.single_magic and 0 <= raw["vox_offset"] < raw.single_vox_offset:
            log.warning("%s: vox_offset %d lies inside the header", path, int(raw["vox_offset"]))
            raw["vox_offset"] = raw.single_vox_offset
            content = raw.binaryblock + content[len(raw.binaryblock) :]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd extensions, which nothing here reads
            image = kind.from_bytes(content)
    except HEADER_ERRORS as error:
        raise VolumeError(
            f"{path}: not a NIfTI image ({_looks_like(content) or error}); "
            "expected .nii or .nii.gz. Convert or copy it again."
        ) from None
    _check_length(len(content), raw, path)
    return image, _affine(image.header, np.asarray(raw["pixdim"][1:4], dtype=np.float64), path)


def _raw_header(content: bytes) -> nib.Nifti1Header:
    """The header as it stands in the file, neither checked nor repaired."""
    if content.startswith(NIFTI2_STARTS):
        return nib.Nifti2Header(content[:NIFTI2_BYTES], check=False)
    return nib.Nifti1Header(content[:NIFTI1_BYTES], check=False)


def _read_bytes(path: Path) -> bytes:
    try:
        if not path.exists():
            raise VolumeError(f"{path}: no such file; expected a .nii or .nii.gz image.")
        if not path.is_file():
            raise VolumeError(f"{path}: not a regular file; expected a .nii or .nii.gz image.")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise VolumeError(f"{path}: larger than {MAX_FILE_BYTES >> 30} GiB.")
        content = path.read_bytes()
        if content[:2] == GZIP_MAGIC:
            return _inflated(content, path)
    except (EOFError, zlib.error) as error:
        raise VolumeError(
            f"{path}: damaged gzip stream ({error}); expected a whole file. Copy it again."
        ) from error
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read: {error.strerror or error}.") from error
    return content


def _inflated(content: bytes, path: Path) -> bytes:
    """The whole stream, with its checksums checked, and little more than its header promises."""
    limit = MAX_FILE_BYTES
    head = zlib.decompressobj(wbits=31).decompress(content[:MAX_TRAILING_BYTES], NIFTI2_BYTES)
    try:
        limit = _promised_bytes(_raw_header(head), path)
    except HEADER_ERRORS:
        log.debug("%s: no header to tell its size", path)
    limit = min(limit + MAX_TRAILING_BYTES, MAX_FILE_BYTES)
    chunks, rest, total = [], content, 0
    while rest[:2] == GZIP_MAGIC:
        inflate = zlib.decompressobj(wbits=31)
        chunks.append(inflate.decompress(rest, limit + 1 - total))
        total += len(chunks[-1])
        if total > limit:
            raise VolumeError(
                f"{path}: inflates to more than {limit} bytes, beyond what its header promises; "
                "expected one image. Convert it again."
            )
        if not inflate.eof:
            raise EOFError("it ends too early")
        rest = inflate.unused_data
    return b"".join(chunks)


def _check_length(num_bytes: int, header: nib.Nifti1Header, path: Path) -> None:
    promised = _promised_bytes(header, path)
    if not promised <= num_bytes <= promised + MAX_TRAILING_BYTES:
        raise VolumeError(
            f"{path}: {num_bytes} bytes, but its header promises {promised}; expected a whole "
            "file. Copy it again."
        )


def _promised_bytes(header: nib.Nifti1Header, path: Path) -> int:
    """How long the file is by its header."""
    magic = header["magic"].item()
    if magic[:3] not in (b"n+1", b"n+2"):
        reason = _looks_like(header.binaryblock) or f"its header is marked {magic!r}"
        raise VolumeError(
            f"{path}: not a NIfTI image ({reason}); "
            "expected .nii or .nii.gz. Convert or copy it again."
        )
    num_voxels = math.prod(max(0, int(n)) for n in header.get_data_shape())
    if num_voxels > MAX_VOXELS:
        raise VolumeError(
            f"{path}: {num_voxels} voxels; expected at most {MAX_VOXELS}. Resample it first."
        )
    return int(header.get_data_offset()) + num_voxels * int(header.get_data_dtype().itemsize)


def _looks_like(content: bytes) -> str:
    head = content[:200].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html")):
        return "it is an HTML page, so a download went wrong"
    if head.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer; fetch the file itself"
    if content[:2] == GZIP_MAGIC:
        return "it is compressed twice; unpack it once"
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


def _affine(header: nib.Nifti1Header, pixdim: NDArray[np.float64], path: Path) -> Affine:
    """The sform, or the qform where the sform is not coded or not an affine.

    Args:
        header: As nibabel repaired it.
        pixdim: Voxel sizes as they stand in the file; without them a qform means nothing.
        path: The file, for messages.
    """
    sform: Affine | None = header.get_sform(coded=True)[0]
    qform: Affine | None = None
    if np.isfinite(pixdim).all() and pixdim.min() > 0:
        qform = _qform(header)
        if sform is None and int(header["qform_code"]) == 0:
            log.warning("%s: no coded orientation; left and right are a guess", path)
            qform = header.get_base_affine()
    # An sform of other voxel sizes than pixdim is a registration's; the qform is the scanner's.
    stretched = sform is not None and not np.allclose(_scale(sform), pixdim, rtol=0.01)
    forms = (qform, sform) if stretched else (sform, qform)
    affine = next((form for form in forms if form is not None and _is_invertible(form)), None)
    if affine is None:
        raise VolumeError(
            f"{path}: no invertible affine (sform {None if sform is None else sform[:3].tolist()}, "
            f"pixdim {pixdim}); expected three independent axes. Repair the sform or qform."
        )
    if sform is not None and affine is not sform:
        log.warning("%s: the sform does not fit voxels of %s; the qform counts", path, pixdim)
    unit_mm = UNITS_MM.get(int(header["xyzt_units"]) % 8, 1.0)
    if unit_mm != 1.0:
        log.warning("%s: lengths in units of %g mm", path, unit_mm)
    return np.diag([unit_mm, unit_mm, unit_mm, 1.0]) @ affine


def _qform(header: nib.Nifti1Header) -> Affine | None:
    try:
        qform: Affine | None = header.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError):  # not a unit quaternion
        return None
    return qform


def _is_invertible(affine: Affine) -> bool:
    if not np.isfinite(affine).all():
        return False
    scale = _scale(affine)
    return bool(scale.min() > 0 and abs(np.linalg.det(affine[:3, :3] / scale)) >= 1e-3)


def _scale(affine: Affine) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))
