"""Layouts in which a file's own name says everything: plain names, BraTS, IXI, a pattern."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from brainsegfounder.data.layouts.gather import Item, Reader, Role, Scan
from brainsegfounder.data.layouts.tree import Tree, read_rows
from brainsegfounder.errors import DataError, Problem, UsageError
from brainsegfounder.volumes.contrasts import contrast_in_sidecar, find_contrast
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.nifti import stem

# Endings of masks, compared in lower case without separators.
ROLES: dict[str, Role] = {
    **dict.fromkeys(
        (
            "seg",
            "segm",
            "lesion",
            "lesions",
            "mask",
            "msk",
            "label",
            "labels",
            "lesionmask",
            "dlmuse",
        ),
        "label",
    ),
    **dict.fromkeys(("brainmask", "betmask"), "brain"),
    **dict.fromkeys(("defacemask", "anonmask"), "deface"),
    "anatmask": "anatomy",
}
# The last part of a name that tells visits of one subject apart.
VISIT = re.compile(r"^(?P<subject>.+?)[_-](?P<session>(study|visit|ses|tp)-?\d+)$", re.IGNORECASE)
BRATS_2023 = re.compile(
    r"^(?P<case>(?P<subject>BraTS-[A-Za-z]+-\d+)(-(?P<session>\d+))?)[-_](?P<ending>\w+)$", re.I
)
BRATS = re.compile(
    r"^(?P<case>BraTS_?(20)?(1[5-9]|2[0-2])_(?P<site>[A-Z]+\d*)?\w*?)_(?P<ending>[A-Za-z0-9]+)$",
    re.I,
)
BRATS_2020_ODD = re.compile(r"^W39_.*_Segm$")  # the mask of case 355 of 2020 is called so
IXI = re.compile(
    r"^(?P<case>IXI\d{3}-(?P<site>Guys|HH|IOP)-\d{4})[-_](?P<ending>[A-Za-z0-9]+)$", re.I
)
PATTERN_FIELDS = ("case", "subject", "session", "site", "contrast")


def read_suffix(tree: Tree) -> Iterator[Item]:
    """`CASE_CONTRAST.nii.gz` or `CASE/CONTRAST.nii.gz`, flat or in folders.

    The ending after the last `_` or `-` is the contrast, or a word for a mask; names that are
    equal up to there are one case. A file whose name tells no contrast is asked for its sidecar.
    """
    for path in tree.scans:
        name, ending = split_ending(stem(path))
        if not name:
            name = _folder_name(path, tree)
        if not ending:
            ending = contrast_in_sidecar(tree.sidecar(path)) or ""
            name = _folder_name(path, tree) if path.parent != tree.folder else stem(path)
            if not ending:
                continue
            message = f"{ending} by its sidecar; its name tells no contrast"
            yield Finding("contrast_from_sidecar", tree.relative(path), message, "note")
        subject, session = subject_of(name)
        yield scan_of(ending, Scan(name, subject, path, session=session))


def read_index(tree: Tree) -> Iterator[Item]:
    """As `suffix`, and `index.csv` says whose brain each case is.

    The first column holds the case; the first column whose name contains `subject` holds the
    subject. Cases made from one brain then never part in a split.
    """
    path = tree.folder / "index.csv"
    rows = read_rows(path)
    columns = list(rows[0]) if rows else []
    subject_column = next((name for name in columns if "subject" in name.lower()), None)
    if subject_column is None:
        raise DataError(_index_problem(path, columns))
    subjects = {row[columns[0]]: row[subject_column] for row in rows}
    for item in read_suffix(tree):
        yield (
            replace(item, subject=subjects.get(item.case) or item.subject)
            if isinstance(item, Scan)
            else item
        )


def read_brats(tree: Tree) -> Iterator[Item]:
    """BraTS 2015 to 2022: `BraTS2021_00000/BraTS2021_00000_t1ce.nii.gz`, also under HGG and LGG.

    In the years up to 2019 the institution stands in the name.
    """
    for path in tree.scans:
        if match := BRATS.match(stem(path)):
            site = match["site"] if match["site"] not in (None, "Training", "Validation") else ""
            yield scan_of(
                match["ending"], Scan(match["case"], match["case"], path, site=site or "")
            )
        elif BRATS_2020_ODD.match(stem(path)):
            case = path.parent.name
            yield Scan(case, case, path, role="label")


def read_brats2023(tree: Tree) -> Iterator[Item]:
    """BraTS from 2023: `BraTS-GLI-00005-001/BraTS-GLI-00005-001-t1n.nii.gz`, with visits."""
    for path in tree.scans:
        if match := BRATS_2023.match(stem(path)):
            scan = Scan(match["case"], match["subject"], path, session=match["session"] or "")
            yield scan_of(match["ending"], scan)


def read_ixi(tree: Tree) -> Iterator[Item]:
    """IXI: `IXI002-Guys-0828-T1.nii.gz`, a folder for each contrast; the site is in the name."""
    for path in tree.scans:
        if match := IXI.match(stem(path)):
            scan = Scan(match["case"], match["case"], path, site=match["site"])
            yield scan_of(match["ending"], scan)


def pattern_reader(pattern: str) -> Reader:
    """The layout of a pattern with named parts: `{subject}/{session}/{contrast}.nii.gz`.

    `{case}`, `{subject}`, `{session}`, `{site}` and `{contrast}` stand for a part of a name,
    `*` for anything within a name and `**` for any folders. Without `{contrast}` the ending of
    the name tells it. A contrast called `seg`, `lesion`, `mask`, ... is the case's mask.

    Raises:
        UsageError: The pattern names nobody, or a part that is not known.
    """
    compiled = _compiled(pattern)

    def read_pattern(tree: Tree) -> Iterator[Item]:
        for path, name in zip(tree.scans, tree.scan_names, strict=True):
            if match := compiled.fullmatch(name):
                parts = {key: value or "" for key, value in match.groupdict().items()}
                yield _scan_of_parts(parts, path)

    return read_pattern


def split_ending(name: str) -> tuple[str, str]:
    """A name and the ending that tells a contrast or a mask; both empty where there is none."""
    if is_ending(name):
        return "", name
    for num_parts in (2, 1):  # T2_FLAIR and brain_mask before FLAIR and mask
        parts = re.split(r"[_-]", name)
        ending = "_".join(parts[-num_parts:])
        if len(parts) > num_parts and is_ending(ending):
            return name[: -len(ending) - 1], ending
    return name, ""


def is_ending(text: str) -> bool:
    """Whether a text tells a contrast or a mask."""
    return _plain(text) in ROLES or find_contrast(text) is not None


def scan_of(ending: str, scan: Scan) -> Scan:
    """The scan with what its ending says: a contrast, or a mask."""
    role = ROLES.get(_plain(ending))
    return replace(scan, role=role) if role else replace(scan, contrast=ending)


def subject_of(name: str) -> tuple[str, str]:
    """Subject and visit in the name of a case; the visit is empty where the name shows none."""
    match = VISIT.match(name) or BRATS_2023.match(f"{name}-x")
    return (match["subject"], match["session"] or "") if match else (name, "")


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _folder_name(path: Path, tree: Tree) -> str:
    parts = tree.relative(path).split("/")[:-1]
    return "_".join(parts) or tree.folder.resolve().name


def _scan_of_parts(parts: dict[str, str], path: Path) -> Scan:
    ending = parts.get("contrast") or split_ending(stem(path))[1]
    subject = parts.get("subject") or subject_of(parts.get("case", ""))[0]
    session = parts.get("session", "")
    case = parts.get("case") or "_".join(part for part in (subject, session) if part)
    scan = Scan(case, subject, path, session=session, site=parts.get("site", ""))
    return scan_of(ending, scan)


def _compiled(pattern: str) -> re.Pattern[str]:
    names = re.findall(r"\{(\w*)\}", pattern)
    if not {"case", "subject"} & set(names) or set(names) - set(PATTERN_FIELDS):
        raise UsageError(
            f"--layout glob:{pattern}: names {', '.join(names) or 'nothing'}; expected {{subject}} "
            f"or {{case}}, and beside them only {', '.join(PATTERN_FIELDS)}, as in "
            "glob:{subject}/{session}/{contrast}.nii.gz"
        )
    seen: set[str] = set()
    text = "".join(_part(part, seen) for part in re.split(r"(\{\w+\}|\*\*/?|\*)", pattern))
    return re.compile(text)


def _part(part: str, seen: set[str]) -> str:
    if part.startswith("{"):
        name = part[1:-1]
        again = name in seen
        seen.add(name)
        return f"(?P={name})" if again else f"(?P<{name}>[^/]+?)"
    wild: dict[str, str] = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
    return wild.get(part, re.escape(part))


def _index_problem(path: Path, columns: list[str]) -> Problem:
    return Problem(
        code="index_without_subject",
        file=str(path),
        found=f"columns {columns}",
        expected="the case first and a column whose name contains 'subject'",
        advice="Add it, or choose --layout suffix.",
    )
