"""The manifest: one table of all scans that cases are made of.

The manifest has a row for each scan. A mask is no row of its own: the rows of a case name its
label and its other masks. `read_manifest` and the layout `table` read it back.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from brainsegfounder.data.cases import Case, unique_cases
from brainsegfounder.errors import DataError, Problem, UsageError
from brainsegfounder.files import write_bytes, write_text
from brainsegfounder.volumes.contrasts import CONTRAST_SYNONYMS, contrast_name
from brainsegfounder.volumes.volume import Affine, Grid

__all__ = [
    "CONTRAST_SYNONYMS", "Case", "ManifestRow", "contrast_name", "manifest_csv", "manifest_rows",
    "manifest_schema", "orientation_of", "read_manifest", "unique_cases", "write_manifest",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One scan of one case.

    Attributes:
        case: Whose scan it is; rows of one case belong together.
        subject: Whose brain it is.
        session: Which visit, or empty.
        site: Where it was scanned, or empty.
        contrast: Standard name of the contrast.
        path: The file.
        masks: Files of the case's masks that are no label, by name: brain, deface, anatomy.
        label: File of the case's label mask, or empty.
        sha256: Of the file, in hexadecimal, or empty where it was not read.
        shape: Voxels along the file's axes, or None where it was not read.
        spacing: Distance between voxel centres along these axes, in mm, or None.
        orientation: Where these axes point, such as RAS, or empty.
        licence: Of the data set, or empty.
        fold: In which fold of the data set's own splits the case is tested, or None.
        chronicity: How old a stroke was: hyperacute, acute, subacute, chronic, or empty.
        days: Between stroke and scan, or None.
    """

    case: str
    subject: str
    session: str
    site: str
    contrast: str
    path: str
    masks: dict[str, str] = field(default_factory=dict)
    label: str = ""
    sha256: str = ""
    shape: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    orientation: str = ""
    licence: str = ""
    fold: int | None = None
    chronicity: str = ""
    days: float | None = None


COLUMNS = tuple(entry.name for entry in fields(ManifestRow))
# Columns that are not text; as JSON in a CSV, as lists in a Parquet file.
PARTS = ("masks", "shape", "spacing", "fold", "days")
# Manifests of earlier versions lack these.
ADDED = ("chronicity", "days")
WHAT_COLUMNS_HOLD: dict[str, dict[str, Any]] = {
    "case": {"type": "string", "minLength": 1},
    "subject": {"type": "string", "minLength": 1},
    "contrast": {"type": "string", "pattern": "^[A-Za-z0-9]+$"},
    "path": {"type": "string", "minLength": 1},
    "masks": {"type": "object", "additionalProperties": {"type": "string"}},
    "sha256": {"type": "string", "pattern": "^([0-9a-f]{64})?$"},
    "shape": {
        "type": ["array", "null"],
        "items": {"type": "integer", "minimum": 1},
        "minItems": 3,
        "maxItems": 3,
    },
    "spacing": {
        "type": ["array", "null"],
        "items": {"type": "number", "exclusiveMinimum": 0},
        "minItems": 3,
        "maxItems": 3,
    },
    "orientation": {"type": "string", "pattern": "^([RLAPSI]{3})?$"},
    "fold": {"type": ["integer", "null"], "minimum": 0},
    "chronicity": {"type": "string", "pattern": "^(hyperacute|acute|subacute|chronic)?$"},
    "days": {"type": ["number", "null"], "minimum": 0},
}


def manifest_rows(
    cases: Iterable[Case],
    grids: Mapping[Path, Grid] | None = None,
    hashes: Mapping[Path, str] | None = None,
    root: Path | None = None,
) -> list[ManifestRow]:
    """The rows of a manifest, scan by scan.

    Args:
        cases: As a layout found them.
        grids: Shape and affine of scans that were read; others stay without.
        hashes: SHA-256 of scans that were read.
        root: Paths are written relative to this folder where they lie in it.
    """
    grids, hashes = grids or {}, hashes or {}
    rows = []
    for case in cases:
        masks = {name: _relative(path, root) for name, path in sorted(case.masks.items())}
        for contrast, path in case.contrasts.items():
            row = ManifestRow(
                case=case.case,
                subject=case.subject,
                session=case.session,
                site=case.site,
                contrast=contrast,
                path=_relative(path, root),
                masks=masks,
                label=_relative(case.label, root) if case.label else "",
                sha256=hashes.get(path, ""),
                licence=case.licence,
                fold=case.fold,
                chronicity=case.chronicity,
                days=case.days,
            )
            rows.append(_with_grid(row, grids[path]) if path in grids else row)
    return rows


def write_manifest(path: Path, rows: Sequence[ManifestRow]) -> None:
    """Write a manifest as CSV or, by its suffix, as Parquet; the same rows give the same bytes.

    Raises:
        UsageError: The suffix is neither `.csv` nor `.parquet`, or pyarrow is not installed.
        RunError: The file cannot be written.
    """
    if _suffix(path) == ".parquet":
        write_bytes(path, _parquet(rows))
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {name: getattr(row, name) for name in COLUMNS}
        writer.writerow({**cells, **{name: _as_json(cells[name]) for name in PARTS}})
    write_text(path, text.getvalue())


