"""What a verb is given to work on: scans in any layout, and DICOM that is converted on the way."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from brainsegfounder.data.layouts import DICOM, Found, find_cases
from brainsegfounder.errors import Problem
from brainsegfounder.settings import ReadingSettings
from brainsegfounder.volumes.dicom.importer import ImportedDicom, import_dicom


@contextmanager
def open_inputs(inputs: Sequence[Path], layout: str, reading: ReadingSettings) -> Iterator[Found]:
    """Find the cases of all inputs; what was converted from DICOM is gone when the context ends.

    Args:
        inputs: Folders, files, archives.
        layout: As for `find_cases`, or `dicom`.
        reading: What is allowed of the files.

    Raises:
        UsageError: The layout is unknown, or DICOM was given and its extra is not installed.
        DataError: An input does not exist, or nothing was found in it.
    """
    with tempfile.TemporaryDirectory(prefix="brainsegfounder-") as room:
        imports: list[ImportedDicom] = []

        def convert(sources: Sequence[Path]) -> Path:
            number = len(imports) + 1
            folder = Path(room) / (DICOM if number == 1 else f"{DICOM}-{number}")
            folder.mkdir(exist_ok=True)
            imports.append(import_dicom(sources, folder, reading=reading))
            return folder

        found = find_cases(inputs, layout, convert)
        yield _with_imports(found, imports)


def _with_imports(found: Found, imports: Sequence[ImportedDicom]) -> Found:
    findings = [finding for one in imports for finding in one.findings]
    problems = [problem for one in imports for problem in one.problems]
    return replace(
        found,
        findings=[*findings, *found.findings],
        problems={**found.problems, **_named(problems)},
        sources={path: source for one in imports for path, source in one.sources.items()},
    )


def _named(problems: Sequence[Problem]) -> dict[str, Problem]:
    """Problems of series by a name for each; several may concern one file."""
    named: dict[str, Problem] = {}
    for problem in problems:
        name = problem.file
        while name in named:
            name = f"{name} (again)"
        named[name] = problem
    return named
