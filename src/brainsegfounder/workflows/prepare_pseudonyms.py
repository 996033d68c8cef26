"""`prepare --pseudonyms`: what the sources are called stays in a private table.

Each file gets a link with a pseudonym in a temporary folder, and all further work knows the link
only. So whatever is said of a file, in a store, a log or an error, cannot name it. What layouts
said before that goes into the table in full, and into the store as its code and a reference.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from brainsegfounder.data.layouts import Found
from brainsegfounder.data.manifest import Case
from brainsegfounder.data.pseudonyms import Pseudonyms, open_pseudonyms
from brainsegfounder.errors import DataError, OutputExistsError, Problem, RunError, UsageError
from brainsegfounder.evaluation.participants import (
    Participants,
    read_participants,
    subject_key,
)
from brainsegfounder.settings import ReadingSettings
from brainsegfounder.volumes.analyze import is_oasis
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.nifti import IMAGE_SUFFIXES, PAIR_SUFFIXES
from brainsegfounder.workflows.inputs import open_inputs
from brainsegfounder.workflows.prepare_findings import INPUT

OF_PAIRS = tuple(dict.fromkeys(suffix for pair in PAIR_SUFFIXES for suffix in pair))
SUFFIXES = (*IMAGE_SUFFIXES, *OF_PAIRS)
# By its name alone a file of OASIS-1 is known to be one; these parts of it are somebody's.
OASIS_PERSON = re.compile(r"^OAS1_\d{4}_MR\d")


@dataclass(frozen=True, slots=True)
class Given:
    """What `prepare` works on.

    Attributes:
        found: The cases.
        roots: Folders that paths are told from.
        participants: A table of the subjects, or the file it is in, or None.
        subjects: Under pseudonyms: the name of each subject by its pseudonym.
        cases: Under pseudonyms: all those in the table.
        has_pseudonyms: Whether they stand under pseudonyms.
    """

    found: Found
    roots: Sequence[Path]
    participants: Participants | Path | None
    subjects: Mapping[str, str] = field(default_factory=dict)
    cases: frozenset[str] = frozenset()
    has_pseudonyms: bool = False


@contextlib.contextmanager
def given_inputs(
    inputs: Sequence[Path],
    layout: str,
    reading: ReadingSettings,
    participants: Path | None,
    table: Path | None,
) -> Iterator[Given]:
    """Find the cases of all inputs, under their own names or under pseudonyms.

    Args:
        inputs: Folders, files, archives.
        layout: How they are laid out.
        reading: What is allowed of the files.
        participants: A table of the subjects.
        table: Of pseudonyms, or None for the names that are there.

    Raises:
        UsageError: As `open_inputs`.
        DataError: As `open_inputs`; also where the table is none.
        RunError: The table or a link cannot be written.
    """
    with contextlib.ExitStack() as stack:
        if table is None:
            found = stack.enter_context(open_inputs(inputs, layout, reading))
            yield Given(found, inputs, participants)
            return
        try:
            found = stack.enter_context(open_inputs(inputs, layout, reading))
        except DataError as error:
            raise _told_in_table(error, table) from None
        temporary = tempfile.TemporaryDirectory(prefix="brainsegfounder-")
        room = Path(stack.enter_context(temporary))
        people, doubts = _people(participants)
        with open_pseudonyms(table) as names:
            hidden = _renamed(replace(found, findings=[*found.findings, *doubts]), names)
            people = _renamed_people(people, names) if people else None
        linked = replace(hidden, cases=[_linked(case, room) for case in hidden.cases])
        everyone = frozenset(names.names("case"))
        yield Given(linked, [room], people, names.names("subject"), everyone, True)


def check_private(table: Path, out: Path, inputs: Sequence[Path]) -> None:
    """Refuse a table of pseudonyms in a place where it would be passed on or read as data.

    Raises:
        UsageError: It lies in the store or in an input, or is one.
    """
    place = table.resolve()
    for folder in (out, *inputs):
        there = folder.resolve()
        if place == there or there in place.parents:
            where = "the store" if folder == out else "an input"
            raise UsageError(
                f"--pseudonyms {table}: lies in {where}; expected a private place apart from store "
                "and scans, since it says who is who. Choose another."
            )
    if place.suffix.lower() != ".csv":
        raise UsageError(f"--pseudonyms {table}: expected a name that ends in .csv.")


def check_same_names(out: Path, before: bool, now: bool) -> None:
    """Refuse to mix names and pseudonyms in one store.

    Args:
        out: The store.
        before: Whether the store that is there has pseudonyms.
        now: Whether they are asked for.

    Raises:
        OutputExistsError: They differ.
    """
    if before != now:
        has, lacks = ("pseudonyms", "without") if before else ("the names of the data", "with")
        remedy = "Add --pseudonyms and its table" if before else "Leave --pseudonyms out"
        raise OutputExistsError(
            f"{out}: exists already, a store with {has}, and this command is {lacks} --pseudonyms; "
            f"subjects would stand in it twice. {remedy}, or choose another --out."
        )


def check_same_table(out: Path, given: Given, listed: Sequence[str]) -> None:
    """Refuse a store that was made with another table of pseudonyms.

    Raises:
        OutputExistsError: The table does not know a case that the store lists.
    """
    strange = set(listed) - given.cases if given.has_pseudonyms else set()
    if strange:
        raise OutputExistsError(
            f"{out}: exists already, and {len(strange)} of its cases ({min(strange)}, ...) do not "
            "stand in this table of pseudonyms. Give the table it was made with, or choose another "
            "--out."
        )


def without_room(problem: Problem, given: Given) -> Problem:
    """A problem in which links stand without the temporary folder they are in."""
    if not given.has_pseudonyms:
        return problem
    parts = {name: str(getattr(problem, name)) for name in Problem.__dataclass_fields__}
    for root in given.roots:
        parts = {name: text.replace(f"{root}{os.sep}", "") for name, text in parts.items()}
    return Problem(**parts)


def _renamed(found: Found, names: Pseudonyms) -> Found:
    """All that was found, under pseudonyms; layouts stay unsaid, as they are told by folder."""
    return Found(
        cases=[names.case(case) for case in found.cases],
        findings=[_without_text(finding, names) for finding in found.findings],
        problems=dict(_refused(case, problem, names) for case, problem in found.problems.items()),
    )


def _without_text(finding: Finding, names: Pseudonyms) -> Finding:
    reference = names.message(f"{finding.file}: {finding.message}")
    message = f"in full in the table of pseudonyms, as {reference}"
    return Finding(finding.code, INPUT, message, finding.kind)


def _refused(case: str, problem: Problem, names: Pseudonyms) -> tuple[str, Problem]:
    pseudonym = names.refused(case)
    return pseudonym, _without_names(problem, pseudonym, names)


def _without_names(problem: Problem, file: str, names: Pseudonyms) -> Problem:
    return Problem(
        code=problem.code,
        file=file,
        found=problem.code.replace("_", " "),
        expected=f"what the table of pseudonyms says in full, as {names.message(str(problem))}",
        advice="Look there.",
    )


def _told_in_table(error: DataError, table: Path) -> DataError:
    """An error that ends the run before anything has a pseudonym."""
    problem = error.problem or Problem("unfit", "", str(error), "", "")
    if problem.code == "no_such_input":  # nothing but what was typed just now
        return error
    with open_pseudonyms(table) as names:
        return type(error)(_without_names(problem, INPUT, names))


def _linked(case: Case, room: Path) -> Case:
    """A case whose files are links named after it."""
    return replace(
        case,
        contrasts={c: _link(path, room, f"{case.case}_{c}") for c, path in case.contrasts.items()},
        label=None if case.label is None else _link(case.label, room, f"{case.case}_label"),
        masks={m: _link(path, room, f"{case.case}_mask-{m}") for m, path in case.masks.items()},
    )


def _link(path: Path, room: Path, name: str) -> Path:
    """A link to a file, and to the other file of a pair that lies beside it."""
    length = next((len(s) for s in SUFFIXES if path.name.lower().endswith(s)), 0)
    cut = len(path.name) - length
    stem, suffix = path.name[:cut], path.name[cut:]
    place = room
    if is_oasis(path):
        place, name = room / name, OASIS_PERSON.sub("OAS1_0000_MR1", stem)
    links = {suffix: path}
    for one in OF_PAIRS if suffix.lower() in OF_PAIRS else ():
        if (beside := path.with_name(stem + one)).exists():
            links.setdefault(one, beside)
    place.mkdir(exist_ok=True)
    for one, target in links.items():
        _make_link(place / f"{name}{one}", target.absolute())
    return place / f"{name}{suffix}"


def _make_link(link: Path, target: Path) -> None:
    try:
        try:
            link.symlink_to(target)
        except OSError:  # Windows lets few make these
            link.hardlink_to(target)
    except OSError as error:
        raise RunError(
            f"{link}: no link can be made there: {error.strerror}; --pseudonyms needs one for each "
            "file. Set TMPDIR to a folder where links can be made."
        ) from None


def _people(path: Path | None) -> tuple[Participants | None, list[Finding]]:
    """The table of participants; what is wrong with it is a finding."""
    try:
        return (read_participants(path) if path else None), []
    except DataError as error:
        message = f"demographics are left out: {error}"
        return None, [Finding("participants_unreadable", INPUT, message, "warning")]


def _renamed_people(table: Participants, names: Pseudonyms) -> Participants:
    """The table of participants under pseudonyms; rows without a scan are only ever counted."""
    known = {subject_key(name): subject_key(p) for p, name in names.names("subject").items()}
    rows = {}
    for subject, values in table.rows.items():
        site = {"site": names.site(values["site"])} if "site" in values else {}
        rows[known.get(subject, subject)] = values | site
    return replace(table, rows=rows)
