"""What a table beside the scans says of them: the centre, how old a stroke was, and in days.

ATLAS R3.0 (ISLES'26) comes with such a table. Its columns are known by their usual names; what is
missing, contradictory or means nothing we know is reported and left out, never guessed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from brainsegfounder.data.layouts.gather import Item, Scan
from brainsegfounder.data.layouts.tree import Tree, read_rows
from brainsegfounder.errors import DataError
from brainsegfounder.volumes.findings import Finding

# By name, and at most this many folders below the top.
TABLE = re.compile(r"(participants|meta_?data|demographics?|clinical|sessions)", re.IGNORECASE)
MAX_DEPTH = 2
# Usual names of columns, in lower case, letters and digits only.
COLUMNS = {
    "subject": (
        "participantid", "subject", "subjectid", "bidsid", "bidssubjectid", "sub", "subid",
        "indisubjectid", "patientid", "id",
    ),
    "session": ("session", "sessionid", "ses", "sesid", "visit"),
    "site": ("site", "siteid", "centre", "center", "centreid", "centerid", "indisiteid", "cohort"),
    "chronicity": (
        "chronicity", "strokechronicity", "strokestage", "strokephase", "stage", "phase",
    ),
    "days": (
        "days", "dayspoststroke", "dayssincestroke", "daysafterstroke", "dayspost", "dps",
        "daysfromstroke", "timesincestrokedays", "timepoststrokedays", "daystoscan",
    ),
}  # fmt: skip
FIELDS = ("site", "chronicity", "days")
CHRONICITIES = {
    "hyperacute": "hyperacute",
    "acute": "acute",
    "subacute": "subacute",
    "earlysubacute": "subacute",
    "latesubacute": "subacute",
    "chronic": "chronic",
}
MISSING = {"", "n/a", "na", "nan", "none", "null", "unknown", "missing", "-", "--", ".", "?"}
MOST_DAYS = 36_525.0
# A stroke called chronic before this day, or acute after that one, is in doubt.
SURELY_NOT_CHRONIC_DAYS, SURELY_NOT_ACUTE_DAYS = 21.0, 180.0


@dataclass(frozen=True, slots=True)
class Metadata:
    """What tables say.

    Attributes:
        cells: Texts of a subject and session (or of no session) by field; of several tables or
            rows all that differ.
        columns: The fields for which there is a column.
        tables: Names of the tables that were read.
    """

    cells: dict[tuple[str, str], dict[str, set[str]]] = field(default_factory=dict)
    columns: frozenset[str] = frozenset()
    tables: tuple[str, ...] = ()

    def of(self, scan: Scan) -> dict[str, set[str]] | None:
        """What is said of a visit, or of its subject; None where neither stands in a table."""
        subject = _key(scan.subject)
        said = [self.cells.get((subject, _session(scan.session))), self.cells.get((subject, ""))]
        return next((cells for cells in said if cells is not None), None)


def with_metadata(items: Iterable[Item], tree: Tree) -> Iterator[Item]:
    """Scans with the site, chronicity and days that a table beside them says.

    Where a table has a column of sites, a scan has the site that it says or none: the site in a
    name would make two of one centre.
    """
    metadata = read_metadata(tree)
    doubts: dict[tuple[str, str], list[str]] = defaultdict(list)
    seen: set[str] = set()
    for item in items:
        if not isinstance(item, Scan):
            yield item
            continue
        told = _told(metadata, item, {} if item.case in seen else doubts)
        seen.add(item.case)
        site = str(told["site"] or "") if "site" in metadata.columns else item.site
        days = told["days"]
        yield replace(
            item,
            site=site,
            chronicity=str(told["chronicity"] or ""),
            days=float(days) if days is not None else None,
        )
    yield from _doubtful(doubts, metadata, len(seen))


def read_metadata(tree: Tree) -> Metadata:
    """Read the tables of a tree that say something of its subjects; findings go to the tree."""
    cells: dict[tuple[str, str], dict[str, set[str]]] = {}
    columns: set[str] = set()
    tables = []
    for name in (name for name in tree.names if _is_table(name)):
        rows = _rows(tree, name)
        places = _places(rows[0]) if rows else {}
        if "subject" not in places or not places.keys() & set(FIELDS):
            told = ", ".join(list(rows[0])[:12]) if rows else "no row"
            message = f"columns {told}; expected one of subjects, and site, chronicity or days"
            tree.findings.append(Finding("metadata_columns", name, message, "warning"))
            continue
        tables.append(name)
        columns |= places.keys() & set(FIELDS)
        for row in rows:
            _add(cells, row, places)
    return Metadata(cells, frozenset(columns), tuple(tables))


def _is_table(name: str) -> bool:
    base = name.rpartition("/")[2]
    is_near = name.count("/") <= MAX_DEPTH
    return is_near and base.lower().endswith((".tsv", ".csv")) and TABLE.search(base) is not None


def _rows(tree: Tree, name: str) -> list[dict[str, str]]:
    try:
        return read_rows(tree.folder / name)
    except DataError as error:
        found = error.problem.found if error.problem else str(error)
        message = f"{found}; nothing is taken from it"
        tree.findings.append(Finding("table_unreadable", name, message, "warning"))
        return []


def _places(header: Iterable[str]) -> dict[str, str]:
    """The column of each field that there is; the first spelling wins."""
    header = list(header)
    # A unit in brackets may be part of the name or stand beside it.
    plain = {_plain(name): name for name in header} | {_letters(name): name for name in header}
    found = {
        field: next((plain[name] for name in names if name in plain), None)
        for field, names in COLUMNS.items()
    }
    return {field: name for field, name in found.items() if name is not None}


def _add(
    cells: dict[tuple[str, str], dict[str, set[str]]], row: dict[str, str], places: dict[str, str]
) -> None:
    text = {field: row.get(column, "").strip() for field, column in places.items()}
    if not text["subject"]:
        return
    said = cells.setdefault((_key(text["subject"]), _session(text.get("session", ""))), {})
    for field_name in FIELDS:
        if text.get(field_name, "").lower() not in MISSING:
            said.setdefault(field_name, set()).add(text[field_name])


def _told(
    metadata: Metadata, scan: Scan, doubts: dict[tuple[str, str], list[str]]
) -> dict[str, str | float | None]:
    """What is said of a scan as far as it is clear; of the rest, which cases it concerns."""
    told: dict[str, str | float | None] = dict.fromkeys(FIELDS)
    said = metadata.of(scan)
    if said is None:
        if metadata.tables:
            doubts.setdefault(("no row", ""), []).append(scan.case)
        return told
    for name in sorted(metadata.columns):
        values = said.get(name, set())
        told[name] = _value(name, next(iter(values))) if len(values) == 1 else None
        if told[name] is None:
            why = "several values" if len(values) > 1 else "no value"
            why = f"{min(values)!r}, which says nothing known" if len(values) == 1 else why
            doubts.setdefault((name, why), []).append(scan.case)
    if _contradicts(told["chronicity"], told["days"]):
        doubts.setdefault(("chronicity", "against the days"), []).append(scan.case)
        told["chronicity"] = told["days"] = None
    return told


def chronicity_of(text: str) -> str | None:
    """The word for how old a stroke was, or None for a text that is none; codes are not guessed."""
    return CHRONICITIES.get(_plain(text))


def days_of(text: str) -> float | None:
    """Days between stroke and scan, or None for a text that cannot be."""
    number = re.fullmatch(r"\d+(\.\d+)?", text)
    return float(text) if number and float(text) <= MOST_DAYS else None


def _value(name: str, text: str) -> str | float | None:
    reads = {"chronicity": chronicity_of, "days": days_of}
    return reads[name](text) if name in reads else text


def _contradicts(chronicity: str | float | None, days: str | float | None) -> bool:
    if not isinstance(days, float):
        return False
    early = chronicity == "chronic" and days < SURELY_NOT_CHRONIC_DAYS
    return early or (chronicity in ("acute", "hyperacute") and days > SURELY_NOT_ACUTE_DAYS)


def _doubtful(
    doubts: dict[tuple[str, str], list[str]], metadata: Metadata, num_cases: int
) -> Iterator[Finding]:
    """One finding for each column and kind of doubt, with its first cases."""
    table = ", ".join(metadata.tables)
    for (name, why), cases in doubts.items():
        some = f"{len(cases)} of {num_cases} cases ({_first(cases)})"
        if name == "no row":
            message = f"{some} stand in no row; left without site, chronicity and days"
            yield Finding("metadata_missing", table, message, "warning")
        else:
            message = f"{name} of {some}: {why}; left out"
            kind = "metadata_missing" if why == "no value" else "metadata_in_doubt"
            yield Finding(kind, table, message, "note" if why == "no value" else "warning")


def _first(cases: Sequence[str], most: int = 5) -> str:
    return ", ".join(cases[:most]) + (", ..." if len(cases) > most else "")


def _plain(text: str) -> str:
    return _letters(re.sub(r"\(.*?\)", "", text))


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _key(subject: str) -> str:
    return subject.strip().lower().removeprefix("sub-")


def _session(text: str) -> str:
    """A session as it is compared: `ses-1`, `1` and `01` are one."""
    plain = text.strip().lower().removeprefix("ses-")
    return plain.lstrip("0") or plain
