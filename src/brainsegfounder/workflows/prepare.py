"""`prepare`: scans to a store; one bad case never stops the others.

The same command again changes nothing, finishes what was cut off, makes anew what changed and adds
what is new. See docs/concepts/store.md.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from brainsegfounder.data.disk_preflight import check_disk
from brainsegfounder.data.manifest import Case, ManifestRow, manifest_rows, write_manifest
from brainsegfounder.data.source_hashes import (
    SourceHashes,
    is_unchanged,
    read_hashes,
    write_hashes,
)
from brainsegfounder.data.store import PREPARATION_VERSION, StoredCase, StorePlan, open_store
from brainsegfounder.data.store_arrays import ArrayFormat, Dtype
from brainsegfounder.data.store_writer import (
    begin_store,
    case_key,
    finish_store,
    listed,
    planned,
    source_files,
    unlist,
    whole_case,
)
from brainsegfounder.errors import ContrastError, DataError, OutputExistsError, Problem
from brainsegfounder.files import (
    check_apart,
    check_new_folder,
    check_writable,
    held,
    make_folder,
    remove_partials,
)
from brainsegfounder.runs import PACKAGES, RESEARCH_ONLY, package_version, progress
from brainsegfounder.settings import AS_IT_IS, PreparationSettings, ReadingSettings, Recipe
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.workflows.prepare_case import CaseDone, CaseJob, do_case, lost_problem
from brainsegfounder.workflows.prepare_pseudonyms import (
    Given,
    check_private,
    check_same_names,
    check_same_table,
    given_inputs,
    without_room,
)
from brainsegfounder.workflows.prepare_report import PAGE, find_participants, write_prepare_report
from brainsegfounder.workflows.worker_pool import Lost, work_in_processes

log = logging.getLogger(__name__)

# The typed manifest of a store: one row a scan.
SCANS = "scans.csv"
PREFERRED_ORDER = ("T1w", "T1ce", "T2w", "FLAIR")


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a preparation did.

    Attributes:
        store: The folder.
        found: How many cases there were in the input.
        cases: Names of the cases that are in the store now, in the order they were found.
        excluded: Cases left out because the recipe names their subject.
        refused: What is wrong with each case that could not be prepared.
        findings: What was noticed about each case that is in the store.
        noticed: What was noticed about the input, beside its cases.
        reused: Those of `cases` that were in the store already and were not made again.
        no_longer_found: Cases that were in the store and are listed no more.
        seconds: How long it took.
    """

    store: Path
    found: int = 0
    cases: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    refused: dict[str, Problem] = field(default_factory=dict)
    findings: dict[str, tuple[Finding, ...]] = field(default_factory=dict)
    noticed: list[Finding] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    no_longer_found: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return asdict(self) | {"store": str(self.store)}


@dataclass(frozen=True, slots=True)
class _Asked:
    """What `run_prepare` was asked for."""

    out: Path
    recipe: Recipe | None
    reading: ReadingSettings
    array_format: ArrayFormat
    dtype: Dtype
    jobs: int


def run_prepare(
    inputs: Sequence[Path],
    out: Path,
    recipe: Recipe | None = None,
    layout: str = "auto",
    *,
    jobs: int = 0,
    array_format: ArrayFormat = "blosc2",
    dtype: Dtype = "float16",
    participants: Path | None = None,
    reading: ReadingSettings | None = None,
    page: bool = True,
    pseudonyms: Path | None = None,
) -> Prepared:
    """Prepare every case found and write the store.

    Args:
        inputs: Folders or files.
        out: The store to make, to finish or to bring up to date.
        recipe: Contrasts, labels, spacing and excluded subjects. Without one: the contrasts that
            all cases share, 1 mm, labels as they are.
        layout: How the inputs are laid out.
        jobs: How many processes; 0 works in this one. The result is the same for any number.
        array_format: How arrays are written.
        dtype: What intensities are stored as: float16, or int16 with a scale for each contrast.
        participants: A table of the subjects, for the page; without one, the one that lies beside
            the scans.
        reading: What is allowed of the files, instead of what the recipe says.
        page: Whether to write `report.html`.
        pseudonyms: A private table (see `data.pseudonyms`), made or extended; then nothing that is
            written or said names a subject, file or folder of the inputs.

    Raises:
        UsageError: `out` lies in an input, or the table of pseudonyms in either.
        OutputExistsError: `out` has content that is no store, or a store of other settings.
        RunError: It cannot be written to, or does not fit on the disk.
        DataError: No case at all could be prepared.
    """
    began_s = time.monotonic()
    check_apart(out, inputs)
    if pseudonyms is not None:
        check_private(pseudonyms, out, inputs)
    before = planned(out)
    if before is None and not _has_only_begun(out):
        check_new_folder(out)
    if before is not None:
        check_same_names(out, before.pseudonyms, pseudonyms is not None)
    reading = reading or (recipe.reading if recipe else AS_IT_IS)
    people = participants or find_participants(inputs)
    with given_inputs(inputs, layout, reading, people, pseudonyms) as given:
        asked = _Asked(out, recipe, reading, array_format, dtype, jobs)
        result, changed = _prepare_given(given, before, asked)
    result = replace(result, seconds=time.monotonic() - began_s)
    if page and (changed or not (out / PAGE).is_file()):
        write_prepare_report(result, open_store(out), participants=given.participants)
    return result


