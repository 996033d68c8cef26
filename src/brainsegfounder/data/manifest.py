"""The typed record of a case: which files, which contrasts, whose brain."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from brainsegfounder.errors import ContrastError, DataError

# Spellings seen in file names (compared in lower case), for the four names used everywhere.
CONTRAST_SYNONYMS = MappingProxyType(
    {
        "t1": "T1w", "t1w": "T1w", "t1n": "T1w",
        "t1ce": "T1ce", "t1c": "T1ce", "t1gd": "T1ce", "t1post": "T1ce",
        "t2": "T2w", "t2w": "T2w",
        "flair": "FLAIR", "t2f": "FLAIR", "t2flair": "FLAIR",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One imaging session of one subject, and its mask where there is one.

    Attributes:
        case: Unique name, also of the result's file.
        subject: Whose brain it is; a split never divides a subject.
        session: Which visit, or empty.
        contrasts: A file for each contrast name.
        label: The mask's file, or None.
        is_bids: Whether results should carry BIDS names.
        site: Where it was scanned, or empty.
        licence: Of the data set, such as CC-BY-4.0, or empty.
        masks: Files of masks that are no label: brain, deface, anatomy.
    """

    case: str
    subject: str
    contrasts: dict[str, Path]
    label: Path | None = None
    session: str = ""
    is_bids: bool = False
    site: str = ""
    licence: str = ""
    masks: dict[str, Path] = field(default_factory=dict)


def contrast_name(spelling: str) -> str:
    """The standard name of a contrast for any of its spellings.

    Raises:
        ContrastError: The spelling is not known.
    """
    if spelling.lower() in CONTRAST_SYNONYMS:
        return CONTRAST_SYNONYMS[spelling.lower()]
    raise ContrastError(
        f"{spelling}: unknown contrast; expected one of T1w, T1ce, T2w, FLAIR "
        f"or a spelling of them ({', '.join(CONTRAST_SYNONYMS)})."
    )


def unique_cases(groups: Sequence[tuple[str, Sequence[Case]]]) -> list[Case]:
    """Join the cases of several inputs; equal names get their input's name in front.

    Args:
        groups: Name and cases of each input.

    Raises:
        DataError: Two cases have one name even so.
    """
    doubled = _doubled([case for _, cases in groups for case in cases])
    named = [
        replace(case, case=f"{group}_{case.case}") if case.case in doubled else case
        for group, cases in groups
        for case in cases
    ]
    if still := _doubled(named):
        raise DataError(
            f"{', '.join(sorted(still)[:5])}: found in two inputs of one name; expected a name for "
            "each case. Rename a folder, or name their common parent as the one input."
        )
    return named


def _doubled(cases: Sequence[Case]) -> set[str]:
    return {name for name, number in Counter(case.case for case in cases).items() if number > 1}


def manifest_csv(cases: Sequence[Case]) -> str:
    """The cases as CSV text, a row for each, with file names but no folders."""
    contrasts = sorted({name for case in cases for name in case.contrasts})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "subject", "session", *contrasts, "label"])
    for case in cases:
        files = [case.contrasts[c].name if c in case.contrasts else "" for c in contrasts]
        label = case.label.name if case.label else ""
        writer.writerow([case.case, case.subject, case.session, *files, label])
    return text.getvalue()
