"""A checked stack of slices into a volume: dcm2niix in a child process, believed only when it fits.

The child gets no shell, no environment, no terminal and no network name; limits of time, memory
and file size; and a folder of its own with links under names of ours. Its output is read as any
foreign file, and compared with where the tags say each slice lies and with the pixels themselves.
"""

from __future__ import annotations

import importlib
import logging
import struct
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.errors import DataError, Problem, UsageError, VolumeError
from brainsegfounder.volumes.dicom.header import stream_of
from brainsegfounder.volumes.dicom.series import Stack, affine_of, pixels_of
from brainsegfounder.volumes.dicom.slice import Header, Slice
from brainsegfounder.volumes.nifti import read_nifti
from brainsegfounder.volumes.volume import Volume

log = logging.getLogger(__name__)

CHILD = Path(__file__).with_name("child.py")
TIMEOUT_S = 600
MAX_SECONDS = 300
MEMORY_FLOOR_BYTES = 2 << 30
# The converter rounds, and follows the slices' normal where positions drift a little.
MAX_AFFINE_ERROR_VOX = 0.5
MIN_CORRELATION = 0.9999
NUM_SLICES_COMPARED = 5
# -g i: no settings of a user; -b n: no sidecar; -z n: not compressed; -p n: the standard's own
# scaling; -m y: one volume; -x i: neither cropped nor turned; -d 0: no sub-folders.
OPTIONS = (
    "-g", "i", "-b", "n", "-ba", "y", "-z", "n", "-p", "n", "-m", "y", "-x", "i", "-d", "0",
    "-f", "volume",
)  # fmt: skip


def converter() -> str:
    """The path of dcm2niix in its wheel.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return str(importlib.import_module("dcm2niix").bin)
    except ImportError as error:
        raise UsageError(
            'reading DICOM needs pydicom and dcm2niix: pip install "brainsegfounder[dicom]"'
        ) from error


def convert(stack: Stack, name: str) -> Volume:
    """One volume from a checked stack.

    Args:
        stack: From `series.checked`.
        name: What to call it in messages.

    Returns:
        Voxels of shape (1, I, J, K): integers where no slice is rescaled, else float32.

    Raises:
        VolumeError: The converter failed, or what it made does not fit the slices.
    """
    with tempfile.TemporaryDirectory(prefix="brainsegfounder-") as room:
        inside, outside = Path(room, "in"), Path(room, "out")
        inside.mkdir()
        outside.mkdir()
        _stage(stack, inside)
        _run(stack, inside, outside, name)
        made = sorted(outside.glob("*.nii"))
        if len(made) != 1:
            found = f"the converter made {len(made)} volumes"
            raise _problem("dicom_conversion", name, found, "one")
        volume = _read(made[0], name)
    return _fitted(volume, stack, name)


def _stage(stack: Stack, folder: Path) -> None:
    """Links to the files; a file that begins or is packed otherwise is written out plainly."""
    headers = {one.header.order: one.header for one in stack.slices}
    for number, header in enumerate(headers.values(), start=1):
        place = folder / f"{number:06d}.dcm"
        if header.has_preamble and not header.syntax.deflated:
            place.symlink_to(header.path.resolve())
        else:
            place.write_bytes(_plain_file(header))


def _plain_file(header: Header) -> bytes:
    """A file with an empty preamble and a fresh meta group."""
    uid = "1.2.840.10008.1.2.1" if header.syntax.deflated else header.syntax.uid
    padded = uid.encode() + b"\0" * (len(uid) % 2)
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(padded)) + padded
    length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta))
    with stream_of(header) as stream:
        stream.seek(0 if header.syntax.deflated else header.body)
        return bytes(128) + b"DICM" + length + meta + stream.read()


def _run(stack: Stack, inside: Path, outside: Path, name: str) -> None:
    _, rows, columns = stack.first.header.shape
    volume_bytes = rows * columns * len(stack.slices) * 4
    command = [
        *(sys.executable, "-I", "-S", str(CHILD)),
        *(str(MAX_SECONDS), str(MEMORY_FLOOR_BYTES + 8 * volume_bytes)),
        *(str((1 << 20) + 2 * volume_bytes), converter()),
        *(*OPTIONS, "-o", str(outside), str(inside)),
    ]
    quiet = subprocess.DEVNULL
    try:
        done = subprocess.run(
            command, stdin=quiet, stdout=quiet, stderr=quiet, env={}, cwd=outside,
            timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        found = f"the converter did not end within {TIMEOUT_S} s"
        raise _problem("dicom_conversion", name, found, "a volume") from None
    log.debug("%s: the converter ended with %d", name, done.returncode)
    if done.returncode:
        found = f"the converter failed ({_ending(done.returncode)}); the pixels may be damaged"
        raise _problem("dicom_conversion", name, found, "a volume")


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _read(path: Path, name: str) -> Volume:
    try:
        return replace(read_nifti(path), source=name)
    except DataError as error:
        if error.problem is not None:
            raise VolumeError(replace(error.problem, file=name)) from None
        text = str(error).removeprefix(f"{path}: ")
        raise _problem("dicom_conversion", name, f"the volume was refused: {text}", "one") from None


def _fitted(volume: Volume, stack: Stack, name: str) -> Volume:
    """The volume, if it lies where the tags say and its slices are the files' slices."""
    _, rows, columns = stack.first.header.shape
    shape = (columns, rows, len(stack.slices))
    if volume.shape_vox != shape:
        found = f"the converter made a volume of {volume.shape_vox}"
        raise _problem("dicom_conversion", name, found, f"{shape}")
    flips = _flips(volume, stack)
    turned = Volume(
        np.flip(volume.voxels, tuple(axis + 1 for axis in flips)), _flipped(volume, flips)
    )
    expected = replace(turned, affine=affine_of(stack))
    error_vox = expected.grid.corner_shift_vox(turned.grid)
    if not error_vox <= MAX_AFFINE_ERROR_VOX:
        found = f"the converter placed the volume {error_vox:.3g} voxels away from its tags"
        raise _problem("dicom_conversion", name, found, "the place its tags give")
    _check_slices(turned, stack, name)
    # The tags are exact; the converter rounds to float32.
    return _slim(replace(volume, affine=_flipped(expected, flips)), stack)


