"""From a folder to cases: one short reader for each way data are laid out.

A reader takes a folder and returns its cases; it looks at names only, never into images. To add
a layout, write such a function and name it in `LAYOUTS`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from brainsegfounder.data.manifest import CONTRAST_SYNONYMS, Case, unique_cases
from brainsegfounder.errors import ContrastError, DataError, LabelError, UsageError
from brainsegfounder.volumes.nifti import is_nifti, stem

LABEL_SUFFIXES = frozenset({"seg", "lesion", "mask", "label", "dlmuse"})
# The last part of a name that tells visits of one subject apart.
VISIT = re.compile(r"^(?P<subject>.+?)[_-](?P<session>(study|visit|ses|tp)-?\d+)$", re.IGNORECASE)
BRATS_2023 = re.compile(r"^(?P<subject>BraTS-[A-Z]+-\d+)-(?P<session>\d+)$")
BIDS_ENTITY = re.compile(r"(?P<key>[a-zA-Z]+)-(?P<value>[a-zA-Z0-9]+)$")


def read_cases(inputs: Sequence[Path], layout: str = "auto") -> list[Case]:
    """Find the cases of one or more inputs.

    Args:
        inputs: Folders, or single NIfTI files named `<case>_<contrast>.nii.gz`.
        layout: A name in `LAYOUTS`, or `auto` to recognise each input by itself.

    Returns:
        Cases with unique names, in the order of their names within each input.

    Raises:
        UsageError: The layout is unknown.
        DataError: An input does not exist or holds no case.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise UsageError(f"--layout {layout}: unknown; expected auto, {', '.join(LAYOUTS)}.")
    files = [path for path in inputs if path.is_file()]
    groups = [("files", _found(files[0], _group_by_suffix(files)))] if files else []
    folders = [path for path in inputs if not path.is_file()]
    groups += [(path.resolve().name, _read_folder(path, layout)) for path in folders]
    return unique_cases(groups)


def recognise(folder: Path) -> str:
    """The name of the layout that a folder has."""
    if (folder / "dataset_description.json").is_file() or any(folder.glob("sub-*/**/anat")):
        return "bids"
    if (folder / "index.csv").is_file():
        return "index"
    return "suffix"


def read_suffix(folder: Path) -> list[Case]:
    """`<case>_<contrast>.nii.gz`, flat or in folders: BraTS of all years, `*_T1w`, IXI.

    Files with the same name up to the last `_` or `-` are one case; `_seg`, `_lesion`, `_mask`
    mark its mask.
    """
    return _group_by_suffix(path for path in sorted(folder.rglob("*")) if _is_scan(path))


def read_index(folder: Path) -> list[Case]:
    """As `suffix`, and `index.csv` says whose brain each case is.

    The first column holds the case; the first column whose name contains `subject` holds the
    subject. Cases made from one brain then never part in a split.
    """
    with (folder / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0]) if rows else []
    subject_column = next((name for name in columns if "subject" in name.lower()), None)
    if subject_column is None:
        raise DataError(
            f"{folder / 'index.csv'}: columns {columns}; expected the case first and a column "
            "whose name contains 'subject'."
        )
    subjects = {row[columns[0]]: row[subject_column] for row in rows}
    return [replace(c, subject=subjects.get(c.case, c.subject)) for c in read_suffix(folder)]


def read_bids(folder: Path) -> list[Case]:
    """`sub-*/[ses-*/]anat/*_{T1w,T2w,FLAIR}.nii.gz`, masks under `derivatives/`.

    `ce-` entities make a T1w a T1ce. A mask is a `_mask` with a `label-` entity (not `brain`), or
    a `_dseg` with a `seg-` or `label-` entity, of the same subject and session; brain masks and
    tissue segmentations of other pipelines are passed over.
    """
    scans = [p for p in sorted(folder.glob("sub-*/**/anat/*")) if _is_scan(p)]
    masks = _bids_masks(folder)
    cases: dict[str, Case] = {}
    for path in scans:
        entities, suffix = _bids_parts(path)
        contrast = "T1ce" if "ce" in entities and suffix == "T1w" else suffix
        if contrast not in CONTRAST_SYNONYMS.values():
            continue
        subject, session = f"sub-{entities.get('sub', '')}", entities.get("ses", "")
        name = f"{subject}_ses-{session}" if session else subject
        case = cases.setdefault(name, Case(name, subject, {}, masks.get(name), session, True))
        _add_contrast(case, contrast, path)
    return list(cases.values())


