"""Reading and writing images: every header is checked, every output gets a fresh header.

    path -> head -> header, checked -> content, whole and checked -> voxels -> Volume

What is repaired or doubtful becomes a `Finding` of the volume and a line in the log; what cannot
be repaired is refused with a `Problem`. Nothing is allocated before the header has been checked.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from brainsegfounder.errors import LabelError, Problem, VolumeError
from brainsegfounder.files import write_bytes
from brainsegfounder.settings import AS_IT_IS, ReadingSettings
from brainsegfounder.volumes import mgh
from brainsegfounder.volumes.container import (
    MAX_TRAILING_BYTES,
    Head,
    read_content,
    read_head,
)
from brainsegfounder.volumes.header import Header
from brainsegfounder.volumes.label_values import Legal, label_values
from brainsegfounder.volumes.nifti_header import read_nifti_header
from brainsegfounder.volumes.source_file import SourceFile
from brainsegfounder.volumes.volume import Volume

SUFFIXES = (".nii.gz", ".nii")
IMAGE_SUFFIXES = (*SUFFIXES, *mgh.SUFFIXES)
PAIR_SUFFIXES = ((".img.gz", ".hdr.gz"), (".img.gz", ".hdr"), (".img", ".hdr"))
# A file as it is, with nothing allowed beyond what every scan should be.
MAX_BROKEN_FRACTION = 0.5
# A slope above this comes from no scanner, and values beyond this squared leave float32.
HUGE_SLOPE, HUGE_VALUE = 1e6, 1e15


def is_nifti(path: Path) -> bool:
    """Whether the name ends as a NIfTI file's does (any case)."""
    return path.name.lower().endswith(SUFFIXES)


def is_image(path: Path) -> bool:
    """Whether the name ends as that of any image we read: NIfTI, or FreeSurfer's .mgz."""
    return path.name.lower().endswith(IMAGE_SUFFIXES)


def stem(path: Path) -> str:
    """The file's name without the suffix of an image."""
    for suffix in IMAGE_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def read_nifti(path: str | os.PathLike[str], reading: ReadingSettings = AS_IT_IS) -> Volume:
    """Read an image with its intensities.

    Args:
        path: A `.nii`, `.nii.gz` or `.mgz` file, or a NIfTI pair of `.hdr` and `.img`.
        reading: What is allowed of it: `volume` takes one of a 4-D file, `magnitude` that of
            complex voxels, `accept_bad_crc`, `strict`, `any_size`.

    Returns:
        A volume of float32 voxels, shape (1, I, J, K), in the file's own axis order, with its
        findings. Voxels that are not finite become 0.

    Raises:
        VolumeError: The file is missing, unreadable, damaged, not one 3-D volume, too large,
            most of it is not a number, or neither sform nor qform is an invertible affine.
    """
    file = SourceFile(Path(path), reading)
    stored, header = read_stored(file)
    voxels = _intensities(stored, header, file)
    return Volume(voxels[None], header.affine, str(path), tuple(file.findings))


def read_labels(
    path: str | os.PathLike[str],
    reading: ReadingSettings = AS_IT_IS,
    legal: Legal | None = None,
) -> Volume:
    """Read a mask with its integer label values.

    Args:
        path: As for `read_nifti`.
        reading: What is allowed of it: also `one_hot` and `label_map`.
        legal: Label values that may occur beside 0, or these by name; None allows all.

    Returns:
        A volume of int16 voxels, shape (1, I, J, K), in the file's own axis order.

    Raises:
        VolumeError: As for `read_nifti`.
        LabelError: A voxel is not a whole number (off by more than 0.001), beyond int16, or
            not legal.
    """
    file = SourceFile(Path(path), reading)
    stored, header = read_stored(file, several=reading.one_hot)
    labels = label_values(stored, header.scaling, file, legal)
    return Volume(labels[None], header.affine, str(path), tuple(file.findings))


def read_stored(file: SourceFile, several: bool = False) -> tuple[NDArray[Any], Header]:
    """The voxels of a file as they are stored, neither scaled nor converted.

    Args:
        file: The file; receives the findings.
        several: Whether a file of several volumes is read as such.

    Returns:
        An array of shape (I, J, K), or (I, J, K, N) if several, and the checked header.

    Raises:
        VolumeError: As for `read_nifti`.
    """
    file = _header_file(file)
    head = read_head(file)
    is_mgh = file.path.name.lower().endswith(mgh.SUFFIXES)
    read_header = mgh.read_mgh_header if is_mgh else read_nifti_header
    header = read_header(head.content, file)
    if len(header.shape) > 3 and not several:
        _check_volume(header, file)
    trailing_bytes = mgh.MAX_TAGS_BYTES if is_mgh else MAX_TRAILING_BYTES
    content = _content(file, head, header, trailing_bytes)
    stored = _array(content, header)
    if stored.ndim > 3 and not several:
        stored = stored[..., file.reading.volume]
    return stored, header


