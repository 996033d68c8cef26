"""Whether a scan looks as a brain scan should: quick looks at its size and intensities.

These are heuristics, and say so: but for an impossible size nothing is refused here. A look is
taken at about every second voxel, so that it costs little beside reading the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray
from scipy import ndimage

from brainsegfounder.errors import Problem, VolumeError
from brainsegfounder.settings import ReadingSettings
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.intensity import STRIPPED_ZERO_FRACTION, foreground
from brainsegfounder.volumes.source_file import Kind
from brainsegfounder.volumes.volume import Volume

SPACING_LIMITS_MM = (0.1, 20.0)
FIELD_OF_VIEW_LIMITS_MM = (50.0, 600.0)
THICK_MM = 4.5
# A head's outside is no brain's: below this volume a scan with a cleared background is a brain.
MAX_BRAIN_ML = 2300.0
HEAD_LIMITS_ML = (250.0, 9000.0)
# Correlation of neighbours along an axis: those of tissue look alike, those of noise do not.
MIN_SMOOTHNESS = 0.4
# Tissue has parts of different brightness; a bottle of water has not.
MIN_VARIATION = 0.1
# A part of the body that is as thick at both ends as within, and thinner than an adult's head.
LIMB_ENDS, MAX_LIMB_CM2 = 0.6, 140.0
SPIKE = 20.0
# Values this near to both ends of int16 have run over one of them.
WRAP_EDGE = 30_000
WRAPPED_SHARE = 5e-4
# A section at the border of this size, against the largest one, means that there was more.
CUT_SHARE = 0.35
LONG_MM = 290.0
LOOK_MM = 2.0
BLOCK_VOX = 64

NAMES = {
    "R": "on the right",
    "L": "on the left",
    "A": "in front",
    "P": "behind",
    "S": "above",
    "I": "below",
}
# Kind, code and message of a finding.
Seen = tuple[Kind, str, str]


@dataclass(frozen=True, slots=True)
class _Look:
    """A coarse view of one contrast.

    Attributes:
        values: Every few voxels, shape (I, J, K).
        tissue: What is not background, one piece with its holes filled, of the same shape.
        cleared: Whether the background is exactly 0.
        spacing_mm: Between the values.
        axes: Where each axis goes: R or L, A or P, S or I.
    """

    values: NDArray[np.float32]
    tissue: NDArray[np.bool_]
    cleared: bool
    spacing_mm: tuple[float, ...]
    axes: tuple[str, ...]

    @property
    def volume_ml(self) -> float:
        return float(self.tissue.sum() * np.prod(self.spacing_mm) / 1000)

    @property
    def is_brain(self) -> bool:
        """Whether the skull was removed, by size: around a defaced head there may be zeros, too."""
        return self.cleared and self.volume_ml <= MAX_BRAIN_ML


def check_size(volume: Volume, reading: ReadingSettings) -> None:
    """Refuse a scan whose voxels or field of view are those of no head.

    Args:
        volume: As read.
        reading: `any_size` lets everything pass.

    Raises:
        VolumeError: A spacing outside 0.1 to 20 mm, or a field of view outside 50 to 600 mm.
    """
    if reading.any_size:
        return
    spacing_mm = np.asarray(volume.spacing_mm)
    extent_mm = spacing_mm * volume.shape_vox
    sizes = (
        ("implausible_spacing", "voxels", spacing_mm, SPACING_LIMITS_MM),
        ("implausible_field_of_view", "a field of view", extent_mm, FIELD_OF_VIEW_LIMITS_MM),
    )
    for code, name, lengths_mm, (low, high) in sizes:
        if lengths_mm.min() < low or lengths_mm.max() > high:
            found = " x ".join(f"{mm:.4g}" for mm in lengths_mm)
            raise VolumeError(
                Problem(
                    code,
                    volume.source,
                    f"{name} of {found} mm",
                    f"{low:g} to {high:g} mm",
                    "Check the units of the header, or set `reading.any_size`.",
                    "pixdim",
                )
            )


def inspect(volume: Volume) -> tuple[Finding, ...]:
    """What is worth knowing or doubtful about the intensities of a scan.

    Args:
        volume: One or several contrasts as read, shape (C, I, J, K), any axis order.

    Returns:
        Notes on the state of the scan, and warnings. Nothing is changed.
    """
    found = list(_thick_slices(volume))
    with np.errstate(over="ignore", invalid="ignore"):
        for channel in volume.voxels:
            if channel.max() > channel.min():
                found += _inspect_channel(channel, volume)
    return tuple(
        Finding(code, volume.source, message, kind) for kind, code, message in dict.fromkeys(found)
    )


def inspect_labels(labels: Volume, foreground: NDArray[np.bool_]) -> tuple[Finding, ...]:
    """Whether a mask lies where there is something.

    Args:
        labels: Shape (1, I, J, K), 0 is background.
        foreground: What is not background in the image, shape (I, J, K), on the same grid.

    Returns:
        A warning if more than half of the mask lies outside.
    """
    marked = labels.voxels[0] != 0
    number = int(np.count_nonzero(marked))
    outside = number - int(np.count_nonzero(marked & foreground))
    if 2 * outside <= number:
        return ()
    message = (
        f"{outside / number:.0%} of the mask lie outside the head; is it mirrored, or another's?"
    )
    return (Finding("mask_outside", labels.source, message, "warning"),)


def _inspect_channel(channel: NDArray[np.float32], volume: Volume) -> Iterator[Seen]:
    look = _look(channel, volume)
    yield from _wrapped(channel)
    doubts = list(_doubts(channel, look))
    if doubts:
        reasons = "; ".join(doubts)
        yield "warning", "not_a_brain", f"this may be no MRI of a brain: {reasons}"
        return
    if look.is_brain:
        yield "note", "skull_stripped", f"a brain of {look.volume_ml:.0f} mL, its outside cleared"
    else:
        yield "note", "whole_head", f"a whole head of {look.volume_ml:.0f} mL"
    yield from _cut(look)


def _thick_slices(volume: Volume) -> Iterator[Seen]:
    thickest_mm = max(volume.spacing_mm)
    if thickest_mm > THICK_MM:
        message = f"slices {thickest_mm:.1f} mm apart; small lesions may be lost between them"
        yield "warning", "thick_slices", message


def _look(channel: NDArray[np.float32], volume: Volume) -> _Look:
    steps = [max(1, int(LOOK_MM / mm + 0.01)) for mm in volume.spacing_mm]
    i, j, k = (slice(None, None, step) for step in steps)
    values = np.ascontiguousarray(channel[i, j, k])
    spacing_mm = tuple(mm * step for mm, step in zip(volume.spacing_mm, steps, strict=True))
    marked = values != 0
    limit_vox = HEAD_LIMITS_ML[1] * 1000 / np.prod(spacing_mm)
    cleared = bool(marked.mean() <= 1 - STRIPPED_ZERO_FRACTION and marked.sum() <= limit_vox)
    if not cleared:
        marked = _bright(values, marked, volume.source)
    return _Look(values, _solid(marked), cleared, spacing_mm, aff2axcodes(volume.affine))


def _bright(
    values: NDArray[np.float32], marked: NDArray[np.bool_], source: str
) -> NDArray[np.bool_]:
    """What stands out from noise, or from the zeros that a scanner sets in the corners."""
    low, high = np.percentile(values[marked].astype(np.float64), (0.1, 99.9))
    if not low < high:
        return marked
    # From 1 to 2, whatever the unit: nothing is 0, which would count as cleared.
    scaled = 1 + (np.clip(np.where(marked, values, low), low, high) - low) / (high - low)
    return foreground(scaled.astype(np.float32)[None], source)


def _solid(marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest piece, with its holes filled."""
    pieces, number = ndimage.label(marked)
    if number == 0:
        return marked
    largest = int(np.bincount(pieces.ravel())[1:].argmax()) + 1
    return np.asarray(ndimage.binary_fill_holes(pieces == largest))


