"""From a folder to cases: one short reader for each way data are laid out.

A reader takes a `Tree` and yields a `Scan` for each file it knows; it looks at names and small
text files, never into images. To add a layout, write such a function and name it in `LAYOUTS`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from brainsegfounder.data.cases import Case, unique_cases
from brainsegfounder.data.layouts import bids, cohorts, lists, names
from brainsegfounder.data.layouts.gather import Found, Reader, Scan, distinct_names, gather
from brainsegfounder.data.layouts.recognise import recognise, recognise_file, recognise_tree
from brainsegfounder.data.layouts.tree import Tree
from brainsegfounder.errors import ContrastError, DataError, LabelError, Problem, UsageError
from brainsegfounder.volumes.findings import Finding

__all__ = ["LAYOUTS", "Found", "Scan", "Tree", "find_cases", "read_cases", "recognise"]

log = logging.getLogger(__name__)

LAYOUTS: dict[str, Reader] = {
    "suffix": names.read_suffix,
    "index": names.read_index,
    "bids": bids.read_bids,
    "brats": names.read_brats,
    "brats2023": names.read_brats2023,
    "ixi": names.read_ixi,
    "ukb": cohorts.read_ukb,
    "hcp": cohorts.read_hcp,
    "abide": cohorts.read_abide,
    "adni": cohorts.read_adni,
    "oasis1": cohorts.read_oasis1,
    "oasis3": bids.read_oasis3,
    "atlas": bids.read_atlas,
    "isles26": bids.read_isles26,
    "fomo": bids.read_fomo,
    "openmind": lists.read_openmind,
    "nnssl": lists.read_nnssl,
    "nnunet": lists.read_nnunet,
    "datalist": lists.read_datalist,
    "table": lists.read_table,
}
# Layouts in which only a file's name tells the case, so that one name in two folders is two.
NAMED_BY_FILE = {"suffix", "index", "brats", "brats2023", "ixi"}
PATTERN = "glob:"
BELOW = re.compile(r"(?!derivatives/|sourcedata/)[^/]+/dataset_description\.json")
LIST_SUFFIXES = (".json", ".csv", ".tsv")
ERRORS = {"contrast_twice": ContrastError, "label_twice": LabelError}


def read_cases(inputs: Sequence[Path], layout: str = "auto") -> list[Case]:
    """As `find_cases`, for those who need no report: refused cases are logged and left out.

    Raises:
        UsageError: The layout is unknown.
        DataError: An input does not exist, or no case is left.
    """
    found = find_cases(inputs, layout)
    for case, problem in found.problems.items():
        if not found.cases:
            raise ERRORS.get(problem.code, DataError)(problem)
        log.warning("%s is left out: %s", case, problem)
    return found.cases


def find_cases(inputs: Sequence[Path], layout: str = "auto") -> Found:
    """Find the cases of one or more inputs.

    A folder of folders with layouts of their own is read folder by folder.

    Args:
        inputs: Folders; single scans named `<case>_<contrast>.nii.gz`; lists (.json, .csv, .tsv).
        layout: A name in `LAYOUTS`, a pattern such as `glob:{subject}/{contrast}.nii.gz`, or
            `auto` to recognise each input by itself.

    Returns:
        Cases with unique names in the order of their names within each input, and beside them
        what was noticed, which cases were refused and why, and how each input was read.

    Raises:
        UsageError: The layout is unknown.
        DataError: An input does not exist, could be laid out in several ways, or holds no scan.
    """
    reader = _reader(layout)
    trees = list(_trees(inputs))
    parts: list[tuple[str, Found]] = []
    labels = distinct_names([_place(tree) for tree in trees]) if trees else []
    for tree, label in zip(trees, labels, strict=True):
        parts += _read(tree, label, reader, layout)
    return _joined(parts)


def _read(
    tree: Tree, label: str, reader: Reader | None, layout: str
) -> Iterator[tuple[str, Found]]:
    """What one input holds, or each of its folders where they are data sets of their own."""
    if reader is not None:
        yield label, _gathered(tree, layout, reader, label)
        return
    name = recognise_file(tree.folder / tree.given[0]) if tree.given else recognise_tree(tree)
    children = [] if tree.given else _data_sets(tree, name)
    if not children:
        yield label, _gathered(tree, name, LAYOUTS.get(name), label)
    for child, kind in children:
        if kind is None:
            yield label, Found(findings=[_nothing(child)])
        else:
            inner = child.folder.name
            yield inner, _gathered(child, kind, LAYOUTS.get(kind), inner)


def _gathered(tree: Tree, layout: str, reader: Reader | None, label: str) -> Found:
    if reader is None:
        return Found(problems={label: _not_converted(tree)}, layouts={label: layout})
    try:
        found = gather(reader(tree), tree, by_folder=layout in NAMED_BY_FILE)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(_malformed(tree, layout, error)) from error
    if not found.cases and not found.problems:
        raise DataError(_no_scan(tree, layout))
    found.layouts[label] = layout
    return found


def _joined(parts: Sequence[tuple[str, Found]]) -> Found:
    """All of them, with unique names."""
    joined = Found(cases=unique_cases([(label, found.cases) for label, found in parts]))
    taken = {case.case for case in joined.cases}
    for label, found in parts:
        joined.findings.extend(found.findings)
        joined.layouts.update(found.layouts)
        for case, problem in found.problems.items():
            name = case if case not in taken else f"{label}_{case}"
            taken.add(name)
            joined.problems[name] = problem
    return joined


def _trees(inputs: Sequence[Path]) -> Iterator[Tree]:
    """One for each folder and list, and one for all single scans; what stands twice counts once."""
    scans: list[Path] = []
    seen: set[Path] = set()
    for path in inputs:
        if not path.exists():
            raise DataError(_missing(path))
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        if path.is_dir():
            yield Tree(path)
        elif path.name.lower().endswith(LIST_SUFFIXES):
            yield Tree(path.parent, given=(path.name,))
        else:
            scans.append(path)
    if scans:
        if len({path.is_absolute() for path in scans}) > 1:
            scans = [path.absolute() for path in scans]
        folder = Path(os.path.commonpath([path.parent for path in scans]))
        yield Tree(folder, given=tuple(path.relative_to(folder).as_posix() for path in scans))


def _place(tree: Tree) -> Path:
    """What an input is called by: its folder, or the list in it."""
    folder = tree.folder.resolve()
    is_list = tree.given and tree.given[0].lower().endswith(LIST_SUFFIXES)
    return folder / Path(tree.given[0]).stem if is_list else folder


def _data_sets(tree: Tree, whole: str) -> list[tuple[Tree, str | None]]:
    """The folders of a folder of data sets, each with its layout; none where it is one data set.

    It is one where its layout is known from its names, except two described BIDS sets side by
    side, whose subjects' names would collide.
    """
    described = [name for name in tree.names if BELOW.fullmatch(name)]
    if whole == "bids" and "dataset_description.json" not in tree.known and len(described) > 1:
        return [(child, _attempt(child)) for child in _children(tree)]
    if whole != "suffix" or any("/" not in name for name in tree.scan_names):
        return []
    children = [(child, _attempt(child)) for child in _children(tree)]
    return children if {kind for _, kind in children} - {None, "suffix"} else []


def _children(tree: Tree) -> list[Tree]:
    """The folders right below, as trees that need not be walked again."""
    below: dict[str, list[str]] = {}
    for name in tree.names:
        head, slash, rest = name.partition("/")
        if slash:
            below.setdefault(head, []).append(rest)
    return [Tree(tree.folder / head, walked=tuple(rest)) for head, rest in below.items()]


def _attempt(tree: Tree) -> str | None:
    """The layout of one of several folders, or None where it holds nothing or is in doubt."""
    try:
        name = recognise_tree(tree)
    except DataError:
        return None
    return name if name != "suffix" or tree.scan_names else None


def _reader(layout: str) -> Reader | None:
    if layout == "auto":
        return None
    if layout.startswith(PATTERN):
        return names.pattern_reader(layout.removeprefix(PATTERN))
    if layout in LAYOUTS:
        return LAYOUTS[layout]
    raise UsageError(
        f"--layout {layout}: unknown; expected auto, {', '.join(LAYOUTS)}, or a pattern such as "
        "glob:{subject}/{session}/{contrast}.nii.gz."
    )


def _nothing(tree: Tree) -> Finding:
    message = "nothing recognised here; left aside. Give it as an input of its own with --layout"
    return Finding("nothing_recognised", tree.folder.name, message, "warning")


def _missing(path: Path) -> Problem:
    return Problem("no_such_input", str(path), "no such file or folder", "scans", "Check its name.")


def _not_converted(tree: Tree) -> Problem:
    return Problem(
        code="dicom_not_converted",
        file=str(tree.folder),
        found="DICOM files",
        expected="NIfTI",
        advice="Give the DICOM folder to `prepare` as an input of its own.",
    )


def _malformed(tree: Tree, layout: str, error: Exception) -> Problem:
    return Problem(
        code="list_of_another_kind",
        file=str(tree.folder),
        found=f"a list that is not as {layout} writes it ({type(error).__name__}: {error})",
        expected="a list in the form of its data set",
        advice="See how-to/layouts, or choose another --layout.",
    )


def _no_scan(tree: Tree, layout: str) -> Problem:
    ending = tuple(name.lower() for name in tree.names)
    analyze = any(name.endswith((".img", ".hdr")) for name in ending)
    packed = any(name.endswith((".zip", ".tar", ".tgz", ".tar.gz", ".tar.xz")) for name in ending)
    return Problem(
        code="no_scan",
        file=str(tree.folder),
        found=f"no scan recognised; read as {layout}"
        + (", and Analyze files, which do not say left from right" if analyze else "")
        + (", and archives, which are not opened" if packed else ""),
        expected="files such as CASE_T1w.nii.gz or CASE_flair.nii.gz, or one of the layouts "
        + ", ".join(LAYOUTS),
        advice="Rename the files, point at their folder, or describe them: "
        "--layout glob:{subject}/{contrast}.nii.gz.",
    )
