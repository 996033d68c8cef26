"""Slices into series, and whether a series is one sound volume: geometry, gaps, doubles, pixels.

A stack is what could become one volume: slices of one patient, study, series, image type, echo
and b-value. Its checks come before any pixel is decoded, so nothing is allocated for a lie.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.errors import Problem, VolumeError
from brainsegfounder.settings import ReadingSettings
from brainsegfounder.volumes.dicom.frames import frames_are_whole
from brainsegfounder.volumes.dicom.header import stream_of
from brainsegfounder.volumes.dicom.slice import Slice
from brainsegfounder.volumes.dicom.tags import is_finite
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.volume import Affine

MIN_SLICES = 4
MAX_VOXELS = 1 << 28
SPACING_LIMITS_MM = (0.1, 20.0)
# Orientations whose cosines agree to this are one; positions, to this share of the spacing.
SAME_COSINE = 1e-3
SAME_SPACING = 0.01
PIXEL_BITS = (8, 16, 32)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True)
class Stack:
    """Slices that should be one volume.

    Attributes:
        slices: In the order they were found, then from first to last position.
        series: Identity of the series it is a part of.
        is_part: Whether the series has other stacks, of other echoes or image types.
    """

    slices: tuple[Slice, ...]
    series: tuple[str, str, str]
    is_part: bool

    @property
    def first(self) -> Slice:
        """The slice whose tags speak for all."""
        return self.slices[0]


def stacks_of(slices: Sequence[Slice]) -> list[Stack]:
    """Group slices by patient, study, series, image type, echo and b-value."""
    groups: dict[tuple[object, ...], list[Slice]] = {}
    parts: dict[tuple[str, str, str], set[tuple[object, ...]]] = {}
    for one in slices:
        series, part = _series(one), _part(one)
        groups.setdefault((*series, *part), []).append(one)
        parts.setdefault(series, set()).add(part)
    return [
        Stack(tuple(group), _series(group[0]), len(parts[_series(group[0])]) > 1)
        for group in groups.values()
    ]


def _series(one: Slice) -> tuple[str, str, str]:
    return one.header.patient, one.header.study, one.header.series


def _part(one: Slice) -> tuple[object, ...]:
    tags = one.tags
    echo = None if tags.echo_time_ms is None else f"{tags.echo_time_ms:.3f}"
    b_value = None if tags.b_value is None else f"{tags.b_value:.0f}"
    return tags.image_type, echo, b_value


def mixed_patients(stacks: Sequence[Stack]) -> set[str]:
    """Series UIDs that stand under more than one patient."""
    patients: dict[str, set[str]] = {}
    for stack in stacks:
        patient, _, series = stack.series
        patients.setdefault(series, set()).add(patient)
    return {series for series, names in patients.items() if len(names) > 1}


def checked(stack: Stack, name: str, reading: ReadingSettings) -> tuple[Stack, list[Finding]]:
    """The stack with its slices in order of position, each once.

    Args:
        stack: As it was grouped.
        name: What to call it in messages.
        reading: `any_size` accepts spacings that no scan of a head has.

    Raises:
        VolumeError: It is no regular volume, or its files are not whole.
    """
    _check_frames(stack, name)
    _check_pixels(stack, name)
    _check_numbers(stack, name, reading)
    _check_orientation(stack, name)
    stack, findings = _once(_in_order(stack), name)
    gaps_mm = _gaps_mm(stack)
    _check_gaps(gaps_mm, name)
    _check_distance(float(np.median(gaps_mm)), name, reading)
    _check_drift(stack, name)
    expected = stack.first.header.expected_images
    if expected is not None and not stack.is_part and 0 < len(stack.slices) < expected:
        message = f"{len(stack.slices)} slices, but the scanner counted {expected} images"
        findings.append(Finding("dicom_fewer_images", name, message, "warning"))
    if any(one.header.lossy for one in stack.slices):
        message = "the images were compressed with loss"
        findings.append(Finding("dicom_lossy", name, message, "warning"))
    return stack, findings


def affine_of(stack: Stack) -> Affine:
    """From index (column, row, slice, 1) to RAS+ millimetres, for slices in order."""
    first, last = (np.asarray(one.position, float) for one in (stack.slices[0], stack.slices[-1]))
    row, column = np.reshape(np.asarray(stack.first.orientation), (2, 3))
    between_rows_mm, between_columns_mm = np.asarray(stack.first.spacing_mm)
    lps = np.eye(4)
    lps[:3, 0] = row * between_columns_mm
    lps[:3, 1] = column * between_rows_mm
    lps[:3, 2] = (last - first) / max(1, len(stack.slices) - 1)
    lps[:3, 3] = first
    return np.asarray(LPS_TO_RAS @ lps)


def pixels_of(one: Slice) -> bytes:
    """The bytes of a slice's pixels as they stand in its file."""
    header = one.header
    with stream_of(header) as stream:
        stream.seek(header.pixel_offset)
        if header.pixel_bytes is None:
            return stream.read()
        size = header.shape[1] * header.shape[2] * header.bits // 8
        stream.seek(header.pixel_offset + one.frame * size)
        return stream.read(size)


