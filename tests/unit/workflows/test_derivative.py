"""A BIDS derivative: valid, safe from hostile names, rerun, with nothing of the source in it."""

import gzip
import json
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from brainsegfounder.data.cases import Case
from brainsegfounder.data.layouts import read_cases
from brainsegfounder.errors import LabelError, OutputExistsError, RunError
from brainsegfounder.settings import Region
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.nifti import read_labels, read_nifti
from brainsegfounder.volumes.phantom import write_cohort
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.derivative import CaseOutput, finished, write_case
from brainsegfounder.workflows.derivative_names import (
    Place,
    places_of,
    read_participants,
    source_names,
)
from brainsegfounder.workflows.derivative_tables import open_derivative, write_tables

NAMES = {"necrosis": 1, "oedema": 2, "enhancing": 4}
REGIONS = {
    "WT": Region(labels=(1, 2, 4), paint=2),
    "TC": Region(labels=(1, 4), paint=1),
    "ET": Region(labels=(4,), paint=4),
}
CANARY = "DOE^JANE"


def case_of(name: str, path: str = "/scans/x_T1w.nii.gz") -> Case:
    return Case(name, name, {"T1w": Path(path)})


@pytest.fixture
def output(draw_brain):
    """Everything a case can have, but DICOM."""
    image, labels = draw_brain()
    weights = np.stack([np.isin(labels.voxels[0], r.labels) * 0.9 for r in REGIONS.values()])
    return CaseOutput(
        case=case_of("case_001"),
        labels=labels,
        label_names=NAMES,
        regions=REGIONS,
        contrasts=("T1w",),
        probabilities=Volume(weights.astype(np.float32), labels.affine),
        maps={"entropy": image},
        flags=[Finding("not_registered", f"/home/{CANARY}/x.nii.gz", "look at it", "warning")],
        region_facts={"WT": {"expected_dice": 0.9}},
        provenance={"weights_sha256": "00" * 32},
    )


def test_the_official_validator_finds_no_error_for_other_input(tmp_path, output, bids_errors):
    names = ["case_001", "脑 scan;touch x", "case 001", "sub-7_ses-2"]
    cases = [case_of(name) for name in names]
    tree = open_derivative(tmp_path / "out", cases, "open-glioma")
    for case in cases:
        on_grids = {"T2w": output.labels} if case.case == "sub-7_ses-2" else {}
        write_case(tree, replace(output, case=case, on_grids=on_grids), "k")
    write_tables(tree.out)
    assert bids_errors(tree.out) == []
    assert (tree.out / "sub-case001/anat/sub-case001_desc-openglioma_dseg.nii.gz").is_file()
    assert (tree.out / "sub-7/ses-2/anat/sub-7_ses-2_space-T2w_desc-openglioma_dseg.json").is_file()


def test_the_official_validator_finds_no_error_for_bids_input(tmp_path, output, bids_errors):
    write_cohort(
        tmp_path / "bids", num_subjects=2, seed=1, lesion="none", contrasts=["T1w"], spacing_mm=6.0
    )
    cases = read_cases([tmp_path / "bids"])
    tree = open_derivative(tmp_path / "out", cases, "anatomy")
    for case in cases:
        write_case(tree, replace(output, case=case), "k")
    write_tables(tree.out)
    assert bids_errors(tree.out) == []
    record = json.loads(next(tree.out.glob("sub-000/anat/*_dseg.json")).read_text())
    assert record["Sources"] == ["bids:raw:sub-000/anat/sub-000_T1w.nii.gz"]
    description = json.loads((tree.out / "dataset_description.json").read_text())
    assert description["DatasetLinks"] == {"raw": "../bids"}
    assert description["GeneratedBy"][0]["Name"] == "brainsegfounder"
    (tmp_path / "more").mkdir()
    (tmp_path / "bids").rename(tmp_path / "more" / "bids")
    again = open_derivative(tree.out, read_cases([tmp_path / "more" / "bids"]), "anatomy")
    assert list(again.links.values()) == ["raw2"]
    description = json.loads((tree.out / "dataset_description.json").read_text())
    assert description["DatasetLinks"] == {"raw": "../bids", "raw2": "../more/bids"}


