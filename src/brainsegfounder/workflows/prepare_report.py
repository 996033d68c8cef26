"""The page that ends `prepare`: what came in, what became of it and why, and what it looks like.

One HTML file that needs no network. It names cases and files but no folders, and counts persons
without showing any of them (see `evaluation.demographics`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from brainsegfounder.data.store import Store
from brainsegfounder.errors import DataError, Problem, StoreError
from brainsegfounder.evaluation.consort import Box, Stage, consort_diagram
from brainsegfounder.evaluation.participants import Participants
from brainsegfounder.evaluation.report import (
    Cell,
    Chapter,
    Drawing,
    Highlight,
    Report,
    write_report,
)
from brainsegfounder.runs import PACKAGES, package_version
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.workflows.prepare_findings import INPUT, Findings, findings_chapter, has_kind
from brainsegfounder.workflows.prepare_pictures import (
    histogram_chapter,
    mosaic_chapter,
    read_profiles,
    unusual_names,
)
from brainsegfounder.workflows.prepare_tables import grids_chapter, subjects_chapter

MAX_REASONS = 8
PARTICIPANTS = ("participants.tsv", "participants.csv")


PAGE = "report.html"


class _Outcome(Protocol):
    """What the report needs to know of a preparation."""

    @property
    def found(self) -> int: ...
    @property
    def cases(self) -> Sequence[str]: ...
    @property
    def excluded(self) -> Sequence[str]: ...
    @property
    def refused(self) -> Mapping[str, Problem]: ...
    @property
    def findings(self) -> Mapping[str, tuple[Finding, ...]]: ...
    @property
    def noticed(self) -> Sequence[Finding]: ...
    @property
    def reused(self) -> Sequence[str]: ...
    @property
    def seconds(self) -> float: ...


def write_prepare_report(
    prepared: _Outcome, store: Store, *, participants: Participants | Path | None = None
) -> Path:
    """Write `report.html` into the store.

    At most 100 cases are read for the histograms and 36 for the pictures, one at a time.

    Args:
        prepared: What the preparation did.
        store: The finished store.
        participants: `participants.tsv` or a CSV file with a row for each subject, or what was
            read from it. What is wrong with the file is said in the report.

    Returns:
        The file written.

    Raises:
        StoreError: A case of the store cannot be read.
        RunError: The file cannot be written.
    """
    findings = _all_findings(prepared, store)
    doubtful = [case for case, found in findings.items() if has_kind(found, "warning")]
    profiles = read_profiles(store)
    subjects, warnings = _subjects(store, participants)
    unusual = unusual_names(profiles)
    chapters = [
        flow_chapter(prepared, store, findings),
        findings_chapter(
            prepared.refused, {INPUT: prepared.noticed, **findings}, prepared.excluded
        ),
        *subjects,
        histogram_chapter(store, profiles),
        grids_chapter(store),
        mosaic_chapter(store, unusual, doubtful),
    ]
    report = Report(
        title=f"Preparation: {store.folder.name}",
        subtitle=f"{', '.join(store.contrasts)}: scans checked, brought to one grid and one "
        "intensity scale, and stored.",
        highlights=_highlights(prepared, store, findings),
        warnings=[*warnings, *_warnings(prepared, doubtful, unusual)],
        chapters=chapters,
        run=_settings(store),
        provenance={
            "versions": {name: package_version(name) for name in PACKAGES},
            "manifest sha256": store.manifest_sha256,
            "preparation": store.preparation.model_dump(mode="json"),
        },
    )
    path = store.folder / PAGE
    write_report(path, report)
    return path


def find_participants(inputs: Sequence[Path]) -> Path | None:
    """The first `participants.tsv` or `.csv` in the folders of scans, or above files."""
    for given in inputs:
        folder = given if given.is_dir() else given.parent
        for name in PARTICIPANTS:
            if (folder / name).is_file():
                return folder / name
    return None


def flow_chapter(prepared: _Outcome, store: Store, findings: Findings) -> Chapter:
    """Who was found, who left and why, who stayed."""
    stages = flow_stages(prepared, store, findings)
    drawing = Drawing(
        consort_diagram(stages),
        consort_diagram(stages, narrow=True),
        "Flow of cases, after CONSORT. A case is one session of one subject.",
    )
    return Chapter("flow", "Flow of cases", drawing=drawing)


def flow_stages(prepared: _Outcome, store: Store, findings: Findings) -> list[Stage]:
    """The stages of the diagram; their numbers always add up."""
    lacking = {case: p for case, p in prepared.refused.items() if "contrast" in p.code}
    refused = {case: p for case, p in prepared.refused.items() if case not in lacking}
    done, excluded = len(prepared.cases), len(prepared.excluded)
    complete = done + len(refused)
    considered = complete + len(lacking)
    aside = max(0, prepared.found - excluded - considered)
    reasons = [("excluded by the recipe", excluded), ("left aside by the layout", aside)]
    stages = [
        ("Cases found", considered + excluded + aside, "Not considered", reasons),
        ("Cases considered", considered, "Contrast missing or in doubt", _reasons(lacking)),
        ("Cases with all contrasts", complete, "Refused", _reasons(refused)),
    ]
    drawn: list[Stage] = []
    for name, number, why, lines in stages:
        if left := [line for line in lines if line[1]]:
            box = Box(why, sum(n for _, n in left), left)
            drawn.append(Stage(Box(name if drawn else "Cases found", number), box))
    last = Stage(Box("Prepared", done, _parts(prepared, store, findings)))
    return [*(drawn or [Stage(Box("Cases found", done))]), last]


def stored_flow_drawing(store: Store) -> Drawing:
    """The flow as far as a store alone tells it: who was refused and why, and who is in it.

    Raises:
        StoreError: Its list of refused cases cannot be read.
    """
    try:
        refused = json.loads((store.folder / "refused.json").read_text(encoding="utf-8"))
        codes = Counter(str(problem["code"]).replace("_", " ") for problem in refused.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{store.folder}/refused.json: {error}. Prepare it again.") from error
    subjects = len({case.subject for case in store.cases})
    labelled = sum(case.has_labels for case in store.cases)
    left = Box("Refused", sum(codes.values()), codes.most_common()) if codes else None
    stages = [
        Stage(Box("Cases considered", len(store.cases) + sum(codes.values())), left),
        Stage(
            Box(
                "Prepared",
                len(store.cases),
                [("subjects", subjects), ("cases with labels", labelled)],
            )
        ),
    ]
    return Drawing(
        consort_diagram(stages), consort_diagram(stages, narrow=True), f"{store.folder.name}."
    )


def _reasons(refused: Mapping[str, Problem]) -> list[tuple[str, int]]:
    ranked = Counter(problem.code.replace("_", " ") for problem in refused.values()).most_common()
    shown, rest = ranked[:MAX_REASONS], ranked[MAX_REASONS:]
    return [*shown, ("other reasons", sum(n for _, n in rest))] if rest else shown


def _parts(prepared: _Outcome, store: Store, findings: Findings) -> list[tuple[str, int]]:
    labelled = sum(case.has_labels for case in store.cases)
    kept = [findings.get(case, ()) for case in prepared.cases]
    parts = [
        ("subjects", len({case.subject for case in store.cases})),
        ("cases with labels", labelled),
        ("cases without labels", len(store.cases) - labelled),
        ("repaired while reading", sum(has_kind(found, "repair") for found in kept)),
        ("with a warning", sum(has_kind(found, "warning") for found in kept)),
        ("taken from an earlier preparation", len(prepared.reused)),
    ]
    return [(text, number) for text, number in parts if number]


def _all_findings(prepared: _Outcome, store: Store) -> dict[str, Sequence[Finding]]:
    """Those stored with the cases, too: a reused case was not read again."""
    stored = {case.case: tuple(getattr(case, "findings", ())) for case in store.cases}
    return {**stored, **prepared.findings}


def _subjects(
    store: Store, participants: Participants | Path | None
) -> tuple[list[Chapter], list[str]]:
    try:
        chapter = subjects_chapter(store, participants)
    except DataError as error:
        chapter, text = subjects_chapter(store, None), f"Demographics are left out: {error}"
        return ([chapter] if chapter else []), [text]
    return ([chapter] if chapter else []), []


def _highlights(prepared: _Outcome, store: Store, findings: Findings) -> list[Highlight]:
    subjects = len({case.subject for case in store.cases})
    repaired = sum(has_kind(found, "repair") for found in findings.values())
    doubtful = sum(has_kind(found, "warning") for found in findings.values())
    reused = f"{len(prepared.reused):,} cases reused" if prepared.reused else ""
    return [
        Highlight("Found", f"{prepared.found:,}", "cases"),
        Highlight("Prepared", f"{len(prepared.cases):,}", f"cases of {subjects:,} subjects"),
        Highlight("Refused", f"{len(prepared.refused):,}", "cases"),
        Highlight("Repaired", f"{repaired:,}", "cases changed while reading"),
        Highlight("Look at", f"{doubtful:,}", "cases with a warning"),
        Highlight("Time", _duration(prepared.seconds), reused),
    ]


def _warnings(prepared: _Outcome, doubtful: Sequence[str], unusual: Sequence[str]) -> list[str]:
    texts = []
    if prepared.refused:
        texts.append(
            f"{len(prepared.refused):,} of {prepared.found:,} cases were refused and are not in "
            "the store; see What was found."
        )
    if doubtful:
        texts.append(f"Accepted in doubt, please look at them: {_listed(doubtful)}.")
    if unusual:
        texts.append(f"Intensities unlike those of the other cases: {_listed(unusual)}.")
    return texts


def _listed(names: Sequence[str], most: int = 10) -> str:
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _settings(store: Store) -> dict[str, Cell]:
    facts: dict[str, Cell] = {"contrasts": ", ".join(store.contrasts)}
    for name, value in store.preparation.model_dump(mode="json").items():
        text = " × ".join(f"{v:g}" for v in value) if isinstance(value, list) else value
        facts[name.replace("_mm", " (mm)").replace("_", " ")] = (
            "as scanned" if text is None else text
        )
    return {**facts, "version": package_version("brainsegfounder")}


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
