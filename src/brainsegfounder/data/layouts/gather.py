"""From single files to cases: what belongs together, what stands twice, what is left aside.

A layout yields a `Scan` for each file it knows, a `Refused` for a case that cannot be, and a
`Finding` for what is worth telling; `gather` makes cases of them. Trouble with one case is never
trouble for another.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from brainsegfounder.data.cases import Case
from brainsegfounder.data.layouts.tree import Tree
from brainsegfounder.errors import Problem
from brainsegfounder.volumes.contrasts import CONTRASTS, find_contrast
from brainsegfounder.volumes.dicom.source import SourceSeries
from brainsegfounder.volumes.findings import Finding

# Room is left for what is put before and behind a case's name in the names of results.
MAX_NAME_BYTES = 200
Role = Literal["image", "label", "brain", "deface", "anatomy"]


@dataclass(frozen=True, slots=True)
class Scan:
    """One file of one case, as a layout understands its name.

    Attributes:
        case: Whose file it is; files of one case have equal names here.
        subject: Whose brain it is.
        path: The file.
        contrast: For an image: any spelling of its contrast.
        role: What it is: an image, the label mask, or a mask of another kind.
        session: Which visit, or empty.
        site: Where it was scanned, or empty.
        repeat: What makes a further case of its own out of a contrast that the case has already,
            such as the number of a run. Without it the case is refused.
        volume: Which volume of a file with several, from 0.
        fold: In which fold of the data set's own splits the case is tested.
        is_bids: Whether results should carry BIDS names.
        chronicity: How old a stroke was, or empty.
        days: Between stroke and scan, or None.
    """

    case: str
    subject: str
    path: Path
    contrast: str = ""
    role: Role = "image"
    session: str = ""
    site: str = ""
    repeat: str = ""
    volume: int | None = None
    fold: int | None = None
    is_bids: bool = False
    chronicity: str = ""
    days: float | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A case that cannot be, and why."""

    case: str
    problem: Problem


Item = Scan | Refused | Finding
Reader = Callable[[Tree], Iterable[Item]]


@dataclass(frozen=True, slots=True)
class Found:
    """What layouts found.

    Attributes:
        cases: With unique names.
        findings: What was noticed and stopped nothing.
        problems: Why a case was refused, by its name.
        layouts: How each input was read, by its name.
        sources: The DICOM series of each scan that was converted from one.
    """

    cases: list[Case] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    problems: dict[str, Problem] = field(default_factory=dict)
    layouts: dict[str, str] = field(default_factory=dict)
    sources: dict[Path, SourceSeries] = field(default_factory=dict, repr=False)


def gather(items: Iterable[Item], tree: Tree, by_folder: bool = False) -> Found:
    """Make cases of what a layout yields.

    Args:
        items: Scans, refusals and findings.
        tree: Where they come from.
        by_folder: Whether a case whose scans stand twice, but in different folders, is several.

    Returns:
        Cases in the order in which they came. A case that has a contrast or its label twice is
        among the problems; a case without any image is dropped with a finding.
    """
    found = Found()
    scans: dict[str, list[Scan]] = defaultdict(list)
    unknown: dict[str, list[Path]] = defaultdict(list)
    for item in items:
        if isinstance(item, Finding):
            found.findings.append(item)
        elif isinstance(item, Refused):
            found.problems.setdefault(item.case, item.problem)
        elif item.role == "image" and not find_contrast(item.contrast):
            unknown[item.contrast].append(item.path)
        else:
            scans[item.case].append(item)
    used = {scan.path for group in scans.values() for scan in group}
    _join(_apart(scans, found, by_folder), found, tree.licence() if scans else "")
    found.findings.extend(_unknown_contrasts(unknown, tree))
    found.findings.extend(
        _left_aside(used | {p for group in unknown.values() for p in group}, tree)
    )
    found.findings.extend(tree.findings)
    return found


def _apart(
    scans: dict[str, list[Scan]], found: Found, by_folder: bool
) -> Iterator[tuple[str, list[Scan]]]:
    """Split what has one name but lies in several folders, and further runs of one contrast."""
    for name, group in scans.items():
        keys = Counter((s.role, find_contrast(s.contrast)) for s in group)
        if max(keys.values()) == 1:
            yield name, group
        elif any(scan.repeat for scan in group):
            yield from _by_repeat(name, group)
        elif by_folder and _stands_in_folders(group):
            yield from _by_folder(name, group, found)
        else:
            yield name, group


def _by_repeat(name: str, group: list[Scan]) -> Iterator[tuple[str, list[Scan]]]:
    """The first of each contrast stays; each further one is a case of its own."""
    first: dict[tuple[str, str | None], Scan] = {}
    further: dict[str, list[Scan]] = defaultdict(list)
    for scan in group:
        key = (scan.role, find_contrast(scan.contrast))
        if first.setdefault(key, scan) is not scan:
            further[f"{name}_{scan.repeat}" if scan.repeat else name].append(scan)
    yield name, [*first.values(), *further.pop(name, [])]
    yield from further.items()


def _stands_in_folders(group: list[Scan]) -> bool:
    """Whether no folder holds anything twice, so that each folder can be a case."""
    keys = Counter((s.path.parent, s.role, find_contrast(s.contrast)) for s in group)
    return max(keys.values()) == 1


