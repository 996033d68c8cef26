"""What a verb is given to work on: scans in any layout, and DICOM that is converted on the way."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from brainsegfounder.data.layouts import Found, find_cases, recognise
from brainsegfounder.errors import Problem
from brainsegfounder.settings import ReadingSettings
from brainsegfounder.volumes.dicom.importer import ImportedDicom, import_dicom

DICOM = "dicom"


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
    dicom = [path for path in inputs if layout == DICOM or _is_dicom(path, layout)]
    plain = [path for path in inputs if path not in dicom]
    with tempfile.TemporaryDirectory(prefix="brainsegfounder-") as room:
        imports, converted = [], []
        for number, source in enumerate(dicom):
            folder = Path(room) / str(number) / DICOM
            folder.mkdir(parents=True)
            imports.append(import_dicom(source, folder, reading=reading))
            converted.append(folder)
        found = find_cases([*plain, *converted], "auto" if converted else layout)
        yield _with_imports(found, imports)


def _is_dicom(path: Path, layout: str) -> bool:
    return layout == "auto" and path.exists() and recognise(path) == DICOM


def _with_imports(found: Found, imports: Sequence[ImportedDicom]) -> Found:
    findings = [finding for one in imports for finding in one.findings]
    problems = [problem for one in imports for problem in one.problems]
    return replace(
        found,
        findings=[*findings, *found.findings],
        problems={**found.problems, **_named(problems)},
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
