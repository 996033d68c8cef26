"""`predict`: scans to label maps on their own grids, and a page to look at them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.data.layouts import Found, read_cases
from brainsegfounder.data.manifest import Case, contrast_name
from brainsegfounder.errors import ContrastError, DataError
from brainsegfounder.evaluation.report import (
    Cell,
    GalleryCase,
    Highlight,
    Report,
    Table,
    write_report,
)
from brainsegfounder.files import check_new_folder, sha256, write_text
from brainsegfounder.inference.model_config import WEIGHTS_NAME
from brainsegfounder.runs import PACKAGES, RESEARCH_ONLY, package_version, progress
from brainsegfounder.settings import AS_IT_IS, ReadingSettings
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.nifti import read_nifti, write_nifti
from brainsegfounder.volumes.preparation import prepare_case
from brainsegfounder.volumes.volume import Affine, Volume
from brainsegfounder.workflows.inputs import open_inputs
from brainsegfounder.workflows.model_folder import Model, load_model, model_folder
from brainsegfounder.workflows.prepare_findings import without_folders
from brainsegfounder.workflows.reports import Shown, picture_of, shown_contrast

MAX_PICTURES = 12


class Prediction(NamedTuple):
    """The labels of one case, on the grid of its scan.

    Attributes:
        labels: Label values as int16, shape (I, J, K).
        affine: The scan's affine, shape (4, 4).
    """

    labels: NDArray[np.int16]
    affine: Affine

    @property
    def volume(self) -> Volume:
        """The same as a volume, for `evaluate` and `write_nifti`."""
        return Volume(self.labels[None], self.affine, "prediction")


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a prediction run did.

    Attributes:
        out: The folder.
        files: The label file of each case.
        refused: Reason for each case that could not be predicted.
        findings: What was noticed about each case's scans.
        noticed: What was noticed about the input, beside its cases.
    """

    out: Path
    files: dict[str, Path] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    findings: dict[str, tuple[Finding, ...]] = field(default_factory=dict)
    noticed: list[Finding] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """What a reader of the results must know: refusals, repairs and doubts."""
        found = [*self.noticed, *(one for case in self.findings.values() for one in case)]
        told = [f"{one.file}: {one.message}" for one in found if one.kind != "note"]
        return [*self.refused.values(), *dict.fromkeys(told)]


def predict(
    scans: Mapping[str, str | os.PathLike[str]] | str | os.PathLike[str],
    model: Model | str | os.PathLike[str],
) -> Prediction | dict[str, Prediction]:
    """Segment one case given by its contrasts, or every case of a folder.

    Args:
        scans: A file for each contrast, such as `{"T1w": "scan.nii.gz"}`, or a folder.
        model: From `load_model`, or its path.

    Returns:
        For contrasts one prediction, `labels, affine = predict(...)`; for a folder one by the
        name of each case.

    Raises:
        DataError: A scan is missing, unreadable or lacks a contrast of the model.
        WeightsError: The model cannot be loaded.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    if isinstance(scans, Mapping):
        paths = {contrast_name(name): Path(path) for name, path in scans.items()}
        name = Path(next(iter(paths.values()))).name if paths else "case"
        return _prediction(_labels(Case(name, name, paths), loaded)[0])
    cases = read_cases([Path(scans)])
    return {case.case: _prediction(_labels(case, loaded)[0]) for case in cases}


def run_predict(
    inputs: Sequence[Path],
    model_path: Path,
    out: Path,
    layout: str = "auto",
    reading: ReadingSettings = AS_IT_IS,
) -> Predicted:
    """Segment every case found; a case that cannot be is listed and the others go on.

    Args:
        inputs: Folders or files.
        model_path: A run or model folder.
        out: Where `<case>_seg.nii.gz`, `report.html` and `predictions.json` go; must be new.
        layout: How the inputs are laid out.
        reading: What is allowed of the files.

    Raises:
        DataError: No case could be predicted.
    """
    check_new_folder(out)
    model = load_model(model_path)
    with open_inputs(inputs, layout, reading) as found:
        return _predict_found(found, model, model_path, out, reading)


def _predict_found(
    found: Found, model: Model, model_path: Path, out: Path, reading: ReadingSettings
) -> Predicted:
    cases = found.cases
    result = Predicted(out, noticed=list(found.findings))
    result.refused.update({case: str(problem) for case, problem in found.problems.items()})
    pictures: list[GalleryCase] = []
    volumes: dict[str, dict[str, float]] = {}
    with progress(len(cases), "predicting") as report:
        for number, case in enumerate(cases, start=1):
            try:
                labels, result.findings[case.case] = _labels(case, model, reading)
                path = out / result_name(case)
                write_nifti(path, labels)
                volumes[case.case] = _volumes_ml(labels, model)
                if len(pictures) < MAX_PICTURES:
                    pictures.append(_picture(case, labels, model, volumes[case.case]))
                result.files[case.case] = path
            except DataError as error:
                result.refused[case.case] = str(error)
            report(number, case.case)
    if not result.files:
        raise DataError(
            f"none of {len(cases)} cases could be predicted; the first: "
            f"{next(iter(result.refused.values()))}"
        )
    if any(case.is_bids for case in cases):
        _write_bids_description(out)
    _write_summary(result, model, model_path, volumes, pictures)
    return result


def result_name(case: Case) -> Path:
    """Where a case's labels go within the output folder; BIDS names for BIDS input."""
    if not case.is_bids:
        return Path(f"{case.case}_seg.nii.gz")
    folder = Path(case.subject)
    if case.session:
        folder /= f"ses-{case.session}"
    return folder / "anat" / f"{case.case}_desc-brainsegfounder_dseg.nii.gz"