def _wrapped(channel: NDArray[np.float32]) -> Iterator[Seen]:
    low, high = float(channel.min()), float(channel.max())
    if not -(1 << 15) <= low < -WRAP_EDGE or not WRAP_EDGE < high < 1 << 15:
        return
    shares = (float((channel < -WRAP_EDGE).mean()), float((channel > WRAP_EDGE).mean()))
    if min(shares) > WRAPPED_SHARE:
        message = "values crowd at both ends of int16; they seem to have run over (uint16 data?)"
        yield "warning", "wrapped_values", message


def _doubts(channel: NDArray[np.float32], look: _Look) -> Iterator[str]:
    """Reasons to think that this is no brain."""
    low_ml, high_ml = HEAD_LIMITS_ML
    if not low_ml <= look.volume_ml <= high_ml:
        yield f"what is not background measures {look.volume_ml:.0f} mL"
    smoothness = _smoothness(channel)
    if smoothness < MIN_SMOOTHNESS:
        yield f"neighbouring voxels hardly agree (correlation {smoothness:.2f})"
    if _is_limb(look):
        yield "it runs through the whole field of view as a knee or a neck does"
    inside = look.values[look.tissue]
    if inside.size:
        low, middle, high = np.percentile(inside, (5, 50, 95))
        if high - low < MIN_VARIATION * abs(middle):
            yield "it is of one brightness"