def test_labels_are_small_integers_with_slope_one_names_and_colours(tmp_path, output):
    tree = open_derivative(tmp_path, [output.case], "m")
    done = write_case(tree, output, "k")
    assert np.array_equal(read_labels(done.labels).voxels, output.labels.voxels)
    header = gzip.decompress(done.labels.read_bytes())[:352]
    image = nib.load(done.labels)
    assert image.get_data_dtype() == np.uint8
    assert struct.unpack_from("<ff", header, 112) == (1.0, 0.0)
    assert image.header.get_intent()[0] == "label"
    content = gzip.decompress(done.labels.read_bytes()).decode("latin-1")
    assert '<Label Key="4"' in content
    assert ">enhancing</Label>" in content
    table = done.files["label table"].read_text().splitlines()
    assert table[0] == "index\tname\tabbreviation\tcolor"
    assert table[2].split("\t")[:3] == ["1", "necrosis", "NEC"]
    many = replace(output.labels, voxels=output.labels.voxels * 100)
    wide = write_case(tree, replace(output, labels=many, label_names={"x": 400}), "k")
    assert nib.load(wide.labels).get_data_dtype() == np.uint16


def test_a_label_beyond_uint16_is_refused(tmp_path, output):
    tree = open_derivative(tmp_path, [output.case], "m")
    wrong = replace(output.labels, voxels=output.labels.voxels.astype(np.int32) * 100000)
    with pytest.raises(LabelError, match="from 0 to 65535"):
        write_case(tree, replace(output, labels=wrong), "k")
    assert finished(tree, output.case, "k") is None


def test_volumes_and_lesions_stand_in_the_tree_and_at_its_top(tmp_path, output):
    tree = open_derivative(tmp_path, [output.case], "m")
    done = write_case(tree, output, "k")
    write_tables(tmp_path)
    voxel_ml = output.labels.grid.voxel_volume_ml
    expected = np.count_nonzero(output.labels.voxels) * voxel_ml
    top = (tmp_path / "volumes.csv").read_text().splitlines()
    assert top[0].startswith("case,participant_id,model,region,volume_ml,num_lesions,expected_dice")
    row = top[1].split(",")
    assert row[:4] == ["case_001", "sub-case001", "m", "WT"]
    assert float(row[4]) == pytest.approx(expected, abs=1e-4)
    assert row[5:] == ["1", "0.9", "1"]
    lesions = json.loads((tmp_path / "lesions.json").read_text())
    assert lesions["notice"] == "Research use only. Not a medical device."
    assert {one["region"] for one in lesions["lesions"]} == {"WT", "TC", "ET"}
    inside = done.files["volumes"].read_text().splitlines()
    assert inside[0].split("\t")[:3] == ["region", "volume_ml", "num_lesions"]


def test_a_case_is_finished_only_with_its_key_and_all_its_files(tmp_path, output):
    tree = open_derivative(tmp_path, [output.case], "m")
    assert finished(tree, output.case, "k") is None
    done = write_case(tree, output, "k")
    found = finished(tree, output.case, "k")
    assert found is not None
    assert found.files == done.files
    assert found.record == done.record
    assert finished(tree, output.case, "another") is None
    done.files["map of entropy"].unlink()
    assert finished(tree, output.case, "k") is None


def test_a_case_written_again_leaves_nothing_of_the_older_result(tmp_path, output):
    tree = open_derivative(tmp_path, [output.case], "m")
    write_case(tree, output, "k")
    plain = replace(output, maps={}, probabilities=None)
    done = write_case(tree, plain, "k2")
    there = {path.name for path in done.sidecar.parent.iterdir()}
    assert there == {path.name for path in (done.sidecar, *done.files.values())}