def _flips(volume: Volume, stack: Stack) -> list[int]:
    """Axes along which the converter turned the order round."""
    cosines = np.sum(volume.affine[:3, :3] * affine_of(stack)[:3, :3], axis=0)
    return [axis for axis in range(3) if cosines[axis] < 0]


def _flipped(volume: Volume, axes: list[int]) -> NDArray[np.float64]:
    affine = volume.affine.copy()
    for axis in axes:
        affine[:3, 3] += affine[:3, axis] * (volume.shape_vox[axis] - 1)
        affine[:3, axis] *= -1
    return affine


def _check_slices(turned: Volume, stack: Stack, name: str) -> None:
    """Some slices, pixel by pixel; compressed ones are left to the converter."""
    last = len(stack.slices) - 1
    for index in np.unique(np.linspace(0, last, NUM_SLICES_COMPARED).round().astype(int)):
        one = stack.slices[index]
        if one.header.syntax.compressed:
            continue
        pixels, made = _pixels(one).astype(np.float64), turned.voxels[0, :, :, index].T
        if pixels.std() > 0 and not _correlation(pixels, made) >= MIN_CORRELATION:
            found = f"slice {index + 1} of the volume is not the slice of that place"
            raise _problem("dicom_conversion", name, found, "the same pixels")


def _correlation(one: NDArray[np.float64], other: NDArray[np.float32]) -> float:
    if not other.std() > 0:
        return 0.0
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def _pixels(one: Slice) -> NDArray[np.generic]:
    """The stored pixels of an uncompressed slice, shape (rows, columns)."""
    header = one.header
    kind = "i" if header.signed else "u"
    order = ">" if header.syntax.big_endian else "<"
    dtype = np.dtype(f"{order}{kind}{header.bits // 8}")
    return np.frombuffer(pixels_of(one), dtype).reshape(header.shape[1:])


def _slim(volume: Volume, stack: Stack) -> Volume:
    """Whole numbers as int16, where nothing was rescaled: half the bytes, the same values."""
    if any(one.slope != round(one.slope) for one in stack.slices):
        return volume
    small = np.iinfo(np.int16)
    whole = np.array_equal(volume.voxels, np.rint(volume.voxels))
    if not whole or volume.voxels.min() < small.min or volume.voxels.max() > small.max:
        return volume
    return replace(volume, voxels=volume.voxels.astype(np.int16))


def _problem(code: str, name: str, found: str, expected: str) -> VolumeError:
    advice = "Export the series again, or convert it by hand and look at it."
    return VolumeError(Problem(code, name, found, expected, advice))
