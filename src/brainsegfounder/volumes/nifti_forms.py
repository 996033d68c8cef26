"""The two forms in which NIfTI says where voxels are, sform and qform, and which of them counts."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from brainsegfounder.errors import VolumeError
from brainsegfounder.volumes.header import column_lengths, is_sound
from brainsegfounder.volumes.source_file import Kind, SourceFile
from brainsegfounder.volumes.volume import Affine, Grid, Triple

# Codes of xyzt_units that are not millimetres, and their length in mm.
UNITS_MM = {1: 1000.0, 3: 0.001}
KNOWN_CODES = range(6)
# An sform whose voxel sizes differ by more than this from pixdim is a registration's.
STRETCHED = 0.01
SAME_FORM_VOX = 0.5


def affine_of(raw: nib.Nifti1Header, shape_vox: Triple, file: SourceFile) -> Affine:
    """The sform, or the qform where the sform is not coded or not an affine, in millimetres.

    Args:
        raw: The header as it stands in the file; codes that mean nothing are set to 0.
        shape_vox: Number of voxels along I, J, K.
        file: The file; receives the findings.

    Raises:
        VolumeError: Neither form is an invertible affine; or, if `strict`, left and right are
            a guess or in dispute.
    """
    _repair_codes(raw, file)
    pixdim = np.asarray(raw["pixdim"][1:4], dtype=np.float64)
    has_sizes = bool(np.isfinite(pixdim).all() and pixdim.min() > 0)
    sform: Affine | None = raw.get_sform(coded=True)[0]
    qform = _qform(raw) if has_sizes else None
    qform_code = int(raw["qform_code"])
    if has_sizes and qform_code and qform is None and sform is not None:
        file.notice("repair", "bad_qform", "the qform is no rotation; the sform counts")
    if has_sizes and not qform_code and sform is None:
        affine = _guess(raw, file)
    else:
        affine = _choose(sform, qform, pixdim, file)
    if sform is not None and qform is not None and affine is sform:
        _compare_forms(sform, qform, raw, shape_vox, file)
    unit_mm = UNITS_MM.get(int(raw["xyzt_units"]) % 8, 1.0)
    if unit_mm != 1.0:
        file.notice("repair", "units", f"lengths in units of {unit_mm:g} mm; made millimetres")
    return np.diag([unit_mm, unit_mm, unit_mm, 1.0]) @ affine


def _repair_codes(raw: nib.Nifti1Header, file: SourceFile) -> None:
    for name in ("sform_code", "qform_code"):
        code = int(raw[name])
        if code not in KNOWN_CODES:
            file.notice("repair", f"bad_{name}", f"{name} is {code}, which means nothing; now 0")
            raw[name] = 0
    # As the format's own library reads it: negative is -1, anything else 1.
    raw["pixdim"][0] = -1.0 if raw["pixdim"][0] < 0 else 1.0


def _qform(raw: nib.Nifti1Header) -> Affine | None:
    """The coded qform, None where it is no affine."""
    try:
        qform: Affine | None = raw.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError):  # not a unit quaternion
        return None
    return qform if qform is not None and is_sound(qform) else None


def _guess(raw: nib.Nifti1Header, file: SourceFile) -> Affine:
    if file.reading.strict:
        raise VolumeError(
            file.problem(
                "orientation_guessed",
                "no coded orientation (sform_code and qform_code are 0)",
                "a header that tells left from right",
                "Convert the original again, or read without `strict`.",
                "sform_code",
            )
        )
    file.notice(
        "warning", "orientation_guessed", "no coded orientation; left and right are a guess"
    )
    return np.asarray(raw.get_base_affine(), dtype=np.float64)


def _choose(
    sform: Affine | None, qform: Affine | None, pixdim: NDArray[np.float64], file: SourceFile
) -> Affine:
    sound = sform if sform is not None and is_sound(sform) else None
    if sound is None and qform is not None:
        if sform is not None:
            file.notice("repair", "bad_sform", "the sform does not fit an affine; the qform counts")
        return qform
    if sound is None:
        found = None if sform is None else sform[:3].tolist()
        raise VolumeError(
            file.problem(
                "no_affine",
                f"no invertible affine (sform {found}, pixdim {pixdim.tolist()})",
                "three independent axes",
                "Repair the sform or qform.",
                "srow_x" if sform is not None else "pixdim",
            )
        )
    if np.allclose(column_lengths(sound), pixdim, rtol=STRETCHED):
        return sound
    lengths = f"the sform does not fit voxels of {pixdim.tolist()} mm"
    if qform is None:
        file.notice("repair", "bad_pixdim", f"{lengths}, which pixdim says; the sform counts")
        return sound
    file.notice("repair", "sform_stretched", f"{lengths}; the qform counts")
    return qform


def _compare_forms(
    sform: Affine, qform: Affine, raw: nib.Nifti1Header, shape_vox: Triple, file: SourceFile
) -> None:
    """Two sound forms that differ: the sform counts, and it is said by how much they differ."""
    shift_vox = Grid(shape_vox, sform).corner_shift_vox(Grid(shape_vox, qform))
    if shift_vox <= SAME_FORM_VOX:
        return
    one, other = (form[:3, :3] / column_lengths(form) for form in (sform, qform))
    mirrored = np.linalg.det(one) * np.linalg.det(other) < 0
    degrees = np.degrees(np.arccos(np.clip((np.trace(one.T @ other) - 1) / 2, -1, 1)))
    difference = f"corners {shift_vox:.1f} voxels apart, " + (
        "one is the mirror image of the other" if mirrored else f"turned by {degrees:.0f} degrees"
    )
    if mirrored and file.reading.strict:
        raise VolumeError(
            file.problem(
                "handedness",
                f"sform and qform disagree ({difference})",
                "forms that agree on left and right",
                "Repair the wrong one, or read without `strict`.",
                "qform_code",
            )
        )
    # A registered scan keeps the scanner's qform beside its new sform; that is as it should be.
    registered = int(raw["sform_code"]) > int(raw["qform_code"]) and not mirrored
    kind: Kind = "note" if registered else "warning"
    file.notice(kind, "forms_differ", f"sform and qform differ: {difference}; the sform counts")
