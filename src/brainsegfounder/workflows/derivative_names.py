"""What cases are called in a BIDS derivative, whatever they were called before.

A case whose name is that of a BIDS session keeps it. Any other becomes `sub-` and the letters and
digits of its name, and a number where two would share one. `participants.tsv` says which is which;
it is read first, so that a rerun with more cases renames none.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from brainsegfounder.errors import DataError, Problem
from brainsegfounder.files import write_changed

PARTICIPANTS = "participants.tsv"
COLUMNS = ("participant_id", "source_name")
SESSION_NAME = re.compile(r"sub-(?P<subject>[0-9a-zA-Z]+)(_ses-(?P<session>[0-9a-zA-Z]+))?")
# Room for entities, suffix and the name of a file that is being written.
MAX_LABEL = 80
# Marks a name that was numbered; a letter, since BIDS allows nothing else.
AGAIN = "x"
# What cannot stand in a cell of a table, and how it is written there.
ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
MAX_TABLE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where a case's files are in the tree.

    Attributes:
        subject: Label of the subject, without `sub-`.
        session: Label of the session, without `ses-`, or empty.
    """

    subject: str
    session: str = ""

    @property
    def participant(self) -> str:
        """Such as `sub-01`."""
        return f"sub-{self.subject}"

    @property
    def stem(self) -> str:
        """How all its files begin: `sub-01` or `sub-01_ses-1`."""
        return f"{self.participant}_ses-{self.session}" if self.session else self.participant

    @property
    def folder(self) -> Path:
        """Its folder in the tree."""
        session = Path(f"ses-{self.session}") if self.session else Path()
        return Path(self.participant) / session / "anat"


def label_of(text: str, otherwise: str = "case") -> str:
    """The letters and digits of a text, accents taken off, as the value of a BIDS entity."""
    plain = unicodedata.normalize("NFKD", text)
    return re.sub(r"[^0-9a-zA-Z]", "", plain)[:MAX_LABEL] or otherwise


def places_of(cases: Iterable[str], known: Mapping[str, str] | None = None) -> dict[str, Place]:
    """A place for each case, no two alike even where capitals do not count.

    Args:
        cases: Their names.
        known: Participants that were given before, by the name of their case.
    """
    names = list(dict.fromkeys(cases))
    known = known or {}
    # A name that a case of another name was given before is not free, even for its owner.
    given = {participant for name, participant in known.items() if name != participant}
    matches = {name: match for name in names if (match := SESSION_NAME.fullmatch(name))}
    own = {name: m for name, m in matches.items() if f"sub-{m['subject']}" not in given}
    taken = {match["subject"].lower() for match in own.values()}
    taken |= {participant.removeprefix("sub-").lower() for participant in known.values()}
    places = {}
    for name in names:
        if name in own:
            places[name] = Place(own[name]["subject"], own[name]["session"] or "")
        elif name in known:
            places[name] = Place(known[name].removeprefix("sub-"))
        else:
            label = _free(label_of(name), taken)
            taken.add(label.lower())
            places[name] = Place(label)
    return places


def read_participants(folder: Path) -> dict[str, str]:
    """Participants by the name of their case, as `participants.tsv` of a derivative says.

    Empty where there is no such table, or one without the column `source_name`.

    Raises:
        DataError: The table cannot be read.
    """
    path = folder / PARTICIPANTS
    if not path.is_file():
        return {}
    rows = _rows(path)
    return {
        _unescaped(row[COLUMNS[1]]): row[COLUMNS[0]]
        for row in rows
        if row.get(COLUMNS[0]) and row.get(COLUMNS[1])
    }


def write_participants(folder: Path, places: Mapping[str, Place]) -> None:
    """Write `participants.tsv`, with what stood there before.

    Raises:
        DataError: The table that is there cannot be read.
        RunError: It cannot be written.
    """
    sources = {participant: name for name, participant in read_participants(folder).items()}
    for name, place in places.items():
        # Sessions of one subject share a row: it says whose they are.
        sources[place.participant] = place.participant if name == place.stem else name
    lines = ["\t".join(COLUMNS)]
    lines += [f"{who}\t{_escaped(name)}" for who, name in sorted(sources.items())]
    write_changed(folder / PARTICIPANTS, "\n".join(lines) + "\n")


def source_names(folder: Path) -> dict[str, str]:
    """The name of the source's case for each participant that has another one."""
    return {who: name for name, who in read_participants(folder).items() if who != name}


def _free(label: str, taken: set[str]) -> str:
    """The label, or the label with the first number that makes it a new one."""
    found, number = label, 1
    while found.lower() in taken:
        number += 1
        found = f"{label}{AGAIN}{number}"
    return found


def _rows(path: Path) -> Sequence[dict[str, str]]:
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise ValueError("larger than any such table")
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            return [{k: v for k, v in row.items() if k and isinstance(v, str)} for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            Problem(
                "list_unreadable", str(path), f"no table ({error})",
                "rows of participant_id and source_name",
                "Write it anew by predicting into a new folder.",
            )
        ) from error  # fmt: skip


def _escaped(text: str) -> str:
    """A cell; bytes of a file's name that are no UTF-8 become their numbers."""
    escaped = "".join(ESCAPES.get(letter, letter) for letter in text)
    return escaped.encode("utf-8", "backslashreplace").decode("utf-8")


def _unescaped(text: str) -> str:
    back = {value: key for key, value in ESCAPES.items()}

    def letter(match: re.Match[str]) -> str:
        return back.get(match[0]) or chr(int(match[1], 16))

    return re.sub(r"\\(?:[\\tnr]|u(d[89a-f][0-9a-f]{2}))", letter, text)
