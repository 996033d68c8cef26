"""Layouts in which a text file says which scans there are: datalists, tables, nnU-Net, OpenMind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from brainsegfounder.data.layouts.fold_lists import fold_number, tested_in_splits
from brainsegfounder.data.layouts.gather import Item, Refused, Role, Scan
from brainsegfounder.data.layouts.metadata import chronicity_of, days_of
from brainsegfounder.data.layouts.names import split_ending, subject_of
from brainsegfounder.data.layouts.tree import Tree, read_json, read_rows
from brainsegfounder.errors import DataError, Problem
from brainsegfounder.volumes.contrasts import find_contrast
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.nifti import is_nifti, stem

OPENMIND_TABLE = "openneuro_metadata.csv"
OPENMIND_MASKS: dict[str, Role] = {"anon_mask_path": "deface", "anat_mask_path": "anatomy"}
NNUNET_SPLITS = "splits_final.json"
NNSSL_LIST = "pretrain_data.json"
NNSSL_MASKS: dict[str, Role] = {"anonymization_mask": "deface", "anatomy_mask": "anatomy"}
NNSSL_NO_SESSION = "ses-DEFAULT"
DATALIST_PARTS = ("training", "validation", "test", "testing")
TABLE_MASKS: dict[str, Role] = {
    **dict.fromkeys(("label", "mask", "seg", "lesion"), "label"),
    **dict.fromkeys(("brain", "brain_mask"), "brain"),
    "deface": "deface",
    "anatomy": "anatomy",
}


def read_datalist(tree: Tree) -> Iterator[Item]:
    """Medical Segmentation Decathlon and MONAI: `dataset.json`, or a datalist named by the user.

    `{"training": [{"image": [...], "label": ..., "fold": 0}], "test": [...]}`. Files lie relative
    to the list. What a file is, its name tells, or `modality`, which numbers the volumes of a
    4-D file.
    """
    path = tree.folder / _list_name(tree, "dataset.json")
    content = _mapping(read_json(path), path)
    modality = content.get("modality") or content.get("channel_names") or {}
    for part in DATALIST_PARTS:
        for number, entry in enumerate(_entries(content.get(part))):
            files = _listed(entry.get("image"))
            name = stem(Path(files[0])) if files else f"{part}-{number}"
            case = (
                split_ending(name)[0] if len(files) > 1 or split_ending(name)[1] else ""
            ) or name
            yield from _existing(case, _datalist_scans(case, entry, modality, tree), tree)


def read_nnunet(tree: Tree) -> Iterator[Item]:
    """nnU-Net raw: `imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz`, `dataset.json`.

    The channels' names are contrasts. With `splits_final.json` beside it each case has its fold.
    """
    path = tree.folder / "dataset.json"
    content = _mapping(read_json(path), path)
    channels = content.get("channel_names") or content.get("modality") or {}
    folds, doubts = _nnunet_folds(tree)
    yield from doubts
    for path, name in zip(tree.scans, tree.scan_names, strict=True):
        part = name.split("/")[0]
        case, _, channel = stem(path).rpartition("_")
        if part in ("imagesTr", "imagesTs") and channel.isdigit():
            contrast = str(channels.get(str(int(channel)), ""))
            yield Scan(case, subject_of(case)[0], path, contrast, fold=folds.get(case))
        elif part == "labelsTr":
            yield Scan(stem(path), subject_of(stem(path))[0], path, role="label")


def read_nnssl(tree: Tree) -> Iterator[Item]:
    """nnssl: `pretrain_data.json`, collection, data set, subject, session, image.

    Each image is a case, with its own masks of what was made unknown and of anatomy.
    """
    path = tree.folder / _list_name(tree, NNSSL_LIST)
    for source, dataset in _mapping(_mapping(read_json(path), path).get("datasets"), path).items():
        for who, subject in _mapping(_mapping(dataset, path).get("subjects"), path).items():
            for visit, session in _mapping(_mapping(subject, path).get("sessions"), path).items():
                for image in _entries(_mapping(session, path).get("images")):
                    scan = _nnssl_scan(source, who, visit, image, tree)
                    masks = image.get("associated_masks") or {}
                    yield from _with_masks(scan, masks, NNSSL_MASKS, tree)


def read_openmind(tree: Tree) -> Iterator[Item]:
    """OpenMind: `openneuro_metadata.csv`, with paths relative to `OpenMind/`.

    Each image is a case, with its own masks. Most people have a part of the 114,000 images; the
    others are counted, not refused.
    """
    absent = 0
    rows = read_rows(tree.folder / OPENMIND_TABLE)
    within = "OpenMind/" if any(name.startswith("OpenMind/") for name in tree.scan_names) else ""
    for row in rows:
        name = within + row.get("image_path", "")
        if name not in tree.known or name.count("/") < 2:
            absent += 1
            continue
        scan = _openmind_scan(row, tree.folder / name)
        masks = {key: within + row[key] for key in OPENMIND_MASKS if row.get(key)}
        yield from _with_masks(scan, masks, OPENMIND_MASKS, tree)
    if absent:
        message = f"{absent} of {len(rows)} images are not in this folder; left aside"
        yield Finding("listed_but_absent", OPENMIND_TABLE, message, "note")


def read_table(tree: Tree) -> Iterator[Item]:
    """A CSV or TSV: a row for each scan, or a row for each case with a column for each contrast.

    Columns `path` and `contrast` make the first kind, which a manifest is too; `case`, `subject`,
    `session`, `site`, `label`, `fold` and masks (`brain`, `deface`, `anatomy`) may stand in both.
    Files lie relative to the table.
    """
    table = tree.folder / _list_name(tree, "scans.csv")
    rows = read_rows(table)
    columns = {name.strip().lower(): name for name in (rows[0] if rows else {})}
    contrasts = {name: c for key, name in columns.items() if (c := find_contrast(_bare(key)))}
    path_column = next(
        (columns[n] for n in ("path", "image", "file", "filename") if n in columns), ""
    )
    if not path_column and not contrasts:
        raise DataError(_no_columns(table, list(columns.values())))
    seen: set[tuple[str, str]] = set()
    for number, row in enumerate(rows, start=1):
        cells = {key: row.get(name, "").strip() for key, name in columns.items()}
        images = {
            c: row[name].strip() for name, c in contrasts.items() if row.get(name, "").strip()
        }
        if path_column:
            ending = cells.get("contrast") or split_ending(stem(Path(row[path_column])))[1]
            images = {ending: row[path_column].strip()}
        case, scans = _table_scans(number, cells, images, tree)
        fresh = [s for s in scans if s.role == "image" or (case, s.role) not in seen]
        seen |= {(case, scan.role) for scan in scans}
        yield from _existing(case, fresh, tree)


def _table_scans(
    number: int, cells: Mapping[str, str], images: Mapping[str, str], tree: Tree
) -> tuple[str, list[Scan]]:
    """The case of a row and its files."""
    subject = cells.get("subject") or cells.get("participant_id", "")
    session = cells.get("session", "")
    first = stem(Path(next(iter(images.values()), "")))
    case = cells.get("case") or "_".join(part for part in (subject, session) if part)
    case = case or split_ending(first)[0] or first or f"row-{number}"
    base = Scan(
        case,
        subject or subject_of(case)[0],
        tree.folder,
        session=session,
        site=cells.get("site", ""),
        fold=fold_number(cells.get("fold")),
        chronicity=chronicity_of(cells.get("chronicity", "")) or "",
        days=days_of(cells.get("days", "")),
    )
    masks = {role: cells[name] for name, role in TABLE_MASKS.items() if cells.get(name)}
    masks |= _masks_cell(cells.get("masks", ""))
    scans = [_at(base, tree, file, contrast) for contrast, file in images.items()]
    return case, scans + [_at(base, tree, file, role=role) for role, file in masks.items()]


def _masks_cell(text: str) -> dict[Role, str]:
    """The masks of a manifest's row, written as JSON."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {role: str(content[n]) for n, role in TABLE_MASKS.items() if content.get(n)}


