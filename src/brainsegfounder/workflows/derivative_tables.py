"""The top of a BIDS derivative: what it is, whose, and the tables over all its cases."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brainsegfounder.data.cases import Case
from brainsegfounder.errors import OutputExistsError
from brainsegfounder.evaluation.lesion_table import COLUMNS, Cell
from brainsegfounder.files import check_writable, held, make_folder, write_changed
from brainsegfounder.runs import RESEARCH_ONLY, package_version
from brainsegfounder.workflows.derivative import Derivative, bids_root
from brainsegfounder.workflows.derivative_names import (
    SESSION_NAME,
    places_of,
    read_participants,
    source_names,
    write_participants,
)
from brainsegfounder.workflows.derivative_record import LESIONS, CaseFiles, read_case

BIDS_VERSION = "1.10.0"
DESCRIPTION = "dataset_description.json"
GENERATOR = "brainsegfounder"
IGNORED = (
    "*_map.nii.gz", "*_map.json", "*_volumes.tsv", "*_volumes.json", "*_lesions.tsv",
    "*_lesions.json", "*.dcm", "*.csv", "*.html", "*.log", "/volumes.json", "/lesions.json",
    "/predictions.json", "/provenance.json", "figures", "reports",
)  # fmt: skip
README = """# Segmentations by brainsegfounder {version}, model {model}

{notice}

A BIDS derivative. For each case there is, beside its label map,

- `*_dseg.tsv`: names and colours of the labels; `*_dseg.json`: what made them, what was noticed;
- `*_volumes.tsv`, `*_lesions.tsv`: volumes in mL, and every lesion with its place;
- where asked for, `*_probseg.nii.gz` (probabilities) and `*_map.nii.gz` (such as entropy).

`volumes.csv` and `lesions.csv` hold the same for all cases. Who is who stands in
`participants.tsv`: cases that were not named as BIDS names them got a name of letters and digits.
"""
PARTICIPANT_COLUMNS = {
    "participant_id": {"Description": "Name of the subject in this data set."},
    "source_name": {
        "Description": "Name of the case in the source; \\t, \\n, \\r and \\\\ stand for a tab, "
        "line ends and a backslash."
    },
}


def open_derivative(
    out: Path,
    cases: Sequence[Case],
    model: str,
    *,
    ignored: Sequence[str] = (),
    model_sha256: str = "",
) -> Derivative:
    """Make a derivative, or go on with one.

    Args:
        out: A new folder, or one that this function made before.
        cases: All cases there will be.
        model: The model's name.
        ignored: Further patterns of files that BIDS has no name for.
        model_sha256: Of its weights, for the description.

    Raises:
        OutputExistsError: `out` holds something else.
        DataError: Its table of participants cannot be read.
        RunError: It cannot be written.
    """
    make_folder(out)
    # Jobs of several subjects may open one folder at once; none may lose another's names.
    with held(out, alone=True):
        _check_ours(out)
        check_writable(out)
        links = _links(cases, out)
        # First, as by this file the folder is known to be ours.
        _write_description(out, model, model_sha256, links)
        places = places_of((case.case for case in cases), read_participants(out))
        write_participants(out, places)
        _write_texts(out, model, ignored)
    return Derivative(out, model, places, links)


def finished_cases(out: Path) -> dict[str, list[CaseFiles]]:
    """All whole cases of a tree, by the source's name; several where several models were run."""
    names = source_names(out) if out.is_dir() else {}
    found: dict[str, list[CaseFiles]] = {}
    for sidecar in sorted(out.glob("sub-*/**/*_dseg.json")):
        case = read_case(sidecar)
        if case is not None:
            stem = _session_of(sidecar)
            found.setdefault(names.get(stem, stem), []).append(case)
    return found


def write_tables(out: Path) -> dict[str, list[CaseFiles]]:
    """Write `volumes.csv`, `volumes.json`, `lesions.csv` and `lesions.json` over all cases.

    Returns:
        The cases that are whole; see `finished_cases`.

    Raises:
        RunError: A file cannot be written.
    """
    cases = finished_cases(out)
    volumes: list[dict[str, Cell]] = []
    lesions: list[dict[str, Cell]] = []
    for name, results in cases.items():
        for one in results:
            head: dict[str, Cell] = {
                "case": name,
                "participant_id": _session_of(one.sidecar).partition("_")[0],
                "model": str(one.record.get("Model", "")),
            }
            flags = _num_warnings(one)
            volumes += [{**head, **row, "num_warnings": flags} for row in _rows(one, "Volumes")]
            lesions += [{**head, **row} for row in lesion_rows(one)]
    head_columns = ("case", "participant_id", "model")
    columns = tuple(dict.fromkeys(name for row in volumes for name in row)) or head_columns
    for name, rows, names in (
        ("volumes", volumes, columns),
        ("lesions", lesions, (*head_columns, *COLUMNS)),
    ):
        write_changed(out / f"{name}.csv", _csv(rows, names))
        write_changed(out / f"{name}.json", _json({"notice": RESEARCH_ONLY, name: rows}))
    return cases


