"""Writing a store, case by case: nothing that is there and whole is made again.

A case's key is the SHA-256 of all that it was made from: the bytes of its files, the settings, the
version of the preparation. Its record, which names the key and its files, is written last; so a
case with a record of the wanted key is whole, whoever wrote it and wherever a writer was killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.data.manifest import Case, manifest_csv
from brainsegfounder.data.store import (
    FORMAT,
    PREPARATION_VERSION,
    STORE_NAME,
    StoredCase,
    StoredFile,
    StorePlan,
    case_record,
    read_case,
    read_plan,
)
from brainsegfounder.data.store_arrays import (
    SUFFIXES,
    ArrayFormat,
    Dtype,
    to_int16,
    write_array,
)
from brainsegfounder.errors import DataError, LabelError, Problem
from brainsegfounder.files import held, sha256, write_bytes, write_changed, write_text
from brainsegfounder.volumes.preparation import Prepared

MAX_FOREGROUND_VOXELS = 2000
MAX_NAME_BYTES = 200
_UNFIT_FOR_A_NAME = re.compile(r"[/\\\x00]|^\.|^$")


def case_key(
    plan: StorePlan, sources: Mapping[str, str], volumes: Mapping[str, int] | None = None
) -> str:
    """The SHA-256 of all that a case is made from.

    Args:
        plan: What the store is for.
        sources: The SHA-256 of each source file by its role.
        volumes: Which volume of its file a contrast is; see `Case.volumes`.
    """
    record = {
        "version": PREPARATION_VERSION,
        "plan": plan.record(),
        "sources": dict(sources),
        "volumes": dict(volumes or {}),
    }
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def source_files(case: Case, plan: StorePlan) -> dict[str, Path]:
    """The files that a case of a store is made from, by role: contrast, `label`, `mask-NAME`."""
    files = {name: case.contrasts[name] for name in plan.contrasts if name in case.contrasts}
    if case.label is not None and plan.labels != ():
        files["label"] = case.label
    return files | {f"mask-{name}": path for name, path in case.masks.items()}


def whole_case(folder: Path, case: Case, key: str) -> StoredCase | None:
    """The case as it is stored, if it is there, whole and made from what the key says.

    What the manifest says of it (subject, site, licence, fold, stroke) is brought up to date.
    """
    try:
        stored = read_case(folder, case.case)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    there = all(_has_size(folder / "cases" / n, f.num_bytes) for n, f in stored.files.items())
    is_counted = stored.label_voxels is not None or not stored.has_labels
    if stored.key != key or not there or not is_counted:
        return None
    current = replace(
        stored,
        subject=case.subject,
        session=case.session,
        site=case.site,
        licence=case.licence,
        fold=case.fold,
        chronicity=case.chronicity,
        days=case.days,
    )
    if current != stored:
        _write_record(folder, current)
    return current


def write_case(
    folder: Path,
    case: Case,
    prepared: Prepared,
    labels: Mapping[str, int] | Collection[int] | None = None,
    *,
    array_format: ArrayFormat = "blosc2",
    dtype: Dtype = "float16",
    sources: Mapping[str, str] | None = None,
    key: str = "",
) -> StoredCase:
    """Write one prepared case into a store that is being made.

    Args:
        folder: The store.
        case: Whose files they were.
        prepared: The result of preparation.
        labels: The label values (with their names, if any) that may stand in the mask beside 0;
            None takes any, and an empty one stores no mask.
        array_format: How arrays are written.
        dtype: What intensities are stored as.
        sources: The SHA-256 of each source file by its role.
        key: See `case_key`.

    Raises:
        LabelError: The mask holds another value.
        DataError: The name of the case or of a mask cannot be that of a file.
        RunError: A file cannot be written.
    """
    image, scales = _image(prepared, dtype)
    arrays = {"image": image, **_arrays(case, prepared, labels)}
    target = folder / "cases"
    suffix = SUFFIXES[array_format]
    before = _files_before(folder, case.case)
    written = []
    for what, array in arrays.items():
        written.append(target / f"{case.case}.{what}{suffix}")
        write_array(written[-1], array)
    if "labels" in arrays:
        written.append(target / f"{case.case}.foreground.npy")
        write_bytes(written[-1], _sample_foreground(arrays["labels"][0]))
    stored = StoredCase(
        case=case.case,
        subject=case.subject,
        session=case.session,
        shape_vox=prepared.image.shape_vox,
        affine=prepared.image.affine.tolist(),
        source_shape_vox=prepared.source_grid.shape_vox,
        source_affine=prepared.source_grid.affine.tolist(),
        has_labels="labels" in arrays,
        fingerprints=prepared.fingerprints,
        site=case.site,
        licence=case.licence,
        masks=tuple(prepared.masks),
        findings=prepared.findings,
        steps=prepared.steps,
        sources=dict(sources or {}),
        key=key,
        files={path.name: StoredFile(path.stat().st_size, sha256(path)) for path in written},
        fold=case.fold,
        chronicity=case.chronicity,
        days=case.days,
        scales=scales,
        label_voxels=_count(arrays["labels"]) if "labels" in arrays else None,
    )
    _write_record(folder, stored, case)
    for name in before - stored.files.keys():
        (target / name).unlink(missing_ok=True)
    return read_case(folder, case.case)


def finish_store(
    folder: Path,
    cases: Sequence[Case],
    plan: StorePlan,
    *,
    refused: Mapping[str, Problem] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> bool:
    """Write the manifest and the lists, then `store.json`, which makes the folder a store.

    A store that says all this already is left alone.

    Args:
        folder: The store; every case has been written.
        cases: Which, in order.
        plan: What it is for.
        refused: Why other cases were refused.
        provenance: Versions, findings and the like.

    Returns:
        Whether anything was written.
    """
    record = store_head(plan) | {"cases": [case.case for case in cases]}
    problems = {name: problem_record(problem) for name, problem in (refused or {}).items()}
    texts = {
        "manifest.csv": manifest_csv(cases),
        "refused.json": _json(problems),
        STORE_NAME: _json(record),
    }
    with held(folder, alone=True):
        stale = [name for name, text in texts.items() if not _says(folder / name, text)]
        if stale or not (folder / "provenance.json").is_file():
            # Nobody shall find the new list of cases beside the old manifest.
            (folder / STORE_NAME).unlink(missing_ok=True)
            write_changed(folder / "provenance.json", _json(dict(provenance or {})))
            for name, text in texts.items():
                write_changed(folder / name, text)
        (folder / "unfinished").unlink(missing_ok=True)
    return bool(stale)


def begin_store(folder: Path, plan: StorePlan) -> None:
    """Mark a folder as a store that is being made."""
    write_changed(folder / "unfinished", _json(store_head(plan)))


def planned(folder: Path) -> StorePlan | None:
    """What the store in a folder is for, finished or not; None where there is no store.

    Raises:
        StoreError: It is of another format.
    """
    for name in (STORE_NAME, "unfinished"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads((folder / name).read_text(encoding="utf-8"))
            return read_plan(record, folder / name)
    return None


def listed(folder: Path) -> list[str]:
    """Names of the cases that a finished store lists; empty where there is none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads((folder / STORE_NAME).read_text(encoding="utf-8"))
        return [str(name) for name in record["cases"]]
    return []