def _prediction(labels: Volume) -> Prediction:
    return Prediction(labels.voxels[0], labels.affine)


def _labels(
    case: Case, model: Model, reading: ReadingSettings = AS_IT_IS
) -> tuple[Volume, tuple[Finding, ...]]:
    """The labels of a case, and what was noticed about its scans."""
    present = _present(case, model)
    prepared = prepare_case(
        case.case,
        case.contrasts,
        present,
        model.config.preparation,
        masks=case.masks,
        reading=reading,
        volumes=case.volumes,
    )
    image, found = _in_channels(prepared.image, present, model), prepared.findings
    if present != model.contrasts:
        absent = [name for name in model.contrasts if name not in present]
        found = (*found, _absence(case, absent, present))
    return model.segment(image, prepared.source_grid), found


def _present(case: Case, model: Model) -> tuple[str, ...]:
    """The contrasts of a case that the model knows, in the order of its channels.

    Raises:
        ContrastError: One is absent that the model cannot do without, or all are.
    """
    present = tuple(name for name in model.contrasts if name in case.contrasts)
    absent = [name for name in model.contrasts if name not in present]
    if not absent or (present and model.config.may_miss_contrasts):
        return present
    raise ContrastError(
        f"{case.case}: no {', '.join(absent)} found; the model was trained on "
        f"{', '.join(model.contrasts)}, and the case has "
        f"{', '.join(case.contrasts) or 'none of them'}. "
        "Add the scans, or use a model for the contrasts there are."
    )


def _in_channels(image: Volume, present: Sequence[str], model: Model) -> Volume:
    """An image of the contrasts there are, in the model's channels; absent ones are 0."""
    if len(present) == len(model.contrasts):
        return image
    voxels = np.zeros((len(model.contrasts), *image.shape_vox), dtype=np.float32)
    voxels[[model.contrasts.index(name) for name in present]] = image.voxels
    return Volume(voxels, image.affine, image.source)


def _absence(case: Case, absent: Sequence[str], present: Sequence[str]) -> Finding:
    message = f"no {', '.join(absent)} found; segmented from {', '.join(present)} alone, which the "
    message += "model was trained to do, but less well."
    return Finding("contrast_absent", case.case, message, "warning")


def _volumes_ml(labels: Volume, model: Model) -> dict[str, float]:
    voxel_ml = labels.grid.voxel_volume_ml
    return {
        name: float(sum((labels.voxels == value).sum() for value in region.labels)) * voxel_ml
        for name, region in model.config.regions.items()
    }


def _picture(
    case: Case, labels: Volume, model: Model, volumes_ml: Mapping[str, float]
) -> GalleryCase:
    image = read_nifti(case.contrasts[shown_contrast(_present(case, model))])
    regions = {name: region.labels for name, region in model.config.regions.items()}
    facts: dict[str, Cell] = {f"{name} (mL)": round(ml, 1) for name, ml in volumes_ml.items()}
    shown = Shown(image, labels, None)
    return GalleryCase("prediction", case.case, picture_of(case.case, shown, regions), facts)


def _write_bids_description(out: Path) -> None:
    record = {
        "Name": "brainsegfounder segmentations",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "brainsegfounder", "Version": package_version("brainsegfounder")}],
    }
    write_text(out / "dataset_description.json", json.dumps(record, indent=1))


def _write_summary(
    result: Predicted,
    model: Model,
    model_path: Path,
    volumes: Mapping[str, Mapping[str, float]],
    pictures: Sequence[GalleryCase],
) -> None:
    """Write `predictions.json` and `report.html`."""
    weights = model_folder(model_path) / WEIGHTS_NAME
    record = {
        "notice": RESEARCH_ONLY,
        "model": {"name": model.config.name, "sha256": sha256(weights)},
        "versions": {name: package_version(name) for name in PACKAGES},
        "volumes_ml": volumes,
        "files": {c: str(path.relative_to(result.out)) for c, path in result.files.items()},
        "refused": result.refused,
        "findings": {c: [asdict(one) for one in found] for c, found in result.findings.items()},
        "noticed": [asdict(one) for one in result.noticed],
    }
    write_text(result.out / "predictions.json", json.dumps(record, indent=1))
    regions = list(model.config.regions)
    rows: list[list[Cell]] = [
        [case, *(values[name] for name in regions)] for case, values in volumes.items()
    ]
    hidden = len(result.files) - len(pictures)
    report = Report(
        title="Prediction",
        subtitle=f"Model {model.config.name} ({model.config.scale}), contrasts "
        f"{', '.join(model.contrasts)}.",
        highlights=[Highlight("cases", str(len(result.files)), f"{len(result.refused)} refused")],
        warnings=[without_folders(text) for text in result.warnings],
        notes=[f"{hidden} further cases are not pictured."] if hidden else [],
        run={"model": model.config.name, "weights (sha256)": record["model"]["sha256"][:16]},  # type: ignore[index]
        tables=[Table("Volumes in mL.", ["case", *regions], rows)],
        gallery=pictures,
        provenance=record,
    )
    write_report(result.out / "report.html", report)
