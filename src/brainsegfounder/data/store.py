"""The store: prepared cases on disk, from which patches are read without reading a case.

STORE/
  store.json                    what it was prepared for; written last, so it marks a whole store
  manifest.csv                  case, subject, session, files
  refused.json                  what was refused, and why
  provenance.json               versions, settings, findings of each case
  hashes.json                   of source files with their sizes and times, to know them again
  cases/<case>.json             what is known of a case; written last, so it marks a whole case
  cases/<case>.image.b2nd       intensities, float16 (or int16 with scales), (C, I, J, K)
  cases/<case>.labels.b2nd      label values, int16, (1, I, J, K)
  cases/<case>.reference.b2nd   the mask on the file's own grid, for evaluation
  cases/<case>.mask-NAME.b2nd   another mask (deface, anatomy), uint8, (1, I, J, K)
  cases/<case>.foreground.npy   up to 2,000 labelled voxels a label: value, i, j, k

Arrays end in `.npy` instead where `prepare --format npy` was asked for. How a store is written is
in `store_writer`, how one array is in `store_arrays`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from brainsegfounder.data.store_arrays import (
    SUFFIXES,
    ArrayFormat,
    Dtype,
    ScaledArray,
    open_array,
)
from brainsegfounder.errors import StoreError
from brainsegfounder.files import sha256
from brainsegfounder.settings import PreparationSettings, ReadingSettings, Recipe
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.volume import Grid, Triple, Volume

STORE_NAME = "store.json"
FORMAT = 2
# Raise it when the same files and settings come out otherwise: then every stored case is stale.
PREPARATION_VERSION = 2


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Size and fingerprint of a file of the store."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StoredCase:
    """What is known of a stored case without opening its voxels.

    Attributes:
        case: Its name.
        subject: Whose brain it is.
        session: Which visit, or empty.
        shape_vox: Prepared voxels along I, J, K.
        affine: Of the prepared grid, as nested lists.
        source_shape_vox: Voxels of the file it came from.
        source_affine: Of the file it came from.
        has_labels: Whether a mask is stored.
        fingerprints: Of each contrast's scan, by which it is known in other stores.
        site: Where it was scanned, or empty.
        licence: Of the data set, or empty.
        masks: Names of the masks stored beside it (deface, anatomy).
        findings: What was noticed about its files.
        steps: What was done to it.
        sources: The SHA-256 of each file it was made from, by contrast, `label` or `mask-NAME`.
        key: The SHA-256 of all that it was made from: sources, settings, version of the code.
        files: Its files in the store.
        fold: In which fold of the data set's own splits it is tested, or None.
        chronicity: How old a stroke was: hyperacute, acute, subacute, chronic, or empty.
        days: Between stroke and scan, or None.
        scales: What each contrast's integers are multiplied with; empty for float16.
        label_voxels: Voxels of each label on the prepared grid, by its value as text; None
            without labels, and where they were stored before they were counted.
    """

    case: str
    subject: str
    session: str
    shape_vox: Triple
    affine: list[list[float]]
    source_shape_vox: Triple
    source_affine: list[list[float]]
    has_labels: bool
    fingerprints: tuple[str, ...]
    site: str = ""
    licence: str = ""
    masks: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    steps: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    key: str = ""
    files: dict[str, StoredFile] = field(default_factory=dict)
    fold: int | None = None
    chronicity: str = ""
    days: float | None = None
    scales: tuple[float, ...] = ()
    label_voxels: dict[str, int] | None = None

    @property
    def grid(self) -> Grid:
        """The prepared grid."""
        return Grid(self.shape_vox, np.asarray(self.affine))

    @property
    def source_grid(self) -> Grid:
        """The grid of the file it came from."""
        return Grid(self.source_shape_vox, np.asarray(self.source_affine))


@dataclass(frozen=True, slots=True)
class StorePlan:
    """What a store is prepared for; all its cases agree in this.

    Attributes:
        contrasts: Names in channel order.
        preparation: Grid and intensities.
        reading: What is allowed of the files.
        labels: Values that may stand in a mask beside 0; None takes any, empty stores no mask.
        array_format: How arrays are written.
        dtype: What intensities are stored as.
        pseudonyms: Whether subjects, visits, sites and cases are named by pseudonyms.
    """

    contrasts: tuple[str, ...]
    preparation: PreparationSettings
    reading: ReadingSettings = field(default_factory=ReadingSettings)
    labels: tuple[int, ...] | None = None
    array_format: ArrayFormat = "blosc2"
    dtype: Dtype = "float16"
    pseudonyms: bool = False

    def record(self) -> dict[str, Any]:
        """The plan, ready for JSON; what is unusual stands in it only where it is chosen."""
        record: dict[str, Any] = {
            "array_format": self.array_format,
            "contrasts": list(self.contrasts),
            "labels": None if self.labels is None else list(self.labels),
            "preparation": self.preparation.model_dump(mode="json"),
            "reading": self.reading.model_dump(mode="json"),
        }
        # So cases that were stored before there was this setting keep their keys.
        if self.preparation.resize_vox is None:
            del record["preparation"]["resize_vox"]
        record |= {"dtype": self.dtype} if self.dtype != "float16" else {}
        return record | ({"pseudonyms": True} if self.pseudonyms else {})


@dataclass(frozen=True, slots=True)
class Store:
    """An opened store: its settings and its cases.

    Attributes:
        folder: Where it is.
        plan: What it was prepared for.
        cases: What is known of each case.
        manifest_sha256: The fingerprint of `manifest.csv`.
        preparation_version: Of the code that prepared it.
    """

    folder: Path
    plan: StorePlan
    cases: tuple[StoredCase, ...]
    manifest_sha256: str
    preparation_version: int = PREPARATION_VERSION

    @property
    def contrasts(self) -> tuple[str, ...]:
        """Names in channel order."""
        return self.plan.contrasts

    @property
    def preparation(self) -> PreparationSettings:
        """Grid and intensities."""
        return self.plan.preparation

    def image(self, case: StoredCase) -> Any:
        """The case's intensities, sliceable, shape (C, I, J, K).

        They read as float16, or as float32 where they are integers with scales.
        """
        stored = self._open(case, "image")
        return ScaledArray(stored, case.scales) if case.scales else stored

    def labels(self, case: StoredCase) -> Any:
        """The case's labels, sliceable, shape (1, I, J, K), int16."""
        return self._open(case, "labels")

    def mask(self, case: StoredCase, name: str) -> Any:
        """One of `case.masks`, sliceable, shape (1, I, J, K), uint8: 1 inside, 0 outside."""
        return self._open(case, f"mask-{name}")

    def reference(self, case: StoredCase) -> Volume:
        """The case's mask on the grid of its file, shape (1, I, J, K), int16."""
        voxels = self._open(case, "reference")[:]
        return Volume(np.array(voxels), np.asarray(case.source_affine), case.case)

    def prepared_image(self, case: StoredCase, contrasts: Sequence[str]) -> Volume:
        """The whole prepared image, contrasts in the order asked for, float32."""
        channels = [self.contrasts.index(name) for name in contrasts]
        voxels = np.ascontiguousarray(self.image(case)[:][channels], dtype=np.float32)
        return Volume(voxels, np.asarray(case.affine), case.case)

    def foreground(self, case: StoredCase) -> NDArray[np.int16]:
        """Labelled voxels to sample from, rows of (value, i, j, k); empty without a lesion."""
        path = self.folder / "cases" / f"{case.case}.foreground.npy"
        return np.asarray(open_array(path))

    def damaged(self, case: StoredCase) -> list[str]:
        """Files of a case that are missing or are not, byte for byte, what was written."""
        folder = self.folder / "cases"
        return [
            name
            for name, file in case.files.items()
            if not (folder / name).is_file() or sha256(folder / name) != file.sha256
        ]

    def _open(self, case: StoredCase, what: str) -> Any:
        name = f"{case.case}.{what}{SUFFIXES[self.plan.array_format]}"
        file = case.files.get(name)
        return open_array(self.folder / "cases" / name, file.num_bytes if file else None)


