"""DICOM in: a folder, zip or tar of anything becomes one NIfTI file for each contrast of a visit.

    files  ->  headers  ->  stacks of slices  ->  contrast and checks  ->  dcm2niix  ->  fresh NIfTI

No name, id, date or description of the source stands in an output, message, finding or log. A
series that is refused stops no other.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np

from brainsegfounder.errors import DataError, OutputExistsError, Problem, VolumeError
from brainsegfounder.settings import ReadingSettings
from brainsegfounder.volumes.dicom.choice import Candidate, ranked
from brainsegfounder.volumes.dicom.contrast import contrast_of_series
from brainsegfounder.volumes.dicom.convert import convert, converter
from brainsegfounder.volumes.dicom.files import dicom_files
from brainsegfounder.volumes.dicom.header import NotDicomError, pydicom_module, read_slices
from brainsegfounder.volumes.dicom.index import index_findings
from brainsegfounder.volumes.dicom.names import case_names, series_names
from brainsegfounder.volumes.dicom.series import (
    Stack,
    affine_of,
    checked,
    mixed_patients,
    stacks_of,
)
from brainsegfounder.volumes.dicom.slice import Slice
from brainsegfounder.volumes.dicom.source import SourceSeries, source_of
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.nifti import write_nifti

log = logging.getLogger(__name__)

DEFAULT_READING = ReadingSettings()
SOURCE = "DICOM input"


@dataclass(frozen=True, slots=True)
class Series:
    """What was found of a series, in our own words.

    Attributes:
        name: The case and the scanner's number of the series.
        case: The visit it belongs to.
        contrast: T1w, T1ce, T2w, FLAIR, PD, DWI, ADC or empty.
        reason: Why that contrast, or why none.
        outcome: converted; spare: another series of the contrast was taken; refused: see the
            problems; aside: no contrast.
        num_slices: Slices found.
        spacing_mm: Between columns, rows and slices; None where it was not checked.
        is_3d: Whether it was measured as one volume.
        physics: Times in ms, angle in degrees and b-value in s/mm², as far as they are known.
    """

    name: str
    case: str
    contrast: str
    reason: str
    outcome: Literal["converted", "spare", "refused", "aside"]
    num_slices: int
    spacing_mm: tuple[float, float, float] | None
    is_3d: bool
    physics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImportedDicom:
    """What an import made and found.

    Attributes:
        cases: The file of each contrast of each case.
        series: All MR series, whatever became of them.
        findings: What was noticed.
        problems: What was refused, and why.
        sources: Of each file the series it was made from, for `segmentation`; holds what must
            not be shown.
    """

    cases: dict[str, dict[str, Path]]
    series: tuple[Series, ...]
    findings: tuple[Finding, ...]
    problems: tuple[Problem, ...]
    sources: dict[Path, SourceSeries] = field(default_factory=dict, repr=False)


class _Import:
    """An import on its way: what has been found so far."""

    def __init__(self, sources: Sequence[Path], out: Path, reading: ReadingSettings) -> None:
        self.sources, self.out, self.reading = sources, out, reading
        self.cases: dict[str, dict[str, Path]] = {}
        self.origins: dict[Path, SourceSeries] = {}
        self.series: dict[str, Series] = {}
        self.findings: list[Finding] = []
        self.problems: list[Problem] = []

    def note(self, code: str, message: str, file: str = SOURCE, *, warning: bool = False) -> None:
        self.findings.append(Finding(code, file, message, "warning" if warning else "note"))

    def refuse(self, name: str, problem: Problem) -> None:
        self.problems.append(problem)
        self.series[name] = replace(self.series[name], outcome="refused")


def import_dicom(
    source: Path | Sequence[Path], out: Path, *, reading: ReadingSettings = DEFAULT_READING
) -> ImportedDicom:
    """Convert what is a contrast of a brain, once for each visit.

    Args:
        source: A folder of any depth (with or without a DICOMDIR, also with archives in it), a
            zip or tar archive, one multi-frame file, or several of these. A patient whose visits
            lie in several of them has one name.
        out: Where `<subject>_<session>_<contrast>.nii.gz` go.
        reading: `volume` chooses, counted from 0, among the echoes of a series that have one
            contrast; `any_size` accepts any spacing.

    Returns:
        The files, and all series, findings and problems.

    Raises:
        UsageError: pydicom or dcm2niix is not installed, or an output file exists already.
        DataError: Nothing could be converted.
    """
    pydicom_module()
    converter()
    sources = [Path(source)] if isinstance(source, str | PathLike) else list(source)
    run = _Import(sources, Path(out), reading)
    with tempfile.TemporaryDirectory(prefix="brainsegfounder-") as room:
        slices = _scan(run, _files(run, Path(room)))
        candidates = _candidates(run, stacks_of(slices))
        _convert_all(run, candidates)
    if not run.cases:
        raise _nothing(run)
    series = tuple(run.series.values())
    findings, problems = tuple(run.findings), tuple(run.problems)
    return ImportedDicom(run.cases, series, findings, problems, run.origins)


def _files(run: _Import, room: Path) -> list[Path]:
    """The files of all sources; of several, one that cannot be read stops no other."""
    found: list[Path] = []
    for number, source in enumerate(run.sources):
        folder = room / str(number)
        folder.mkdir()
        try:
            files, refused = dicom_files(source, folder)
        except DataError as error:
            if len(run.sources) == 1 or error.problem is None:
                raise
            files, refused = [], [error.problem]
        found += files
        run.problems += refused
    return found


def _scan(run: _Import, files: Sequence[Path]) -> list[Slice]:
    """The slices of all MR images; what else there is becomes notes and problems."""
    slices: list[Slice] = []
    skipped: Counter[str] = Counter()
    broken: dict[str, list[Problem]] = {}
    for order, path in enumerate(files, start=1):
        try:
            found = read_slices(path, order)
        except NotDicomError:
            skipped["no DICOM"] += 1
            continue
        except VolumeError as error:
            problem = _problem_of(error, f"file {order}")
            broken.setdefault(problem.code, []).append(problem)
            continue
        if why := found[0].header.skip:
            skipped[why] += 1
            run.findings += index_findings(path, files) if "DICOMDIR" in why else []
        else:
            slices += found
    for what, count in skipped.items():
        run.note("dicom_skipped", f"{count} files left aside: {what}")
    run.problems += [_joined(problems) for problems in broken.values()]
    return slices


def _joined(problems: Sequence[Problem]) -> Problem:
    """One problem for all files that have it; files are named by their order only."""
    orders = ", ".join(problem.file.removeprefix("file ") for problem in problems[:10])
    more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
    return replace(
        problems[0],
        file=SOURCE,
        found=f"{problems[0].found}, in {len(problems)} files (in order of names: {orders}{more})",
    )


def _candidates(run: _Import, stacks: Sequence[Stack]) -> list[Candidate]:
    """The stacks that are a contrast and sound."""
    cases, doubts = case_names(stacks)
    run.findings += doubts
    mixed = mixed_patients(stacks)
    found = []
    for stack, name in zip(stacks, series_names(stacks, cases), strict=True):
        contrast, reason = contrast_of_series(stack.first.tags)
        case = cases[stack.series[:2]]
        run.series[name] = _record(stack, name, case, contrast, reason)
        if not contrast:
            doubtful = reason.startswith("in doubt")
            run.note("dicom_no_contrast", f"left aside: {reason}", name, warning=doubtful)
            continue
        try:
            if stack.series[2] in mixed:
                raise VolumeError(_mixed(name))
            sound, findings = checked(stack, name, run.reading)
        except VolumeError as error:
            run.refuse(name, _problem_of(error, name))
            continue
        run.findings += findings
        run.series[name] = _record(sound, name, case, contrast, reason, is_checked=True)
        found.append(Candidate(name, case, contrast, sound))
    return found


def _problem_of(error: VolumeError, name: str) -> Problem:
    if error.problem is not None:
        return error.problem
    advice = "Export the series again."
    return Problem("dicom_refused", name, "a volume that was refused", "a sound one", advice)


def _mixed(name: str) -> Problem:
    return Problem(
        "dicom_mixed_patients",
        name,
        "a series that stands under several patients",
        "one patient",
        "Find out whose images these are.",
        "PatientID",
    )


def _record(
    stack: Stack, name: str, case: str, contrast: str, reason: str, *, is_checked: bool = False
) -> Series:
    tags = stack.first.tags
    physics = {
        "echo_time_ms": tags.echo_time_ms,
        "repetition_time_ms": tags.repetition_time_ms,
        "inversion_time_ms": tags.inversion_time_ms,
        "flip_angle_deg": tags.flip_angle_deg,
        "b_value": tags.b_value,
    }
    spacing = np.linalg.norm(affine_of(stack)[:3, :3], axis=0).tolist() if is_checked else None
    return Series(
        name=name,
        case=case,
        contrast=contrast,
        reason=reason,
        outcome="spare" if contrast else "aside",
        num_slices=len(stack.slices),
        spacing_mm=None if spacing is None else (spacing[0], spacing[1], spacing[2]),
        is_3d=tags.acquisition_type == "3D",
        physics={
            key: value for key, value in physics.items() if value is not None and np.isfinite(value)
        },
    )


def _convert_all(run: _Import, candidates: Sequence[Candidate]) -> None:
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault((candidate.case, candidate.contrast), []).append(candidate)
    targets = {key: run.out / f"{'_'.join(key)}.nii.gz" for key in groups}
    for path in targets.values():
        if path.exists():
            raise OutputExistsError(f"{path}: exists already; expected a new file. Remove it.")
    for (case, contrast), group in sorted(groups.items()):
        order, refused, findings = ranked(group, run.reading)
        run.findings += findings
        for name, problem in refused:
            run.refuse(name, problem)
        for candidate in order:
            if _converted(run, candidate, targets[case, contrast]):
                break


def _converted(run: _Import, candidate: Candidate, path: Path) -> bool:
    try:
        volume = convert(candidate.stack, candidate.name)
    except VolumeError as error:
        run.refuse(candidate.name, _problem_of(error, candidate.name))
        return False
    run.findings += volume.findings
    write_nifti(path, volume)
    run.cases.setdefault(candidate.case, {})[candidate.contrast] = path
    try:
        run.origins[path] = source_of(candidate.stack, candidate.name)
    except VolumeError:
        message = "its header cannot be read once more; no result can be written as DICOM"
        run.note("dicom_no_source", message, candidate.name, warning=True)
    run.series[candidate.name] = replace(run.series[candidate.name], outcome="converted")
    log.info("%s: converted as %s", candidate.name, candidate.contrast)
    return True


def _nothing(run: _Import) -> DataError:
    """Why nothing is left: the one problem there is, or all in short."""
    if len(run.problems) == 1:
        one = run.problems[0]
        place = f"{_place(run)}: {one.file}".removesuffix(f": {SOURCE}")
        return VolumeError(replace(one, file=place))
    if run.problems:
        found = "; ".join(f"{one.file}: {one.found}" for one in run.problems[:10])
        code = "dicom_all_refused"
    else:
        found = "; ".join(f"{one.file}: {one.message}" for one in run.findings[:10]) or "no file"
        code = "dicom_no_contrast" if run.series else "dicom_no_mr"
    return VolumeError(
        Problem(
            code,
            _place(run),
            f"nothing to convert ({found})",
            "a series of MR slices of a brain",
            "Export the original series, not screenshots or reports.",
        )
    )


def _place(run: _Import) -> str:
    """The source, or the folder of several sources."""
    one = len(run.sources) == 1
    return str(run.sources[0]) if one else os.path.commonpath(s.absolute() for s in run.sources)
