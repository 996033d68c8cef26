"""`replay`: a prediction made again from its provenance, and whether it comes out the same.

Inputs are found by their hashes, whatever they are called now. The same input, model, options,
machine and number of threads give the same bytes; on another machine a few voxels at an outline may
differ, and their share is told.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from brainsegfounder.data.cases import Case
from brainsegfounder.data.layouts import DICOM
from brainsegfounder.errors import BrainSegFounderError, DataError, Problem, UsageError
from brainsegfounder.files import sha256
from brainsegfounder.inference.model_config import CONFIG_NAME, WEIGHTS_NAME
from brainsegfounder.runs import PACKAGES, package_version
from brainsegfounder.settings import PredictSettings, ReadingSettings
from brainsegfounder.volumes.label_image import write_labels
from brainsegfounder.volumes.nifti import read_labels
from brainsegfounder.workflows.inputs import open_inputs
from brainsegfounder.workflows.model_folder import Model, model_folder
from brainsegfounder.workflows.predict import open_model, weights_name
from brainsegfounder.workflows.predict_case import segment_case

MASK = "mask-"


@dataclass(frozen=True, slots=True)
class Replayed:
    """One case made again.

    Attributes:
        case: Its name.
        is_same: Whether its label file has the same bytes.
        sha256: Of the new one.
        share_equal: Of voxels with the same label as the old file, where that is still there.
    """

    case: str
    is_same: bool
    sha256: str
    share_equal: float | None


@dataclass(frozen=True, slots=True)
class Replay:
    """What came out again.

    Attributes:
        cases: In the order of the provenance.
        other: What is not as it was then, in words.
    """

    cases: Sequence[Replayed]
    other: Sequence[str]

    @property
    def is_same(self) -> bool:
        """Whether all files have the same bytes."""
        return all(case.is_same for case in self.cases)

    def record(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        cases = [asdict(case) for case in self.cases]
        return {"is_same": self.is_same, "cases": cases, "other": list(self.other)}

    def lines(self) -> list[str]:
        """The same for people."""
        lines = [f"other than then: {one}" for one in self.other]
        for case in self.cases:
            told = "the same bytes" if case.is_same else "other bytes"
            if not case.is_same and case.share_equal is not None:
                told += f", {case.share_equal:.6%} of the voxels equal"
            lines.append(f"{case.case}: {told} (sha256 {case.sha256[:16]})")
        return lines


def run_replay(provenance: Path, inputs: Sequence[Path], model_path: Path) -> Replay:
    """Make all cases of a prediction again and compare their label files.

    Args:
        provenance: `provenance.json` of a prediction.
        inputs: Folders or files among which its scans are, under whatever names.
        model_path: The model, known by its hashes.

    Raises:
        DataError: The provenance cannot be read, or a scan is not there.
        UsageError: The model is another one.
    """
    told = _read(provenance)
    backend = told.get("options", {}).get("backend", "torch")
    _check_model(told, model_folder(model_path), backend)
    model = _as_then(open_model(model_path, backend), told)
    reading = ReadingSettings.model_validate(told["reading"])
    with (
        tempfile.TemporaryDirectory(prefix="brainsegfounder-") as room,
        _by_hash(inputs, _wanted(told), reading) as found,
    ):
        cases = [
            _again(name, one, found, model, reading, Path(room), provenance.parent)
            for name, one in told["cases"].items()
        ]
    return Replay(cases, list(_other(told)))


def _again(
    name: str,
    told: Mapping[str, Any],
    found: Mapping[str, Path],
    model: Model,
    reading: ReadingSettings,
    room: Path,
    beside: Path,
) -> Replayed:
    torch.set_num_threads(told["threads"])
    files = {role: found[one["sha256"]] for role, one in told["inputs"].items()}
    contrasts = {role: path for role, path in files.items() if not role.startswith(MASK)}
    masks = {r.removeprefix(MASK): path for r, path in files.items() if r.startswith(MASK)}
    case = Case(name, name, contrasts, masks=masks, volumes=dict(told["volumes"]))
    labels = segment_case(case, model, reading).labels
    path = room / "labels.nii.gz"
    write_labels(path, labels, model.config.labels)
    made, old = sha256(path), beside / told["labels"]["path"]
    equal = None
    if old.is_file():
        equal = float(np.mean(read_labels(old).voxels == labels.voxels))
    return Replayed(name, made == told["labels"]["sha256"], made, equal)


def _read(path: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        told["cases"].items(), told["model"].items(), told["reading"], told["predict"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(
            Problem(
                "provenance_unreadable", str(path), f"no such record ({error})",
                "the provenance.json of a prediction", "Give the one beside its report.html.",
            )
        ) from error  # fmt: skip
    return told


def _check_model(told: Mapping[str, Any], folder: Path, backend: str) -> None:
    for kept_as, name in ((WEIGHTS_NAME, weights_name(backend)), (CONFIG_NAME, CONFIG_NAME)):
        file = folder / name
        if not file.is_file() or sha256(file) != told["model"].get(kept_as):
            raise UsageError(
                f"{file}: not the one that made the prediction (its SHA-256 differs); "
                f"expected model {told['model'].get('name')}. Give that model with --model."
            )


def _as_then(model: Model, told: Mapping[str, Any]) -> Model:
    predict = PredictSettings.model_validate(told["predict"])
    return Model(model.network, model.config.model_copy(update={"predict": predict}), model.device)


def _wanted(told: Mapping[str, Any]) -> dict[str, int]:
    """Hash and size of every input."""
    cases = told["cases"].values()
    return {one["sha256"]: one["bytes"] for case in cases for one in case["inputs"].values()}


@contextmanager
def _by_hash(
    inputs: Sequence[Path], wanted: Mapping[str, int], reading: ReadingSettings
) -> Iterator[dict[str, Path]]:
    """Files by their hashes; what is converted from DICOM is there as long as this is open."""
    found = dict(_matching(_files(inputs), wanted))
    with ExitStack() as opened:
        if len(found) < len(wanted):
            found |= dict(_matching(_converted(inputs, reading, opened), wanted))
        missing = [sha for sha in wanted if sha not in found]
        if missing:
            raise DataError(
                Problem(
                    "input_not_found", ", ".join(map(str, inputs)),
                    f"no file with SHA-256 {missing[0][:16]}… ({len(missing)} missing)",
                    "every scan of the prediction", "Name the folders they are in with --inputs.",
                )
            )  # fmt: skip
        yield found


def _converted(
    inputs: Sequence[Path], reading: ReadingSettings, opened: ExitStack
) -> Iterator[Path]:
    """What becomes of the inputs read as DICOM; nothing where they are none."""
    try:
        cases = opened.enter_context(open_inputs(inputs, DICOM, reading)).cases
    except BrainSegFounderError:
        return
    yield from (path for case in cases for path in case.contrasts.values())


def _files(inputs: Sequence[Path]) -> Iterator[Path]:
    for given in inputs:
        places = sorted(given.rglob("*")) if given.is_dir() else [given]
        yield from (path for path in places if path.is_file())


def _matching(files: Iterable[Path], wanted: Mapping[str, int]) -> Iterator[tuple[str, Path]]:
    """The files that are wanted; only those of a wanted size are read."""
    sizes = set(wanted.values())
    for path in files:
        if path.stat().st_size in sizes and (known := sha256(path)) in wanted:
            yield known, path


def _other(told: Mapping[str, Any]) -> Iterator[str]:
    """Versions that are not what they were."""
    versions = told.get("versions", {})
    for name in PACKAGES:
        then, now = versions.get(name), package_version(name)
        if then != now:
            yield f"{name} was {then}, is {now}"