def open_store(folder: Path) -> Store:
    """Open a finished store.

    Raises:
        StoreError: The folder is not a store, is unfinished, or of another format.
    """
    marker = folder / STORE_NAME
    if not marker.is_file():
        raise StoreError(
            f"{folder}: no store.json found; expected a finished store. "
            "Make one: brainsegfounder prepare INPUT --out STORE --recipe RECIPE"
        )
    try:
        record = json.loads(marker.read_text(encoding="utf-8"))
        return Store(
            folder=folder,
            plan=read_plan(record, marker),
            cases=tuple(read_case(folder, name) for name in record["cases"]),
            manifest_sha256=sha256(folder / "manifest.csv"),
            preparation_version=record["preparation_version"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{folder}: the store is damaged ({error}). Prepare it again.") from error


def read_plan(record: dict[str, Any], marker: Path) -> StorePlan:
    """What a `store.json` (or `unfinished`) says that the store is for.

    Raises:
        StoreError: It is of another format.
        ValueError: It is damaged; also KeyError or TypeError.
    """
    if record["format"] != FORMAT:
        raise StoreError(
            f"{marker}: format {record['format']}; expected {FORMAT}. Prepare again, into a new "
            "folder."
        )
    if record["array_format"] not in get_args(ArrayFormat):
        raise ValueError(f"array_format {record['array_format']}")
    if record.get("dtype", "float16") not in get_args(Dtype):
        raise ValueError(f"dtype {record['dtype']}")
    return StorePlan(
        contrasts=tuple(record["contrasts"]),
        preparation=PreparationSettings.model_validate(record["preparation"]),
        reading=ReadingSettings.model_validate(record["reading"]),
        labels=None if record["labels"] is None else tuple(record["labels"]),
        array_format=record["array_format"],
        dtype=record.get("dtype", "float16"),
        pseudonyms=record.get("pseudonyms", False),
    )


def read_case(folder: Path, name: str) -> StoredCase:
    """The record of a case of a store.

    Raises:
        OSError: There is none.
        ValueError: It is damaged; also KeyError, TypeError or AttributeError.
    """
    record = json.loads((folder / "cases" / f"{name}.json").read_text(encoding="utf-8"))
    for key in ("shape_vox", "source_shape_vox", "fingerprints", "masks"):
        record[key] = tuple(record[key])
    record["scales"] = tuple(record.get("scales", ()))
    record["findings"] = tuple(Finding(**finding) for finding in record["findings"])
    record["files"] = {key: StoredFile(**file) for key, file in record["files"].items()}
    return StoredCase(**record)


def case_record(case: StoredCase) -> dict[str, Any]:
    """The opposite of `read_case`: the record of a case, ready for JSON."""
    return asdict(case)


def check_store(store: Store, recipe: Recipe) -> None:
    """Refuse a store that was prepared otherwise than a recipe says.

    Raises:
        StoreError: Naming the field, the store's value and the recipe's.
    """
    wanted, found = recipe.preparation.model_dump(), store.preparation.model_dump()
    for name, value in wanted.items():
        if found[name] != value:
            raise _mismatch(store, f"preparation.{name}", found[name], value)
    absent = [name for name in recipe.data.contrasts if name not in store.contrasts]
    if absent:
        raise _mismatch(store, "data.contrasts", list(store.contrasts), list(recipe.data.contrasts))
    if store.preparation_version != PREPARATION_VERSION:
        raise StoreError(
            f"{store.folder}: prepared by version {store.preparation_version} of the preparation; "
            f"expected {PREPARATION_VERSION}, as scans are prepared for prediction now. Give the "
            "same prepare command again."
        )


def _mismatch(store: Store, name: str, found: object, wanted: object) -> StoreError:
    return StoreError(
        f"{store.folder}: prepared with {name} = {found}, but the recipe says {wanted}. "
        f"Prepare again with this recipe, or --set {name}=..."
    )
