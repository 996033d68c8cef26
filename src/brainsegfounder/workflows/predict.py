"""`predict`: scans to label maps on their own grids, tables, and pages to look at them.

OUT/
report.html          all scans; those that need review first
reports/             a page for each scan
sub-X/…, *.csv, …    a BIDS derivative; see `derivative`
predictions.json     the same for machines: files, refusals, findings
provenance.json      what `replay` needs, of all cases that this model made
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from brainsegfounder.data.cases import Case
from brainsegfounder.data.layouts import Found, read_cases
from brainsegfounder.data.layouts.given import explain_choice, given_case
from brainsegfounder.data.manifest import contrast_name
from brainsegfounder.data.source_hashes import check_unchanged, hash_sources
from brainsegfounder.errors import BrainSegFounderError, DataError
from brainsegfounder.files import check_apart, sha256, write_text
from brainsegfounder.inference.backends import MODEL_FILES, Outside, open_backend
from brainsegfounder.inference.model_config import CONFIG_NAME, WEIGHTS_NAME, read_config
from brainsegfounder.runs import PACKAGES, PROVENANCE_NAME, RESEARCH_ONLY, package_version, progress
from brainsegfounder.settings import AS_IT_IS, ReadingSettings
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.header import memory_limit
from brainsegfounder.volumes.volume import Affine, Volume
from brainsegfounder.workflows.derivative import Derivative, finished, write_case
from brainsegfounder.workflows.derivative_record import CaseFiles
from brainsegfounder.workflows.derivative_tables import open_derivative, write_tables
from brainsegfounder.workflows.inputs import open_inputs
from brainsegfounder.workflows.model_folder import (
    Model,
    check_sums,
    load_model,
    model_folder,
)
from brainsegfounder.workflows.predict_case import present_contrasts, segment_case
from brainsegfounder.workflows.predict_output import (
    Origin,
    PredictOptions,
    case_key,
    case_output,
    input_files,
    uncertainty_of,
)
from brainsegfounder.workflows.predict_page import (
    findings_of,
    page_path,
    write_case_page,
    write_index,
)
from brainsegfounder.workflows.predict_review import expected_dice, flags_of

log = logging.getLogger(__name__)

SUMMARY_NAME = "predictions.json"


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
        findings: What was noticed about each case's scans and its prediction.
        noticed: What was noticed about the input, beside its cases.
        kept: Cases that were there already, made from the same.
        review: Cases that a person should look at, and why.
    """

    out: Path
    files: dict[str, Path] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    findings: dict[str, tuple[Finding, ...]] = field(default_factory=dict)
    noticed: list[Finding] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    @property
    def review(self) -> dict[str, list[str]]:
        """Cases that a person should look at, and why."""
        told = {
            case: [one.message for one in found if one.kind == "warning"]
            for case, found in self.findings.items()
        }
        return {case: list(dict.fromkeys(reasons)) for case, reasons in told.items() if reasons}

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
        return _prediction(Case(name, name, paths), loaded)
    return {case.case: _prediction(case, loaded) for case in read_cases([Path(scans)])}


def run_predict(
    inputs: Sequence[Path],
    model_path: Path,
    out: Path,
    layout: str = "auto",
    reading: ReadingSettings = AS_IT_IS,
    *,
    given: Mapping[str, Path] | None = None,
    name: str = "",
    flips: bool | None = None,
    options: PredictOptions | None = None,
    tell: Callable[[str], None] = log.info,
) -> Predicted:
    """Segment every case found; a case that cannot be is listed and the others go on.

    What is in `out` already, made from the same files by the same model and options, is kept.

    Args:
        inputs: Folders, files, archives.
        model_path: A run or model folder.
        out: A new folder, or one of an earlier call.
        layout: How the inputs are laid out.
        reading: What is allowed of the files.
        given: A file for each contrast of one case, instead of `inputs`.
        name: What to call that case.
        flips: Whether to average over mirrored views; None: as the model says.
        options: What is asked for beside labels.
        tell: Is told which file was taken for which contrast, and why.

    Raises:
        DataError: No case could be predicted.
        OutputExistsError: `out` holds something else.
        UsageError: `out` lies inside an input.
    """
    options = options or PredictOptions()
    check_apart(out, [*inputs, *(given or {}).values()])
    model = _with_flips(open_model(model_path, options.backend), flips)
    origin = _origin(model, model_folder(model_path), options, reading)
    with memory_limit(options.max_memory_gib):
        if given:
            found = Found([given_case(given, name)])
            return _predict_found(found, model, origin, out, tell)
        with open_inputs(inputs, layout, reading) as found:
            return _predict_found(found, model, origin, out, tell)


def _predict_found(
    found: Found, model: Model, origin: Origin, out: Path, tell: Callable[[str], None]
) -> Predicted:
    for line in explain_choice(found):
        tell(line)
    cases = found.cases
    tree = open_derivative(out, cases, origin.model, model_sha256=origin.weights_sha256)
    result = Predicted(out, noticed=list(found.findings))
    result.refused.update({case: str(problem) for case, problem in found.problems.items()})
    with progress(len(cases), "predicting") as report:
        for number, case in enumerate(cases, start=1):
            try:
                result.files[case.case] = _case(case, found, model, origin, tree, result).labels
            except DataError as error:
                result.refused[case.case] = str(error)
            except BrainSegFounderError:
                raise
            except Exception as error:
                # A mistake of ours, on one scan in thousands, must not cost the others; it is told.
                log.exception("%s: an error of the program", case.case)
                result.refused[case.case] = (
                    f"{case.case}: could not be segmented: {type(error).__name__}: {error}. This "
                    "is an error of the program; please report it with the log."
                )
            report(number, case.case)
    _write_summary(result, origin)
    if not result.files:
        raise DataError(
            f"none of {len(cases)} cases could be predicted; the first: "
            f"{next(iter(result.refused.values()), 'nothing was found')}"
        )
    return result