def _prepare_given(given: Given, before: StorePlan | None, asked: _Asked) -> tuple[Prepared, bool]:
    """What was done, and whether the store is another than before."""
    out, recipe, found = asked.out, asked.recipe, given.found
    excluded = _excluded_subjects(recipe, given.subjects)
    cases = [case for case in found.cases if case.subject not in excluded]
    plan = _plan(cases, recipe, asked.reading, asked.array_format)
    plan = replace(plan, dtype=asked.dtype, pseudonyms=given.has_pseudonyms)
    if before is not None:
        _check_same_plan(out, before, plan)
    check_same_table(out, given, listed(out))
    result = Prepared(out, found=len(found.cases) + len(found.problems))
    result.refused.update(found.problems)
    result.noticed.extend(found.findings)
    result.excluded.extend(case.case for case in found.cases if case.subject in excluded)
    result.no_longer_found.extend(sorted({*listed(out)} - {case.case for case in found.cases}))
    labels = recipe.data.labels if recipe else None
    done = {n: known for n, known in enumerate(_known_cases(out, plan, cases)) if known is not None}
    waiting = [number for number in range(len(cases)) if number not in done]
    check_disk(out, [cases[number] for number in waiting], plan)
    with _at_work(out):
        if waiting:
            _prepare_cases(out, plan, labels, cases, done, asked.jobs)
        _sort_out(result, cases, done, given)
        _check_any(result)
        kept = [case for case in cases if case.case in result.findings]
        facts = _provenance(result, plan)
        changed = finish_store(out, kept, plan, refused=result.refused, provenance=facts)
        changed = changed or len(result.reused) < len(result.cases)
        if changed or not (out / SCANS).is_file():
            stored = {one.case: one for one in open_store(out).cases}
            write_manifest(out / SCANS, list(_scans(kept, stored, given.roots)))
    return result, changed


def _scans(
    cases: Sequence[Case], stored: Mapping[str, StoredCase], inputs: Sequence[Path]
) -> Iterator[ManifestRow]:
    """A row for each scan of the store; paths start at the input they were found in."""
    for case in cases:
        one = stored[case.case]
        moved = one.steps.get("registration", {}).get("contrasts", {})
        known = {name: path for name, path in case.contrasts.items() if name in one.sources}
        grids = {path: one.source_grid for name, path in known.items() if name not in moved}
        hashes = {path: one.sources[name] for name, path in known.items()}
        first = next(iter(case.contrasts.values()))
        root = next((folder for folder in inputs if first.is_relative_to(folder)), first.parent)
        yield from manifest_rows([replace(case, contrasts=known)], grids, hashes, root)


def shared_contrasts(cases: Sequence[Case]) -> tuple[str, ...]:
    """The contrasts that every case has, in the usual order.

    Raises:
        ContrastError: There is none.
    """
    shared = set.intersection(*(set(case.contrasts) for case in cases)) if cases else set()
    if not shared:
        raise ContrastError(
            f"{len(cases)} cases share no contrast; expected at least one. "
            "Give a recipe that names the contrasts, or prepare them apart."
        )
    usual = [name for name in PREFERRED_ORDER if name in shared]
    return (*usual, *sorted(shared - set(usual)))


def _plan(
    cases: Sequence[Case],
    recipe: Recipe | None,
    reading: ReadingSettings,
    array_format: ArrayFormat,
) -> StorePlan:
    if recipe is None:
        contrasts, settings = shared_contrasts(cases), PreparationSettings()
        return StorePlan(contrasts, settings, reading=reading, array_format=array_format)
    return StorePlan(
        contrasts=recipe.data.contrasts,
        preparation=recipe.preparation,
        reading=reading,
        labels=tuple(sorted(recipe.data.labels.values())),
        array_format=array_format,
    )


def _check_same_plan(out: Path, before: StorePlan, plan: StorePlan) -> None:
    found, wanted = _flat(before), _flat(plan)
    for name, value in wanted.items():
        if found.get(name) != value:
            raise OutputExistsError(
                f"{out}: exists already, a store prepared with {name} = {found.get(name)}; "
                f"expected {value}, as asked for now. Choose another --out, or its settings."
            )


def _flat(plan: StorePlan) -> dict[str, Any]:
    record = plan.record()
    sections = {f"{s}.{k}": v for s in ("preparation", "reading") for k, v in record.pop(s).items()}
    return record | sections | {"dtype": plan.dtype}


