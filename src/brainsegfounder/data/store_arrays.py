"""One array, one file: compressed chunks (Blosc2), or plain `.npy` where they are a burden.

A patch of 96³ voxels is read from the chunks that it touches, through a map of the file into
memory. How large chunks and blocks are was measured: see docs/concepts/store.md.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import blosc2
import numpy as np
from numpy.typing import NDArray

from brainsegfounder.errors import Problem, StoreError
from brainsegfounder.files import write_bytes

ArrayFormat = Literal["blosc2", "npy"]
# How intensities are stored; both take two bytes.
Dtype = Literal["float16", "int16"]
LARGEST_INT16 = 32767
SUFFIXES: dict[ArrayFormat, str] = {"blosc2": ".b2nd", "npy": ".npy"}
CHUNK_VOX = 48
BLOCK_VOX = 24
# Bytes on disk for each byte of prepared voxels in the whole field of view, head and neck cropped
# away. Measured: 0.2 for a brain on UK Biobank's grid; the estimate shall err towards more.
DISK_SHARE: dict[ArrayFormat, float] = {"blosc2": 0.6, "npy": 1.0}


@dataclass(frozen=True, slots=True)
class ScaledArray:
    """Integers of shape (C, I, J, K) that read as float32: each channel times its scale.

    Attributes:
        stored: int16, sliceable.
        scales: One a channel.
    """

    stored: Any
    scales: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, then voxels along I, J, K."""
        return tuple(self.stored.shape)

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        voxels = np.asarray(self.stored[key])
        scales = np.asarray(self.scales, dtype=np.float32)[
            key[0] if isinstance(key, tuple) else key
        ]
        if scales.ndim:
            scales = scales.reshape(-1, *[1] * (voxels.ndim - 1))
        return np.asarray(voxels * scales, dtype=np.float32)


def to_int16(voxels: NDArray[np.floating[Any]]) -> tuple[NDArray[np.int16], tuple[float, ...]]:
    """Round intensities to integers, with one scale for each channel: its largest over 32767.

    The scale is a step. 0 stays exactly 0 and nothing else becomes 0, since 0 means background; so
    a value is off by at most half a step, and one that is nearer to 0 than that by less than one.

    Args:
        voxels: Finite, shape (C, I, J, K).

    Returns:
        Integers of the same shape, and the scales.
    """
    largest = np.abs(voxels).max(axis=(1, 2, 3)).astype(np.float64)
    smallest = np.finfo(np.float32).tiny
    scales = np.maximum(largest / LARGEST_INT16, smallest).astype(np.float32)
    steps = voxels / scales[:, None, None, None]
    rounded = np.rint(steps).clip(-LARGEST_INT16, LARGEST_INT16).astype(np.int16)
    lost = (rounded == 0) & (voxels != 0)
    rounded[lost] = np.where(voxels[lost] > 0, 1, -1)
    return rounded, tuple(float(scale) for scale in scales)


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array of shape (C, I, J, K) in the format of the file's suffix, and read it back.

    The same array always gives the same bytes.

    Raises:
        RunError: It cannot be written; nothing half written stays behind.
        StoreError: What was written reads back otherwise.
    """
    array = np.ascontiguousarray(array)
    write_bytes(path, _npy(array) if path.suffix == SUFFIXES["npy"] else _blosc2(array))
    if not np.array_equal(open_array(path)[:], array):
        path.unlink(missing_ok=True)
        raise _damaged(path, "what was written reads back otherwise")


def open_array(path: Path, num_bytes: int | None = None) -> Any:
    """Open an array for reading parts of it; nothing but its head is read.

    Args:
        path: A file of `write_array`.
        num_bytes: How large the file must be, or None.

    Raises:
        StoreError: It is missing, damaged, or of another size.
    """
    try:
        found = path.stat().st_size
        if num_bytes is not None and found != num_bytes:
            raise _damaged(path, f"{found} bytes found", f"{num_bytes} bytes")
        if path.suffix == SUFFIXES["npy"]:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        return blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
    except (OSError, RuntimeError, ValueError) as error:
        raise _damaged(path, f"cannot be opened ({error})") from error


def _damaged(path: Path, found: str, expected: str = "a whole array") -> StoreError:
    advice = "Prepare the case again: the same command mends the store."
    return StoreError(Problem("store_file_damaged", str(path), found, expected, advice))


def _npy(array: NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def _blosc2(array: NDArray[Any]) -> bytes:
    # A block holds all contrasts of a place, since they are always read together.
    channels, *shape_vox = array.shape
    chunk = (channels, *(min(CHUNK_VOX, n) for n in shape_vox))
    block = (channels, *(min(BLOCK_VOX, n) for n in shape_vox))
    compressed = blosc2.asarray(
        array,
        chunks=chunk,
        blocks=block,
        cparams={
            "codec": blosc2.Codec.LZ4HC,
            "filters": [blosc2.Filter.SHUFFLE],
            "typesize": array.itemsize,
            "nthreads": 1,
        },
    )
    return bytes(compressed.to_cframe())


def disk_bytes(num_voxels: int, array_format: ArrayFormat) -> int:
    """About how many bytes an array of 2-byte values takes on disk."""
    return math.ceil(num_voxels * 2 * DISK_SHARE[array_format])