def _write_texts(out: Path, model: str, ignored: Sequence[str]) -> None:
    version = package_version(GENERATOR) or ""
    readme = README.format(version=version, model=model, notice=RESEARCH_ONLY)
    write_changed(out / "README.md", readme)
    _write_ignored(out, [*IGNORED, *ignored])
    write_changed(out / "participants.json", _json(PARTICIPANT_COLUMNS))


def _check_ours(out: Path) -> None:
    """Refuse a folder with content that no run of this package made."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    made_by: Any = None
    with contextlib.suppress(OSError, ValueError, RecursionError, LookupError, TypeError):
        made_by = json.loads((out / DESCRIPTION).read_bytes())["GeneratedBy"][0]["Name"]
    if made_by != GENERATOR:
        raise OutputExistsError(
            f"{out}: exists already and holds no results of {GENERATOR}; expected a new folder, "
            "or one to go on with. Choose another --out."
        )


def _links(cases: Sequence[Case], out: Path) -> dict[Path, str]:
    """A name for each BIDS data set that the scans come from; those of before keep theirs."""
    scans = [path for case in cases if case.is_bids for path in case.contrasts.values()]
    before = _kept(out / DESCRIPTION).get("DatasetLinks")
    names = {place: name for name, place in before.items()} if isinstance(before, dict) else {}
    links = {}
    for root in dict.fromkeys(bids_root(path) for path in scans):
        number = f"{len(names) + 1}" if names else ""
        links[root] = names.setdefault(_place(root, out), f"raw{number}")
    return links


def _write_description(out: Path, model: str, digest: str, links: Mapping[Path, str]) -> None:
    made_by: dict[str, Any] = {
        "Name": GENERATOR,
        "Version": package_version(GENERATOR) or "0",
        "Description": f"Model {model}{f', weights sha256 {digest}' if digest else ''}. "
        f"{RESEARCH_ONLY}",
    }
    record: dict[str, Any] = {
        "Name": "Segmentations by brainsegfounder",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [made_by],
        "Notice": RESEARCH_ONLY,
    }
    before = _kept(out / DESCRIPTION)
    # A rerun on other inputs still comes from those of the first.
    places = dict(before.get("DatasetLinks") or {})
    sources = {one.get("URL"): one for one in before.get("SourceDatasets") or ()}
    for root, name in links.items():
        places[name] = _place(root, out)
        sources[places[name]] = {"URL": places[name], **_doi(root)}
    if places:
        record |= {"DatasetLinks": places, "SourceDatasets": list(sources.values())}
    write_changed(out / DESCRIPTION, _json(record))


def _place(root: Path, out: Path) -> str:
    """Where a data set is, seen from the results; only its name where that says nothing."""
    here = out.resolve()
    if os.path.commonpath([root, here]) == here.anchor:
        return root.name
    return Path(os.path.relpath(root, here)).as_posix()


def _doi(root: Path) -> dict[str, str]:
    found = _kept(root / DESCRIPTION).get("DatasetDOI")
    return {"DOI": found} if isinstance(found, str) else {}


def _kept(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_bytes())
        return content if isinstance(content, dict) else {}
    return {}


def _write_ignored(out: Path, patterns: Sequence[str]) -> None:
    path = out / ".bidsignore"
    before = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    write_changed(path, "\n".join(dict.fromkeys([*before, *patterns])) + "\n")


def _session_of(sidecar: Path) -> str:
    """`sub-01` or `sub-01_ses-1` of a file's name."""
    match = SESSION_NAME.match(sidecar.name)
    return match[0] if match else sidecar.name


def _num_warnings(case: CaseFiles) -> int:
    flags = case.record.get("Flags")
    return sum(one.get("kind") == "warning" for one in flags) if isinstance(flags, list) else 0


def lesion_rows(case: CaseFiles) -> list[dict[str, Cell]]:
    """The table of lesions of a case, as its file has it; empty where there is none."""
    path = case.files.get(f"{LESIONS} for machines")
    return _rows_in(_kept(path), LESIONS.capitalize()) if path is not None else []


def _rows(case: CaseFiles, key: str) -> list[dict[str, Cell]]:
    return _rows_in(case.record, key)


def _rows_in(record: Mapping[str, Any], key: str) -> list[dict[str, Cell]]:
    rows = record.get(key)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _csv(rows: Sequence[Mapping[str, Cell]], columns: Sequence[str]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if row.get(name) is None else row[name] for name in columns])
    return buffer.getvalue()


def _json(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, indent=1, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n"