def _datalist_scans(
    case: str, entry: Mapping[str, Any], modality: Mapping[str, Any], tree: Tree
) -> Iterator[Scan]:
    files = _listed(entry.get("image"))
    subject, session = subject_of(str(entry.get("subject") or case))
    base = Scan(case, subject, tree.folder, session=session, fold=fold_number(entry.get("fold")))
    if len(files) == 1 and len(modality) > 1:
        for number, name in modality.items():
            yield _at(base, tree, files[0], str(name), volume=int(number))
    else:
        only = str(next(iter(modality.values()), "")) if len(modality) == 1 else ""
        for place, file in enumerate(files):
            name = str(modality.get(str(place), "")) if len(files) == len(modality) else only
            yield _at(base, tree, file, split_ending(stem(Path(file)))[1] or name)
    for file in _listed(entry.get("label")):
        yield _at(base, tree, file, role="label")


def _nnssl_scan(source: str, who: str, visit: str, image: Mapping[str, Any], tree: Tree) -> Scan:
    session = "" if visit == NNSSL_NO_SESSION else visit
    name = re.sub(r"\.nii(\.gz)?$", "", str(image.get("name", "")))
    case = "_".join(part for part in (source, who, session, name) if part)
    path = _resolved(str(image.get("image_path", "")), tree)
    return Scan(
        case, f"{source}_{who}", path, str(image.get("modality", "")), session=session, site=source
    )


