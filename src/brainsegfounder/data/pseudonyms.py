"""Pseudonyms: a private table that says who is who in a store that names nobody.

A CSV file with a header line and a line for each name, in the columns

    kind       subject, session, site, case, refused or message
    name       what it is called in the data: private
    pseudonym  what it is called in the store

The name of a session is `SUBJECT/SESSION`. `refused` are cases that the layout refused, before it
was known whose they are; `message` holds in full what a layout said and a store must not say. A
line may be written by hand beforehand, and its pseudonym is used then. The file is only ever
extended, so one table serves several stores, and a subject has one pseudonym in all of them.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from brainsegfounder.data.cases import Case
from brainsegfounder.errors import DataError, Problem, RunError
from brainsegfounder.files import held, make_folder

log = logging.getLogger(__name__)

COLUMNS = ("kind", "name", "pseudonym")
KINDS = ("subject", "session", "site", "case", "refused", "message")
# They become names of files.
FIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
OWNER_ONLY = 0o600
# Names of files need not be text.
AS_BYTES = "surrogateescape"

Draw = Callable[[], str]


def random_name() -> str:
    """Eight hexadecimal digits that follow from nothing."""
    return secrets.token_hex(4)


class Pseudonyms:
    """The table while it is read and extended.

    Args:
        rows: The pseudonym of each kind and name, in the order of the file.
        draw: Where pseudonyms of subjects come from; all others are counted.
    """

    def __init__(
        self, rows: Mapping[tuple[str, str], str] | None = None, draw: Draw = random_name
    ) -> None:
        self.rows: dict[tuple[str, str], str] = {}
        self.draw = draw
        self._taken: set[tuple[str, str]] = set()
        self._counts: Counter[str] = Counter()
        for (kind, name), pseudonym in (rows or {}).items():
            self.add(kind, name, pseudonym)

    def subject(self, name: str) -> str:
        """Of a subject: `sub-` and eight random hexadecimal digits."""
        return self._of("subject", name, lambda _: f"sub-{self.draw()}")

    def session(self, subject: str, name: str) -> str:
        """Of a visit of a subject: a number, in the order in which visits were first met."""
        return self._of("session", f"{subject}/{name}", str) if name else ""

    def site(self, name: str) -> str:
        """Of a site: `site-1`, `site-2`."""
        return self._of("site", name, lambda number: f"site-{number}") if name else ""

    def refused(self, name: str) -> str:
        """Of a case that a layout refused."""
        return self._of("refused", name, lambda number: f"refused-{number}")

    def message(self, text: str) -> str:
        """Of what a layout said."""
        return self._of("message", text, lambda number: f"message-{number}")

    def case(self, case: Case) -> Case:
        """A case under pseudonyms; its files are those it had."""
        subject, session = self.subject(case.subject), self.session(case.subject, case.session)
        visit = f"{subject}_ses-{session}" if session else subject
        name = self._of("case", case.case, lambda n: visit if n == 1 else f"{visit}_{n}", visit)
        return replace(case, case=name, subject=subject, session=session, site=self.site(case.site))

    def names(self, kind: str) -> dict[str, str]:
        """The names of one kind by their pseudonyms."""
        return {pseudonym: name for (of, name), pseudonym in self.rows.items() if of == kind}

    def is_taken(self, kind: str, name: str, pseudonym: str) -> bool:
        """Whether another name has this pseudonym; visits of several subjects may share one."""
        return (_scope(kind, name), pseudonym) in self._taken

    def _of(self, kind: str, name: str, spell: Callable[[int], str], among: str = "") -> str:
        """The pseudonym there is, or the first that is free, counted among others of its sort."""
        if (found := self.rows.get((kind, name))) is not None:
            return found
        count = among or _scope(kind, name)
        number = self._counts[count] + 1
        while self.is_taken(kind, name, wanted := spell(number)):
            number += 1
        self._counts[count] = number
        return self.add(kind, name, wanted)

    def add(self, kind: str, name: str, pseudonym: str) -> str:
        """Note a pseudonym."""
        self.rows[kind, name] = pseudonym
        self._taken.add((_scope(kind, name), pseudonym))
        return pseudonym


@contextlib.contextmanager
def open_pseudonyms(path: Path, draw: Draw = random_name) -> Iterator[Pseudonyms]:
    """Read a table of pseudonyms, or begin one; what was added is written on the way out.

    Nobody else extends a table in the same folder meanwhile. The file written can be read by its
    owner alone.

    Raises:
        DataError: It cannot be read, or is no such table; the message names the line.
        RunError: It cannot be written; then the one that was there is untouched.
    """
    path = path.resolve()
    make_folder(path.parent)
    with held(path.parent, alone=True):
        table = Pseudonyms(_read(path), draw)
        known = len(table.rows)
        yield table
        if len(table.rows) > known:
            _write(path, table)


def _scope(kind: str, name: str) -> str:
    """Among what a pseudonym is the only one: those of a kind, or the visits of a subject."""
    return f"{kind}/{name.rpartition('/')[0]}" if kind == "session" else kind


def _read(path: Path) -> dict[tuple[str, str], str]:
    try:
        with path.open(encoding="utf-8-sig", errors=AS_BYTES, newline="") as file:
            text = file.read()
        others_may_read = path.stat().st_mode & 0o077
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(_unfit(path, f"cannot be read ({error.strerror})")) from error
    if others_may_read and os.name == "posix":
        log.warning("the table of pseudonyms can be read by others; make it private: chmod 600")
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise DataError(_unfit(path, f"no table ({error})")) from error
    if not lines or tuple(lines[0]) != COLUMNS:
        raise DataError(_unfit(path, f"columns {', '.join(lines[0]) if lines else 'none'}"))
    table = Pseudonyms()
    for number, line in enumerate(lines[1:], start=2):
        if line:
            _read_line(table, line, path, number)
    return table.rows


def _read_line(table: Pseudonyms, line: list[str], path: Path, number: int) -> None:
    """Add a line to the table; names are private, so a message says its number."""
    if len(line) != len(COLUMNS):
        raise DataError(_unfit(path, f"{len(line)} cells in row {number}"))
    kind, name, pseudonym = line
    if kind not in KINDS:
        raise DataError(_unfit(path, f"another kind than {', '.join(KINDS)} in row {number}"))
    if not FIT.fullmatch(pseudonym):
        raise DataError(_unfit(path, f"a pseudonym that is no name for files in row {number}"))
    if (kind, name) in table.rows or table.is_taken(kind, name, pseudonym):
        raise DataError(_unfit(path, f"a name or pseudonym in row {number} that stands before"))
    table.add(kind, name, pseudonym)


def _write(path: Path, table: Pseudonyms) -> None:
    """Beside its place, readable by the owner alone from the first byte on, then renamed."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows((kind, name, pseudonym) for (kind, name), pseudonym in table.rows.items())
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.unlink(missing_ok=True)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
        with os.fdopen(handle, "wb") as file:
            file.write(text.getvalue().encode("utf-8", AS_BYTES))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written: {error.strerror or error}. "
            "Choose another place for the table of pseudonyms."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _unfit(path: Path, found: str) -> Problem:
    return Problem(
        code="pseudonyms_unreadable",
        file=str(path),
        found=found,
        expected=f"a CSV file with the columns {', '.join(COLUMNS)}, every name and pseudonym once",
        advice="Correct it, or name a new file for a new store.",
    )
