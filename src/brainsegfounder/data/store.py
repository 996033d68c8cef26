"""The store: prepared cases on disk, from which patches are read without reading a case.

STORE/
  store.json                    what it was prepared for; written last, so it marks a whole store
  manifest.csv                  case, subject, session, files
  cases/<case>.image.b2nd       intensities, float16, (C, I, J, K), chunks of 32³
  cases/<case>.labels.b2nd      label values, int16, (1, I, J, K)
  cases/<case>.reference.b2nd   the mask on the file's own grid, for evaluation
  cases/<case>.foreground.npy   up to 2,000 labelled voxels a label: value, i, j, k
  cases/<case>.json             subject, session, grids
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from brainsegfounder.data.manifest import Case, manifest_csv
from brainsegfounder.errors import LabelError, StoreError
from brainsegfounder.files import sha256, write_text
from brainsegfounder.settings import PreparationSettings, Recipe
from brainsegfounder.volumes.preparation import Prepared
from brainsegfounder.volumes.volume import Grid, Triple, Volume

FORMAT = 1
CHUNK_VOX = 32
MAX_FOREGROUND_VOXELS = 2000


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

    @property
    def grid(self) -> Grid:
        """The prepared grid."""
        return Grid(self.shape_vox, np.asarray(self.affine))

    @property
    def source_grid(self) -> Grid:
        """The grid of the file it came from."""
        return Grid(self.source_shape_vox, np.asarray(self.source_affine))


@dataclass(frozen=True, slots=True)
class Store:
    """An opened store: its settings and its cases."""

    folder: Path
    contrasts: tuple[str, ...]
    preparation: PreparationSettings
    cases: tuple[StoredCase, ...]
    manifest_sha256: str

    def image(self, case: StoredCase) -> Any:
        """The case's intensities, sliceable, shape (C, I, J, K), float16."""
        return _open_array(self.folder / "cases" / f"{case.case}.image.b2nd")

    def labels(self, case: StoredCase) -> Any:
        """The case's labels, sliceable, shape (1, I, J, K), int16."""
        return _open_array(self.folder / "cases" / f"{case.case}.labels.b2nd")

    def reference(self, case: StoredCase) -> Volume:
        """The case's mask on the grid of its file, shape (1, I, J, K), int16."""
        array = _open_array(self.folder / "cases" / f"{case.case}.reference.b2nd")
        return Volume(array[:], np.asarray(case.source_affine), case.case)

    def prepared_image(self, case: StoredCase, contrasts: Sequence[str]) -> Volume:
        """The whole prepared image, contrasts in the order asked for, float32."""
        channels = [self.contrasts.index(name) for name in contrasts]
        voxels = np.ascontiguousarray(self.image(case)[:][channels], dtype=np.float32)
        return Volume(voxels, np.asarray(case.affine), case.case)

    def foreground(self, case: StoredCase) -> NDArray[np.int16]:
        """Labelled voxels to sample from, rows of (value, i, j, k); empty without a lesion."""
        path = self.folder / "cases" / f"{case.case}.foreground.npy"
        return np.asarray(np.load(path, allow_pickle=False))


def write_case(
    folder: Path, case: Case, prepared: Prepared, labels: Mapping[str, int] | None = None
) -> StoredCase:
    """Write one prepared case into a store that is being made.

    Args:
        folder: The store.
        case: Whose files they were.
        prepared: The result of preparation.
        labels: The label values that may stand in the mask beside 0; None takes any, and an
            empty mapping stores no mask.

    Raises:
        LabelError: The mask holds another value.
    """
    values, reference = None, None
    if prepared.labels is not None and prepared.reference is not None and labels != {}:
        values, reference = prepared.labels.voxels, prepared.reference.voxels
        if labels is not None:
            _check_values(reference, labels, case)
    stored = StoredCase(
        case=case.case,
        subject=case.subject,
        session=case.session,
        shape_vox=prepared.image.shape_vox,
        affine=prepared.image.affine.tolist(),
        source_shape_vox=prepared.source_grid.shape_vox,
        source_affine=prepared.source_grid.affine.tolist(),
        has_labels=values is not None,
        fingerprints=prepared.fingerprints,
    )
    target = folder / "cases"
    target.mkdir(parents=True, exist_ok=True)
    _write_array(target / f"{case.case}.image.b2nd", prepared.image.voxels.astype(np.float16))
    if values is not None and reference is not None:
        _write_array(target / f"{case.case}.reference.b2nd", reference.astype(np.int16))
        _write_array(target / f"{case.case}.labels.b2nd", values.astype(np.int16))
        np.save(target / f"{case.case}.foreground.npy", _sample_foreground(values[0]))
    write_text(target / f"{case.case}.json", json.dumps(asdict(stored), indent=1))
    return stored


