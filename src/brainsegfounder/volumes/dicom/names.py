"""Names that may be shown, for patients, visits and series that may not.

A case is called `sub-<8 hexadecimal digits>_ses-<number>`. The digits are of the SHA-256 of the
patient's id, salted with the identity of the patient's first study.

What that protects: ids are short and can all be tried, but the salt is a long number that stands
in no output, so from outputs alone nobody finds the id again. What it does not: who holds the
DICOM files can compute every name, and so can tell which case is whose, which is meant; a face in
the voxels stays a face; and a patient whose first study differs between two imports gets two
names, so that the visits of a cohort must be imported together, or a split could part them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from brainsegfounder.volumes.dicom.series import Stack
from brainsegfounder.volumes.findings import Finding

NUM_DIGITS = 8


def pseudonym(patient_id: str, first_study_uid: str, num_digits: int = NUM_DIGITS) -> str:
    """The name of a patient: `sub-` and hexadecimal digits; see the top of this file.

    Args:
        patient_id: PatientID.
        first_study_uid: StudyInstanceUID of the earliest study.
        num_digits: How many digits to keep.
    """
    salted = f"{first_study_uid}\0{patient_id}".encode("utf-8", "replace")
    return f"sub-{hashlib.sha256(salted).hexdigest()[:num_digits]}"


def case_names(stacks: Sequence[Stack]) -> tuple[dict[tuple[str, str], str], list[Finding]]:
    """A case name for each patient and study.

    Returns:
        Names by (patient id, study UID), and what is doubtful about them.
    """
    dates: dict[str, dict[str, str]] = {}
    for stack in stacks:
        patient, study, _ = stack.series
        # Nobody's id means that each study may be of somebody else.
        person = patient or f"\0{study}"
        dates.setdefault(person, {})[study] = stack.first.header.date
    visits = {person: _in_order(studies) for person, studies in dates.items()}
    names = _distinct({person: studies[0] for person, studies in visits.items()})
    cases = {
        ("" if person.startswith("\0") else person, study): f"{names[person]}_ses-{number}"
        for person, studies in visits.items()
        for number, study in enumerate(studies, start=1)
    }
    return cases, _doubts(dates, names)


def series_names(stacks: Sequence[Stack], cases: dict[tuple[str, str], str]) -> list[str]:
    """What each stack is called in messages: its case and the scanner's number of the series."""
    plain = [
        f"{cases[stack.series[:2]]} series {stack.first.header.series_number or 0}"
        for stack in stacks
    ]
    total, seen, names = Counter(plain), Counter[str](), []
    for name in plain:
        seen[name] += 1
        names.append(name if total[name] == 1 else f"{name} part {seen[name]}")
    return names


def _in_order(studies: dict[str, str]) -> list[str]:
    """Studies by date; those without one come last."""
    return sorted(studies, key=lambda study: (not studies[study], studies[study], study))


def _distinct(first_studies: dict[str, str]) -> dict[str, str]:
    """Names of all persons, with more digits where two would share one."""
    num_digits = NUM_DIGITS
    while True:
        names = {
            person: pseudonym(person.lstrip("\0"), study, num_digits)
            for person, study in first_studies.items()
        }
        if len(set(names.values())) == len(names):
            return names
        num_digits += 8


def _doubts(dates: dict[str, dict[str, str]], names: dict[str, str]) -> list[Finding]:
    found = []
    for person, studies in dates.items():
        if person.startswith("\0"):
            message = "no patient id; the study counts as a subject of its own"
            found.append(Finding("dicom_no_patient_id", names[person], message, "warning"))
        if len(studies) > 1 and not all(studies.values()):
            message = "studies without a date; the order of the visits is a guess"
            found.append(Finding("dicom_no_study_date", names[person], message, "warning"))
    return found
