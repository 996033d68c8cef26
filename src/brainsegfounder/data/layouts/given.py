"""One case whose files are named one by one, and in words what was taken of any input, and why."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from itertools import takewhile
from pathlib import Path

from brainsegfounder.data.cases import Case
from brainsegfounder.data.layouts.gather import Found
from brainsegfounder.data.layouts.names import split_ending, subject_of
from brainsegfounder.errors import ContrastError, DataError, Problem
from brainsegfounder.volumes.contrasts import contrast_name, find_contrast
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.nifti import is_image, stem

# How a contrast is given on the command line.
OPTIONS = {"T1w": "--t1w", "T1ce": "--t1ce", "T2w": "--t2w", "FLAIR": "--flair"}
# Findings that are about the choice of files, whatever file they name.
OF_CHOICE = {
    "contrast_from_sidecar", "contrast_in_doubt", "contrast_unknown", "dicom_no_contrast",
    "dicom_several_series", "files_left_aside", "mask_without_scan", "name_in_two_folders",
    "nothing_recognised",
}  # fmt: skip
# Problems that a choice of the user solves.
ASKED = {"contrast_twice", "dicom_several_echoes"}
MOST_NAMED = 5


def given_case(files: Mapping[str, str | os.PathLike[str]], name: str = "") -> Case:
    """The case of files that are given by their contrasts.

    Args:
        files: A file for each contrast, by any spelling of it.
        name: What to call the case; without it what the files' names have in common.

    Raises:
        ContrastError: A contrast is unknown or given twice, or one file is given for two.
        DataError: A file does not exist, is no regular file or no image, none is given, or there
            is no name.
    """
    contrasts: dict[str, Path] = {}
    for spelling, given in files.items():
        contrast, path = contrast_name(spelling), Path(given)
        if contrast in contrasts:
            raise ContrastError(_contrast_twice(contrast, contrasts[contrast], path))
        _check_file(path, contrast)
        contrasts[contrast] = path
    if not contrasts:
        raise DataError(_none_given())
    _check_different(contrasts)
    found = name or _common_name(contrasts)
    _check_name(found, contrasts)
    subject, session = subject_of(found)
    return Case(found, subject, contrasts, session=session)


def explain_choice(found: Found) -> list[str]:
    """What was taken for which contrast of each case, why, and what else was there.

    Args:
        found: What the layouts found.

    Returns:
        Lines for people: how each input was read; a line a case and contrast; what lay beside;
        and for what is in doubt a question with the option that answers it.
    """
    lines = [f"{name}: read as {layout}" for name, layout in found.layouts.items()]
    taken = {path for case in found.cases for path in _files(case)}
    for case in found.cases:
        for contrast, path in case.contrasts.items():
            why = _why(case, contrast, path, found)
            lines.append(f"{case.case}: {contrast} is {path.name} ({why})")
        if beside := _beside(case, taken):
            lines.append(f"{case.case}: also there, not taken: {_some(beside)}")
    lines += [f"{one.file}: {one.message}" for one in found.findings if one.code in OF_CHOICE]
    lines += [_question(case, problem) for case, problem in found.problems.items()]
    return lines


def in_doubt(found: Found) -> dict[str, Problem]:
    """The cases that were refused because the user must choose; see `explain_choice`."""
    return {case: one for case, one in found.problems.items() if one.code in ASKED}


def _why(case: Case, contrast: str, path: Path, found: Found) -> str:
    """By what its contrast was told."""
    if path in found.sources:
        return "from DICOM, by its description and times"
    number = case.volumes.get(contrast)
    volume = "" if number is None else f", volume {number}"
    if case.is_bids:
        told = "its BIDS suffix" + (" and the entity ce-" if contrast == "T1ce" else "")
        return f"by {told}{volume}"
    _, ending = split_ending(stem(path))
    if find_contrast(ending) == contrast:
        return f"by the ending {ending} of its name{volume}"
    if _notes(found, "contrast_from_sidecar", path):
        return f"by its sidecar{volume}"
    return f"by its place in the layout{volume}"


def _notes(found: Found, code: str, path: Path) -> list[Finding]:
    return [
        one
        for one in found.findings
        if one.code == code and path.as_posix().endswith(one.file.removeprefix("./"))
    ]


def _files(case: Case) -> Iterator[Path]:
    yield from case.contrasts.values()
    yield from case.masks.values()
    if case.label is not None:
        yield case.label


def _beside(case: Case, taken: Collection[Path]) -> list[str]:
    """Other images in the folders of a case's files that belong to no case."""
    folders = dict.fromkeys(path.parent for path in case.contrasts.values())
    return [path.name for folder in folders for path in _images(folder) if path not in taken]