def _header_file(file: SourceFile) -> SourceFile:
    """The header of a pair where its voxels were given, else the file itself."""
    name = file.path.name
    for voxels, header in PAIR_SUFFIXES:
        beside = file.path.with_name(name[: -len(voxels)] + header)
        if name.lower().endswith(voxels) and beside.exists():
            return file.beside(beside)
    return file


def _content(file: SourceFile, head: Head, header: Header, trailing_bytes: int) -> bytes:
    if header.voxels_in is not None:
        file = file.beside(header.voxels_in)
        head = read_head(file)
    content = read_content(file, head, header.num_bytes, trailing_bytes)
    extra = len(content) - header.num_bytes
    if extra and trailing_bytes == MAX_TRAILING_BYTES:
        file.notice("warning", "trailing_bytes", f"{extra} bytes follow the voxels; ignored")
    return content


def _check_volume(header: Header, file: SourceFile) -> None:
    number, wanted = header.shape[3], file.reading.volume
    if wanted is not None and wanted < number:
        file.notice("note", "volume_taken", f"volume {wanted} of {number} taken, as asked for")
        return
    raise VolumeError(
        file.problem(
            "several_volumes" if wanted is None else "no_such_volume",
            f"an image of shape {header.shape}, which is {number} volumes",
            "one 3-D volume" if wanted is None else f"volume {wanted}, counted from 0",
            "Split a 4-D file into single volumes first, or say which one with `reading.volume`.",
            "dim",
        )
    )


def _array(content: bytes, header: Header) -> NDArray[Any]:
    count = int(np.prod(header.shape))
    flat = np.frombuffer(content, header.dtype, count, header.offset_bytes)
    return flat.reshape(header.shape, order="F")


def _intensities(stored: NDArray[Any], header: Header, file: SourceFile) -> NDArray[np.float32]:
    """float32 voxels, scaled as the header says, every one of them finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        voxels = _scaled(stored, header.scaling)
    if stored.dtype.kind == "c":
        file.notice("note", "magnitude_taken", "magnitude of complex voxels taken, as asked for")
    if stored.dtype.kind in "fc" or header.scaling is not None:
        _clear_broken(voxels, file)
    slope = 1.0 if header.scaling is None else abs(header.scaling[0])
    if slope > HUGE_SLOPE and np.abs(voxels).max() > HUGE_VALUE:
        voxels /= np.float32(slope)
        file.notice("repair", "huge_slope", f"a slope of {slope:.3g} was taken out again")
    return voxels


def _scaled(stored: NDArray[Any], scaling: tuple[float, float] | None) -> NDArray[np.float32]:
    """Slice by slice, so that the float64 of the scaling stays in the cache."""
    if scaling is None and stored.dtype.kind != "c":
        return stored.astype(np.float32)
    slope, intercept = scaling or (1.0, 0.0)
    voxels = np.empty(stored.shape, dtype=np.float32, order="F")
    for k in range(stored.shape[2]):
        scaled = stored[..., k] * np.float64(slope) + np.float64(intercept)
        voxels[..., k] = np.abs(scaled) if stored.dtype.kind == "c" else scaled
    return voxels


def _clear_broken(voxels: NDArray[np.float32], file: SourceFile) -> None:
    finite = np.isfinite(voxels)
    if finite.all():
        return
    share = 1 - float(finite.mean())
    if share > MAX_BROKEN_FRACTION:
        raise VolumeError(
            file.problem(
                "not_finite",
                f"{share:.0%} of the voxels are not finite float32 numbers",
                "an image",
                "Check the conversion that wrote this file.",
            )
        )
    number = int(finite.size - np.count_nonzero(finite))
    voxels[~finite] = 0.0
    file.notice("repair", "not_finite", f"{number} voxels are not finite; they count as 0")


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
    channels = volume.voxels.shape[0]
    if channels != 1:
        advice = "Write each channel on its own."
        problem = Problem("several_channels", str(path), f"{channels} channels", "one", advice)
        raise VolumeError(problem)
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
        found, expected = f"labels from {low} to {high}", "values under 32768"
        raise LabelError(
            Problem("label_too_large", str(path), found, expected, "Renumber the labels.")
        )
    small = low >= 0 and high <= np.iinfo(np.uint8).max
    return voxels.astype(np.uint8 if small else np.int16)
