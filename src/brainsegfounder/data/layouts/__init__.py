"""From a folder to cases: one short reader for each way data are laid out.

A reader takes a `Tree` and yields a `Scan` for each file it knows; it looks at names and small
text files, never into images. To add a layout, write such a function and name it in `LAYOUTS`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from brainsegfounder.data.cases import Case, unique_cases
from brainsegfounder.data.layouts import bids, cohorts, lists, names
from brainsegfounder.data.layouts.gather import Found, Reader, Scan, distinct_names, gather
from brainsegfounder.data.layouts.recognise import (
    DICOM,
    holds_archives_only,
    recognise,
    recognise_file,
    recognise_tree,
)
from brainsegfounder.data.layouts.set_aside import dicom_set_aside
from brainsegfounder.data.layouts.tree import DESCRIPTION, Tree
from brainsegfounder.errors import ContrastError, DataError, LabelError, Problem, UsageError
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.nifti import is_image

__all__ = ["DICOM", "LAYOUTS", "Found", "Scan", "Tree", "find_cases", "read_cases", "recognise"]

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
# Layouts that a list at the top of the folder makes, and folders of BIDS that hold originals.
BY_MARKER = {"index", "openmind", "nnssl", "nnunet", "datalist"}
OF_BIDS = {"sourcedata", "derivatives", "rawdata", "code"}
BELOW = re.compile(r"(?!derivatives/|sourcedata/)[^/]+/dataset_description\.json")
LIST_SUFFIXES = (".json", ".csv", ".tsv")
ERRORS = {"contrast_twice": ContrastError, "label_twice": LabelError}
# A folder that may hold DICOM, but packed; and what an import says of archives that hold none.
ARCHIVES, NO_DICOM = "archives", "dicom_no_mr"
PACKED = (DICOM, ARCHIVES)

# Makes scans of DICOM folders, files and archives, all of one input; gives the folder they are in.
Convert = Callable[[Sequence[Path]], Path]


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


def find_cases(
    inputs: Sequence[Path], layout: str = "auto", convert: Convert | None = None
) -> Found:
    """Find the cases of one or more inputs.

    A folder of folders with layouts of their own is read folder by folder. DICOM among them is an
    input of its own, as are folders that hold nothing but archives.

    Args:
        inputs: Folders; single scans named `<case>_<contrast>.nii.gz`; lists (.json, .csv, .tsv).
        layout: A name in `LAYOUTS`, a pattern such as `glob:{subject}/{contrast}.nii.gz`, or
            `auto` to recognise each input by itself; with `convert` also `dicom`.
        convert: Called for DICOM; without it DICOM is among the problems.

    Returns:
        Cases with unique names in the order of their names within each input, and beside them
        what was noticed, which cases were refused and why, and how each input was read.

    Raises:
        UsageError: The layout is unknown.
        DataError: An input does not exist, could be laid out in several ways, or holds no scan.
    """
    reader = None if convert and layout == DICOM else _reader(layout)
    trees = list(_trees(inputs))
    parts: list[tuple[str, Found]] = []
    labels = distinct_names([_place(tree) for tree in trees]) if trees else []
    for tree, label in zip(trees, labels, strict=True):
        parts += _read(tree, label, reader, layout, convert)
    return _joined(parts)


def _read(
    tree: Tree, label: str, reader: Reader | None, layout: str, convert: Convert | None
) -> Iterator[tuple[str, Found]]:
    """What one input holds, or each of its folders where they are data sets of their own."""
    if reader is not None:
        yield label, _gathered(tree, layout, reader, label)
        return
    kind = layout if layout == DICOM else _kind(tree)
    if convert and kind in PACKED and (done := _converted([tree], kind, convert)):
        yield done
        return
    name = "suffix" if kind == ARCHIVES else kind
    packed = [] if tree.given else _packed(tree, name)
    rest = _without(tree, [child for child, _ in packed]) if packed else tree
    if children := ([] if tree.given else _data_sets(rest, name)):
        yield from _read_sets(label, children)
    else:
        yield label, _gathered(rest, name, LAYOUTS.get(name), label)
    if packed:
        yield from _read_packed(packed, convert)


def _kind(tree: Tree) -> str:
    """The layout of an input, or `archives`, which only a look into them would tell."""
    if tree.given:
        return recognise_file(tree.folder / tree.given[0])
    name = recognise_tree(tree)
    is_packed = name == "suffix" and not tree.scan_names and holds_archives_only(tree)
    return ARCHIVES if is_packed else name


def _read_sets(
    label: str, children: Sequence[tuple[Tree, str | None]]
) -> Iterator[tuple[str, Found]]:
    """Each data set of a folder."""
    for child, kind in children:
        if kind is None or kind == ARCHIVES:
            yield label, Found(findings=[_nothing(child)])
        else:
            inner = child.folder.name
            yield inner, _gathered(child, kind, LAYOUTS.get(kind), inner)


def _read_packed(
    packed: Sequence[tuple[Tree, str]], convert: Convert | None
) -> Iterator[tuple[str, Found]]:
    """DICOM folders and archives beside other data sets, which their troubles do not concern."""
    kind = DICOM if any(kind == DICOM for _, kind in packed) else ARCHIVES
    try:
        done = _converted([child for child, _ in packed], kind, convert) if convert else None
    except (DataError, UsageError) as error:
        problem = getattr(error, "problem", None) or _not_converted(packed[0][0], str(error))
        yield DICOM, Found(problems={DICOM: problem})
        return
    if done is not None:
        done[1].findings.append(_beside())
        yield done
        return
    for child, kind_of_child in packed:
        inner = child.folder.name
        if kind_of_child == DICOM:
            yield inner, _gathered(child, DICOM, None, inner)
        else:
            yield inner, Found(findings=[_nothing(child)])


def _converted(trees: Sequence[Tree], kind: str, convert: Convert) -> tuple[str, Found] | None:
    """What was DICOM, named by the folder it was converted to; None where archives hold none."""
    try:
        folder = convert([tree.folder / name for tree in trees for name in tree.given or [""]])
    except DataError as error:
        if kind == ARCHIVES and error.problem and error.problem.code == NO_DICOM:
            return None
        raise
    found = _gathered(Tree(folder), "suffix", LAYOUTS["suffix"], folder.name)
    found.layouts[folder.name] = DICOM
    return folder.name, found


def _without(tree: Tree, children: Sequence[Tree]) -> Tree:
    """A folder as if some of those in it were not there."""
    gone = {child.folder.name for child in children}
    return Tree(tree.folder, walked=tuple(n for n in tree.names if n.split("/")[0] not in gone))


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
    found.findings.extend([] if tree.given else dicom_set_aside(tree))
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
        elif path.name.lower().endswith(LIST_SUFFIXES) or _is_dicom(path):
            yield Tree(path.parent, given=(path.name,))
        else:
            scans.append(path)
    if scans:
        if len({path.is_absolute() for path in scans}) > 1:
            scans = [path.absolute() for path in scans]
        folder = Path(os.path.commonpath([path.parent for path in scans]))
        yield Tree(folder, given=tuple(path.relative_to(folder).as_posix() for path in scans))


def _is_dicom(path: Path) -> bool:
    return not is_image(path) and recognise_file(path) == DICOM


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
    return children if {kind for _, kind in children} - {None, "suffix", ARCHIVES} else []


def _packed(tree: Tree, whole: str) -> list[tuple[Tree, str]]:
    """The DICOM folders, and those of archives, that lie beside scans but belong to no data set.

    They may belong to one that is described at the top of the folder, or that begins there with
    the folders of its subjects.
    """
    tops = {name.split("/")[0] for name in tree.scan_names}
    begins_here = DESCRIPTION in tree.known or (len(tops) > 1 and whole not in NAMED_BY_FILE)
    if not tops or whole in BY_MARKER or begins_here:
        return []
    others = [c for c in _children(tree) if c.folder.name not in tops | OF_BIDS]
    return [(child, kind) for child in others if (kind := _attempt(child)) in PACKED and kind]


def _children(tree: Tree) -> list[Tree]:
    """The folders right below, as trees that need not be walked again."""
    below: dict[str, list[str]] = {}
    for name in tree.names:
        head, slash, rest = name.partition("/")
        if slash:
            below.setdefault(head, []).append(rest)
    return [Tree(tree.folder / head, walked=tuple(rest)) for head, rest in below.items()]


def _attempt(tree: Tree) -> str | None:
    """The kind of one of several folders, or None where it holds nothing or is in doubt."""
    try:
        name = _kind(tree)
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


def _beside() -> Finding:
    message = (
        "DICOM beside other data sets was converted and is prepared with them; if these are the "
        "same scans, give only one of the two, or a split could part them"
    )
    return Finding("dicom_beside_others", DICOM, message, "warning")


def _not_converted(tree: Tree, reason: str = "") -> Problem:
    return Problem(
        code="dicom_not_converted",
        file=str(tree.folder),
        found=f"DICOM files ({reason})" if reason else "DICOM files",
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