def _images(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(path for path in folder.iterdir() if is_image(path))
    except OSError:  # the folder went away; there is nothing to tell of it
        return


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _question(case: str, problem: Problem) -> str:
    """A refused case, and the option that would decide."""
    if problem.code not in ASKED:
        return f"{case}: refused: {problem}"
    if problem.code == "dicom_several_echoes":
        option = "--set reading.volume=N"
    else:
        known = [flag for contrast, flag in OPTIONS.items() if f" {contrast} " in problem.found]
        option = f"{known[0] if known else '--t1w'} FILE"
    return (
        f"{case}: which one? {problem.file}: {problem.found}. Decide: {option} for this case "
        'alone, or --layout "glob:PATTERN" that only one of them fits.'
    )


def _check_file(path: Path, contrast: str) -> None:
    """Refuse what cannot be an image, before anything is opened: a pipe would wait for ever."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DataError(
            Problem(
                "no_such_input", str(path), f"cannot be found: {error.strerror or error}",
                f"the {contrast} scan", "Check its name.",
            )
        ) from error  # fmt: skip
    if not stat.S_ISREG(mode):
        advice = "Give a folder, or DICOM, as INPUT, without naming its contrast."
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
        raise DataError(Problem("not_a_file", str(path), kind, f"the {contrast} scan", advice))
    if not is_image(path):
        advice = "Give DICOM as INPUT; convert other formats to NIfTI first."
        problem = Problem(
            "not_an_image", str(path), "no name of an image", ".nii, .nii.gz or .mgz", advice
        )
        raise DataError(problem)


def _check_different(contrasts: Mapping[str, Path]) -> None:
    """Refuse one file for two contrasts, also by two names."""
    seen: dict[tuple[int, int], str] = {}
    for contrast, path in contrasts.items():
        status = path.stat()
        first = seen.setdefault((status.st_dev, status.st_ino), contrast)
        if first != contrast:
            raise ContrastError(
                Problem(
                    "one_file_twice", str(path), f"given for {first} and for {contrast}",
                    "a file for each contrast", f"Give the {contrast} scan, or leave it out.",
                )
            )  # fmt: skip


def _common_name(contrasts: Mapping[str, Path]) -> str:
    """What the names have in common once their contrasts are taken off, else their folder."""
    names = [_without_ending(path) for path in contrasts.values()]
    if len(set(names)) == 1 and names[0]:
        return names[0]
    # Whole words only: patient1 and patient2 have no name in common.
    words = zip(*(re.split(r"([-_. ])", one) for one in names), strict=False)
    common = "".join(one[0] for one in takewhile(lambda one: len(set(one)) == 1, words))
    if common := common.rstrip("-_. "):
        return common
    folders = {path.absolute().parent.name for path in contrasts.values()}
    return folders.pop() if len(folders) == 1 else ""


def _without_ending(path: Path) -> str:
    """A name without what tells its contrast; of a lone file that tells none, the whole."""
    return split_ending(stem(path))[0]


def _check_name(name: str, contrasts: Mapping[str, Path]) -> None:
    if name and not name.startswith(".") and not {"/", "\\", "\0"} & set(name):
        return
    files = ", ".join(path.name for path in contrasts.values())
    found = f"the name {name!r}" if name else "files whose names have nothing in common"
    raise DataError(
        Problem("case_name_unfit", files, found, "a name for the case", "Give one with --name.")
    )


def _contrast_twice(contrast: str, first: Path, second: Path) -> Problem:
    found = f"a second {contrast} beside {first}"
    return Problem("contrast_twice", str(second), found, "one", "Give one of them.")


def _none_given() -> Problem:
    advice = f"Give {', '.join(f'{flag} FILE' for flag in OPTIONS.values())}, as far as there are."
    return Problem("no_such_input", "command line", "no scan given", "at least one", advice)