def test_a_rerun_writes_the_same_bytes(tmp_path, output):
    for name in ("one", "two"):
        tree = open_derivative(tmp_path / name, [output.case], "m")
        write_case(tree, output, "k")
        write_tables(tmp_path / name)
    names = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*"))
    assert names == sorted(p.relative_to(tmp_path / "two") for p in (tmp_path / "two").rglob("*"))
    for name in names:
        if (tmp_path / "one" / name).is_file():
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_nothing_of_the_source_stands_in_any_file(tmp_path, output, draw_brain):
    image, labels = draw_brain()
    source = nib.Nifti1Image(image.voxels[0], image.affine)
    source.header["descrip"] = CANARY.encode()
    source.header["db_name"] = CANARY.encode()
    source.header.extensions.append(nib.nifti1.Nifti1Extension("comment", CANARY.encode()))
    (tmp_path / CANARY).mkdir()
    path = tmp_path / CANARY / "case_T1w.nii.gz"
    nib.save(source, path)
    read = read_nifti(path)
    carried = replace(labels, affine=read.affine, source=str(path))
    case = Case("case", "case", {"T1w": path})
    tree = open_derivative(tmp_path / "out", [case], "m")
    write_case(tree, replace(output, case=case, labels=carried, maps={"entropy": read}), "k")
    write_tables(tree.out)
    for file in (one for one in tree.out.rglob("*") if one.is_file()):
        content = file.read_bytes()
        content = gzip.decompress(content) if file.suffix == ".gz" else content
        assert CANARY.encode() not in content, file


def test_names_that_collapse_get_a_number_and_keep_it(tmp_path):
    first = places_of(["a_1", "a 1", "A-1", "脑", "sub-a1"])
    assert first["sub-a1"] == Place("a1")
    assert [first[name].subject for name in ("a_1", "a 1", "A-1", "脑")] == [
        "a1x2", "a1x3", "A1x4", "case",
    ]  # fmt: skip
    hostile = ["a\tb", "a\nb", "a\\nb", "x\udc80", "../../etc/passwd", "$(touch x)", "-rf"]
    tree = open_derivative(tmp_path, [case_of(name) for name in hostile], "m")
    known = read_participants(tmp_path)
    assert set(known) == set(hostile)
    assert len({place.stem.lower() for place in tree.places.values()}) == len(hostile)
    again = open_derivative(tmp_path, [case_of(name) for name in ["ab", *hostile[::-1]]], "m")
    assert {name: again.places[name] for name in hostile} == dict(tree.places)
    assert source_names(tmp_path)["sub-etcpasswd"] == "../../etc/passwd"


def test_a_bids_name_that_was_given_to_another_case_is_not_given_twice():
    places = places_of(["01", "sub-01"], {"01": "sub-01"})
    assert places["01"] == Place("01")
    assert places["sub-01"] == Place("sub01")


def test_a_folder_of_something_else_is_never_written_into(tmp_path):
    (tmp_path / "dataset_description.json").write_text('{"Name": "a study"}')
    with pytest.raises(OutputExistsError, match="holds no results of brainsegfounder"):
        open_derivative(tmp_path, [case_of("a")], "m")
    assert [path.name for path in tmp_path.iterdir()] == ["dataset_description.json"]


def test_a_damaged_sidecar_means_the_case_is_not_there(tmp_path, output):
    tree = open_derivative(tmp_path, [output.case], "m")
    done = write_case(tree, output, "k")
    for text in ("", "[1]", '{"Key": "k"}', '{"Key": "k", "Files": {"labels": {"name": "../x"}}}'):
        done.sidecar.write_text(text)
        assert finished(tree, output.case, "k") is None


def test_jobs_that_open_one_folder_at_once_lose_no_name(tmp_path):
    names = [[f"case {job}_{number}" for number in range(5)] for job in range(8)]
    with ThreadPoolExecutor(8) as pool:
        trees = list(
            pool.map(lambda some: open_derivative(tmp_path, [case_of(n) for n in some], "m"), names)
        )
    known = read_participants(tmp_path)
    assert set(known) == {name for some in names for name in some}
    for tree in trees:
        assert {name: known[name] for name in tree.places} == {
            name: place.participant for name, place in tree.places.items()
        }


def test_an_output_folder_that_cannot_be_written_is_said_at_once(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises((RunError, OutputExistsError)):
        open_derivative(tmp_path / "out", [case_of("a")], "m")
