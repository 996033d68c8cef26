"""What `prepare` found wrong or odd, in groups: a code, the remedy once, and every case by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from brainsegfounder.errors import Problem
from brainsegfounder.evaluation.report import Chapter, Group
from brainsegfounder.volumes.findings import Finding

# Under this name stands what was noticed beside the cases.
INPUT = "the input"
KINDS = {"warning": "look at", "repair": "repaired", "note": "noted"}

Findings = Mapping[str, Sequence[Finding]]


def findings_chapter(
    refused: Mapping[str, Problem], findings: Findings, excluded: Sequence[str]
) -> Chapter:
    """What was refused, doubtful, repaired and noted, grouped by code, every case named."""
    groups = [*_refused_groups(refused), *_finding_groups(findings)]
    if excluded:
        names = [(excluded, "")]
        groups.append(Group("excluded", "named in the recipe", len(excluded), "", names))
    text = (
        "Refused cases are not in the store. “Look at” names scans that were accepted in doubt; "
        "“repaired” ones were changed while reading; “noted” is good to know."
    )
    if not groups:
        text = "Nothing was refused, repaired or doubtful."
    return Chapter("findings", "What was found", paragraphs=[text], groups=groups)


def _refused_groups(refused: Mapping[str, Problem]) -> list[Group]:
    by_code: dict[str, dict[str, Problem]] = {}
    for case, problem in refused.items():
        by_code.setdefault(problem.code, {})[case] = problem
    ranked = sorted(by_code.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return [_refused_group(code, problems) for code, problems in ranked]


def _refused_group(code: str, problems: Mapping[str, Problem]) -> Group:
    remedies = {case: _remedy(problem) for case, problem in problems.items()}
    usual = Counter(remedies.values()).most_common(1)[0][0]
    items = []
    for case, problem in problems.items():
        place = f"{_name(problem.file)}: {problem.field}" if problem.field else _name(problem.file)
        text = f"{place}: {without_folders(problem.found, problem.file)}."
        items.append(([case], text if remedies[case] == usual else f"{text} {remedies[case]}"))
    return Group("refused", code.replace("_", " "), len(problems), usual, items)


def _remedy(problem: Problem) -> str:
    return without_folders(f"Expected {problem.expected}. {problem.advice}", problem.file)


def _finding_groups(findings: Findings) -> list[Group]:
    """One group for each kind and code; equal messages stand once, with all their cases."""
    groups = []
    for kind, word in KINDS.items():
        by_code: dict[str, dict[str, dict[str, list[str]]]] = {}
        for case, found in findings.items():
            for one in (one for one in found if one.kind == kind):
                message = without_folders(one.message, one.file)
                files = by_code.setdefault(one.code, {}).setdefault(message, {})
                files.setdefault(case, []).append(_short(one.file, case))
        for code, messages in by_code.items():
            names = {case for files in messages.values() for case in files}
            items = [(_with_files(files), message) for message, files in messages.items()]
            beside = INPUT if INPUT in names else ""
            num_cases = len(names - {INPUT})
            groups.append(Group(word, code.replace("_", " "), num_cases, "", items, beside))
    return groups


def _with_files(files: Mapping[str, Sequence[str]]) -> list[str]:
    """Each case, with the files it is about where these are not the case itself."""
    named = {case: [name for name in dict.fromkeys(names) if name] for case, names in files.items()}
    return [f"{case} ({', '.join(n)})" if n else case for case, n in named.items()]


def without_folders(text: str, file: str = "") -> str:
    """A message in which files are named without the folders they are in."""
    if "/" in file:
        text = text.replace(file, _name(file))
    text = re.sub(r"(?<=['\"])/[^'\"]*/(?=[^'\"/]*['\"])", "", text)  # quoted: spaces, too
    return re.sub(r"(?<![\w.:/])/(?:[^\s/,;:'\"()]+/)+", "", text)


def _name(file: str) -> str:
    return Path(file).name


def _short(file: str, case: str) -> str:
    """A file's name without the case's in front of it; empty for the case itself."""
    return _name(file).removeprefix(case).lstrip("_-.")


def has_kind(findings: Sequence[Finding], kind: str) -> bool:
    """Whether one of them is of this kind."""
    return any(one.kind == kind for one in findings)
