"""Values of DICOM tags as text and numbers, without ever raising or quoting what stands there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

NAN = float("nan")
MAX_TEXT = 256
UNCOMPRESSED = {
    "1.2.840.10008.1.2": "implicit",
    "1.2.840.10008.1.2.1": "",
    "1.2.840.10008.1.2.1.99": "deflated",
    "1.2.840.10008.1.2.2": "big-endian",
}
# What the converter decodes: JPEG, JPEG-LS, JPEG 2000, RLE.
COMPRESSED = {
    *(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91)),
    "1.2.840.10008.1.2.5",
}
VALUE_ERRORS = (
    ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Syntax:
    """How a file is encoded.

    Attributes:
        uid: The transfer syntax.
        implicit: Whether elements lack their type.
        big_endian: The byte order.
        deflated: Whether the whole dataset is compressed.
        compressed: Whether the pixels are.
    """

    uid: str
    implicit: bool
    big_endian: bool
    deflated: bool
    compressed: bool


def syntax_of(uid: str) -> Syntax:
    """A transfer syntax by its number.

    Raises:
        KeyError: It is none that is decoded.
    """
    if uid in COMPRESSED:
        return Syntax(uid, False, False, False, True)
    kind = UNCOMPRESSED[uid]
    return Syntax(uid, kind == "implicit", kind == "big-endian", kind == "deflated", False)


def value_of(dataset: Any, name: Any) -> Any:
    """A tag's value; None where it is absent or empty, NaN where it cannot be read."""
    try:
        if name not in dataset:
            return None
        value = dataset[name].value
        return None if value is None or value == "" else value
    except Exception:  # pydicom on hostile bytes raises anything
        return NAN


def text(dataset: Any, name: Any) -> str:
    """A tag's value as text, stripped and cut to a sane length; empty where there is none."""
    value = value_of(dataset, name)
    if value is None or value != value or isinstance(value, bytes | list):
        return _decoded(value)
    return str(value).strip("\0 ")[:MAX_TEXT]


def words(dataset: Any, name: Any) -> tuple[str, ...]:
    """A tag's values as texts."""
    value = value_of(dataset, name)
    if value is None or isinstance(value, str | bytes):
        return tuple(text(dataset, name).split("\\")) if value else ()
    try:
        return tuple(str(item).strip("\0 ")[:MAX_TEXT] for item in value)
    except VALUE_ERRORS:
        return (str(value),)


def number(dataset: Any, name: Any) -> float | None:
    """A tag's first value as a number; None where absent, NaN where it is none."""
    value = value_of(dataset, name)
    if value is None:
        return None
    try:
        first = (
            value[0] if not isinstance(value, str | bytes) and hasattr(value, "__len__") else value
        )
        return float(first)
    except VALUE_ERRORS:
        return NAN


def numbers(dataset: Any, name: Any, count: int) -> tuple[float, ...] | None:
    """A tag's values as numbers; None where absent, NaNs where they are not so many numbers."""
    value = value_of(dataset, name)
    if value is None:
        return None
    try:
        items = list(value) if hasattr(value, "__len__") and not isinstance(value, str) else [value]
        found = tuple(float(item) for item in items)
    except VALUE_ERRORS:
        found = ()
    return found if len(found) == count else (NAN,) * count


def is_finite(values: tuple[float, ...] | None) -> bool:
    """Whether they are there and all finite."""
    return values is not None and all(math.isfinite(value) for value in values)


def _decoded(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("ascii", "replace").strip("\0 ")[:MAX_TEXT]
    if isinstance(value, list) and value:
        return str(value[0])[:MAX_TEXT]
    return ""