def finish_store(
    folder: Path,
    cases: Sequence[Case],
    contrasts: Sequence[str],
    preparation: PreparationSettings,
) -> None:
    """Write the manifest, then `store.json`, which makes the folder a store."""
    write_text(folder / "manifest.csv", manifest_csv(cases))
    record = {
        "format": FORMAT,
        "contrasts": list(contrasts),
        "preparation": preparation.model_dump(mode="json"),
        "cases": [case.case for case in cases],
    }
    write_text(folder / "store.json", json.dumps(record, indent=1))


def open_store(folder: Path) -> Store:
    """Open a finished store.

    Raises:
        StoreError: The folder is not a store, is unfinished, or of another format.
    """
    marker = folder / "store.json"
    if not marker.is_file():
        raise StoreError(
            f"{folder}: no store.json found; expected a finished store. "
            "Make one: brainsegfounder prepare INPUT --out STORE --recipe RECIPE"
        )
    try:
        record = json.loads(marker.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise StoreError(
                f"{marker}: format {record['format']}; expected {FORMAT}. Prepare again."
            )
        cases = tuple(_read_case(folder / "cases" / f"{name}.json") for name in record["cases"])
        return Store(
            folder=folder,
            contrasts=tuple(record["contrasts"]),
            preparation=PreparationSettings.model_validate(record["preparation"]),
            cases=cases,
            manifest_sha256=sha256(folder / "manifest.csv"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{folder}: the store is damaged ({error}). Prepare it again.") from error


def check_store(store: Store, recipe: Recipe) -> None:
    """Refuse a store that was prepared otherwise than a recipe says.

    Raises:
        StoreError: Naming the field, the store's value and the recipe's.
    """
    wanted, found = recipe.preparation.model_dump(), store.preparation.model_dump()
    for field, value in wanted.items():
        if found[field] != value:
            raise _mismatch(store, f"preparation.{field}", found[field], value)
    absent = [name for name in recipe.data.contrasts if name not in store.contrasts]
    if absent:
        raise _mismatch(store, "data.contrasts", list(store.contrasts), list(recipe.data.contrasts))


def _mismatch(store: Store, field: str, found: object, wanted: object) -> StoreError:
    return StoreError(
        f"{store.folder}: prepared with {field} = {found}, but the recipe says {wanted}. "
        f"Prepare again with this recipe, or --set {field}=..."
    )


def _check_values(values: NDArray[Any], labels: Mapping[str, int], case: Case) -> None:
    strange = sorted(set(np.unique(values).tolist()) - {0, *labels.values()})
    if strange:
        known = ", ".join(f"{value} {name}" for name, value in labels.items())
        raise LabelError(
            f"{case.label}: label values {strange} found; expected 0, {known}. "
            "Correct the mask, or name them in data.labels of the recipe."
        )


def _sample_foreground(values: NDArray[Any]) -> NDArray[np.int16]:
    rows = []
    for value in np.unique(values[values != 0]):
        places = np.argwhere(values == value)
        step = max(1, len(places) // MAX_FOREGROUND_VOXELS)
        places = places[::step][:MAX_FOREGROUND_VOXELS]
        rows.append(np.column_stack([np.full(len(places), value), places]))
    return np.concatenate(rows).astype(np.int16) if rows else np.zeros((0, 4), dtype=np.int16)


def _write_array(path: Path, array: NDArray[Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    channels, *shape_vox = array.shape
    chunk = (channels, *(min(CHUNK_VOX, n) for n in shape_vox))
    blosc2.asarray(
        np.ascontiguousarray(array),
        urlpath=str(partial),
        chunks=chunk,
        cparams={"codec": blosc2.Codec.LZ4, "nthreads": 1},
    )
    if not np.array_equal(blosc2.open(str(partial), mode="r")[:], array):
        raise StoreError(f"{path}: what was written cannot be read back; is the disk full?")
    partial.replace(path)


def _open_array(path: Path) -> Any:
    try:
        return blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"{path}: cannot be opened ({error}). Prepare the case again.") from error


def _read_case(path: Path) -> StoredCase:
    record = json.loads(path.read_text(encoding="utf-8"))
    record["shape_vox"] = tuple(record["shape_vox"])
    record["source_shape_vox"] = tuple(record["source_shape_vox"])
    record["fingerprints"] = tuple(record["fingerprints"])
    return StoredCase(**record)
