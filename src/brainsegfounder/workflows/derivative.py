"""The results of cases as a BIDS derivative: one folder a subject, whole or not there at all.

OUT/
dataset_description.json  README.md  .bidsignore  participants.tsv  participants.json
volumes.csv  volumes.json  lesions.csv  lesions.json        all cases; see `derivative_tables`
sub-X/[ses-Y/]anat/
  sub-X_desc-MODEL_dseg.nii.gz             labels on the grid of the first contrast
  sub-X_desc-MODEL_dseg.tsv                their names and colours
  sub-X_space-T2w_desc-MODEL_dseg.nii.gz   the same on the grid of another contrast
  sub-X_label-REGION_desc-MODEL_probseg.nii.gz
  sub-X_seg-MODEL_desc-entropy_map.nii.gz  what BIDS has no name for; in .bidsignore, as are
  sub-X_desc-MODEL_volumes.tsv  _lesions.tsv  and the DICOM segmentation _seg.dcm
  sub-X_desc-MODEL_dseg.json               written last: says that the case is whole

A case is known again by the key in that last file: a hash of everything its results depend on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from brainsegfounder.data.cases import Case
from brainsegfounder.evaluation.lesion_table import (
    COLUMNS,
    Cell,
    Lesion,
    RegionSize,
    lesion_table,
    region_sizes,
)
from brainsegfounder.files import make_folder, write_text
from brainsegfounder.runs import RESEARCH_ONLY
from brainsegfounder.settings import Region
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.label_image import write_labels
from brainsegfounder.volumes.location import Atlas
from brainsegfounder.volumes.nifti import write_nifti
from brainsegfounder.volumes.volume import Affine, Volume
from brainsegfounder.workflows.derivative_names import Place, label_of
from brainsegfounder.workflows.derivative_record import (
    LABEL_TABLE,
    LABELS,
    LESIONS,
    MAP,
    ON_GRID,
    PROBABILITY,
    SEGMENTATION,
    VOLUMES,
    CaseFiles,
    json_text,
    listed_file,
    printable,
    read_case,
    remove_case,
    write_json,
)
from brainsegfounder.workflows.derivative_rows import LABEL_COLUMNS, label_rows, table_text
from brainsegfounder.workflows.prepare_findings import without_folders


@dataclass(frozen=True, slots=True)
class Derivative:
    """An opened tree; `derivative_tables.open_derivative` makes one.

    Attributes:
        out: Its folder.
        model: The model's name.
        places: Where each case goes, by the case's name.
        links: What the BIDS data sets of the source are called in its URIs.
    """

    out: Path
    model: str
    places: Mapping[str, Place]
    links: Mapping[Path, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The model's name as the value of an entity."""
        return label_of(self.model, "brainsegfounder")