def _is_limb(look: _Look) -> bool:
    """Whether it is cut off above and below, nearly as thick there as within, and thin."""
    axis = next(number for number, towards in enumerate(look.axes) if towards in "SI")
    others = [number for number in range(3) if number != axis]
    sections = look.tissue.sum(axis=tuple(others))
    voxel_cm2 = look.spacing_mm[others[0]] * look.spacing_mm[others[1]] / 100
    first, last, widest = float(sections[0]), float(sections[-1]), float(sections.max())
    return 0 < widest * voxel_cm2 < MAX_LIMB_CM2 and min(first, last) > LIMB_ENDS * widest


def _smoothness(channel: NDArray[np.float32]) -> float:
    """The largest correlation of neighbours along an axis, in a block in the middle."""
    starts = [max(0, (n - BLOCK_VOX) // 2) for n in channel.shape]
    i, j, k = (slice(start, start + BLOCK_VOX) for start in starts)
    block = channel[i, j, k]
    tissue = block != 0
    block = np.clip(block, *np.percentile(block.astype(np.float64), (0.1, 99.9)))
    found = 0.0
    for axis in range(3):
        turned, there = np.moveaxis(block, axis, 0), np.moveaxis(tissue, axis, 0)
        both = there[:-1] & there[1:]
        one, other = turned[:-1][both], turned[1:][both]
        if one.size > 2 and one.std() > 0 and other.std() > 0:
            found = max(found, float(np.corrcoef(one, other)[0, 1]))
    return found


def _cut(look: _Look) -> Iterator[Seen]:
    """Whether the head goes on beyond the field of view; a neck always does."""
    cut = []
    for axis, towards in enumerate(look.axes):
        sections = look.tissue.sum(axis=tuple(a for a in range(3) if a != axis))
        sides = (_opposite(towards), towards)
        for side, section in zip(sides, sections[[0, -1]], strict=True):
            expected = side == "I" and not look.is_brain
            if section > CUT_SHARE * sections.max() and not expected:
                cut.append(NAMES[side])
        if towards in "SI":
            length_mm = np.count_nonzero(sections) * look.spacing_mm[axis]
            if length_mm > LONG_MM:
                message = f"the head is {length_mm:.0f} mm long; is the neck or more in view?"
                yield "warning", "long_field_of_view", message
    if cut:
        yield "warning", "cropped", f"the head is cut off {', '.join(cut)}"


def _opposite(side: str) -> str:
    return "LRPAIS"["RLAPSI".index(side)]