def _has_only_begun(out: Path) -> bool:
    """Whether another process is about to mark the folder as a store, or was killed before."""
    if not out.is_dir():
        return False
    names = {path.name for path in [*out.iterdir(), *out.glob("cases/*")]} - {"cases"}
    return all(name.startswith(".") and name.endswith(".partial") for name in names)


# --- cases


@contextlib.contextmanager
def _at_work(out: Path) -> Iterator[None]:
    """Be known as a writer of a store; what killed writers left half written is removed first."""
    folder = out / "cases"
    make_folder(folder)
    with held(folder, alone=True, wait=False) as alone:
        if alone:
            remove_partials(folder)
            remove_partials(out)
    with held(folder, alone=False):
        yield


def _known_cases(out: Path, plan: StorePlan, cases: Sequence[Case]) -> Iterator[CaseDone | None]:
    known = read_hashes(out)
    for case in cases:
        yield _reused(out, plan, case, known.get(case.case, {}))


def _prepare_cases(
    out: Path,
    plan: StorePlan,
    labels: dict[str, int] | None,
    cases: Sequence[Case],
    done: dict[int, CaseDone],
    jobs: int,
) -> None:
    """Add what becomes of each case that is not in `done`."""
    begin_store(out, plan)
    check_writable(out / "cases")
    waiting = [number for number in range(len(cases)) if number not in done]
    unlist(out, {cases[number].case for number in waiting})
    items = [CaseJob(out, plan, labels, cases[number]) for number in waiting]
    try:
        for place, answer in _answers(items, jobs):
            done[waiting[place]] = _settled(cases[waiting[place]], answer)
    finally:
        _remember(out, cases, done)


def _reused(out: Path, plan: StorePlan, case: Case, known: SourceHashes) -> CaseDone | None:
    """A case that is stored, and whose files look as they did: known without reading them."""
    files = source_files(case, plan)
    if not all(is_unchanged(path, known.get(role)) for role, path in files.items()):
        return None
    hashes = {role: known[role] for role in files}
    sources = {role: source.sha256 for role, source in hashes.items()}
    key = case_key(plan, sources, case.volumes)
    stored = whole_case(out, case, key)
    return None if stored is None else CaseDone(stored, True, hashes)


def _answers(items: Sequence[CaseJob], jobs: int) -> Iterator[tuple[int, CaseDone | Lost]]:
    """Do all cases, here or in other processes, and show how far it is."""
    with progress(len(items), "preparing") as report:
        if jobs == 0:
            answers: Iterator[tuple[int, CaseDone | Lost]] = enumerate(map(do_case, items))
        else:
            answers = work_in_processes(do_case, items, min(jobs, len(items)))
        for number, (place, answer) in enumerate(answers, start=1):
            report(number, items[place].case.case)
            yield place, answer


def _settled(case: Case, answer: CaseDone | Lost) -> CaseDone:
    if isinstance(answer, Lost):
        return CaseDone(problem=lost_problem(case.case, str(answer)))
    if answer.fatal is not None:
        raise answer.fatal
    if answer.trace:
        log.error("%s: an error of ours:\n%s", case.case, answer.trace)
    return answer


def _remember(out: Path, cases: Sequence[Case], done: dict[int, CaseDone]) -> None:
    hashes = {
        case.case: done[number].hashes
        for number, case in enumerate(cases)
        if number in done and done[number].stored is not None
    }
    write_hashes(out, hashes)


def _excluded_subjects(recipe: Recipe | None, names: Mapping[str, str]) -> set[str]:
    """Subjects that the recipe leaves out, named as in the data or by their pseudonyms."""
    excluded = set(recipe.data.exclude_subjects) if recipe else set()
    return excluded | {pseudonym for pseudonym, name in names.items() if name in excluded}


def _sort_out(
    result: Prepared, cases: Sequence[Case], done: dict[int, CaseDone], given: Given
) -> None:
    for number, case in enumerate(cases):
        answer = done[number]
        if answer.problem is not None:
            result.refused[case.case] = without_room(answer.problem, given)
        elif answer.stored is not None:
            result.cases.append(case.case)
            result.findings[case.case] = answer.stored.findings
            if answer.is_reused:
                result.reused.append(case.case)


def _check_any(result: Prepared) -> None:
    if not result.cases:
        first = next(iter(result.refused.values()), "every subject is excluded by the recipe")
        raise DataError(
            f"{result.store}: none of {result.found} cases could be prepared; the first: {first}"
        )


def _provenance(result: Prepared, plan: StorePlan) -> dict[str, Any]:
    """What the store was made with: no time, no command and no folder, so it repeats exactly."""
    return {
        "notice": RESEARCH_ONLY,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": {name: package_version(name) for name in PACKAGES},
        "preparation_version": PREPARATION_VERSION,
        "settings": plan.record(),
        "found": result.found,
        "prepared": len(result.cases),
        "excluded": result.excluded,
        "refused": sorted(result.refused),
        "noticed": [asdict(finding) for finding in result.noticed],
        "findings": {
            case: [asdict(finding) for finding in findings]
            for case, findings in result.findings.items()
            if findings
        },
    }