def _case(
    case: Case, found: Found, model: Model, origin: Origin, tree: Derivative, result: Predicted
) -> CaseFiles:
    """The files of a case: those that are there, or new ones."""
    began_s, options = time.perf_counter(), origin.options
    used = input_files(case, present_contrasts(case, model))
    hashes = hash_sources(used)
    key = case_key(origin, hashes, case)
    there = finished(tree, case, key)
    if there is not None and (not options.pages or page_path(tree.out, there).is_file()):
        result.kept.append(case.case)
        result.findings[case.case] = findings_of(there)
        return there
    done = segment_case(case, model, origin.reading, disagreement=options.maps)
    check_unchanged(used, hashes)
    expected = expected_dice(done, model)
    flags = flags_of(done, model, expected, options.review_below)
    uncertainty = uncertainty_of(done, model)
    output = case_output(
        done,
        model,
        origin,
        hashes=hashes,
        flags=flags,
        expected=expected,
        uncertainty=uncertainty,
        began_s=began_s,
        source=found.sources.get(case.contrasts[done.present[0]]),
    )
    files = write_case(tree, output, key)
    if options.pages:
        write_case_page(tree.out, done, model, origin, files, uncertainty)
    result.findings[case.case] = findings_of(files)
    return files


def _prediction(case: Case, model: Model) -> Prediction:
    labels = segment_case(case, model).labels
    return Prediction(labels.voxels[0], labels.affine)


def open_model(path: Path, backend: str) -> Model:
    """A model, or an export of one that another program computes.

    Raises:
        UsageError: There is no such backend, or its package is not installed.
        WeightsError: It cannot be opened.
    """
    if backend == "torch":
        return load_model(path)
    config = read_config(path)
    network = Outside(open_backend(backend, path, config.patch_size_vox))
    check_sums(path, (weights_name(backend), CONFIG_NAME))
    return Model(network, config, torch.device("cpu"))


def weights_name(backend: str) -> str:
    """The file that holds the weights which a backend computes with."""
    return MODEL_FILES.get(backend, WEIGHTS_NAME)


def _with_flips(model: Model, flips: bool | None) -> Model:
    if flips is None or flips == model.config.predict.flips:
        return model
    predict = model.config.predict.model_copy(update={"flips": flips})
    return Model(model.network, model.config.model_copy(update={"predict": predict}), model.device)


def _origin(
    model: Model, folder: Path, options: PredictOptions, reading: ReadingSettings
) -> Origin:
    return Origin(
        model=model.config.name,
        weights_sha256=sha256(folder / weights_name(options.backend)),
        config_sha256=sha256(folder / CONFIG_NAME),
        options=options,
        reading=reading,
        predict=model.config.predict.model_dump(mode="json"),
    )


def _write_summary(result: Predicted, origin: Origin) -> None:
    """Write the tables, the index, and what machines read: `predictions.json`, provenance.

    Tables, index and provenance are of all cases in the folder, whichever call made them.
    """
    made = {
        case: next((one for one in found if _is_by(one, origin)), None)
        for case, found in write_tables(result.out).items()
    }
    cases = {case: one for case, one in made.items() if one is not None}
    volumes = {
        case: {row["region"]: row["volume_ml"] for row in one.record["Volumes"]}
        for case, one in cases.items()
        if case in result.files
    }
    record = {
        "notice": RESEARCH_ONLY,
        "model": {"name": origin.model, "sha256": origin.weights_sha256},
        "versions": {name: package_version(name) for name in PACKAGES},
        "volumes_ml": volumes,
        "files": {c: path.relative_to(result.out).as_posix() for c, path in result.files.items()},
        "review": result.review,
        "refused": result.refused,
        "findings": {c: [asdict(one) for one in found] for c, found in result.findings.items()},
        "noticed": [asdict(one) for one in result.noticed],
    }
    write_text(result.out / SUMMARY_NAME, json.dumps(record, indent=1))
    made_by = {case: _provenance(one, result.out) for case, one in cases.items()}
    told = {"notice": RESEARCH_ONLY, **origin.record(), "cases": made_by}
    write_text(result.out / PROVENANCE_NAME, json.dumps(told, indent=1))
    if origin.options.pages:
        noticed = [one.message for one in result.noticed if one.kind != "note"]
        write_index(result.out, origin.model, origin.weights_sha256, result.refused, noticed)


def _is_by(files: CaseFiles, origin: Origin) -> bool:
    """Whether a case was made as all others of this origin."""
    made, ours = files.record["Provenance"], json.loads(json.dumps(origin.record()))
    return all(made.get(name) == ours[name] for name in ("model", "reading", "predict"))


def _provenance(files: CaseFiles, out: Path) -> dict[str, Any]:
    """What `replay` must know of a case."""
    made = files.record["Provenance"]
    labels = {"path": files.labels.relative_to(out).as_posix(), "sha256": sha256(files.labels)}
    return {
        **{name: made[name] for name in ("inputs", "volumes", "threads", "device")},
        "labels": labels,
    }