def unlist(folder: Path, cases: Collection[str]) -> None:
    """Make a store unfinished before cases that it lists are written anew."""
    if not set(cases).isdisjoint(listed(folder)):
        (folder / STORE_NAME).unlink(missing_ok=True)


def store_head(plan: StorePlan) -> dict[str, Any]:
    """What `store.json` begins with."""
    return {"format": FORMAT, "preparation_version": PREPARATION_VERSION, **plan.record()}


def problem_record(problem: Problem) -> dict[str, str]:
    """A problem ready for JSON, its file without the folders of this machine."""
    parts = {name: getattr(problem, name) for name in Problem.__dataclass_fields__}
    # Other files that it names lie in the same folder, or in one beside it.
    for folder in [str(folder) for folder in Path(problem.file).parents if folder.name]:
        parts = {key: text.replace(f"{folder}/", "") for key, text in parts.items()}
    return parts


def _image(prepared: Prepared, dtype: Dtype) -> tuple[NDArray[Any], tuple[float, ...]]:
    """Intensities as they are stored, and their scales."""
    voxels = prepared.image.voxels
    return to_int16(voxels) if dtype == "int16" else (voxels.astype(np.float16), ())


def _arrays(
    case: Case, prepared: Prepared, labels: Mapping[str, int] | Collection[int] | None
) -> dict[str, NDArray[Any]]:
    """What is stored beside the image, by the part of the file's name that says so."""
    _check_name(case.case)
    arrays: dict[str, NDArray[Any]] = {}
    wants_labels = labels is None or len(labels) > 0
    if prepared.labels is not None and prepared.reference is not None and wants_labels:
        if labels is not None:
            _check_values(prepared.reference.voxels, labels, case)
        arrays["reference"] = prepared.reference.voxels.astype(np.int16)
        arrays["labels"] = prepared.labels.voxels.astype(np.int16)
    for name, mask in prepared.masks.items():
        _check_name(f"{case.case}.mask-{name}")
        arrays[f"mask-{name}"] = mask[None].astype(np.uint8)
    return arrays


