"""What a prediction hands over: files on the scan's grid, numbers, and where they come from."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from brainsegfounder.data.cases import Case
from brainsegfounder.data.source_hashes import SourceHashes
from brainsegfounder.evaluation.lesion_table import Cell
from brainsegfounder.inference.expected_dice import Expected
from brainsegfounder.inference.model_config import CONFIG_NAME, WEIGHTS_NAME
from brainsegfounder.inference.uncertainty import entropy
from brainsegfounder.runs import PACKAGES, RESEARCH_ONLY, package_version
from brainsegfounder.settings import ReadingSettings
from brainsegfounder.volumes.dicom.segmentation import write_segmentation
from brainsegfounder.volumes.dicom.source import SourceSeries
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.location import Atlas, has_atlas, read_atlas
from brainsegfounder.volumes.preparation import undo
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.derivative import CaseOutput
from brainsegfounder.workflows.model_folder import Model
from brainsegfounder.workflows.predict_case import Segmented
from brainsegfounder.workflows.predict_review import REVIEW_BELOW
from brainsegfounder.workflows.to_template import matrix_to_mni

# Of what a case's results depend on; a new one makes all results anew.
OUTPUT_VERSION = 1
NOT_IN_KEY = ("pages", "max_memory_gib")


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """What is asked of a prediction beside labels.

    Attributes:
        probabilities: Write the probability of each region.
        maps: Write entropy and, where there are several opinions, disagreement.
        every_grid: Write labels on the grid of every contrast, not of the first alone.
        locate: Register the brain to MNI152 and say where each lesion lies.
        pages: Write a page for each scan, and one over all.
        viewer: Put the scan itself into its page.
        review_below: A scan is flagged where the interval of its expected Dice reaches below this.
        backend: What computes: torch, openvino or onnxruntime.
        max_memory_gib: Most memory of the process, or None for what there is.
    """

    probabilities: bool = False
    maps: bool = False
    every_grid: bool = False
    locate: bool = False
    pages: bool = True
    viewer: bool = True
    review_below: float = REVIEW_BELOW
    backend: str = "torch"
    max_memory_gib: float | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """What made a set of predictions, the same for all cases.

    Attributes:
        model: The model's name.
        weights_sha256: Of its weights.
        config_sha256: Of its config.
        options: What was asked for.
        reading: What was allowed of the files.
        predict: Overlap, blending and flips, as they were used.
    """

    model: str
    weights_sha256: str
    config_sha256: str
    options: PredictOptions
    reading: ReadingSettings
    predict: Mapping[str, Any]

    def record(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return {
            "model": {
                "name": self.model,
                WEIGHTS_NAME: self.weights_sha256,
                CONFIG_NAME: self.config_sha256,
            },
            "options": asdict(self.options),
            "reading": self.reading.model_dump(mode="json"),
            "predict": dict(self.predict),
            "versions": {name: package_version(name) for name in PACKAGES},
        }


def input_files(case: Case, contrasts: Sequence[str]) -> dict[str, Path]:
    """The files that a prediction of a case is made from, by role: contrast or `mask-NAME`."""
    files = {name: case.contrasts[name] for name in contrasts}
    return files | {f"mask-{name}": path for name, path in case.masks.items()}


def case_key(origin: Origin, hashes: SourceHashes, case: Case) -> str:
    """The SHA-256 of all that the results of a case depend on.

    How much memory there is does not count, nor whether pages are asked for: a page that is missing
    is seen. Threads do not count either, as another machine may have others.
    """
    made_by = origin.record()
    for name in NOT_IN_KEY:
        made_by["options"].pop(name)
    record = {
        "version": OUTPUT_VERSION,
        **made_by,
        "inputs": {role: known.sha256 for role, known in hashes.items()},
        "volumes": case.volumes,
    }
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def case_output(
    done: Segmented,
    model: Model,
    origin: Origin,
    *,
    hashes: SourceHashes,
    flags: Sequence[Finding],
    expected: Mapping[str, Expected],
    uncertainty: Volume,
    began_s: float,
    source: SourceSeries | None = None,
) -> CaseOutput:
    """Everything that is written of a case.

    Args:
        done: The segmented case.
        model: What segmented it.
        origin: What made it.
        hashes: Of its files.
        flags: What was noticed.
        expected: Dice to be expected, by region.
        uncertainty: Entropy on the scan's grid, from `uncertainty_of`.
        began_s: When the work on it began, by `time.perf_counter`.
        source: The DICOM series of its first contrast, or None.
    """
    options, grid = origin.options, done.prepared.source_grid
    probabilities = done.opinion.probabilities
    to_mni, doubts = matrix_to_mni(done.prepared) if options.locate else (None, ())
    return CaseOutput(
        case=done.case,
        labels=done.labels,
        label_names=model.config.labels,
        regions=model.config.regions,
        contrasts=done.present,
        lists_lesions=model.config.regions_are == "lesions",
        probabilities=_of_regions(undo(probabilities, grid), model)
        if options.probabilities
        else None,
        maps=_maps(done, uncertainty) if options.maps else {},
        on_grids=_on_grids(done, model) if options.every_grid else {},
        flags=[*flags, *doubts],
        region_facts=_region_facts(model, expected),
        provenance=_provenance(done, origin, hashes, began_s),
        to_mni=to_mni,
        atlas=_atlas() if to_mni is not None else None,
        write_segmentation=None if source is None else _segmentation(done, model, source),
    )


def uncertainty_of(done: Segmented, model: Model) -> Volume:
    """Entropy of each voxel on the scan's grid, shape (1, I, J, K); see `uncertainty.entropy`."""
    told = done.opinion.probabilities
    values = entropy(told.voxels, model.config.target)
    return undo(Volume(values[None], told.affine, told.source), done.prepared.source_grid)


