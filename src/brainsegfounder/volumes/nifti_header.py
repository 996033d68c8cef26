"""Headers of NIfTI-1 and NIfTI-2: every number is checked, repaired with a finding, or refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from brainsegfounder.errors import VolumeError
from brainsegfounder.volumes.header import (
    Header,
    check_budget,
    check_content,
    checked_affine,
    not_nifti,
)
from brainsegfounder.volumes.nifti_forms import affine_of
from brainsegfounder.volumes.source_file import SourceFile

# Lengths of the headers. A NIfTI-2 file begins with its own, in either byte order.
NIFTI1_BYTES = 348
NIFTI2_BYTES = 540
ORDERS = {"little": "<", "big": ">"}
SINGLE, PAIRED = (b"n+1", b"n+2"), (b"ni1", b"ni2")
RGB_CODES = (128, 2304)


def read_nifti_header(content: bytes, file: SourceFile) -> Header:
    """What the first bytes of a file say.

    Args:
        content: At least 540 bytes, or all there are.
        file: Where they come from; receives the findings.

    Raises:
        VolumeError: It is no NIfTI image, or says something impossible.
    """
    check_content(content, NIFTI1_BYTES, file)
    raw = _raw_header(content, file)
    single = _is_single(raw, file)
    dtype = _dtype(raw, file)
    shape = _shape(raw, file)
    offset_bytes = _offset(raw, single, file)
    scaling = _scaling(raw, file)
    check_budget(shape, dtype.itemsize, file)
    shape_vox = shape[0], shape[1], shape[2]
    with np.errstate(all="ignore"):
        affine = checked_affine(affine_of(raw, shape_vox, file), shape_vox, file)
    return Header(
        shape, dtype, offset_bytes, scaling, affine, None if single else _voxel_file(file)
    )


def _raw_header(content: bytes, file: SourceFile) -> nib.Nifti1Header:
    """The header as it stands in the file, neither checked nor repaired."""
    for name, order in ORDERS.items():
        size = int.from_bytes(content[:4], name)  # type: ignore[arg-type]
        if size == NIFTI2_BYTES and len(content) >= NIFTI2_BYTES:
            return nib.Nifti2Header(content[:NIFTI2_BYTES], order, check=False)
        if size == NIFTI1_BYTES:
            return nib.Nifti1Header(content[:NIFTI1_BYTES], order, check=False)
    raw = nib.Nifti1Header(content[:NIFTI1_BYTES], check=False)
    if raw["magic"].item()[:3] in SINGLE + PAIRED:
        size = int(raw["sizeof_hdr"])
        file.notice("repair", "bad_sizeof_hdr", f"sizeof_hdr is {size}; counts as {NIFTI1_BYTES}")
    return raw


def _is_single(raw: nib.Nifti1Header, file: SourceFile) -> bool:
    magic = raw["magic"].item()[:3]
    if magic in SINGLE + PAIRED:
        return magic in SINGLE
    if int(raw["sizeof_hdr"]) == NIFTI1_BYTES and not magic.strip(b"\0"):
        raise not_nifti(
            file, "analyze", "its magic is empty: Analyze 7.5, which knows no left and right"
        )
    raise not_nifti(file, "bad_magic", f"its header is marked {raw['magic'].item()!r}", "")


def _voxel_file(file: SourceFile) -> Path:
    """The `.img` beside a `.hdr`."""
    name = file.path.name
    for suffix, voxels in ((".hdr", ".img"), (".hdr.gz", ".img.gz")):
        if name.lower().endswith(suffix):
            image = file.path.with_name(name[: -len(suffix)] + voxels)
            return image if image.exists() else image.with_name(image.name.removesuffix(".gz"))
    raise not_nifti(file, "bad_magic", "it is the header of a pair, .hdr and .img, misnamed")


def _dtype(raw: nib.Nifti1Header, file: SourceFile) -> np.dtype[Any]:
    code, bits = int(raw["datatype"]), int(raw["bitpix"])
    if code in RGB_CODES:
        raise _bad_type(file, "rgb", "colours", "Convert the original scan, not a picture of it.")
    try:
        dtype: np.dtype[Any] = np.dtype(raw.get_data_dtype())
    except (HeaderDataError, KeyError):
        dtype = np.dtype(np.void)
    if dtype.kind not in "iufc" or not dtype.itemsize:
        raise _bad_type(file, "bad_datatype", f"datatype {code}", "Convert it again.")
    if dtype.kind == "c" and not file.reading.magnitude:
        advice = "Save the magnitude, or ask for it with `reading.magnitude`."
        raise _bad_type(file, "complex", str(dtype), advice)
    if bits != dtype.itemsize * 8:
        file.notice("repair", "bad_bitpix", f"bitpix is {bits}, against datatype {dtype}; ignored")
    return dtype


def _bad_type(file: SourceFile, code: str, found: str, advice: str) -> VolumeError:
    return VolumeError(
        file.problem(code, f"voxels of type {found}", "whole or real numbers", advice, "datatype")
    )


def _shape(raw: nib.Nifti1Header, file: SourceFile) -> tuple[int, ...]:
    """Three axes, or four where one of several volumes may be taken."""
    num_axes = int(raw["dim"][0])
    shape = tuple(int(n) for n in raw["dim"][1 : num_axes + 1])
    if not 1 <= num_axes <= 7 or min(shape) < 1:
        dims = [int(n) for n in raw["dim"]]
        raise VolumeError(
            file.problem(
                "bad_dims",
                f"dimensions {dims}",
                "a number of axes from 1 to 7, then as many lengths of at least 1",
                "Convert the original again.",
                "dim",
            )
        )
    stored = shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) < len(stored):
        file.notice("repair", "axes_dropped", f"shape {stored} read as {shape}")
    if len(shape) < 3 or len(shape) > 4:
        raise VolumeError(
            file.problem(
                "not_3d",
                f"an image of shape {stored}",
                "one 3-D volume",
                "Give the 3-D scan itself, not a slice or a vector field.",
                "dim",
            )
        )
    return shape


def _offset(raw: nib.Nifti1Header, single: bool, file: SourceFile) -> int:
    offset = float(raw["vox_offset"])
    first = int(raw.single_vox_offset) if single else 0
    if not math.isfinite(offset) or offset < 0 or offset != int(offset):
        raise VolumeError(
            file.problem(
                "bad_vox_offset",
                f"voxels begin at byte {offset:g}",
                f"a whole number from {first}",
                "Convert the original again.",
                "vox_offset",
            )
        )
    if offset < first:
        file.notice(
            "repair",
            "offset_in_header",
            f"vox_offset {int(offset)} lies inside the header; counts as {first}",
        )
    return max(first, int(offset))


def _scaling(raw: nib.Nifti1Header, file: SourceFile) -> tuple[float, float] | None:
    """Slope and intercept; None where they change nothing or are no numbers."""
    slope, intercept = float(raw["scl_slope"]), float(raw["scl_inter"])
    if math.isinf(slope):
        file.notice("repair", "bad_slope", "scl_slope is infinite; counts as 1")
    if slope == 0 or not math.isfinite(slope):
        return None
    if not math.isfinite(intercept):
        file.notice("repair", "bad_intercept", "scl_inter is no number; counts as 0")
        intercept = 0.0
    return None if (slope, intercept) == (1.0, 0.0) else (slope, intercept)