def _check_frames(stack: Stack, name: str) -> None:
    """A multi-frame file is converted whole, so all its frames must be of this stack."""
    counted = Counter(one.header.order for one in stack.slices)
    frames = {one.header.order: one.header.shape[0] for one in stack.slices}
    if any(counted[order] != number for order, number in frames.items()):
        found, advice = "files of several volumes", "Export a file for each echo or b-value."
        raise _problem("several_volumes", name, found, "one volume in each", advice=advice)


def _check_pixels(stack: Stack, name: str) -> None:
    shapes = {one.header.shape[1:] for one in stack.slices}
    if len(shapes) > 1:
        found = f"slices of {len(shapes)} sizes"
        raise _problem("shapes_differ", name, found, "one size", "Rows, Columns")
    rows, columns = next(iter(shapes))
    num_voxels = rows * columns * len(stack.slices)
    if min(rows, columns) < 1 or num_voxels > MAX_VOXELS:
        found = f"{num_voxels} voxels"
        raise _problem("implausible_size", name, found, f"1 to {MAX_VOXELS}", "Rows, Columns")
    if any(one.header.bits not in PIXEL_BITS for one in stack.slices):
        raise _problem("bits", name, "pixels of odd size", "8, 16 or 32 bits", "BitsAllocated")
    short = sum(not _is_complete(one) for one in stack.slices)
    if short:
        found = f"{short} slices whose pixels are missing or cut short"
        raise _problem("pixels_short", name, found, "whole files", "PixelData")


def _is_complete(one: Slice) -> bool:
    header = one.header
    if header.pixel_bytes is None:
        return header.is_whole and (one.frame > 0 or frames_are_whole(header))
    return header.is_whole and header.pixel_bytes >= math.prod(header.shape) * header.bits // 8


def _check_numbers(stack: Stack, name: str, reading: ReadingSettings) -> None:
    absent = sum(one.position is None or one.orientation is None for one in stack.slices)
    if absent:
        found = f"{absent} slices that do not say where they lie"
        raise _problem("no_position", name, found, "a position for each", "ImagePositionPatient")
    for one in stack.slices:
        if not (is_finite(one.position) and _is_rotation(one.orientation)):
            found = "a position or orientation that is none"
            raise _problem("bad_position", name, found, "numbers", "ImageOrientationPatient")
        low_mm, high_mm = _limits_mm(reading)
        spacing_mm = one.spacing_mm or ()
        if not (spacing_mm and all(low_mm <= mm <= high_mm for mm in spacing_mm)):
            found = "no distance between pixels that a scan of a head has"
            raise _problem(
                "bad_spacing", name, found, f"{low_mm:g} to {high_mm:g} mm", "PixelSpacing"
            )
        if not (is_finite((one.slope, one.intercept)) and one.slope):
            found = "a scaling of intensities that is not finite, or 0"
            raise _problem("bad_slope", name, found, "a finite number", "RescaleSlope")


def _check_distance(gap_mm: float, name: str, reading: ReadingSettings) -> None:
    low_mm, high_mm = _limits_mm(reading)
    if not low_mm <= gap_mm <= high_mm:
        found, limits = f"slices {gap_mm:.3g} mm apart", f"{low_mm:g} to {high_mm:g} mm"
        raise _problem("bad_spacing", name, found, limits, "ImagePositionPatient")


def _limits_mm(reading: ReadingSettings) -> tuple[float, float]:
    return (1e-3, 1e3) if reading.any_size else SPACING_LIMITS_MM


def _is_rotation(cosines: tuple[float, ...] | None) -> bool:
    if not is_finite(cosines):
        return False
    row, column = np.reshape(np.asarray(cosines), (2, 3))
    unit = abs(row @ row - 1) < 0.01 and abs(column @ column - 1) < 0.01
    return bool(unit and abs(row @ column) < 0.01)


def _check_orientation(stack: Stack, name: str) -> None:
    cosines = np.array([one.orientation for one in stack.slices])
    apart = np.abs(cosines - cosines[0]).max(axis=1) > SAME_COSINE
    if apart.any():
        found = f"slices of several orientations ({apart.sum()} of {len(apart)} differ)"
        raise _problem(
            "mixed_orientations", name, found, "one orientation", "ImageOrientationPatient"
        )
    spacings_mm = np.array([one.spacing_mm for one in stack.slices])
    if not np.allclose(spacings_mm, spacings_mm[0], rtol=1e-3):
        raise _problem("mixed_spacing", name, "several pixel sizes", "one", "PixelSpacing")