def _check_name(name: str) -> None:
    if _UNFIT_FOR_A_NAME.search(name) or len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES:
        raise DataError(
            Problem(
                code="case_name",
                file=name[:MAX_NAME_BYTES],
                found="a name that no file can have",
                expected=f"up to {MAX_NAME_BYTES} bytes without / and \\, not beginning with a dot",
                advice="Rename the case or its mask.",
            )
        )


def _check_values(
    values: NDArray[Any], labels: Mapping[str, int] | Collection[int], case: Case
) -> None:
    allowed = set(labels.values() if isinstance(labels, Mapping) else labels)
    strange = sorted(set(np.unique(values).tolist()) - {0, *allowed})
    if not strange:
        return
    names = labels.items() if isinstance(labels, Mapping) else [("", v) for v in labels]
    raise LabelError(
        Problem(
            code="label_values",
            file=str(case.label),
            found=f"label values {strange} found",
            expected=", ".join(["0", *(f"{value} {name}".strip() for name, value in names)]),
            advice="Correct the mask, or name them in data.labels of the recipe.",
        )
    )


def _count(labels: NDArray[Any]) -> dict[str, int]:
    values, numbers = np.unique(labels, return_counts=True)
    counts = zip(values.tolist(), numbers.tolist(), strict=True)
    return {str(value): number for value, number in counts if value}


def _sample_foreground(values: NDArray[Any]) -> bytes:
    rows = []
    for value in np.unique(values[values != 0]):
        places = np.argwhere(values == value)
        step = max(1, len(places) // MAX_FOREGROUND_VOXELS)
        places = places[::step][:MAX_FOREGROUND_VOXELS]
        rows.append(np.column_stack([np.full(len(places), value), places]))
    table = np.concatenate(rows) if rows else np.zeros((0, 4))
    content = io.BytesIO()
    np.save(content, table.astype(np.int16), allow_pickle=False)
    return content.getvalue()


def _write_record(folder: Path, stored: StoredCase, case: Case | None = None) -> None:
    text = _json(case_record(stored))
    files = [] if case is None else [*case.contrasts.values(), *case.masks.values(), case.label]
    for path in sorted((p for p in files if p is not None), key=lambda p: -len(str(p))):
        # Findings and steps name files; the folders of this machine are nobody's business.
        text = text.replace(_json(str(path))[1:-1], _json(path.name)[1:-1])
    write_text(folder / "cases" / f"{stored.case}.json", text)


def _files_before(folder: Path, name: str) -> set[str]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        return set(read_case(folder, name).files)
    return set()


def _has_size(path: Path, num_bytes: int) -> bool:
    with contextlib.suppress(OSError):
        return path.stat().st_size == num_bytes
    return False


def _says(path: Path, text: str) -> bool:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8") == text
    return False


def _json(record: Any) -> str:
    return json.dumps(record, indent=1, ensure_ascii=False)
