import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from brainsegfounder.data.layouts import read_cases
from brainsegfounder.data.manifest import (
    COLUMNS,
    Case,
    ManifestRow,
    manifest_csv,
    manifest_rows,
    manifest_schema,
    orientation_of,
    read_manifest,
    write_manifest,
)
from brainsegfounder.errors import DataError, UsageError
from brainsegfounder.volumes.volume import Grid

SCHEMA_FILE = Path(__file__).parents[3] / "docs" / "reference" / "manifest.schema.json"
ROWS = [
    ManifestRow(
        case="sub-01_ses-1",
        subject="sub-01",
        session="1",
        site="Leeds",
        contrast="T1w",
        path="sub-01/a, b.nii.gz",
        masks={"brain": "m.nii.gz", "deface": "脑.nii.gz"},
        label="l.nii.gz",
        sha256="0" * 64,
        shape=(182, 218, 182),
        spacing=(1.0, 1.0, 1.2),
        orientation="LAS",
        licence="CC0",
        fold=0,
    ),
    ManifestRow("b", "b", "", "", "FLAIR", "b.nii"),
]


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.parquet"])
def test_what_is_written_is_read_back_and_the_same_rows_give_the_same_bytes(tmp_path, name):
    write_manifest(tmp_path / name, ROWS)
    write_manifest(tmp_path / f"again-{name}", ROWS)
    assert read_manifest(tmp_path / name) == ROWS
    assert (tmp_path / name).read_bytes() == (tmp_path / f"again-{name}").read_bytes()


def test_parquet_holds_typed_columns(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_manifest(tmp_path / "m.parquet", ROWS)
    table = parquet.read_table(tmp_path / "m.parquet")
    assert table.column_names == list(COLUMNS)
    kinds = {name: str(table.schema.field(name).type) for name in ("path", "masks", "spacing")}
    assert kinds["path"] == "string"
    assert kinds["masks"].startswith("map<string, string")
    assert "double" in kinds["spacing"]
    assert table.column("shape").to_pylist() == [[182, 218, 182], None]


def test_an_empty_manifest_has_its_columns(tmp_path):
    for name in ("m.csv", "m.parquet"):
        write_manifest(tmp_path / name, [])
        assert read_manifest(tmp_path / name) == []
    assert (tmp_path / "m.csv").read_text().split() == [",".join(COLUMNS)]


def test_a_missing_pyarrow_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r'pip install "brainsegfounder\[parquet\]"'):
        write_manifest(tmp_path / "m.parquet", ROWS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["m.json", "m"])
def test_another_suffix_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match=r"expected \.csv or \.parquet"):
        write_manifest(tmp_path / name, ROWS)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("case,", "kase,", "no column case"),
        ("[182, 218, 182]", "[182]", "case sub-01_ses-1: not enough values"),
        ("[182, 218, 182]", "[", "Expecting value"),
        ("[1.0, 1.0, 1.2]", "{}", "case sub-01_ses-1"),
        (",CC0,0", ",CC0,-1", "case sub-01_ses-1: fold -1"),
        (",CC0,0", ",CC0,1.5", "case sub-01_ses-1: fold 1.5"),
    ],
)
def test_a_damaged_manifest_is_refused_with_what_is_wrong(tmp_path, old, new, found):
    path = tmp_path / "m.csv"
    write_manifest(path, ROWS)
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(DataError, match=found):
        read_manifest(path)


def test_a_parquet_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "m.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match=r"m\.parquet: .*expected the columns case"):
        read_manifest(tmp_path / "m.parquet")


