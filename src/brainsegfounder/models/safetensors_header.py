"""Checking the header of a safetensors file before anything is allocated for it."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from brainsegfounder.errors import WeightsError

MAX_HEADER_BYTES = 4 << 20
MAX_TENSORS = 20_000

_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1,
    "BOOL": 1,
}  # fmt: skip


def check_header(path: Path) -> None:
    """Refuse a file whose header lies.

    Its length is bounded, names stand once, tensors fill the rest of the file one after the other
    without holes or overlaps, and each has the bytes that its shape and type need.

    Raises:
        WeightsError: One of these does not hold; says which.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise _refused(path, f"a header of {length} bytes in a file of {size}")
        text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"a header that is not plain JSON ({error})") from error
    if not isinstance(header, dict):
        raise _refused(path, "a header that is not a dictionary")
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise _refused(path, f"{len(header)} tensors, more than {MAX_TENSORS}")
    try:
        places = sorted(_place(name, entry) for name, entry in header.items())
    except (TypeError, KeyError, ValueError) as error:
        raise _refused(path, f"a tensor that is not described well ({error})") from error
    end = 0
    for start, stop, name in places:
        if start != end:
            raise _refused(path, f"tensor '{name}' at {start}, where {end} is next")
        end = stop
    if 8 + length + end != size:
        raise _refused(path, f"tensors of {end} bytes in {size - 8 - length}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a dictionary; JSON itself would silently let the last of two equal names win."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("one name stands twice")
    return found


def _place(name: str, entry: dict[str, Any]) -> tuple[int, int, str]:
    shape, (start, stop) = entry["shape"], entry["data_offsets"]
    numbers = [*shape, start, stop]
    if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in numbers):
        raise ValueError(f"'{name}': shape {shape}, offsets {start} to {stop}")
    if stop - start != math.prod(shape) * _ITEM_BYTES[entry["dtype"]]:
        raise ValueError(f"'{name}': {stop - start} bytes for shape {shape} of {entry['dtype']}")
    return start, stop, name


def _refused(path: Path, found: str) -> WeightsError:
    return WeightsError(
        f"{path}: cannot be read as safetensors: {found}. It is damaged or hostile; fetch it again "
        "from where you trust it."
    )
