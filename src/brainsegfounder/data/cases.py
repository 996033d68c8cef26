"""The typed record of a case: which files, which contrasts, whose brain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from brainsegfounder.errors import DataError


@dataclass(frozen=True, slots=True)
class Case:
    """One imaging session of one subject, and its mask where there is one.

    Attributes:
        case: Unique name, also of the result's file.
        subject: Whose brain it is; a split never divides a subject.
        contrasts: A file for each contrast name.
        label: The mask's file, or None.
        session: Which visit, or empty.
        is_bids: Whether results should carry BIDS names.
        site: Where it was scanned, or empty.
        licence: Of the data set, such as CC-BY-4.0, or empty.
        masks: Files of masks that are no label: brain, deface, anatomy.
        volumes: Which volume, from 0, each contrast is in a file that holds several.
        fold: In which fold of the data set's own splits it is tested, or None.
        chronicity: How old a stroke was: hyperacute, acute, subacute, chronic, or empty.
        days: Between stroke and scan, or None.
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
    volumes: dict[str, int] = field(default_factory=dict)
    fold: int | None = None
    chronicity: str = ""
    days: float | None = None


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
