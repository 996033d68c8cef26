"""`audit`: does anyone who is tested appear among those a model has seen?

Parts are compared with each other: folders of scans in any layout, stores, runs and models. A leak
joins two parts. One brain under two subjects of a part is told, too, since a split could divide it.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from brainsegfounder.data.identity import Aliases, read_aliases
from brainsegfounder.data.overlaps import Overlap, Scan, find_overlaps
from brainsegfounder.data.store import STORE_NAME, Store, StoredCase, open_store
from brainsegfounder.errors import DataError, Problem, UsageError
from brainsegfounder.files import check_new_folder, write_text
from brainsegfounder.runs import PROVENANCE_NAME, RESEARCH_ONLY, progress
from brainsegfounder.settings import AS_IT_IS, ReadingSettings
from brainsegfounder.volumes.geometry import to_ras
from brainsegfounder.volumes.intensity import fingerprint
from brainsegfounder.volumes.likeness import look_at
from brainsegfounder.volumes.session import of_volume, read_scan
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.audit_runs import Check, check_run, read_provenance, seen_by
from brainsegfounder.workflows.inputs import open_inputs
from brainsegfounder.workflows.prepare_case import lost_problem, problem_of
from brainsegfounder.workflows.worker_pool import Lost, work_in_processes

COLUMNS = (
    "kind", "is_leak", "part", "case", "subject", "session", "contrast", "other_part",
    "other_case", "other_subject", "other_session", "other_contrast", "likeness",
)  # fmt: skip
SEEN = "(seen)"


@dataclass(frozen=True, slots=True)
class Part:
    """One of the collections that are compared.

    Attributes:
        name: As it is called in the report.
        path: A folder of scans, a store, a run or a model.
    """

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Voxels:
    """Where the voxels of one scan are, and how to read them.

    Attributes:
        path: An image file, or the folder of a store.
        stored: The case in that store, or None for a file.
        contrast: Of a stored case.
        reading: What is allowed of a file.
    """

    path: Path
    stored: StoredCase | None = None
    contrast: str = ""
    reading: ReadingSettings = AS_IT_IS

    def read(self) -> Volume:
        """One contrast, shape (1, I, J, K).

        Raises:
            DataError: It cannot be read.
        """
        if self.stored is None:
            return read_scan(self.path, self.reading)
        return open_store(self.path).prepared_image(self.stored, [self.contrast])


_Item = tuple[Scan, Voxels | None]


@dataclass(frozen=True, slots=True)
class _Given:
    """What there is to know of a part without looking at voxels."""

    part: Part
    scans: list[_Item]
    problems: dict[str, Problem] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit found.

    Attributes:
        parts: Number of cases of each part.
        overlaps: Pairs of cases that show one brain, or may.
        checks: What was looked at in the runs among the parts.
        refused: What is wrong with each scan that could not be compared.
    """

    parts: dict[str, int]
    overlaps: list[Overlap]
    checks: list[Check]
    refused: dict[str, Problem]

    @property
    def leaks(self) -> list[Overlap]:
        """Pairs that join two parts."""
        return [overlap for overlap in self.overlaps if overlap.is_leak]

    @property
    def is_clean(self) -> bool:
        """Whether nothing joins two parts and every run's account of itself holds."""
        return not self.leaks and all(check.is_met for check in self.checks)

    def lines(self) -> Iterator[str]:
        """What there is to know, in a few lines."""
        for overlap in self.leaks:
            one, other = overlap.one, overlap.other
            yield f"LEAK {overlap.kind}: {one.part}/{one.case} and {other.part}/{other.case}"
        for check in self.checks:
            if not check.is_met:
                yield f"BROKEN {check.code}: {check.run}: {check.sentence}"
        kinds = Counter(str(o.kind) for o in self.overlaps if not o.is_leak)
        beside = "".join(f", {number} {kind}" for kind, number in sorted(kinds.items()))
        yield f"{sum(self.parts.values())} cases: {len(self.leaks)} leaks{beside}"

    def record(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return {
            "notice": RESEARCH_ONLY,
            "is_clean": self.is_clean,
            "parts": self.parts,
            "overlaps": [overlap_row(overlap) for overlap in self.overlaps],
            "checks": [
                {"run": c.run, "code": c.code, "is_met": c.is_met, "found": c.sentence}
                for c in self.checks
            ],
            "refused": {scan: str(problem) for scan, problem in self.refused.items()},
        }


def run_audit(
    parts: Sequence[Part],
    out: Path,
    *,
    aliases: Path | None = None,
    layout: str = "auto",
    jobs: int = 0,
    reading: ReadingSettings = AS_IT_IS,
) -> Audited:
    """Compare parts with each other and write `audit.json`, `audit.csv` and `report.html`.

    Args:
        parts: With names of their own.
        out: A new folder.
        aliases: A table of names of one person each; see `data.identity.read_aliases`.
        layout: How folders of scans are laid out.
        jobs: How many processes look at scans; 0 looks in this one.
        reading: What is allowed of the files.

    Raises:
        UsageError: A part does not exist, or two have one name.
        DataError: A part holds nothing that can be compared.
        OutputExistsError: `out` has content.
    """
    from brainsegfounder.workflows.audit_report import write_audit_report

    _check_parts(parts)
    check_new_folder(out)
    known = read_aliases(aliases) if aliases else Aliases()
    with ExitStack() as stack:
        given = [_open(part, stack, known, layout, reading) for part in parts]
        scans, problems = _looked_at([item for one in given for item in one.scans], jobs)
        with progress(100, "comparing") as report:
            overlaps = find_overlaps(scans, known, lambda done, of: report(100 * done // of))
        audited = Audited(
            parts={one.part.name: len({scan.case for scan, _ in one.scans}) for one in given},
            overlaps=overlaps,
            checks=[check for one in given for check in one.checks],
            refused={**{k: v for one in given for k, v in one.problems.items()}, **problems},
        )
        voxels = {scan.key: place for one in given for scan, place in one.scans if place}
        write_text(out / "audit.json", json.dumps(audited.record(), indent=1) + "\n")
        write_text(out / "audit.csv", _csv(overlaps))
        write_audit_report(out / "report.html", audited, voxels)
    return audited


def overlap_row(overlap: Overlap) -> dict[str, Any]:
    """An overlap as a row of `audit.csv`."""
    one, other, likeness = overlap.one, overlap.other, overlap.likeness
    values = (
        str(overlap.kind), overlap.is_leak, one.part, one.case, one.subject, one.session,
        one.contrast, other.part, other.case, other.subject, other.session, other.contrast,
        None if likeness is None else round(likeness, 4),
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def parse_part(text: str) -> Part:
    """A part as it is given on a command line: `NAME=PATH`, or a path named by its folder."""
    name, sign, path = text.partition("=")
    if sign and name and not Path(text).exists():
        return Part(name, Path(path))
    return Part(Path(text).resolve().name, Path(text))


def _check_parts(parts: Sequence[Part]) -> None:
    for part in parts:
        if not part.path.exists():
            raise UsageError(
                f"{part.path}: no such file or folder; expected a folder of scans, a store, a run "
                "or a model. Correct the path."
            )
    names = [part.name for part in parts]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise UsageError(
            f"{', '.join(doubled)}: the name of two parts; expected a name for each. Give them "
            "as NAME=PATH."
        )


def _open(
    part: Part, stack: ExitStack, aliases: Mapping[str, str], layout: str, reading: ReadingSettings
) -> _Given:
    """Every scan of a part, before its voxels are looked at."""
    if (part.path / STORE_NAME).is_file():
        return _Given(part, list(_of_store(part, open_store(part.path))))
    if (part.path / PROVENANCE_NAME).is_file():
        facts = read_provenance(part.path)
        checks = list(check_run(part.name, part.path, facts, aliases))
        return _Given(part, [(scan, None) for scan in _of_run(part, facts)], checks=checks)
    found = stack.enter_context(open_inputs([part.path], layout, reading))
    scans: list[_Item] = [
        (
            Scan(part.name, case.case, case.subject, case.session, contrast),
            Voxels(path, reading=of_volume(reading, case.volumes.get(contrast))),
        )
        for case in found.cases
        for contrast, path in case.contrasts.items()
    ]
    return _Given(part, scans, {f"{part.name}: {k}": why for k, why in found.problems.items()})


def _of_store(part: Part, store: Store) -> Iterator[_Item]:
    for case in store.cases:
        for contrast, mark in zip(store.contrasts, case.fingerprints, strict=True):
            scan = Scan(
                part.name, case.case, case.subject, case.session, contrast, frozenset({mark})
            )
            yield scan, Voxels(part.path, case, contrast)


def _of_run(part: Part, facts: Mapping[str, Any]) -> Iterator[Scan]:
    """What a run or model has seen: scans without names, and names without scans."""
    seen = seen_by(facts)
    if seen.marks:
        yield Scan(part.name, SEEN, "", "", "", seen.marks)
    for subject in seen.subjects:
        yield Scan(part.name, subject, subject, "", "")


def _looked_at(items: Sequence[_Item], jobs: int) -> tuple[list[Scan], dict[str, Problem]]:
    """The scans with marks and looks; those that cannot be read are refused, and left out."""
    to_read = [(n, scan, place) for n, (scan, place) in enumerate(items) if place is not None]
    jobs = min(jobs, len(to_read))
    work = [(scan, place) for _, scan, place in to_read]
    answers: Iterable[tuple[int, Scan | Problem | Lost]] = (
        work_in_processes(look, work, jobs) if jobs else enumerate(map(look, work))
    )
    seen = {n: scan for n, (scan, place) in enumerate(items) if place is None}
    problems: dict[str, Problem] = {}
    with progress(len(work), "looking at scans") as report:
        for done, (number, answer) in enumerate(answers, start=1):
            n, scan, _ = to_read[number]
            name = f"{scan.part}: {scan.case} {scan.contrast}".rstrip()
            if isinstance(answer, Scan):
                seen[n] = answer
            elif isinstance(answer, Problem):
                problems[name] = answer
            else:
                problems[name] = lost_problem(name, str(answer))
            report(done, scan.case)
    return [seen[n] for n in sorted(seen)], problems


def look(item: tuple[Scan, Voxels]) -> Scan | Problem:
    """A scan with its marks and its look; raises nothing that is the data's fault."""
    scan, voxels = item
    try:
        volume = voxels.read()
        marks = scan.marks or frozenset({fingerprint(to_ras(volume).voxels[0])})
        return replace(scan, marks=marks, look=look_at(volume))
    except DataError as error:
        return problem_of(error, scan.case)


def _csv(overlaps: Sequence[Overlap]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(overlap_row(overlap) for overlap in overlaps)
    return text.getvalue()