def test_a_row_for_each_scan_with_the_masks_of_its_case(tmp_path):
    files = {name: tmp_path / f"{name}.nii" for name in ("T1w", "FLAIR", "label", "brain")}
    case = Case(
        "a_1", "a", {"T1w": files["T1w"], "FLAIR": files["FLAIR"]}, files["label"], "1",
        site="X", licence="CC0", masks={"brain": files["brain"]},
    )  # fmt: skip
    grid = Grid((4, 5, 6), np.diag([-1.0, 1.0, 2.0, 1.0]))
    first, second = manifest_rows([case], {files["T1w"]: grid}, {files["T1w"]: "f" * 64}, tmp_path)
    assert (first.path, first.label, first.masks) == (
        "T1w.nii",
        "label.nii",
        {"brain": "brain.nii"},
    )
    assert (first.shape, first.spacing, first.orientation) == ((4, 5, 6), (1.0, 1.0, 2.0), "LAS")
    assert first.sha256 == "f" * 64
    expected = {"contrast": "FLAIR", "path": "FLAIR.nii", "shape": None, "spacing": None}
    assert second == replace(first, sha256="", orientation="", **expected)


def test_a_manifest_is_a_layout_too(tmp_path):
    for name in ("t1", "flair", "lesion", "brain"):
        (tmp_path / f"{name}.nii").touch()
    masks = {"brain": tmp_path / "brain.nii"}
    contrasts = {"T1w": tmp_path / "t1.nii", "FLAIR": tmp_path / "flair.nii"}
    case = Case("c_9", "c", contrasts, tmp_path / "lesion.nii", "9", site="Y", masks=masks, fold=3)
    write_manifest(tmp_path / "manifest.csv", manifest_rows([case], root=tmp_path))
    assert read_cases([tmp_path / "manifest.csv"]) == [case]


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], "RAS"),
        ([[-1, 0, 0], [0, -2, 0], [0, 0, 3]], "LPS"),
        ([[0, 1, 0], [0, 0, 1], [-1, 0, 0]], "ASL"),
        ([[0.9, 0.3, 0.1], [-0.3, 0.9, 0], [0, -0.1, -0.9]], "RAI"),
    ],
)
def test_orientation_says_where_axes_point(columns, code):
    affine = np.eye(4)
    affine[:3, :3] = np.array(columns, dtype=float).T
    assert orientation_of(affine) == code


def test_the_kept_schema_is_that_of_the_code():
    schema = manifest_schema()
    assert json.loads(SCHEMA_FILE.read_text(encoding="utf-8")) == schema
    assert list(schema["properties"]) == list(COLUMNS)


def test_rows_fit_the_schema():
    kinds = {"string": str, "object": dict, "array": list, "integer": int, "null": type(None)}
    kinds["number"] = float
    properties = manifest_schema()["properties"]
    for row in ROWS:
        record = json.loads(json.dumps({name: getattr(row, name) for name in COLUMNS}))
        for name, value in record.items():
            allowed = properties[name]["type"]
            names = [allowed] if isinstance(allowed, str) else allowed
            assert isinstance(value, tuple(kinds[kind] for kind in names)), name
            if isinstance(value, str):
                assert re.search(properties[name].get("pattern", ""), value), name
            if isinstance(value, list):
                assert len(value) == properties[name]["minItems"] == properties[name]["maxItems"]


def test_the_stores_table_does_not_depend_on_where_the_data_lie(tmp_path):
    cases = [
        Case("a", "a", {"T1w": folder / "a_T1w.nii"}, folder / "a_seg.nii")
        for folder in (tmp_path / "here", tmp_path / "there")
    ]
    assert manifest_csv(cases[:1]) == manifest_csv(cases[1:])
    assert str(tmp_path) not in manifest_csv(cases)


def test_a_fold_changes_the_stores_table_and_without_folds_there_is_no_column(tmp_path):
    def table(fold):
        return manifest_csv([Case("a", "a", {"T1w": tmp_path / "a.nii"}, fold=fold)])

    assert table(None).splitlines()[0] == "case,subject,session,T1w,label"
    assert table(0).splitlines() == ["case,subject,session,T1w,label,fold", "a,a,,a.nii,,0"]
    assert table(1) != table(0)