def _openmind_scan(row: Mapping[str, str], path: Path) -> Scan:
    source, who, *_ = row["image_path"].split("/")
    visit = re.search(r"/ses-([^/]+)/", row["image_path"])
    name = row["image_path"].removesuffix(".gz").removesuffix(".nii").replace("/", "_")
    return Scan(
        name,
        f"{source}_{who}",
        path,
        row.get("modality", ""),
        session=visit[1] if visit else "",
        site=source,
    )


def _with_masks(
    scan: Scan, masks: Mapping[str, Any], roles: Mapping[str, Role], tree: Tree
) -> Iterator[Item]:
    scans = [scan]
    for key, role in roles.items():
        if masks.get(key):
            path = _resolved(str(masks[key]), tree)
            scans.append(Scan(scan.case, scan.subject, path, role=role))
    yield from _existing(scan.case, scans, tree)


def _existing(case: str, scans: Iterable[Scan], tree: Tree) -> Iterator[Item]:
    """The scans of a case, or its refusal where a listed file is not there."""
    listed = list(scans)
    gone = next((s.path for s in listed if not _is_there(s.path, tree)), None)
    if gone is None:
        yield from listed
    else:
        yield Refused(case, _absent(gone))


def _is_there(path: Path, tree: Tree) -> bool:
    return is_nifti(path) and (tree.relative(path) in tree.known or path.is_file())


def _at(
    base: Scan,
    tree: Tree,
    file: str,
    contrast: str = "",
    role: Role = "image",
    volume: int | None = None,
) -> Scan:
    return replace(base, path=_resolved(file, tree), contrast=contrast, role=role, volume=volume)


def _resolved(text: str, tree: Tree) -> Path:
    """A listed path; one that begins with a variable of nnssl lies below the list's folder."""
    return tree.folder / re.sub(r"^\$\w+/", "", text).removeprefix("./")


def _nnunet_folds(tree: Tree) -> tuple[dict[str, int], list[Finding]]:
    """Fold N tests the cases of the N-th `val`; splits that test a case twice make no folds."""
    names = [name for name in tree.names if name.rpartition("/")[2] == NNUNET_SPLITS]
    if not names:
        return {}, []
    name = min(names, key=lambda name: name.count("/"))
    folds: dict[str, int] = {}
    for case, fold in tested_in_splits(read_json(tree.folder / name)):
        if folds.setdefault(case, fold) != fold:
            message = f"{case} is tested in folds {folds[case]} and {fold}; no fold is taken"
            return {}, [Finding("folds_overlap", name, message, "warning")]
    return folds, []


def _list_name(tree: Tree, usual: str) -> str:
    return tree.given[0] if tree.given else usual


def _bare(column: str) -> str:
    return re.sub(r"(_path|_file|_image)$", "", column)


def _listed(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str) and text]


def _entries(value: Any) -> list[dict[str, Any]]:
    """The mappings of a list; a bare path of a test part counts as an image."""
    values = value if isinstance(value, list) else []
    return [{"image": v} if isinstance(v, str) else v for v in values if isinstance(v, str | dict)]


def _mapping(value: Any, path: Path) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise DataError(
        Problem(
            code="list_of_another_kind",
            file=str(path),
            found=f"{type(value).__name__} where names should be",
            expected="a list in the form of its data set",
            advice="See how-to/layouts, or choose another --layout.",
        )
    )


def _absent(path: Path) -> Problem:
    return Problem(
        code="listed_but_absent",
        file=str(path),
        found="listed, but no such NIfTI file",
        expected="a .nii or .nii.gz file",
        advice="Copy it there, or correct the list.",
    )


def _no_columns(path: Path, columns: list[str]) -> Problem:
    return Problem(
        code="table_without_scans",
        file=str(path),
        found=f"columns {columns}",
        expected="`path` and `contrast`, or a column for each contrast, such as T1w",
        advice="Rename the columns.",
    )
