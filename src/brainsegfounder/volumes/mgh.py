"""Headers of FreeSurfer's .mgh and .mgz files; the voxels are read as NIfTI's are."""

from __future__ import annotations

import numpy as np
from nibabel.freesurfer.mghformat import MGHError, MGHHeader

from brainsegfounder.errors import VolumeError
from brainsegfounder.volumes.header import (
    Header,
    check_budget,
    check_content,
    checked_affine,
    is_sound,
)
from brainsegfounder.volumes.source_file import SourceFile
from brainsegfounder.volumes.volume import Affine

SUFFIXES = (".mgz", ".mgh")
MGH_BYTES = 284
VERSION = b"\0\0\0\1"
# FreeSurfer appends the history of commands and its colour table.
MAX_TAGS_BYTES = 1 << 20


def read_mgh_header(content: bytes, file: SourceFile) -> Header:
    """What the first bytes of a file say.

    Args:
        content: At least 284 bytes, or all there are.
        file: Where they come from; receives the findings.

    Raises:
        VolumeError: It is no MGH image, or says something impossible.
    """
    check_content(content, MGH_BYTES, file)
    if not content.startswith(VERSION):
        raise _refused(file, "not_mgh", "not a FreeSurfer image (its version is not 1)", "version")
    raw = MGHHeader(content[:MGH_BYTES], check=False)
    dims = tuple(int(n) for n in raw["dims"])
    if min(dims) < 1:
        raise _refused(file, "bad_dims", f"dimensions {list(dims)}", "dims")
    shape = dims[:3] if dims[3] == 1 else dims
    try:
        dtype = np.dtype(raw.get_data_dtype())
    except (MGHError, KeyError):
        raise _refused(file, "bad_datatype", f"type {int(raw['type'])}", "type") from None
    check_budget(shape, dtype.itemsize, file)
    with np.errstate(all="ignore"):
        affine = _affine(raw, file)
        affine = checked_affine(affine, (shape[0], shape[1], shape[2]), file)
    return Header(shape, dtype, MGH_BYTES, None, affine)


def _affine(raw: MGHHeader, file: SourceFile) -> Affine:
    if int(raw["goodRASFlag"]) != 1:
        if file.reading.strict:
            raise _refused(file, "orientation_guessed", "no orientation", "goodRASFlag")
        file.notice("warning", "orientation_guessed", "no orientation; left and right are a guess")
    affine = np.asarray(raw.get_affine(), dtype=np.float64)
    if not is_sound(affine):
        found = f"no invertible affine ({affine[:3].tolist()})"
        raise _refused(file, "no_affine", found, "Mdc")
    return affine


def _refused(file: SourceFile, code: str, found: str, header_field: str) -> VolumeError:
    expected = "a whole .mgz image with three independent axes"
    return VolumeError(
        file.problem(code, found, expected, "Convert the original again.", header_field)
    )