def normal_of(one: Slice) -> NDArray[np.float64]:
    """The direction in which slices follow each other, LPS."""
    row, column = np.reshape(np.asarray(one.orientation), (2, 3))
    normal = np.cross(row, column)
    return np.asarray(normal / np.linalg.norm(normal))


def _depths_mm(stack: Stack) -> NDArray[np.float64]:
    return np.array([one.position for one in stack.slices]) @ normal_of(stack.first)


def _gaps_mm(stack: Stack) -> NDArray[np.float64]:
    return np.diff(_depths_mm(stack))


def _in_order(stack: Stack) -> Stack:
    """By position, whatever the instance numbers say."""
    depths_mm = _depths_mm(stack)
    keys = [
        (mm, one.header.instance, one.header.order)
        for mm, one in zip(depths_mm, stack.slices, strict=True)
    ]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return replace(stack, slices=tuple(stack.slices[index] for index in order))


def _once(stack: Stack, name: str) -> tuple[Stack, list[Finding]]:
    """Each position once: identical doubles are dropped, others are a refusal."""
    gaps_mm = _gaps_mm(stack)
    apart = gaps_mm[gaps_mm > 1e-3]
    typical_mm = float(np.median(apart)) if apart.size else 0.0
    kept, doubles, differing = [stack.first], 0, 0
    for one, gap_mm in zip(stack.slices[1:], gaps_mm, strict=True):
        if gap_mm > max(1e-3, SAME_SPACING * typical_mm):
            kept.append(one)
        elif _same_slice(kept[-1], one):
            doubles += 1
        else:
            differing += 1
    if differing:
        found = f"{differing} slices at the place of another, with other pixels"
        raise _problem(
            "several_volumes", name, found, "one volume", advice="Keep the files of one volume."
        )
    if len(kept) < MIN_SLICES:
        raise _problem("too_few_slices", name, f"{len(kept)} slices", f"at least {MIN_SLICES}")
    stack = replace(stack, slices=tuple(kept))
    message = f"{doubles} slices stand twice, alike in place and pixels; each counts once"
    repair = [Finding("dicom_double_slices", name, message, "repair")] if doubles else []
    return stack, repair


def _same_slice(one: Slice, other: Slice) -> bool:
    close = np.allclose(np.asarray(one.position), np.asarray(other.position), atol=1e-3)
    alike = (one.slope, one.intercept) == (other.slope, other.intercept)
    return bool(close and alike) and _digest(one) == _digest(other)


def _digest(one: Slice) -> bytes:
    return hashlib.sha256(pixels_of(one)).digest()


def _check_gaps(gaps_mm: NDArray[np.float64], name: str) -> None:
    typical_mm = float(np.median(gaps_mm))
    off = np.abs(gaps_mm - typical_mm) > SAME_SPACING * typical_mm
    if not off.any():
        return
    missing = list(_missing(gaps_mm, typical_mm))
    if len(missing) == off.sum():
        places = ", ".join(f"{count} after slice {after}" for after, count in missing[:10])
        found = f"slices are missing ({places}{', ...' if len(missing) > 10 else ''})"
        advice = "Export the series again; missing slices are never filled in."
        raise _problem("slices_missing", name, found, "a slice at each place", advice=advice)
    found = f"distances between slices from {gaps_mm.min():.3f} to {gaps_mm.max():.3f} mm"
    raise _problem("uneven_spacing", name, found, "one distance, to 1 %", "ImagePositionPatient")


def _missing(gaps_mm: NDArray[np.float64], typical_mm: float) -> Iterator[tuple[int, int]]:
    """After which slice (counted from 1) how many are missing."""
    for after, gap_mm in enumerate(gaps_mm, start=1):
        steps = round(gap_mm / typical_mm)
        if steps >= 2 and abs(gap_mm / typical_mm - steps) <= SAME_SPACING * steps:
            yield after, steps - 1


def _check_drift(stack: Stack, name: str) -> None:
    """Slices that slide sideways are a tilted gantry or a wrong header."""
    positions = np.array([one.position for one in stack.slices])
    normal = normal_of(stack.first)
    worst = 0.0
    for before, after in pairwise(positions):
        step = after - before
        depth_mm = step @ normal
        worst = max(worst, float(np.linalg.norm(step - depth_mm * normal) / depth_mm))
    if worst > SAME_SPACING:
        found = f"slices that slide sideways by {worst:.1%} of their distance (a tilted gantry?)"
        raise _problem("tilted", name, found, "slices straight above each other")


def _problem(
    code: str,
    name: str,
    found: str,
    expected: str,
    field: str = "",
    advice: str = "Export the series again from the archive.",
) -> VolumeError:
    return VolumeError(Problem(f"dicom_{code}", name, found, expected, advice, field))
