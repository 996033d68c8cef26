"""Preparing one case of a store: what a worker of `prepare` does, and what it hands back."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from brainsegfounder.data.manifest import Case
from brainsegfounder.data.source_hashes import SourceHashes, check_unchanged, hash_sources
from brainsegfounder.data.store import StoredCase, StorePlan
from brainsegfounder.data.store_writer import case_key, source_files, whole_case, write_case
from brainsegfounder.errors import BrainSegFounderError, DataError, Problem
from brainsegfounder.settings import PreparationSettings
from brainsegfounder.volumes.preparation import prepare_case


@dataclass(frozen=True, slots=True)
class CaseJob:
    """One case to prepare.

    Attributes:
        folder: The store.
        plan: What it is for.
        labels: Label values by name, for messages; see `StorePlan.labels`.
        case: Which files.
    """

    folder: Path
    plan: StorePlan
    labels: dict[str, int] | None
    case: Case


@dataclass(frozen=True, slots=True)
class CaseDone:
    """What became of it: a stored case, or a problem, or the reason why the whole run must end.

    Attributes:
        stored: The case as it is in the store.
        is_reused: Whether it was there already.
        hashes: Of its files.
        problem: Why it was refused.
        fatal: An error that is not the case's, such as a full disk.
        trace: Where an error of ours happened, for the log.
    """

    stored: StoredCase | None = None
    is_reused: bool = False
    hashes: SourceHashes = field(default_factory=dict)
    problem: Problem | None = None
    fatal: BrainSegFounderError | None = None
    trace: str = ""


def do_case(job: CaseJob) -> CaseDone:
    """Fingerprint, prepare and store a case, unless it is stored already; raises nothing."""
    try:
        return _do_case(job)
    except DataError as error:
        return CaseDone(problem=problem_of(error, job.case.case))
    except BrainSegFounderError as error:
        return CaseDone(fatal=error)
    except MemoryError:
        return CaseDone(problem=lost_problem(job.case.case, "too little memory to prepare it"))
    except Exception as error:
        # A mistake of ours, on one case in thousands, must not cost the others; it is told.
        found = f"could not be prepared: {type(error).__name__}: {error}"
        advice = "This is an error of the program; please report it with the log."
        problem = Problem("internal_error", job.case.case, found, "no error", advice)
        return CaseDone(problem=problem, trace=traceback.format_exc())


def problem_of(error: DataError, case: str) -> Problem:
    """What is wrong with a case, also where an error came with a message alone."""
    if error.problem is not None:
        return error.problem
    return Problem("unfit", case, str(error).rstrip("."), "a case that can be prepared", "")


def lost_problem(case: str, found: str) -> Problem:
    """The problem of a case whose worker died."""
    return Problem(
        code="worker_lost",
        file=case,
        found=found,
        expected="enough memory for every worker",
        advice="Give the same command again with fewer --jobs; what is done is kept.",
    )


def _do_case(job: CaseJob) -> CaseDone:
    case, plan = job.case, job.plan
    files = source_files(case, plan)
    hashes = hash_sources(files)
    sources = {role: known.sha256 for role, known in hashes.items()}
    key = case_key(plan, sources, case.volumes)
    # Another process may have stored it by now.
    if (stored := whole_case(job.folder, case, key)) is not None:
        return CaseDone(stored, True, hashes)
    with one_thread(plan.preparation):
        prepared = prepare_case(
            case.case,
            case.contrasts,
            plan.contrasts,
            plan.preparation,
            label=files.get("label"),
            masks=case.masks,
            reading=plan.reading,
            volumes=case.volumes,
            legal=job.labels,
        )
    check_unchanged(files, hashes)
    stored = write_case(
        job.folder,
        case,
        prepared,
        job.labels,
        array_format=plan.array_format,
        dtype=plan.dtype,
        sources=sources,
        key=key,
    )
    return CaseDone(stored, False, hashes)


@contextlib.contextmanager
def one_thread(settings: PreparationSettings) -> Iterator[None]:
    """Compute in one thread, as sums in another order come out otherwise in the last digits.

    SimpleITK is loaded only if these settings use it; deepbet has a process of its own.
    """
    registers = settings.registration != "never" or settings.space != "native"
    if not registers and not settings.bias_correction:
        yield
        return
    import SimpleITK  # type: ignore[import-not-found, unused-ignore]

    of_all = SimpleITK.ProcessObject
    before = of_all.GetGlobalDefaultNumberOfThreads()
    of_all.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        of_all.SetGlobalDefaultNumberOfThreads(before)