def read_manifest(path: Path) -> list[ManifestRow]:
    """Read what `write_manifest` wrote.

    Raises:
        UsageError: The suffix is neither `.csv` nor `.parquet`, or pyarrow is not installed.
        DataError: The file cannot be read, or a column is missing or of another kind.
    """
    try:
        if _suffix(path) == ".parquet":
            records = _pyarrow(path).read_table(path).to_pylist()
            return [_row_of(record, path) for record in records]
        with path.open(newline="", encoding="utf-8") as file:
            return [_row_of(_parsed(record), path) for record in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise DataError(_unreadable(path, str(error))) from error


def manifest_schema() -> dict[str, Any]:
    """JSON schema of a row of the manifest, as JSON lines or `to_pylist` would hold it."""
    described = ManifestRow.__doc__ or ""
    columns = {}
    for name in COLUMNS:
        start = described.index(f"\n        {name}: ") + len(f"\n        {name}: ")
        sentence = described[start:].split("\n", 1)[0]
        columns[name] = {"description": sentence, **WHAT_COLUMNS_HOLD.get(name, {"type": "string"})}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A row of a brainsegfounder manifest: one scan of one case",
        "type": "object",
        "properties": columns,
        "required": list(COLUMNS),
        "additionalProperties": False,
    }


def orientation_of(affine: Affine) -> str:
    """Where the axes of a grid point, such as RAS; for an oblique grid the nearest of them."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    codes, free = ["", "", ""], [0, 1, 2]
    for axis in np.argsort(-np.abs(directions).max(axis=0)):
        world = max(free, key=lambda n: abs(directions[n, axis]))
        free.remove(world)
        codes[axis] = ("RL", "AP", "SI")[world][int(directions[world, axis] < 0)]
    return "".join(codes)


def manifest_csv(cases: Sequence[Case]) -> str:
    """The cases as CSV text, a row for each, with file names but no folders.

    It is what a store is known by, so it does not depend on where the data lie. Folds stand in it
    where there are any.
    """
    has_folds = any(case.fold is not None for case in cases)
    contrasts = sorted({name for case in cases for name in case.contrasts})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "subject", "session", *contrasts, "label", *["fold"] * has_folds])
    for case in cases:
        files = [case.contrasts[c].name if c in case.contrasts else "" for c in contrasts]
        label = case.label.name if case.label else ""
        fold = [case.fold] if has_folds else []
        writer.writerow([case.case, case.subject, case.session, *files, label, *fold])
    return text.getvalue()


def _relative(path: Path, root: Path | None) -> str:
    inside = root is not None and path.is_relative_to(root)
    return (path.relative_to(root) if inside and root else path).as_posix()


def _with_grid(row: ManifestRow, grid: Grid) -> ManifestRow:
    return replace(
        row,
        shape=grid.shape_vox,
        spacing=grid.spacing_mm,
        orientation=orientation_of(grid.affine),
    )


def _suffix(path: PurePath) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise UsageError(f"{path}: suffix {suffix or 'missing'}; expected .csv or .parquet.")
    return suffix


def _as_json(value: object) -> str:
    return "" if value is None or value == {} else json.dumps(value, ensure_ascii=False)


def _parsed(record: Mapping[str, str]) -> dict[str, Any]:
    return {
        name: json.loads(text) if text and name in PARTS else (text or None)
        for name, text in record.items()
    }


def _row_of(record: Mapping[str, Any], path: Path) -> ManifestRow:
    if missing := [name for name in COLUMNS if name not in record and name not in ADDED]:
        raise DataError(_unreadable(path, f"no column {', '.join(missing)}"))
    cells = {name: record.get(name) or "" for name in COLUMNS if name not in PARTS}
    masks = record["masks"] or {}
    pairs = masks.items() if isinstance(masks, Mapping) else masks
    try:
        return ManifestRow(
            **cells,
            masks={str(name): str(file) for name, file in pairs},
            shape=_triple(record["shape"], int),
            spacing=_triple(record["spacing"], float),
            fold=_natural(record["fold"]),
            days=None if record.get("days") is None else float(record["days"]),
        )
    except (TypeError, ValueError) as error:
        raise DataError(_unreadable(path, f"case {cells['case']}: {error}")) from error


def _triple(values: Any, kind: type) -> Any:
    if values is None:
        return None
    i, j, k = values
    return kind(i), kind(j), kind(k)


def _natural(value: Any) -> int | None:
    if value is None or (type(value) is int and value >= 0):
        return value
    raise ValueError(f"fold {value!r}")


def _unreadable(path: Path, found: str) -> Problem:
    return Problem(
        code="manifest_unreadable",
        file=str(path),
        found=found,
        expected=f"the columns {', '.join(COLUMNS)}",
        advice="Write it anew with `prepare`.",
    )


def _parquet(rows: Sequence[ManifestRow]) -> bytes:
    parquet = _pyarrow(None)
    import pyarrow

    text = pyarrow.string()
    kinds = {
        "masks": pyarrow.map_(text, text),
        "shape": pyarrow.list_(pyarrow.int32()),
        "spacing": pyarrow.list_(pyarrow.float64()),
        "fold": pyarrow.int32(),
        "days": pyarrow.float64(),
    }
    schema = pyarrow.schema([(name, kinds.get(name, text)) for name in COLUMNS])
    records = [
        {name: getattr(row, name) for name in COLUMNS} | {"masks": list(row.masks.items())}
        for row in rows
    ]
    content = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(records, schema=schema), content)
    return content.getvalue()


def _pyarrow(path: Path | None) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            f"{path or 'manifest'}: Parquet needs pyarrow, which is not installed; "
            'pip install "brainsegfounder[parquet]", or choose a .csv.'
        ) from error
    return pyarrow.parquet
