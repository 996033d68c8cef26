"""Whom a scan shows, by its names: public collections give one person several."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from brainsegfounder.errors import DataError, Problem

# One person's names in several years or collections, each brought to one spelling. The later
# challenges renamed cases without telling the old names; only what the names themselves show is
# here, the rest is a user's table (`read_aliases`).
SPELLINGS = (
    # A barcode of The Cancer Genome Atlas wherever it stands.
    (re.compile(r"\b(tcga)[-_.]([0-9a-z]{2})[-_.]([0-9a-z]{4})(?![0-9a-z])"), r"\1-\2-\3"),
    # BraTS 2017 to 2020: only the year changed from one to the next.
    (re.compile(r"^brats(?:17|18|19|20)_([a-z]+[0-9]*)_([0-9a-z]+)_[0-9]+$"), r"brats-\1-\2"),
    # BraTS 2021, and the gliomas of BraTS 2023, which kept the number and added the visit.
    (re.compile(r"^brats(?:2021_|-gli-)([0-9]{5})(?:-[0-9]{3})?$"), r"brats21-\1"),
    (re.compile(r"^(ucsf-pdgm-[0-9]{4})(?:_.*)?$"), r"\1"),
    (re.compile(r"^(upenn-gbm-[0-9]{5})(?:_[0-9]+)?$"), r"\1"),
)


class Aliases(Mapping[str, str]):
    """Which names are one person's: from a name as it is compared to one of the person's names.

    Args:
        groups: Names of one person each.
    """

    def __init__(self, groups: Iterable[Iterable[str]] = ()) -> None:
        self._first: dict[str, str] = {}
        for group in groups:
            names = [spelling(name) for name in group if name.strip()]
            known = sorted({self[name] for name in names if name in self._first})
            first = known[0] if known else (names[0] if names else "")
            merged = {name for name, leader in self._first.items() if leader in known}
            self._first.update(dict.fromkeys(merged | set(names), first))

    def __getitem__(self, name: str) -> str:
        return self._first[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._first)

    def __len__(self) -> int:
        return len(self._first)


def spelling(name: str) -> str:
    """A subject's name as it is compared: lower case, without `sub-`, the year of a challenge.

    >>> spelling("Brats19_TCIA03_265_1") == spelling("BraTS18_TCIA03_265_1")
    True
    """
    plain = name.strip().lower().removeprefix("sub-")
    for pattern, template in SPELLINGS:
        if found := pattern.search(plain):
            return found.expand(template)
    return plain


def person(name: str, aliases: Mapping[str, str]) -> str:
    """One name for all names of a person."""
    spelled = spelling(name)
    return aliases.get(spelled, spelled)


def read_aliases(path: Path) -> Aliases:
    """Read a table in which each row holds the names of one person.

    Args:
        path: Comma- or tab-separated text with a header line; every column holds names, empty
            cells count for nothing. The collections' own lists have this form once other columns
            are taken out.

    Raises:
        DataError: The file cannot be read, or no row has two names.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(_unreadable(path, str(error))) from error
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    rows = [
        [cell for cell in row if cell.strip()]
        for row in csv.reader(text.splitlines()[1:], delimiter=delimiter)
    ]
    if not any(len(row) > 1 for row in rows):
        raise DataError(_unreadable(path, "no row with two names"))
    return Aliases(rows)


def _unreadable(path: Path, found: str) -> Problem:
    return Problem(
        code="aliases_unreadable",
        file=path.name,
        found=found,
        expected="a header line, then one person's names in each row, separated by commas or tabs",
        advice="Give a table such as: brats21,ucsf_pdgm / BraTS2021_00097,UCSF-PDGM-0004.",
    )
