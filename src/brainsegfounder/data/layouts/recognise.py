"""Which layout a folder has: told by a marker file, or by the names of nearly all of its scans.

When in doubt nothing is said: a layout that is recognised wrongly is worse than a question.
"""

from __future__ import annotations

import re
from pathlib import Path

from brainsegfounder.data.layouts import bids, cohorts, lists, names
from brainsegfounder.data.layouts.tree import Tree, read_json
from brainsegfounder.errors import DataError, Problem
from brainsegfounder.volumes.dicom.files import ARCHIVES

# Of this share of a folder's scans the names must fit.
ENOUGH = 0.8
MAX_LOOKED_AT = 2000
NNUNET_FOLDERS = ("imagesTr/", "imagesTs/")
BIDS = re.compile(
    r"(^|/)(?P<sub>sub-[a-zA-Z0-9]+)/(ses-[a-zA-Z0-9]+/)?(anat|dwi|func|fmap|perf|swi|pet)/(?P=sub)_"
)
ATLAS = re.compile(
    r"(^|/)sub-r\d{3}s\d{3}/ses-\d+/anat/sub-r\d{3}s\d{3}_ses-\d+_\S*space-MNI152NLin2009aSym"
)
ISLES26 = re.compile(r"(^|/)sub-r\d{3}s\d{3}/ses-\d+/(anat/)?sub-r\d{3}s\d{3}_ses-\d+_")
FOMO_BIDS = re.compile(r"^PT\d{3}_[^/]+/sub-[^/]+/ses-[^/]+/")
DICM = (128, b"DICM")
DICOM = "dicom"
TEXTS = (".txt", ".md", ".csv", ".tsv", ".json", ".pdf", ".md5", "readme", "license", "sha256sums")


def _of_stem(pattern: re.Pattern[str]) -> re.Pattern[str]:
    """A pattern of a file's stem as one of its path."""
    inner = pattern.pattern.removeprefix("^").removesuffix("$")
    return re.compile(rf"(^|.*/){inner}\.nii(\.gz)?$", pattern.flags | re.IGNORECASE)


# By the names of scans; of two that fit the earlier one is the narrower.
BY_SCANS = {
    "ukb": re.compile(cohorts.UKB.pattern.replace("(?P<name>[^/]+)", ".+"), re.IGNORECASE),
    "oasis3": bids.OASIS3,
    "fomo": re.compile(
        rf"{FOMO_BIDS.pattern}|^sub_[^/]+/ses_[^/]+/[^/]+$|^PT\d{{3}}_[^/]+/sub_[^/]+/ses_"
    ),
    "atlas": ATLAS,
    "isles26": ISLES26,
    "bids": BIDS,
    "hcp": re.compile(r"(^|/)\d{6}/(T1w|MNINonLinear)/"),
    "abide": cohorts.ABIDE,
    "adni": cohorts.ADNI,
    "brats2023": _of_stem(names.BRATS_2023),
    "brats": _of_stem(names.BRATS),
    "ixi": _of_stem(names.IXI),
}
NARROWER_THAN_BIDS = {"ukb", "oasis3", "fomo", "atlas", "isles26"}


def recognise(folder: Path) -> str:
    """The name of the layout that a folder or file has.

    Returns:
        A name in `LAYOUTS`, or `dicom` for what must be converted first.

    Raises:
        DataError: Several layouts fit; the message names them.
    """
    if folder.is_file():
        return recognise_file(folder)
    return recognise_tree(Tree(folder))


def recognise_file(path: Path) -> str:
    """The layout of a single file: a scan, a list of scans, or DICOM."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return "table"
    if suffix == ".json":
        return "nnssl" if "datasets" in _keys(path) else "datalist"
    if path.name.lower().endswith(ARCHIVES) or path.name.upper() == "DICOMDIR" or _is_dicom(path):
        return DICOM
    return "suffix"


def recognise_tree(tree: Tree) -> str:
    """As `recognise`, of a tree that was walked already."""
    by_marker = sorted(_by_marker(tree))
    by_scans = _by_scans(tree)
    if len(by_marker) == 1:
        return by_marker[0]
    if by_marker or len(by_scans) > 1:
        raise DataError(_in_doubt(tree, by_marker or by_scans))
    if by_scans:
        return by_scans[0]
    if any(cohorts.OASIS1.search(name) for name in tree.names):
        return "oasis1"
    if "dataset_description.json" in tree.known and any(n.startswith("sub-") for n in tree.names):
        return "bids"
    if not tree.scan_names and _holds_dicom(tree):
        return DICOM
    return "suffix"


def holds_archives_only(tree: Tree) -> bool:
    """Whether there are archives in a folder, and beside them nothing but texts."""
    others = [name.lower() for name in tree.names if not name.lower().endswith(ARCHIVES)]
    return len(others) < len(tree.names) and all(name.endswith(TEXTS) for name in others)


def _by_marker(tree: Tree) -> set[str]:
    """Layouts whose list lies at the top of the folder."""
    found = set()
    if lists.OPENMIND_TABLE in tree.known:
        found.add("openmind")
    if lists.NNSSL_LIST in tree.known:
        found.add("nnssl")
    if "index.csv" in tree.known:
        found.add("index")
    if "dataset.json" in tree.known:
        channels = any(name.startswith(NNUNET_FOLDERS) for name in tree.scan_names)
        keys = _keys(tree.folder / "dataset.json")
        if "channel_names" in keys or (channels and "training" not in keys):
            found.add("nnunet")
        elif "training" in keys:
            found.add("datalist")
    return found


def _by_scans(tree: Tree) -> list[str]:
    """Layouts that fit the names of nearly all scans."""
    step = -(-len(tree.scan_names) // MAX_LOOKED_AT) or 1
    some = tree.scan_names[::step]
    enough = ENOUGH * len(some)
    fit = [
        layout
        for layout, pattern in BY_SCANS.items()
        if some and sum(pattern.search(name) is not None for name in some) >= enough
    ]
    if set(fit) & NARROWER_THAN_BIDS:
        fit = [layout for layout in fit if layout != "bids"]
    if "atlas" in fit:
        fit = [layout for layout in fit if layout != "isles26"]
    return fit


def _keys(path: Path) -> set[str]:
    content = read_json(path)
    return set(content) if isinstance(content, dict) else set()


def _holds_dicom(tree: Tree) -> bool:
    if any(name.rpartition("/")[2].upper() == "DICOMDIR" for name in tree.names):
        return True
    if any(name.lower().endswith((".dcm", ".ima")) for name in tree.names):
        return True
    bare = [name for name in tree.names if "." not in name.rpartition("/")[2]]
    return any(_is_dicom(tree.folder / name) for name in bare[:20])


def _is_dicom(path: Path) -> bool:
    offset, magic = DICM
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(offset + len(magic))[offset:] == magic


def _in_doubt(tree: Tree, layouts: list[str]) -> Problem:
    return Problem(
        code="layout_in_doubt",
        file=str(tree.folder),
        found=f"could be laid out as {' or as '.join(layouts)}",
        expected="one layout",
        advice=f"Say which: --layout {layouts[0]}.",
    )
