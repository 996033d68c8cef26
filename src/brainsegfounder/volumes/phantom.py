"""The embedded cohort: drawn brains with exact lesion labels, for demos and tests without data.

`phantom_anatomy` and `phantom_lesions` say where things are and `phantom_contrasts` how they look;
this module puts a subject together and writes cohorts as a BIDS tree. A seed and an index fix a
subject down to the byte. A phantom shows that a pipeline works; it is no evidence about patients.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from brainsegfounder.errors import ContrastError, OutputExistsError, UsageError
from brainsegfounder.volumes.nifti import write_nifti
from brainsegfounder.volumes.phantom_anatomy import Warp, draw_anatomy
from brainsegfounder.volumes.phantom_contrasts import APPEARANCES, draw_contrast
from brainsegfounder.volumes.phantom_lesions import (
    NECROSIS,
    OEDEMA,
    RIM,
    Lesion,
    draw_labels,
    mass_effect,
    plan_lesion,
)
from brainsegfounder.volumes.volume import Volume

SUFFIXES = {"T1w": "T1w", "T1ce": "ce-gadolinium_T1w", "T2w": "T2w", "FLAIR": "FLAIR"}
TUMOUR_REGIONS = (
    (NECROSIS, "Necrotic tumour core", "NCR"),
    (OEDEMA, "Peritumoral oedema", "ED"),
    (RIM, "Enhancing tumour", "ET"),
)
MASK_NAMES = {"stroke": "label-lesion_mask", "tumour": "seg-brats_dseg"}
BIDS_VERSION = "1.10.0"
DATASET_NAME = "Embedded phantom cohort"
LICENCE = "Free to use, change and share with the copyright notice in README"


@dataclass(frozen=True, slots=True)
class PhantomSubject:
    """One drawn subject.

    Attributes:
        subject: The BIDS participant, such as `sub-003`.
        volumes: By contrast, skull-stripped float32 volumes of shape (1, I, J, K) on one RAS grid;
            whole numbers, at least 1 inside the brain and 0 outside.
        labels: Int16, shape (1, I, J, K): 0 outside the lesion; 1 for a stroke; 1, 2 and 4 for a
            tumour's necrotic core, oedema and enhancing rim. None without a lesion.
        age_years: 20 to 89; older subjects have wider ventricles.
        sex: F or M; men's heads are a little larger.
    """

    subject: str
    volumes: dict[str, Volume]
    labels: Volume | None
    age_years: int
    sex: Literal["F", "M"]


def draw_subject(
    index: int,
    *,
    seed: int,
    lesion: Lesion,
    contrasts: Sequence[str],
    spacing_mm: float = 2.0,
) -> PhantomSubject:
    """Draw one subject; the same arguments give the same voxels.

    The anatomy depends on the seed and index alone, so that the same subject can be drawn at
    another spacing, or with other contrasts, and be the same person.

    Args:
        index: Which subject, 0 or more.
        seed: Which cohort, 0 or more.
        lesion: What to draw: none, stroke or tumour.
        contrasts: Any of T1w, T1ce, T2w and FLAIR, each once.
        spacing_mm: Distance between voxels along all three axes, 0.5 to 8.

    Returns:
        The subject, with every contrast and the labels on one grid.

    Raises:
        ContrastError: A contrast is unknown or named twice, or none is named.
        UsageError: Another argument is out of range.
        VolumeError: nilearn, which carries the template, is not installed.
    """
    _check(index, seed, lesion, contrasts, spacing_mm)
    rng = np.random.default_rng([seed, index])
    age_years, sex = int(rng.integers(20, 90)), "F" if rng.random() < 0.5 else "M"
    older = (age_years - 20) / 70
    warp = Warp.draw(rng, larger=1.0 if sex == "M" else -1.0, older=older)
    # One stream per purpose: what is drawn next never depends on what was asked for before.
    lesion_rng = np.random.default_rng([seed, index, 1])
    plan = plan_lesion(lesion_rng, lesion)
    anatomy = draw_anatomy(warp, spacing_mm, mass_effect(warp, plan))
    labels = None
    if plan is not None:
        labels = draw_labels(lesion_rng, anatomy, plan, warp.inverse(plan.centre_mm))
    volumes = {}
    for contrast in contrasts:
        stream = 2 + list(APPEARANCES).index(contrast)
        contrast_rng = np.random.default_rng([seed, index, stream])
        voxels = draw_contrast(contrast_rng, anatomy, labels, lesion, APPEARANCES[contrast])
        volumes[contrast] = Volume(voxels[None], anatomy.grid.affine.copy())
    return PhantomSubject(
        subject=f"sub-{index:03d}",
        volumes=volumes,
        labels=None if labels is None else Volume(labels[None], anatomy.grid.affine.copy()),
        age_years=age_years,
        sex="F" if sex == "F" else "M",
    )


def _check(index: int, seed: int, lesion: str, contrasts: Sequence[str], spacing_mm: float) -> None:
    for contrast in contrasts:
        if contrast not in APPEARANCES:
            close = difflib.get_close_matches(contrast, APPEARANCES, n=1, cutoff=0.5)
            hint = f"; did you mean '{close[0]}'?" if close else "."
            raise ContrastError(
                f"phantom: no contrast '{contrast}'{hint} "
                f"Expected some of {', '.join(APPEARANCES)}."
            )
    if not contrasts or len(set(contrasts)) < len(contrasts):
        raise ContrastError(
            f"phantom: contrasts {list(contrasts)}; expected one or more, each named once."
        )
    if lesion not in ("none", "stroke", "tumour"):
        raise UsageError(f"phantom: lesion '{lesion}'; expected none, stroke or tumour.")
    if index < 0 or seed < 0:
        raise UsageError(f"phantom: index {index} and seed {seed}; expected 0 or more.")
    if not 0.5 <= spacing_mm <= 8:
        raise UsageError(f"phantom: spacing {spacing_mm} mm; expected 0.5 to 8 mm.")


# --- files


def write_cohort(
    folder: Path,
    *,
    num_subjects: int,
    seed: int,
    lesion: Lesion,
    contrasts: Sequence[str],
    spacing_mm: float = 2.0,
    first_index: int = 0,
) -> list[str]:
    """Draw subjects and write them as a BIDS tree, with masks under `derivatives/phantom`.

    Args:
        folder: Root of the dataset; made if need be. Subjects written earlier are kept.
        num_subjects: How many subjects to draw.
        seed: As for `draw_subject`, like the rest.
        lesion: What to draw.
        contrasts: Which contrasts to draw.
        spacing_mm: Distance between voxels.
        first_index: Index of the first subject.

    Returns:
        The subjects written, such as `sub-000`.

    Raises:
        OutputExistsError: A subject's folder exists already, or the folder holds another dataset;
            nothing was written.
        ContrastError: As for `draw_subject`.
        UsageError: As for `draw_subject`.
        VolumeError: As for `draw_subject`, or a file cannot be written.
    """
    _check(first_index, seed, lesion, contrasts, spacing_mm)
    if num_subjects < 1:
        raise UsageError(f"phantom: {num_subjects} subjects asked for; expected 1 or more.")
    _check_folder(folder)
    for index in range(first_index, first_index + num_subjects):
        there = folder / f"sub-{index:03d}"
        if there.exists():
            raise OutputExistsError(f"{there}: exists already. Remove it, or name another folder.")
    _write_dataset_files(folder, lesion)
    written = []
    for index in range(first_index, first_index + num_subjects):
        subject = draw_subject(
            index, seed=seed, lesion=lesion, contrasts=contrasts, spacing_mm=spacing_mm
        )
        _write_subject(folder, subject, lesion)
        written.append(subject.subject)
    return written


def _check_folder(folder: Path) -> None:
    about = folder / "dataset_description.json"
    if about.exists() and DATASET_NAME not in about.read_text(encoding="utf-8", errors="replace"):
        raise OutputExistsError(
            f"{folder}: holds another dataset. Name a folder that is empty or has phantoms."
        )


def _write_dataset_files(folder: Path, lesion: Lesion) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    made_by = [{"Name": "brainsegfounder", "Version": version("brainsegfounder")}]
    raw = {
        "Name": DATASET_NAME,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "raw",
        "License": LICENCE,
        "Authors": ["The BrainSegFounder developers"],
        "GeneratedBy": made_by,
    }
    _write_json(folder / "dataset_description.json", raw)
    (folder / "README").write_text(README, encoding="utf-8")
    _write_json(folder / "participants.json", PARTICIPANT_COLUMNS)
    if lesion == "none":
        return
    derived = {
        "Name": "Exact lesion labels of the embedded phantom cohort",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "License": LICENCE,
        "GeneratedBy": made_by,
        "DatasetLinks": {"raw": "../../"},
        "SourceDatasets": [{"URL": "bids:raw:"}],
    }
    root = folder / "derivatives" / "phantom"
    root.mkdir(parents=True, exist_ok=True)
    _write_json(root / "dataset_description.json", derived)
    (root / "README").write_text(README, encoding="utf-8")


def _write_subject(folder: Path, subject: PhantomSubject, lesion: Lesion) -> None:
    anat = Path(subject.subject) / "anat"
    sources = []
    for contrast, volume in subject.volumes.items():
        name = f"{subject.subject}_{SUFFIXES[contrast]}.nii.gz"
        write_nifti(folder / anat / name, volume)
        sources.append(f"bids:raw:{(anat / name).as_posix()}")
    lesion_ml = 0.0
    if subject.labels is not None:
        num_voxels = np.count_nonzero(subject.labels.voxels)
        lesion_ml = float(num_voxels * subject.labels.grid.voxel_volume_ml)
        stem = folder / "derivatives" / "phantom" / anat
        stem = stem / f"{subject.subject}_{MASK_NAMES[lesion]}"
        write_nifti(stem.with_name(f"{stem.name}.nii.gz"), subject.labels)
        about = {"Type": "Lesion"} if lesion == "stroke" else {}
        _write_json(
            stem.with_name(f"{stem.name}.json"),
            {"Description": f"Exact {lesion} labels", "Sources": sources, **about},
        )
        if lesion == "tumour":
            _write_regions(stem.with_name(f"{stem.name}.tsv"))
    _add_participant(folder / "participants.tsv", subject, lesion, lesion_ml)


def _write_regions(path: Path) -> None:
    rows = [("index", "name", "abbreviation"), (0, "Background", "BG"), *TUMOUR_REGIONS]
    path.write_text(_tsv(rows), encoding="utf-8")


def _add_participant(path: Path, subject: PhantomSubject, lesion: Lesion, lesion_ml: float) -> None:
    header = ("participant_id", *PARTICIPANT_COLUMNS)
    old = path.read_text(encoding="utf-8") if path.exists() else _tsv([header])
    row = (subject.subject, subject.age_years, subject.sex, lesion, f"{lesion_ml:.3f}")
    path.write_text(old + _tsv([row]), encoding="utf-8")


def _tsv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows(rows)
    return text.getvalue()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


PARTICIPANT_COLUMNS = {
    "age": {"Description": "Age of the imagined person", "Units": "year"},
    "sex": {"Description": "Sex of the imagined person", "Levels": {"F": "female", "M": "male"}},
    "lesion": {
        "Description": "What was drawn",
        "Levels": {"none": "no lesion", "stroke": "chronic infarct", "tumour": "glioma"},
    },
    "lesion_volume": {"Description": "Volume of the whole lesion", "Units": "mL"},
}
README = """\
# Embedded phantom cohort

These brains were drawn by a program; no person was scanned. Each is the MNI ICBM 2009a template
(Fonov et al., NeuroImage 2011), warped at random, with contrasts made from its tissue classes, a
bias field, noise, and a lesion whose labels are exact. The masks are in `derivatives/phantom`.

The images are skull-stripped. They show that a pipeline works; they say nothing about patients.

The template: Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal
Neurological Institute, McGill University. Permission to use, copy, modify, and distribute this
software and its documentation for any purpose and without fee is hereby granted, provided that the
above copyright notice appear in all copies. The authors and McGill University make no
representations about the suitability of this software for any purpose. It is provided "as is"
without express or implied warranty.
"""
