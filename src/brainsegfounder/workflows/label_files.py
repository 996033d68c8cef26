"""Which file is whose mask or probability: folders, BIDS trees, nnU-Net and BraTS names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from brainsegfounder.errors import DataError
from brainsegfounder.volumes.nifti import is_nifti, stem
from brainsegfounder.workflows.derivative_names import read_participants

# What is not part of a case's name: the ending that says it is a mask, and BIDS entities of it.
_ENTITIES = r"(_(label|desc|space|seg|res|stat)-[a-zA-Z0-9]+)*"
MASK_ENDING = re.compile(
    rf"(?P<case>.+?){_ENTITIES}[_-](seg|lesion|mask|dseg|label|pred)$", re.IGNORECASE
)
PROBABILITY_ENDING = re.compile(rf"(?P<case>.+?){_ENTITIES}_probseg$", re.IGNORECASE)
REGION = re.compile(r"_label-(?P<region>[a-zA-Z0-9]+)", re.IGNORECASE)
# Labels that were carried to the grid of a further contrast.
OTHER_GRID = re.compile(r"_space-[a-zA-Z0-9]+(?=_desc-[a-zA-Z0-9]+_dseg\.)")
# Where brain there is, and not where lesions are.
BRAIN_MASK = re.compile(r"(_(desc|label)-brain(_|$))|(brain_?mask$)", re.IGNORECASE)
NNUNET_LABELS = ("labelsTr", "labelsTs")


@dataclass(frozen=True, slots=True)
class LabelFiles:
    """Masks by case.

    Attributes:
        files: One for each case.
        duplicates: Cases for which there are several, and which.
        sources: What cases were called before they got names of BIDS, where a derivative says so.
    """

    files: dict[str, Path] = field(default_factory=dict)
    duplicates: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def named_as(self, others: Collection[str]) -> LabelFiles:
        """The same with cases called as in their source, where they would find others so only."""
        names = {
            case: source
            for case, source in self.sources.items()
            if case not in others and source in others
        }
        # What has the name already keeps it.
        names = {case: name for case, name in names.items() if name not in self.files}
        return LabelFiles(
            {names.get(case, case): file for case, file in self.files.items()},
            {names.get(case, case): reason for case, reason in self.duplicates.items()},
            {case: source for case, source in self.sources.items() if case in names},
        )


def case_name(path: Path) -> str:
    """A label file's case: its name without ending and without what says it is a mask."""
    match = MASK_ENDING.match(stem(path))
    return match["case"] if match else stem(path)


def label_files(path: Path) -> LabelFiles:
    """The label files of a folder (or a single one) by case name.

    In a folder where some file's name ends as a mask's does (`_seg`, `_lesion`, `_mask`,
    `_dseg`), only such files count, so a folder of scans with their masks is fine. Of an nnU-Net
    data set only `labelsTr` and `labelsTs` count. Masks of the brain and probabilities never do,
    nor, in a derivative of this package, the same labels on the grid of a further contrast.

    Raises:
        DataError: There is none.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; expected label files.")
    if path.is_file():
        return LabelFiles({case_name(path): path})
    files = [
        file
        for file in _niftis(path)
        if not PROBABILITY_ENDING.match(stem(file)) and not BRAIN_MASK.search(stem(file))
    ]
    participants = read_participants(path)
    if participants:
        files = [file for file in files if not _is_again(file)]
    masks = [file for file in files if MASK_ENDING.match(stem(file))]
    found: dict[str, list[Path]] = {}
    for file in masks or files:
        found.setdefault(case_name(file), []).append(file)
    if not found:
        raise DataError(f"{path}: no .nii or .nii.gz file found; expected label files.")
    return LabelFiles(
        {case: several[0] for case, several in found.items() if len(several) == 1},
        {case: _duplicates(path, several) for case, several in found.items() if len(several) > 1},
        {who: name for name, who in participants.items() if who != name},
    )


@dataclass(frozen=True, slots=True)
class ProbabilityFile:
    """Where the probabilities of a region are.

    Attributes:
        path: The file.
        volume: Which volume of a 4-D file, or None for a 3-D one.
    """

    path: Path
    volume: int | None = None


def probability_files(
    folder: Path, regions: Iterable[str]
) -> dict[str, dict[str, ProbabilityFile]]:
    """Files that end in `_probseg`, by case and region.

    `CASE_label-REGION_probseg` or `CASE_REGION_probseg` holds one region; `CASE_probseg` the only
    region there is, or as a 4-D file one volume for each region in their order.

    Args:
        folder: Where to look.
        regions: Names of the regions, in order.

    Raises:
        DataError: There is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected files *_probseg.nii.gz.")
    names = list(regions)
    found: dict[str, dict[str, ProbabilityFile]] = {}
    for file in _niftis(folder):
        if match := PROBABILITY_ENDING.match(stem(file)):
            for case, region, volume in _held(match["case"], stem(file), names):
                found.setdefault(case, {})[region] = ProbabilityFile(file, volume)
    if not found:
        raise DataError(
            f"{folder}: no probabilities of {', '.join(names)} found; expected *_probseg.nii.gz."
        )
    return found


def _is_again(file: Path) -> bool:
    """Whether a label map stands beside the same one on the case's own grid."""
    plain = OTHER_GRID.sub("", file.name)
    return plain != file.name and file.with_name(plain).is_file()


def _held(case: str, name: str, regions: list[str]) -> list[tuple[str, str, int | None]]:
    """Case, region and volume of everything that a file holds, by its name."""
    if label := REGION.search(name):
        # An entity's value is letters and digits; and region `label-1` stands as it is.
        named = {one: _letters(one.lower().removeprefix("label-")) for one in regions}
        wanted = label["region"].lower()
        return [(case, one, None) for one in regions if named[one] == wanted]
    for one in regions:
        if case.lower().endswith(f"_{one.lower()}"):
            return [(case[: -len(one) - 1], one, None)]
    if len(regions) == 1:
        return [(case, regions[0], None)]
    return [(case, one, number) for number, one in enumerate(regions)]


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text)


def has_niftis(folder: Path) -> bool:
    """Whether there is a NIfTI file in a folder, in any depth."""
    return any(is_nifti(file) for file in folder.rglob("*"))


def _niftis(folder: Path) -> list[Path]:
    labels = [folder / name for name in NNUNET_LABELS if (folder / name).is_dir()]
    places = labels if labels and (folder / "imagesTr").is_dir() else [folder]
    files = [file for place in places for file in place.rglob("*")]
    return sorted(file for file in files if is_nifti(file) and not file.name.startswith("."))


def _duplicates(folder: Path, files: list[Path]) -> str:
    names = ", ".join(str(file.relative_to(folder)) for file in files)
    return f"{len(files)} masks of this case in {folder} ({names}); expected one. Remove or rename."
