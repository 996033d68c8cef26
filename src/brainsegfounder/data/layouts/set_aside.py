"""DICOM inside a data set that is read by its own scans: left alone, but not in silence.

BIDS keeps originals in `sourcedata/`; others leave DICOM folders among their subjects. These are
most likely the scans that are read already, so they are counted and not imported.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from brainsegfounder.data.layouts.tree import Tree
from brainsegfounder.volumes.dicom.files import ARCHIVES
from brainsegfounder.volumes.findings import Finding

SUFFIXES = (".dcm", ".ima")
MAGIC_AT, MAGIC = 128, b"DICM"
ORIGINALS = "sourcedata"
# Files without a suffix are opened: so many of a folder, in so many folders.
LOOKED_AT, MAX_FOLDERS = 3, 200


def dicom_set_aside(tree: Tree) -> Iterator[Finding]:
    """A note for `sourcedata/` and one for all other folders that hold DICOM, with what to do."""
    files = Counter(_place(name) for name in _dicom_names(tree))
    archives = Counter(
        ORIGINALS
        for name in tree.names
        if name.lower().endswith(ARCHIVES) and _place(name) == ORIGINALS
    )
    for place in sorted(files | archives):
        parts = [f"{files[place]:,} DICOM files"] if files[place] else []
        parts += [f"{archives[place]:,} archives, which were not opened"] if archives[place] else []
        where = place or "folders of the data set"
        message = (
            f"{' and '.join(parts)} in {where} set aside, as the data set is read by its own "
            "scans; to import them, give their folder as an input of its own: "
            f"prepare {place or 'FOLDER'} --layout dicom --out ANOTHER_STORE"
        )
        yield Finding("dicom_set_aside", place or ".", message, "note")


def _place(name: str) -> str:
    """`sourcedata` for what is in it; all else is one."""
    return ORIGINALS if ORIGINALS in name.split("/")[:-1] else ""


def _dicom_names(tree: Tree) -> Iterator[str]:
    bare: dict[str, list[str]] = defaultdict(list)
    for name in tree.names:
        folder, _, base = name.rpartition("/")
        if base.lower().endswith(SUFFIXES) or base.upper() == "DICOMDIR":
            yield name
        elif "." not in base:
            bare[folder].append(name)
    for names in islice(bare.values(), MAX_FOLDERS):
        if any(_is_dicom(tree.folder / name) for name in names[:LOOKED_AT]):
            yield from names


def _is_dicom(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(MAGIC_AT + len(MAGIC))[MAGIC_AT:] == MAGIC
    except OSError:
        return False
