"""The stored voxels of a mask as label values: whole, within int16, and legal."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.errors import LabelError
from brainsegfounder.volumes.source_file import SourceFile

MAX_ROUNDING = 1e-3
# Of a finding; an atlas has hundreds of values.
MOST_TOLD = 8
LIMITS = np.iinfo(np.int16)

Labels = NDArray[np.int16]
# Values that may stand in a mask beside 0, with their names where they have any.
Legal = Mapping[str, int] | Collection[int]


def label_values(
    stored: NDArray[Any],
    scaling: tuple[float, float] | None,
    file: SourceFile,
    legal: Legal | None,
) -> Labels:
    """Label values as a file means them.

    Args:
        stored: Voxels as they are in the file, shape (I, J, K), or (I, J, K, N) for one-hot.
        scaling: Slope and intercept of the header, or None.
        file: The file; receives the findings. Its `reading.label_map` is applied.
        legal: Values that may occur beside 0, or these by name; None allows all.

    Returns:
        Labels of shape (I, J, K).

    Raises:
        LabelError: Values are not whole, beyond int16, overlap (one-hot), or are not legal.
    """
    label_map = file.reading.label_map
    allowed = None if legal is None else _named(legal)
    if stored.ndim == 4:
        labels = _joined(stored, file)
    elif _unscaled_counts(stored, scaling, label_map, allowed):
        labels = _whole(stored, file)
        slope = 1.0 if scaling is None else scaling[0]
        file.notice("repair", "slope_ignored", f"a slope of {slope:g} makes no labels; ignored")
    else:
        labels = _whole(_scaled(stored, scaling), file)
    labels = _mapped(labels, label_map, file)
    if allowed is not None:
        _check_legal(labels, allowed, file)
    return labels


def values_in(labels: Labels) -> list[int]:
    """The values that occur, in order; much faster than sorting all voxels."""
    counts = np.bincount(labels.ravel(order="K").view(np.uint16), minlength=1)
    return sorted(int(value) for value in np.flatnonzero(counts).astype(np.uint16).view(np.int16))


def _scaled(stored: NDArray[Any], scaling: tuple[float, float] | None) -> NDArray[Any]:
    if scaling is None:
        return stored
    with np.errstate(all="ignore"):
        return stored * np.float64(scaling[0]) + np.float64(scaling[1])


def _unscaled_counts(
    stored: NDArray[Any],
    scaling: tuple[float, float] | None,
    label_map: Mapping[int, int],
    allowed: Collection[int] | None,
) -> bool:
    """Whether only the stored integers, not the scaled values, are legal labels."""
    if scaling is None or allowed is None or stored.dtype.kind not in "iu":
        return False
    values = np.unique(stored)
    if len(values) > len(allowed) + len(label_map):
        return False
    scaled = _scaled(values, scaling)
    whole = np.rint(scaled)
    close = bool((np.abs(scaled - whole) <= MAX_ROUNDING).all())
    return not (close and _all_legal(whole, label_map, allowed)) and _all_legal(
        values, label_map, allowed
    )


def _all_legal(
    values: NDArray[Any], label_map: Mapping[int, int], allowed: Collection[int]
) -> bool:
    return all(label_map.get(int(value), int(value)) in allowed for value in values)


def _whole(values: NDArray[Any], file: SourceFile) -> Labels:
    """Rounded to int16, if that changes next to nothing."""
    if values.dtype.kind in "iu":
        rounded, worst = values, 0.0
    else:
        rounded = np.rint(values)
        with np.errstate(invalid="ignore"):
            worst = float(np.abs(values - rounded).max(initial=0.0))
    if not worst <= MAX_ROUNDING:
        raise LabelError(
            file.problem(
                "fractional_labels",
                f"label values are not whole numbers (off by {worst:.3g})",
                "a mask",
                "Was it resampled with interpolation? Resample labels with nearest neighbour.",
            )
        )
    low, high = rounded.min(initial=0), rounded.max(initial=0)
    if low < LIMITS.min or high > LIMITS.max:
        raise LabelError(
            file.problem(
                "label_too_large",
                f"label {high if high > LIMITS.max else low:.0f} found",
                "values under 32768",
                "Renumber the labels.",
            )
        )
    if worst > 0:
        file.notice("repair", "labels_rounded", f"label values were off by {worst:.2g}; rounded")
    return rounded.astype(np.int16)


def _joined(stored: NDArray[Any], file: SourceFile) -> Labels:
    """A one-hot mask as one: volume n becomes label n + 1."""
    labels = np.zeros(stored.shape[:3], dtype=np.int16, order="F")
    for number in range(stored.shape[3]):
        volume = _whole(stored[..., number], file)
        if set(values_in(volume)) - {0, 1}:
            raise _not_one_hot(file, f"values {values_in(volume)} in volume {number}", "0 and 1")
        if (labels[volume > 0] > 0).any():
            raise _not_one_hot(file, f"volume {number} overlaps an earlier one", "no overlap")
        labels[volume > 0] = number + 1
    file.notice("note", "one_hot", f"{stored.shape[3]} volumes read as labels, as asked for")
    return labels


def _not_one_hot(file: SourceFile, found: str, expected: str) -> LabelError:
    advice = "Write the mask as one volume of label values."
    return LabelError(file.problem("not_one_hot", found, expected, advice))


def _mapped(labels: Labels, label_map: Mapping[int, int], file: SourceFile) -> Labels:
    """All replacements at once, so that {1: 2, 2: 1} swaps."""
    if not label_map:
        return labels
    mapped = labels.copy(order="K")
    for old, new in label_map.items():
        if not LIMITS.min <= new <= LIMITS.max:
            found = f"label_map replaces {old} by {new}"
            advice = "Renumber the labels."
            raise LabelError(file.problem("label_too_large", found, "values under 32768", advice))
        mapped[labels == old] = new
    changed = sorted(set(values_in(labels)) & set(label_map))
    if changed:
        more = f" and {len(changed) - MOST_TOLD} more" if len(changed) > MOST_TOLD else ""
        told = f"label values {changed[:MOST_TOLD]}{more} replaced, as asked for"
        file.notice("note", "labels_mapped", told)
    return mapped


def _named(legal: Legal) -> dict[int, str]:
    """The name of each value that is legal, empty where it has none."""
    if isinstance(legal, Mapping):
        return {0: "", **{value: name for name, value in legal.items()}}
    return dict.fromkeys([0, *legal], "")


def _check_legal(labels: Labels, allowed: Mapping[int, str], file: SourceFile) -> None:
    strange = sorted(set(values_in(labels)) - allowed.keys())
    if strange:
        raise LabelError(
            file.problem(
                "unexpected_labels",
                f"label values {strange} found",
                ", ".join(f"{value} {name}".strip() for value, name in sorted(allowed.items())),
                "Correct the mask, name them in `data.labels` of the recipe, or say what they mean "
                "with `reading.label_map`.",
            )
        )
