"""A table of participants: which columns it has, and what their values mean."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from brainsegfounder.errors import DataError, Problem

# Usual names of columns, compared in lower case without `_`, `-` and spaces; first match wins.
COLUMNS = {
    "subject": ("participantid", "subject", "subjectid", "mrid", "patientid", "ixiid", "id", "eid"),
    "age": ("age", "ageyears", "ageatscan", "ageatvisit", "ageatmri", "ageyrs"),
    "sex": ("sex", "gender", "sexmf"),
    "site": ("site", "siteid", "centre", "center", "institution"),
    "ethnicity": ("ethnicity", "ethnic", "race", "ethnicgroup"),
    "group": ("group", "diagnosis", "dx", "dxgroup"),
}
MISSING = {"", "n/a", "na", "nan", "none", "null", "unknown", "missing", "-", "--", ".", "?"}
SEXES = {
    "female": ("f", "female", "woman", "w"),
    "male": ("m", "male", "man"),
    "other": ("o", "other", "x", "intersex", "diverse"),
}
OLDEST_YEARS = 120.0


@dataclass(frozen=True, slots=True)
class Participants:
    """A table of participants.

    Attributes:
        rows: For each subject (see `subject_key`) its values by the keys of `COLUMNS`; a missing
            value is absent.
        columns: The columns found, besides the subject's.
        num_repeated: Rows of a subject beyond its first, which are not used.
    """

    rows: dict[str, dict[str, str]]
    columns: tuple[str, ...]
    num_repeated: int = 0


def subject_key(name: str) -> str:
    """A subject's name as it is compared: without `sub-`, in lower case."""
    return name.strip().lower().removeprefix("sub-")


def read_participants(path: Path) -> Participants:
    """Read `participants.tsv` or a CSV file; `participants.json` beside it explains the levels.

    Raises:
        DataError: The file cannot be read, or has no column that names the subjects.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = list(csv.reader(io.StringIO(text), delimiter=_delimiter(path, text)))
    except OSError as error:  # its text would name the folder, too
        raise _unreadable(path, error.strerror or "no file that can be read") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, str(error)) from error
    header = lines[0] if lines else []
    places = _places(header)
    if "subject" not in places:
        raise _unreadable(path, f"columns {', '.join(header[:12]) or 'none'}")
    meanings = _read_levels(path.with_suffix(".json"))
    rows: dict[str, dict[str, str]] = {}
    num_repeated = 0
    for line in lines[1:]:
        subject = subject_key(_cell(line, places["subject"]))
        if subject in rows:
            num_repeated += 1
        elif subject:
            rows[subject] = _values(line, places, header, meanings)
    return Participants(rows, tuple(name for name in places if name != "subject"), num_repeated)


def _delimiter(path: Path, text: str) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    header = text.partition("\n")[0]
    return max(",;\t", key=header.count)


def _places(header: Sequence[str]) -> dict[str, int]:
    """The number of the column for each key of `COLUMNS` that there is."""
    plain = [re.sub(r"[_\-\s]|\(.*?\)", "", name.lower()) for name in header]
    places = {}
    for key, spellings in COLUMNS.items():
        found = next((spelling for spelling in spellings if spelling in plain), None)
        if found is not None:
            places[key] = plain.index(found)
    return places


def _values(
    line: Sequence[str],
    places: Mapping[str, int],
    header: Sequence[str],
    meanings: Mapping[str, Mapping[str, str]],
) -> dict[str, str]:
    """The known values of one row, in the words of this file."""
    values = {}
    for key, place in places.items():
        cell = _cell(line, place)
        if key != "subject" and cell.lower() not in MISSING:
            text = meanings.get(header[place], {}).get(cell, cell)
            known = _age(text) if key == "age" else _sex(text) if key == "sex" else text
            if known.lower() not in MISSING:
                values[key] = known
    return values


def _cell(line: Sequence[str], place: int) -> str:
    return line[place].strip() if place < len(line) else ""


def _age(text: str) -> str:
    """Years as a number; empty where it is none, or no age. BIDS writes 89+, DICOM 045Y."""
    found = re.fullmatch(r"(\d+(?:[.,]\d+)?)\s*(?:\+|y|yr|years)?", text.lower().lstrip(">≥= "))
    years = float(found.group(1).replace(",", ".")) if found else math.nan
    return str(years) if 0 <= years <= OLDEST_YEARS else ""


def _sex(text: str) -> str:
    word = text.lower()
    for sex, spellings in SEXES.items():
        if word in spellings:
            return sex
    # 1 and 2, or 0 and 1, mean different things in different data sets.
    return f"code {text}" if re.fullmatch(r"-?[\d.]+", text) else text


def _read_levels(path: Path) -> dict[str, dict[str, str]]:
    """What the values of each column mean, by BIDS; nothing where the file is absent or other."""
    try:
        record = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    levels = {}
    for column, about in record.items() if isinstance(record, dict) else ():
        found = about.get("Levels") if isinstance(about, dict) else None
        if isinstance(found, dict):
            levels[column] = {value: _meaning(value, text) for value, text in found.items()}
    return levels


def _meaning(value: str, text: object) -> str:
    if isinstance(text, dict):
        text = text.get("Description", value)
    return str(text).strip() or value


def _unreadable(path: Path, found: str) -> DataError:
    return DataError(
        Problem(
            code="participants_unreadable",
            file=path.name,
            found=found,
            expected="a table with a column participant_id",
            advice="Save it as tab- or comma-separated UTF-8 with a header line.",
        )
    )
