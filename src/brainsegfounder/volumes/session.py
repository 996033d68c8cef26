"""The contrasts of one session on one grid, and the way back to the grid of every file.

Files of one case are checked against each other here: none missing, none twice, one subject, one
place. Contrasts on another grid than the first are refused, or registered to it where the recipe
says so; what was done is in `Session.steps`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from brainsegfounder.errors import ContrastError, DataError, Problem, VolumeError
from brainsegfounder.settings import AS_IT_IS, ReadingSettings
from brainsegfounder.volumes.analyze import is_oasis, read_oasis
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.geometry import (
    resample_labels_to,
    resample_to,
    same_grid,
    to_ras,
)
from brainsegfounder.volumes.intensity import fingerprint, foreground
from brainsegfounder.volumes.nifti import read_nifti, stem
from brainsegfounder.volumes.registration import register, share_in_common
from brainsegfounder.volumes.volume import Affine, Grid, Volume

# A header off by less was written by rounding and is not worth a word.
ROUNDING_MM = 1e-3
# Foregrounds of one head overlap more; two brains 20 mm apart overlap by 80 %.
MIN_SHARE = 0.9
CONTENT_MM = 4.0
SUBJECT = re.compile(r"(?:^|[_/\\])sub-([A-Za-z0-9]+)")
# What the last part of a file's name says about its contrast.
SAYS = {
    "T1w": {"t1", "t1w", "t1n"},
    "T1ce": {"t1ce", "t1c", "t1gd", "t1post"},
    "T2w": {"t2", "t2w"},
    "FLAIR": {"flair", "t2f", "t2flair"},
}


@dataclass(frozen=True, slots=True)
class InputGrid:
    """The grid of one file of a case, and where that file lies in the case.

    Attributes:
        grid: As the file's header says.
        to_case: From the file's millimetres to the case's (the first contrast's), shape (4, 4).
    """

    grid: Grid
    to_case: Affine

    @property
    def in_case(self) -> Grid:
        """The same voxels in the case's millimetres."""
        return Grid(self.grid.shape_vox, self.to_case @ self.grid.affine)


@dataclass(frozen=True, slots=True)
class Session:
    """All contrasts of a case on the grid of the first.

    Attributes:
        image: Intensities, shape (C, I, J, K), in the axis order of the first contrast's file.
        contrasts: Their names; empty where they are not known.
        input_grids: Of each contrast's file.
        fingerprints: Of each contrast as it was read; see `intensity.fingerprint`.
        findings: What was noticed.
        steps: What was done, ready for JSON.
    """

    image: Volume
    contrasts: tuple[str, ...]
    input_grids: tuple[InputGrid, ...]
    fingerprints: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    steps: dict[str, Any] = field(default_factory=dict)


def session_of(image: Volume, contrasts: Sequence[str] = ()) -> Session:
    """A session of contrasts that lie on one grid already, shape (C, I, J, K)."""
    marks = tuple(fingerprint(channel) for channel in to_ras(image).voxels)
    grids = (InputGrid(image.grid, np.eye(4)),) * len(marks)
    return Session(image, tuple(contrasts), grids, marks, image.findings)


def read_session(
    case: str,
    paths: Mapping[str, Path],
    contrasts: Sequence[str],
    setting: Literal["never", "rigid"] = "never",
    reading: ReadingSettings = AS_IT_IS,
    volumes: Mapping[str, int] | None = None,
) -> Session:
    """Read the contrasts of one case, in the order asked for, onto the grid of the first.

    Args:
        case: Its name, for messages.
        paths: A file for each contrast; more than asked for is fine.
        contrasts: Names in the order of the channels.
        setting: Whether a contrast on another grid is refused (never) or registered (rigid).
        reading: What is allowed of the files.
        volumes: Which volume, from 0, a contrast is in a file that holds several.

    Raises:
        ContrastError: A contrast is absent, or two hold the same scan.
        DataError: The files' names are of different subjects.
        VolumeError: A file is unreadable, or the shapes or positions differ.
    """
    _check_present(case, paths, contrasts)
    check_one_subject(case, (paths[name] for name in contrasts))
    found: list[Finding] = []
    marks: list[str] = []
    placed: list[_Placed] = []
    # One scan at a time beside the stack of all: together they would be there twice.
    stack, first = np.empty(0, np.float32), None
    for number, name in enumerate(contrasts):
        scan = read_scan(paths[name], of_volume(reading, (volumes or {}).get(name)))
        marks.append(fingerprint(to_ras(scan).voxels[0]))
        _check_no_copies(case, contrasts[: number + 1], marks)
        found += scan.findings
        if first is None:
            stack = np.empty((len(contrasts), *scan.shape_vox), scan.voxels.dtype)
            first = replace(scan, voxels=stack[:1])
            stack[0] = scan.voxels[0]
        volume, place = _place(case, (name, contrasts[0]), scan, first, setting)
        stack[number] = volume.voxels[0]
        placed.append(place)
    if first is None:
        raise ValueError("no contrast asked for; expected at least one")
    doubts = [doubt for place in placed for doubt in place.doubts]
    findings = [*found, *(f for n in contrasts for f in _name_findings(case, n, paths[n])), *doubts]
    image = Volume(stack, first.affine, case)
    pairs = zip(contrasts, placed, strict=True)
    registered = {name: place.record for name, place in pairs if place.record is not None}
    steps: dict[str, Any] = {"contrasts": list(contrasts)}
    if registered:
        steps["registration"] = {"to": contrasts[0], "kind": "rigid", "contrasts": registered}
    grids = tuple(place.grid for place in placed)
    return Session(image, tuple(contrasts), grids, tuple(marks), tuple(findings), steps)


@dataclass(frozen=True, slots=True)
class _Placed:
    """How a contrast came onto the grid of the first one."""

    grid: InputGrid
    doubts: Sequence[Finding] = ()
    record: dict[str, Any] | None = None


def _place(
    case: str, names: tuple[str, str], scan: Volume, first: Volume, setting: str
) -> tuple[Volume, _Placed]:
    """A scan on the grid of the first contrast, which may be itself; `names` are of both."""
    name, first_name = names
    if name == first_name:
        return scan, _Placed(_own(scan))
    if setting == "rigid" and not same_grid(scan.grid, first.grid):
        volume, grid, record, doubts = _registered(case, name, scan, first)
        return volume, _Placed(grid, doubts, record)
    _check_grid(scan, first, name, first_name)
    grid = InputGrid(scan.grid, first.affine @ np.linalg.inv(scan.affine))
    return scan, _Placed(grid, _place_findings(case, name, scan, first))


def of_volume(reading: ReadingSettings, number: int | None) -> ReadingSettings:
    """How to read a file that holds several volumes, when one of them is meant."""
    return reading if number is None else reading.model_copy(update={"volume": number})


def read_scan(path: Path, reading: ReadingSettings) -> Volume:
    """Read an image: NIfTI, or an OASIS-1 scan in its Analyze files."""
    return read_oasis(path) if is_oasis(path) else read_nifti(path, reading)


def to_case(volume: Volume, session: Session) -> Volume:
    """Labels drawn on one contrast's file, carried to the case's grid if they are not on it.

    Args:
        volume: Integers, shape (1, I, J, K).
        session: The case.

    Returns:
        The same volume where its grid is that of the first contrast or of no contrast at all;
        else its labels on the case's grid, each voxel's largest share winning.
    """
    match = next((g for g in session.input_grids if same_grid(g.grid, volume.grid)), None)
    if match is None or same_grid(session.image.grid, volume.grid):
        return volume
    placed = replace(volume, affine=match.in_case.affine)
    carried = resample_labels_to(placed, session.image.grid)
    message = "the mask was drawn on another contrast; carried to the first one's grid."
    note = Finding("mask_moved", session.image.source, message, "note")
    return replace(carried, source=volume.source, findings=(*volume.findings, note))


def mask_in_case(mask: Volume, session: Session) -> Volume:
    """A mask on the case's grid: true where more than half a voxel is covered, (1, I, J, K).

    A mask on a contrast's grid moves with that contrast; any other lies where its header says.
    """
    match = next((g for g in session.input_grids if same_grid(g.grid, mask.grid)), None)
    affine = mask.affine if match is None else match.in_case.affine
    placed = Volume(mask.voxels > 0.5, affine, mask.source)
    carried = resample_to(placed, session.image.grid)
    return replace(carried, voxels=carried.voxels > 0.5)


def check_one_subject(case: str, paths: Iterable[Path]) -> None:
    """Refuse files whose names carry different `sub-` labels.

    Raises:
        DataError: They do.
    """
    labels = {found[-1] for path in paths if (found := SUBJECT.findall(path.name))}
    if len(labels) > 1:
        raise DataError(
            Problem(
                "different_subjects", case,
                f"files of {', '.join(f'sub-{label}' for label in sorted(labels))}",
                "one subject", "Correct the manifest, or the files' names.",
            )
        )  # fmt: skip


def _own(volume: Volume) -> InputGrid:
    return InputGrid(volume.grid, np.eye(4))


def _check_present(case: str, paths: Mapping[str, Path], contrasts: Sequence[str]) -> None:
    missing = [name for name in contrasts if name not in paths]
    if missing:
        raise ContrastError(
            Problem(
                "missing_contrast", case, f"no {', '.join(missing)} found",
                f"{', '.join(contrasts)}, and there is {', '.join(paths) or 'nothing'}",
                "Add the file, or use a model trained without it.",
            )
        )  # fmt: skip


def _check_no_copies(case: str, contrasts: Sequence[str], marks: Sequence[str]) -> None:
    for number, mark in enumerate(marks):
        if mark in marks[:number]:
            first = contrasts[marks.index(mark)]
            raise ContrastError(
                Problem(
                    "duplicate_content", case,
                    f"{contrasts[number]} and {first} hold the same voxels",
                    "a scan for each contrast", "Replace the copy by the right file.",
                )
            )  # fmt: skip


def _check_grid(volume: Volume, first: Volume, name: str, first_name: str) -> None:
    if same_grid(volume.grid, first.grid):
        return
    shift = first.grid.corner_shift_vox(volume.grid)
    found = (
        f"{name} has shape {volume.shape_vox}, but {first_name} has {first.shape_vox}"
        if volume.shape_vox != first.shape_vox
        else f"{name} lies {shift:.1f} voxels away from {first_name}"
    )
    raise VolumeError(
        Problem(
            "different_grid", volume.source, found, "one grid",
            "Set preparation.registration to rigid, or bring the contrasts to one grid first.",
        )
    )  # fmt: skip


def _name_findings(case: str, name: str, path: Path) -> Iterable[Finding]:
    """A warning where the file's own name says another contrast than it is declared to be."""
    last = re.split(r"[_.\-]", stem(path).lower())[-1]
    says = next((known for known, spellings in SAYS.items() if last in spellings), None)
    # "T1w" with a contrast agent told elsewhere (`ce-` entity, folder) is usual.
    if says in (None, name) or name not in SAYS or (says, name) == ("T1w", "T1ce"):
        return
    message = f"declared as {name}, but the file's name says {says}; is the order right?"
    yield Finding("contrast_name", case, message, "warning")


def _place_findings(case: str, name: str, volume: Volume, first: Volume) -> list[Finding]:
    findings = []
    shift_mm = first.grid.corner_shift_vox(volume.grid) * min(first.spacing_mm)
    if shift_mm > ROUNDING_MM:
        message = f"{name} lies {shift_mm:.3f} mm off the first contrast; put on its grid."
        findings.append(Finding("grid_rounded", case, message, "repair"))
    steps = [max(1, round(CONTENT_MM / mm)) for mm in first.spacing_mm]
    few = [v.voxels[:, :: steps[0], :: steps[1], :: steps[2]] for v in (first, volume)]
    if all(np.ptp(voxels) > 0 for voxels in few):
        share = share_in_common(foreground(few[0]), foreground(few[1]))
        if share < MIN_SHARE:
            message = f"{name} and the first contrast share {share:.0%} of their foregrounds; "
            message += "they may not be registered."
            findings.append(Finding("not_registered", case, message, "warning"))
    return findings


def _registered(
    case: str, name: str, volume: Volume, first: Volume
) -> tuple[Volume, InputGrid, dict[str, Any], list[Finding]]:
    found = register(to_ras(first), to_ras(volume), "rigid")
    # What makes it worse is not used: then the headers say where the scan is.
    matrix = found.matrix if found.information[1] >= found.information[0] else np.eye(4)
    findings = []
    if not found.is_trusted:
        message = f"{name} was registered, but little speaks for the result "
        message += f"(foregrounds share {found.overlap[1]:.0%}); look at this case."
        findings.append(Finding("registration_doubtful", case, message, "warning"))
    grid = InputGrid(volume.grid, matrix)
    moved = resample_to(replace(volume, affine=grid.in_case.affine), first.grid)
    return moved, grid, {**found.record(), "matrix": matrix.tolist()}, findings