LAYOUTS: dict[str, Callable[[Path], list[Case]]] = {
    "suffix": read_suffix,
    "index": read_index,
    "bids": read_bids,
}


def _read_folder(path: Path, layout: str) -> list[Case]:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; expected scans.")
    return _found(path, LAYOUTS[recognise(path) if layout == "auto" else layout](path))


def _found(path: Path, cases: list[Case]) -> list[Case]:
    if not cases:
        raise DataError(
            f"{path}: no scan recognised; expected files such as CASE_T1w.nii.gz or "
            "CASE_flair.nii.gz, or a BIDS tree. Rename them, or point at their folder."
        )
    return cases


def _is_lesion_mask(entities: dict[str, str], suffix: str) -> bool:
    if suffix == "mask":
        return entities.get("label", "brain") != "brain"
    return suffix == "dseg" and ("seg" in entities or "label" in entities)


def _group_by_suffix(paths: Iterable[Path]) -> list[Case]:
    cases: dict[str, Case] = {}
    for path in paths:
        name, _, suffix = re.sub(r"[_-](?=[^_-]+$)", "\0", stem(path)).partition("\0")
        contrast = CONTRAST_SYNONYMS.get(suffix.lower())
        if contrast is None and suffix.lower() not in LABEL_SUFFIXES:
            continue
        subject, session = _subject_of(name)
        case = cases.setdefault(name, Case(name, subject, {}, session=session))
        if contrast is not None:
            _add_contrast(case, contrast, path)
        elif case.label is None:
            cases[name] = replace(case, label=path)
        else:
            raise _second_mask(path, case.case, case.label)
    return [case for case in cases.values() if case.contrasts]


def _add_contrast(case: Case, contrast: str, path: Path) -> None:
    if contrast in case.contrasts:
        raise ContrastError(
            f"{path}: a second {contrast} of {case.case} beside {case.contrasts[contrast]}; "
            "expected one. Remove or rename one of them."
        )
    case.contrasts[contrast] = path


def _second_mask(path: Path, case: str, first: Path) -> LabelError:
    return LabelError(
        f"{path}: a second mask of {case} beside {first}; expected one. Remove or rename one."
    )


def _subject_of(name: str) -> tuple[str, str]:
    match = VISIT.match(name) or BRATS_2023.match(name)
    return (match["subject"], match["session"]) if match else (name, "")


def _is_scan(path: Path) -> bool:
    return is_nifti(path) and not path.name.startswith(".")


def _bids_parts(path: Path) -> tuple[dict[str, str], str]:
    *pairs, suffix = stem(path).split("_")
    matches = [m for pair in pairs if (m := BIDS_ENTITY.match(pair))]
    return {m["key"]: m["value"] for m in matches}, suffix


def _bids_masks(folder: Path) -> dict[str, Path]:
    masks: dict[str, Path] = {}
    for path in sorted(folder.glob("derivatives/*/sub-*/**/anat/*")):
        if not _is_scan(path):
            continue
        entities, suffix = _bids_parts(path)
        if not _is_lesion_mask(entities, suffix):
            continue
        subject, session = f"sub-{entities.get('sub', '')}", entities.get("ses", "")
        case = f"{subject}_ses-{session}" if session else subject
        if case in masks:
            raise _second_mask(path, case, masks[case])
        masks[case] = path
    return masks