@dataclass(frozen=True, slots=True)
class CaseOutput:
    """What was computed for one case.

    Attributes:
        case: Its files and name.
        labels: Label values on the grid of its first contrast, shape (1, I, J, K).
        label_names: Value of each label by its name.
        regions: Which labels each region has.
        contrasts: Those that were used; the first one's grid is that of `labels`.
        probabilities: Of each region in order, shape (R, I, J, K), or None.
        maps: Such as entropy and disagreement, each of shape (1, I, J, K).
        on_grids: The labels on the grids of further contrasts, by contrast.
        flags: What a reader must know.
        region_facts: Further columns of the table of volumes, by region, such as expected Dice.
        provenance: What made it: inputs, weights, versions, settings; ready for JSON.
        to_mni: From the scan's millimetres to MNI152, shape (4, 4), or None.
        atlas: To name the places of lesions, or None.
        write_segmentation: Writes the DICOM segmentation to a path; None where no DICOM came in.
        lists_lesions: Whether the parts of regions are counted and listed.
    """

    case: Case
    labels: Volume
    label_names: Mapping[str, int]
    regions: Mapping[str, Region]
    contrasts: Sequence[str]
    probabilities: Volume | None = None
    maps: Mapping[str, Volume] = field(default_factory=dict)
    on_grids: Mapping[str, Volume] = field(default_factory=dict)
    flags: Sequence[Finding] = ()
    region_facts: Mapping[str, Mapping[str, Cell]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    to_mni: Affine | None = None
    atlas: Atlas | None = None
    write_segmentation: Callable[[Path], None] | None = None
    lists_lesions: bool = True


def write_case(tree: Derivative, output: CaseOutput, key: str) -> CaseFiles:
    """Write all files of a case, the sidecar of its labels last.

    Args:
        tree: Where.
        output: What.
        key: A hash of everything the results depend on, for `finished`.

    Raises:
        LabelError: A label value is beyond uint16.
        RunError: A file cannot be written.
    """
    writer = _Writer(tree, output)
    remove_case(writer.path("dseg.json"))
    make_folder(writer.folder)
    lesions = _lesions(output)
    rows = _volume_rows(output, region_sizes(output.labels, _values(output), lesions))
    writer.write_labels()
    writer.write_images()
    writer.write_tables(rows, lesions)
    if output.write_segmentation is not None:
        path = writer.path("seg.dcm")
        output.write_segmentation(path)
        # Nothing is written where there is nothing to segment.
        if path.is_file():
            writer.files[SEGMENTATION] = path
    record = {
        **writer.sidecar(f"Labels of {tree.model}", output.contrasts[0]),
        "SourceName": printable(output.case.case),
        "Model": tree.model,
        "Contrasts": list(output.contrasts),
        "Labels": dict(output.label_names),
        "Regions": {name: list(values) for name, values in _values(output).items()},
        "Volumes": rows,
        "Atlas": output.atlas.title if output.atlas and output.to_mni is not None else None,
        "Flags": [asdict(_without_folders(flag)) for flag in output.flags],
        "Provenance": dict(output.provenance),
        "Files": {role: listed_file(path) for role, path in writer.files.items()},
        "Key": key,
    }
    sidecar = writer.path("dseg.json")
    write_json(sidecar, record)
    return CaseFiles(sidecar, writer.files, json.loads(json_text(record)))


def finished(tree: Derivative, case: Case, key: str) -> CaseFiles | None:
    """The files of a case, where they are all there and were made from the same as now.

    Args:
        tree: Where.
        case: Which case.
        key: As for `write_case`.
    """
    place = tree.places[case.case]
    stem = f"{place.stem}_desc-{tree.label}_dseg.json"
    found = read_case(tree.out / place.folder / stem)
    return found if found is not None and found.record.get("Key") == key else None


class _Writer:
    """Writes the files of one case and keeps account of them."""

    def __init__(self, tree: Derivative, output: CaseOutput) -> None:
        self.tree, self.output = tree, output
        self.place = tree.places[output.case.case]
        self.folder = tree.out / self.place.folder
        self.files: dict[str, Path] = {}

    def path(self, ending: str, before: str = "") -> Path:
        """A file of the case, by its suffix and the entities before `desc`."""
        return self.folder / f"{self.place.stem}{before}_desc-{self.tree.label}_{ending}"

    def add(self, role: str, path: Path) -> Path:
        self.files[role] = path
        return path

    def write_labels(self) -> None:
        """The label map, and what its numbers and colours mean."""
        output = self.output
        write_labels(self.add(LABELS, self.path("dseg.nii.gz")), output.labels, output.label_names)
        rows = label_rows(output.label_names)
        write_text(
            self.add(LABEL_TABLE, self.path("dseg.tsv")),
            table_text(rows, LABEL_COLUMNS),
        )
        for contrast, labels in output.on_grids.items():
            path = self.path("dseg.nii.gz", f"_space-{label_of(contrast)}")
            write_labels(self.add(f"{ON_GRID}{contrast}", path), labels, output.label_names)
            self._describe(path, f"Labels of {self.tree.model} on the grid of {contrast}", contrast)

    def write_images(self) -> None:
        """Probabilities and maps, a file for each."""
        first, model = self.output.contrasts[0], self.tree.model
        for name, volume in _channels(self.output):
            path = self.path("probseg.nii.gz", f"_label-{label_of(name)}")
            write_nifti(self.add(f"{PROBABILITY}{name}", path), volume)
            self._describe(path, f"Probability of {name} by {model}", first)
        for name, volume in self.output.maps.items():
            stem = f"{self.place.stem}_seg-{self.tree.label}_desc-{label_of(name)}"
            path = self.folder / f"{stem}_map.nii.gz"
            write_nifti(self.add(f"{MAP}{name}", path), volume)
            self._describe(path, f"Map of {name} by {model}", first)

    def write_tables(self, sizes: Sequence[Mapping[str, Cell]], lesions: Sequence[Lesion]) -> None:
        """Volumes and lesions, for people and for machines."""
        for role, rows, columns in (
            (VOLUMES, sizes, tuple(dict.fromkeys(name for row in sizes for name in row))),
            (LESIONS, [lesion.row() for lesion in lesions], COLUMNS),
        ):
            write_text(self.add(role, self.path(f"{role}.tsv")), table_text(rows, columns))
            path = self.add(f"{role} for machines", self.path(f"{role}.json"))
            write_json(path, {"Notice": RESEARCH_ONLY, role.capitalize(): list(rows)})

    def sidecar(self, description: str, contrast: str) -> dict[str, Any]:
        """What BIDS wants to know of an image on the grid of a contrast."""
        sources = self._sources()
        known = {"Sources": list(sources.values())} if sources else {}
        return {
            "Description": f"{description}. {RESEARCH_ONLY}",
            "Notice": RESEARCH_ONLY,
            "Manual": False,
            "SpatialReference": sources.get(contrast, "orig"),
            **known,
        }

    def _describe(self, path: Path, description: str, contrast: str) -> None:
        name = path.name.removesuffix(".nii.gz") + ".json"
        record = self.sidecar(description, contrast)
        write_json(self.add(f"sidecar of {path.name}", path.with_name(name)), record)

    def _sources(self) -> dict[str, str]:
        """URIs of the scans that were used, where they stand in a BIDS data set."""
        found = {}
        for contrast in self.output.contrasts:
            path = self.output.case.contrasts.get(contrast)
            if path is not None and (root := bids_root(path)) in self.tree.links:
                within = _in_its_folder(path).relative_to(root).as_posix()
                found[contrast] = f"bids:{self.tree.links[root]}:{printable(within)}"
        return found


def bids_root(path: Path) -> Path:
    """The folder that holds the subject's folder of a scan; the scan's own where there is none."""
    place = _in_its_folder(path)
    for parent in place.parents:
        if parent.name.startswith("sub-"):
            return parent.parent
    return place.parent


def _in_its_folder(path: Path) -> Path:
    """The path without links in its folders; the file may be a link into a store of contents."""
    return path.parent.resolve() / path.name


def _values(output: CaseOutput) -> dict[str, tuple[int, ...]]:
    return {name: region.labels for name, region in output.regions.items()}


def _lesions(output: CaseOutput) -> list[Lesion]:
    """Every lesion, largest first; none where regions are structures."""
    if not output.lists_lesions:
        return []
    return list(lesion_table(output.labels, _values(output), output.to_mni, output.atlas))


def _volume_rows(output: CaseOutput, sizes: Sequence[RegionSize]) -> list[dict[str, Cell]]:
    return [
        {
            "region": size.region,
            "volume_ml": round(size.volume_ml, 4),
            "num_lesions": size.num_lesions if output.lists_lesions else None,
            **output.region_facts.get(size.region, {}),
        }
        for size in sizes
    ]


def _channels(output: CaseOutput) -> list[tuple[str, Volume]]:
    """The probabilities of each region, one by one."""
    if output.probabilities is None:
        return []
    pairs = zip(output.regions, output.probabilities.voxels, strict=True)
    return [(name, replace(output.probabilities, voxels=one[None])) for name, one in pairs]


def _without_folders(flag: Finding) -> Finding:
    message = without_folders(flag.message)
    return replace(flag, file=printable(Path(flag.file).name), message=printable(message))
