"""One case of an evaluation, from its files to its scores; imports nothing slow."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from brainsegfounder.errors import DataError, LabelError
from brainsegfounder.evaluation.conventions import Convention
from brainsegfounder.evaluation.metrics import Regions, RegionScore, score_case
from brainsegfounder.settings import ReadingSettings
from brainsegfounder.volumes.label_values import values_in
from brainsegfounder.volumes.nifti import read_labels, read_nifti
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.label_files import ProbabilityFile


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """What is needed to score a case.

    Attributes:
        case: Its name.
        prediction: Labels.
        reference: Labels.
        regions: Label values of each region.
        legal: Label values that may occur beside 0; None allows all.
        convention: By which rules.
        tolerances_mm: Of the surface Dice.
        reading: What is allowed of the files.
        probabilities: Files by region, or None where none were asked for.
    """

    case: str
    prediction: Path
    reference: Path
    regions: Regions
    legal: Collection[int] | None
    convention: Convention
    tolerances_mm: tuple[float, ...]
    reading: ReadingSettings
    probabilities: Mapping[str, ProbabilityFile] | None = None


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What became of a case: scores, or the reason why there are none."""

    scores: list[RegionScore] = field(default_factory=list)
    reason: str = ""


def score_files(files: CaseFiles) -> CaseResult:
    """Read and score one case; what is wrong with its files becomes the reason."""
    try:
        return CaseResult(_scores(files))
    except DataError as error:
        return CaseResult(reason=str(error))


def label_values_of(files: tuple[Path, ReadingSettings]) -> list[int] | str:
    """The values other than 0 in a label file, or why it cannot be read."""
    path, reading = files
    try:
        return [value for value in values_in(read_labels(path, reading).voxels) if value]
    except DataError as error:
        return str(error)


def _scores(files: CaseFiles) -> list[RegionScore]:
    prediction = read_labels(files.prediction, files.reading, files.legal)
    reference = read_labels(files.reference, files.reading, files.legal)
    return score_case(
        files.case,
        prediction,
        reference,
        files.regions,
        convention=files.convention,
        tolerances_mm=files.tolerances_mm,
        probabilities=None if files.probabilities is None else _probabilities(files),
    )


def _probabilities(files: CaseFiles) -> dict[str, Volume]:
    found = files.probabilities or {}
    absent = [region for region in files.regions if region not in found]
    if absent:
        raise LabelError(
            f"{files.case}: no probabilities of {', '.join(absent)} found; expected "
            f"{files.case}_label-{absent[0]}_probseg.nii.gz. Write them, or leave out "
            "--probabilities."
        )
    volumes = {}
    for region, file in found.items():
        reading = files.reading.model_copy(update={"volume": file.volume})
        volumes[region] = read_nifti(file.path, reading)
        is_4d = any(finding.code == "volume_taken" for finding in volumes[region].findings)
        if file.volume is not None and not is_4d:
            raise LabelError(
                f"{file.path}: one volume for {len(found)} regions; expected a file for each "
                f"(_label-REGION_probseg), or a 4-D file with {', '.join(found)} in this order."
            )
    return volumes