def _maps(done: Segmented, uncertainty: Volume) -> dict[str, Volume]:
    maps = {"entropy": uncertainty}
    if done.opinion.disagreement is not None:
        maps["disagreement"] = undo(done.opinion.disagreement, done.prepared.source_grid)
    return maps


def _of_regions(probabilities: Volume, model: Model) -> Volume:
    """A channel for each region; classes of a region add up."""
    if model.config.target == "regions":
        return probabilities
    values = list(model.config.labels.values())
    channels = [
        probabilities.voxels[[1 + values.index(one) for one in region.labels]].sum(axis=0)
        for region in model.config.regions.values()
    ]
    return Volume(np.stack(channels), probabilities.affine, probabilities.source)


def _on_grids(done: Segmented, model: Model) -> dict[str, Volume]:
    """Labels on the grids of the contrasts after the first, from the same probabilities."""
    pairs = zip(done.present[1:], done.prepared.input_grids[1:], strict=True)
    return {name: model.paint(done.opinion.probabilities, grid) for name, grid in pairs}


def _region_facts(model: Model, expected: Mapping[str, Expected]) -> dict[str, dict[str, Cell]]:
    """Columns on the expected Dice, for all regions alike."""
    if not model.config.expected_dice:
        return {}
    empty: dict[str, Cell] = {"expected_dice": None, "low": None, "high": None, "num_cases": None}
    facts = {name: dict(empty) for name in model.config.regions}
    for name, one in expected.items():
        facts[name] = {
            "expected_dice": round(one.dice, 4),
            "low": round(one.low, 4),
            "high": round(one.high, 4),
            "num_cases": one.num_cases,
        }
    return facts


def _provenance(
    done: Segmented, origin: Origin, hashes: SourceHashes, began_s: float
) -> dict[str, Any]:
    return {
        "notice": RESEARCH_ONLY,
        **origin.record(),
        "inputs": {
            role: {"sha256": known.sha256, "bytes": known.num_bytes}
            for role, known in hashes.items()
        },
        "volumes": dict(done.case.volumes),
        "preparation": done.prepared.steps,
        "device": done.device,
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - began_s, 2),
    }


def _atlas() -> Atlas | None:
    return read_atlas() if has_atlas() else None


def _segmentation(done: Segmented, model: Model, source: SourceSeries) -> Any:
    def write(path: Path) -> None:
        write_segmentation(
            path,
            done.labels,
            model.config.labels,
            source,
            model=model.config.name,
            version=package_version("brainsegfounder") or "",
        )

    return write