def _by_folder(name: str, group: list[Scan], found: Found) -> Iterator[tuple[str, list[Scan]]]:
    """One case a folder, named after the parts of the folders that differ."""
    folders = {
        scan.path.parent: distinct
        for scan, distinct in zip(
            group, distinct_names([scan.path.parent for scan in group]), strict=True
        )
    }
    message = f"{len(folders)} folders hold a case of this name; kept apart, as one subject"
    found.findings.append(Finding("name_in_two_folders", name, message, "warning"))
    for folder, distinct in folders.items():
        yield f"{distinct}_{name}", [scan for scan in group if scan.path.parent == folder]


def distinct_names(folders: list[Path]) -> list[str]:
    """The last parts of each folder's path, as many as it takes to tell them all apart."""
    unlike = len(set(folders))
    depth = 1
    while len({folder.parts[-depth:] for folder in folders}) < unlike:
        depth += 1
    return ["_".join(part.strip("/") for part in folder.parts[-depth:]) for folder in folders]


def _join(groups: Iterable[tuple[str, list[Scan]]], found: Found, licence: str) -> None:
    taken: set[str] = set()
    for name, group in groups:
        if name in found.problems:
            continue
        if name in taken:
            found.problems[f"{name}_again"] = _name_taken(name, group[0].path)
            continue
        problem = _unfit(name, group[0].path) or _doubled(name, group) or _two_folds(group)
        if problem is not None:
            found.problems[name] = problem
        elif all(scan.role != "image" for scan in group):
            message = "a mask without a scan of its name; left aside"
            found.findings.append(Finding("mask_without_scan", name, message, "note"))
        else:
            found.cases.append(_case(name, group, licence))
            taken.add(name)


def _name_taken(name: str, path: Path) -> Problem:
    return Problem(
        code="case_name_taken",
        file=str(path),
        found=f"a further scan that would be called {name}, as another case is",
        expected="a name for each case",
        advice="Rename one of them.",
    )


def _unfit(name: str, path: Path) -> Problem | None:
    """Why results could not be called so: a list may hold any text as the name of a case."""
    fits = name and not name.startswith(".") and not {"/", "\\", "\0"} & set(name)
    if fits and len(name.encode("utf-8", "replace")) <= MAX_NAME_BYTES:
        return None
    return Problem(
        code="case_name_unfit",
        file=str(path),
        found=f"a case called {name[:100]!r}",
        expected=f"a name that a file can have, of at most {MAX_NAME_BYTES} bytes",
        advice="Rename the case.",
    )


def _case(name: str, group: list[Scan], licence: str) -> Case:
    images = [scan for scan in group if scan.role == "image"]
    first = images[0]
    case = Case(
        case=name,
        subject=first.subject,
        contrasts={find_contrast(scan.contrast) or "": scan.path for scan in images},
        session=first.session,
        is_bids=first.is_bids,
        site=first.site,
        licence=licence,
        masks={s.role: s.path for s in group if s.role not in ("image", "label")},
        volumes={find_contrast(s.contrast) or "": s.volume for s in images if s.volume is not None},
        fold=next(iter(_folds(group)), None),
        chronicity=first.chronicity,
        days=first.days,
    )
    label = next((scan.path for scan in group if scan.role == "label"), None)
    return replace(case, label=label)


def _doubled(name: str, group: list[Scan]) -> Problem | None:
    """What stands twice, if anything."""
    seen: dict[tuple[str, str], Path] = {}
    for scan in group:
        what = find_contrast(scan.contrast) or "" if scan.role == "image" else f"{scan.role} mask"
        if scan.role == "label":
            what = "mask"
        if (scan.role, what) in seen:
            return Problem(
                code="label_twice" if scan.role == "label" else "contrast_twice",
                file=str(scan.path),
                found=f"a second {what} of {name} beside {seen[scan.role, what]}",
                expected="one",
                advice="Remove or rename one of them.",
            )
        seen[scan.role, what] = scan.path
    return None


def _folds(group: list[Scan]) -> list[int]:
    return sorted({scan.fold for scan in group if scan.fold is not None})


def _two_folds(group: list[Scan]) -> Problem | None:
    folds = _folds(group)
    if len(folds) < 2:
        return None
    return Problem(
        code="case_in_two_folds",
        file=str(group[0].path),
        found=f"its scans are in folds {', '.join(map(str, folds))}",
        expected="one fold for a case",
        advice="Correct the list of folds.",
    )


def _unknown_contrasts(unknown: dict[str, list[Path]], tree: Tree) -> Iterator[Finding]:
    for spelling, paths in unknown.items():
        yield Finding(
            "contrast_unknown",
            tree.told(paths[0]),
            f"{spelling or 'no contrast'} in the name of {len(paths)} files; left aside. Known are "
            f"{', '.join(CONTRASTS)} and spellings of them",
            "warning",
        )


def _left_aside(used: set[Path], tree: Tree) -> Iterator[Finding]:
    aside = [path for path in tree.scans if path not in used]
    if aside:
        yield Finding(
            "files_left_aside",
            tree.told(aside[0]),
            f"{len(aside)} of {len(tree.scans)} NIfTI files are no scan or mask by their names; "
            "left aside, this one first",
            "note",
        )
