"""Label maps as files: a fresh header, whole numbers without scaling, names and colours inside.

Names and colours stand in a header extension as Connectome Workbench writes it, and other programs
pass it over. Nothing of a source's header is ever copied.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from brainsegfounder.errors import LabelError, Problem, VolumeError
from brainsegfounder.files import write_bytes
from brainsegfounder.volumes.volume import Volume

# Okabe and Ito (2008), which colour-blind readers can tell apart, and their lighter halves.
COLOURS = (
    "#D55E00", "#56B4E9", "#F0E442", "#009E73", "#CC79A7", "#E69F00", "#0072B2",
    "#EAAF80", "#ABDAF4", "#F8F2A1", "#80CFB9", "#E6BCD3", "#F3CF80", "#80B9D9",
)  # fmt: skip
# NIFTI_ECODE_CARET: a label table in XML.
LABEL_TABLE = 30
CARET = (
    '<?xml version="1.0" encoding="UTF-8"?><CaretExtension><VolumeInformation Index="0">'
    "<LabelTable>{}</LabelTable><VolumeType><![CDATA[Label]]></VolumeType>"
    "</VolumeInformation></CaretExtension>"
)


def colours_of(names: Mapping[str, int]) -> dict[int, str]:
    """A colour such as `#D55E00` for each label value, in the order of the names."""
    values = dict.fromkeys(names.values())
    return {value: COLOURS[n % len(COLOURS)] for n, value in enumerate(values)}


def write_labels(path: Path, labels: Volume, names: Mapping[str, int]) -> None:
    """Write a label map; the same labels always give the same bytes.

    Args:
        path: A `.nii.gz` file. Written beside it first, then renamed.
        labels: Integers from 0 to 65535, shape (1, I, J, K); stored as uint8 or uint16.
        names: Label values by name.

    Raises:
        VolumeError: There is more than one channel.
        LabelError: A value does not fit.
        RunError: The file cannot be written.
    """
    if labels.voxels.shape[0] != 1:
        found = f"{labels.voxels.shape[0]} channels"
        problem = Problem("several_channels", str(path), found, "one", "Write each on its own.")
        raise VolumeError(problem)
    data = _storable(labels.voxels[0], path)
    image = nib.Nifti1Image(data, labels.affine)
    image.header.set_data_dtype(data.dtype)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(1, 0)
    image.header.set_intent("label", name="labels")
    image.set_sform(labels.affine, code=1)
    image.set_qform(labels.affine, code=1, strip_shears=True)
    table = nib.nifti1.Nifti1Extension(LABEL_TABLE, _table(names).encode())
    image.header.extensions.append(table)
    write_bytes(path, gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))


def _storable(voxels: NDArray[Any], path: Path) -> NDArray[Any]:
    low, high = int(voxels.min(initial=0)), int(voxels.max(initial=0))
    whole = np.issubdtype(voxels.dtype, np.integer) or voxels.dtype == np.bool_
    if not whole or low < 0 or high > np.iinfo(np.uint16).max:
        found = f"labels from {low} to {high}" if whole else f"voxels of type {voxels.dtype}"
        expected, advice = "whole numbers from 0 to 65535", "Renumber the labels."
        raise LabelError(Problem("label_too_large", str(path), found, expected, advice))
    return voxels.astype(np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16)


def _table(names: Mapping[str, int]) -> str:
    colours = {0: "#000000", **colours_of(names)}
    known = {0: "background"} | {value: name for name, value in names.items()}
    lines = [
        f'<Label Key="{value}" {_shares(colours[value])} Alpha="{int(value > 0)}">'
        f"{escape(name)}</Label>"
        for value, name in sorted(known.items())
    ]
    return CARET.format("".join(lines))


def _shares(colour: str) -> str:
    """Red, green and blue from 0 to 1."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    pairs = zip(("Red", "Green", "Blue"), parts, strict=True)
    return " ".join(f'{name}="{part:.4f}"' for name, part in pairs)
