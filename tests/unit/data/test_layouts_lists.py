"""Layouts in which a text file says which scans there are."""

import json

import pytest

from brainsegfounder.data.layouts import find_cases, read_cases, recognise
from brainsegfounder.errors import DataError

MSD_MODALITY = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}


def test_the_decathlon_has_four_contrasts_in_one_file(tree):
    content = {
        "name": "BRATS",
        "modality": MSD_MODALITY,
        "training": [
            {"image": "./imagesTr/BRATS_001.nii.gz", "label": "./labelsTr/BRATS_001.nii.gz"}
        ],
        "test": ["./imagesTs/BRATS_485.nii.gz"],
    }
    folder = tree(
        "imagesTr/BRATS_001.nii.gz", "labelsTr/BRATS_001.nii.gz", "imagesTs/BRATS_485.nii.gz",
        texts={"dataset.json": json.dumps(content)},
    )  # fmt: skip
    first, second = read_cases([folder])
    assert recognise(folder) == "datalist"
    assert (first.case, second.case) == ("BRATS_001", "BRATS_485")
    assert first.volumes == {"FLAIR": 0, "T1w": 1, "T1ce": 2, "T2w": 3}
    assert {path.name for path in first.contrasts.values()} == {"BRATS_001.nii.gz"}
    assert first.label.parent.name == "labelsTr"
    assert second.label is None


def test_a_monai_datalist_keeps_its_folds_and_reads_contrasts_from_names(tree, files_of):
    names = [f"BraTS2021_0000{n}" for n in (0, 1)]
    endings = ("flair", "t1ce", "t1", "t2", "seg")
    content = {
        "training": [
            {
                "fold": fold,
                "image": [f"{n}/{n}_{e}.nii.gz" for e in endings[:4]],
                "label": f"{n}/{n}_seg.nii.gz",
            }
            for fold, n in enumerate(names)
        ]
    }
    folder = tree(
        *(f"{n}/{n}_{e}.nii.gz" for n in names for e in endings),
        texts={"brats21_folds.json": json.dumps(content)},
    )
    found = find_cases([folder / "brats21_folds.json"])
    assert found.layouts == {"brats21_folds": "datalist"}
    assert [(c.case, c.fold) for c in found.cases] == [(names[0], 0), (names[1], 1)]
    assert files_of(found.cases[0])["FLAIR"] == "BraTS2021_00000_flair.nii.gz"
    assert set(found.cases[0].contrasts) == {"T1w", "T1ce", "T2w", "FLAIR"}


def test_a_listed_file_that_is_not_there_refuses_its_case_only(tree):
    content = {"training": [{"image": "a_T1w.nii.gz"}, {"image": "b_T1w.nii.gz"}]}
    folder = tree("b_T1w.nii.gz", texts={"list.json": json.dumps(content)})
    found = find_cases([folder / "list.json"])
    assert [case.case for case in found.cases] == ["b"]
    assert found.problems["a"].code == "listed_but_absent"
    assert found.problems["a"].file.endswith("a_T1w.nii.gz")


def test_nnunet_names_channels_and_has_folds(tree, files_of):
    content = {
        "channel_names": {"0": "T1w", "1": "FLAIR"},
        "labels": {"background": 0},
        "file_ending": ".nii.gz",
    }
    splits = [{"train": ["p_2"], "val": ["p_1"]}, {"train": ["p_1"], "val": ["p_2"]}]
    folder = tree(
        *(f"imagesTr/p_{n}_000{c}.nii.gz" for n in (1, 2) for c in (0, 1)),
        *(f"labelsTr/p_{n}.nii.gz" for n in (1, 2)),
        "imagesTs/p_9_0000.nii.gz",
        texts={"dataset.json": json.dumps(content), "splits_final.json": json.dumps(splits)},
    )
    cases = {case.case: case for case in read_cases([folder])}
    assert recognise(folder) == "nnunet"
    assert files_of(cases["p_1"]) == {"T1w": "p_1_0000.nii.gz", "FLAIR": "p_1_0001.nii.gz"}
    assert cases["p_1"].label.name == "p_1.nii.gz"
    assert {name: case.fold for name, case in cases.items()} == {"p_1": 0, "p_2": 1, "p_9": None}


@pytest.mark.parametrize("splits", [
    [{"train": ["b"], "val": ["a"]}, {"train": [], "val": ["a", "b"]}],
    [{"val": ["a", "b"]}, {"val": ["b"]}],
])  # fmt: skip
def test_nnunet_splits_that_test_a_case_twice_make_no_folds(tree, splits):
    folder = tree(
        *(f"imagesTr/{n}_0000.nii.gz" for n in "ab"),
        texts={
            "dataset.json": json.dumps({"channel_names": {"0": "T1w"}}),
            "splits_final.json": json.dumps(splits),
        },
    )
    found = find_cases([folder])
    assert [case.fold for case in found.cases] == [None, None]
    (doubt,) = [finding for finding in found.findings if finding.code == "folds_overlap"]
    assert (doubt.file, doubt.kind) == ("splits_final.json", "warning")
    assert "is tested in folds 0 and 1" in doubt.message


@pytest.mark.parametrize(
    ("fold", "expected"),
    [(0, 0), ("3", 3), (True, None), (-1, None), (1.5, None), ("a", None), ([0], None)],
)
def test_a_fold_of_a_datalist_is_a_number_from_0(tree, fold, expected):
    content = {"training": [{"image": "a_T1w.nii", "fold": fold}]}
    folder = tree("a_T1w.nii", texts={"list.json": json.dumps(content)})
    assert [case.fold for case in read_cases([folder / "list.json"])] == [expected]


def test_a_case_whose_scans_are_in_two_folds_is_refused(tree):
    rows = ["case,path,contrast,fold", "a,1.nii,T1w,0", "a,2.nii,FLAIR,1", "b,3.nii,T1w,1"]
    folder = tree("1.nii", "2.nii", "3.nii", texts={"scans.csv": "\n".join(rows)})
    found = find_cases([folder / "scans.csv"])
    assert [(case.case, case.fold) for case in found.cases] == [("b", 1)]
    assert found.problems["a"].code == "case_in_two_folds"
    assert found.problems["a"].found == "its scans are in folds 0, 1"


def test_nnunet_of_the_first_version_is_told_from_the_decathlon(tree):
    content = {"modality": {"0": "T1"}, "training": [{"image": "./imagesTr/a.nii.gz"}]}
    folder = tree("imagesTr/a.nii.gz", texts={"dataset.json": json.dumps(content)})
    assert recognise(folder) == "datalist"
    assert read_cases([folder])[0].contrasts.keys() == {"T1w"}


def nnssl(image):
    session = {"session_id": "ses-DEFAULT", "images": [image]}
    subject = {"subject_id": "sub-1", "sessions": {"ses-DEFAULT": session}}
    return {"collection_index": 1, "datasets": {"ds1": {"subjects": {"sub-1": subject}}}}


def test_nnssl_images_are_cases_with_masks_of_their_own(tree):
    image = {
        "name": "sub-1_T1w.nii.gz",
        "modality": "T1w",
        "image_path": "$nnssl_raw/sub-1/sub-1_T1w.nii.gz",
        "associated_masks": {"anonymization_mask": "sub-1/anon.nii.gz", "anatomy_mask": None},
    }
    folder = tree(
        "sub-1/sub-1_T1w.nii.gz",
        "sub-1/anon.nii.gz",
        texts={"pretrain_data.json": json.dumps(nnssl(image))},
    )
    (case,) = read_cases([folder])
    assert recognise(folder) == "nnssl"
    assert (case.case, case.subject, case.site) == ("ds1_sub-1_sub-1_T1w", "ds1_sub-1", "ds1")
    assert {name: path.name for name, path in case.masks.items()} == {"deface": "anon.nii.gz"}


def test_openmind_carries_masks_and_counts_what_was_not_downloaded(tree):
    head = "image_path,modality,anon_mask_path,anat_mask_path,unique_id\n"
    scan = "ds000001/sub-01/ses-1/anat/sub-01_ses-1_T1w"
    rows = [
        f"{scan}.nii.gz,T1w,{scan}_anon.nii.gz,{scan}_anat.nii.gz,u1",
        "ds000001/sub-02/anat/sub-02_T1w.nii.gz,T1w,,,u2",
        "ds000001/sub-01/ses-1/anat/sub-01_ses-1_UNIT1.nii.gz,UNIT1,,,u3",
    ]
    folder = tree(
        *(f"OpenMind/{scan}{end}.nii.gz" for end in ("", "_anon", "_anat")),
        "OpenMind/ds000001/sub-01/ses-1/anat/sub-01_ses-1_UNIT1.nii.gz",
        texts={
            "openneuro_metadata.csv": head + "\n".join(rows),
            "README.md": "---\nlicense: cc-by-4.0\n---\n# OpenMind",
        },
    )
    found = find_cases([folder])
    (case,) = found.cases
    assert set(found.layouts.values()) == {"openmind"}
    assert (case.subject, case.session, case.licence) == ("ds000001_sub-01", "1", "cc-by-4.0")
    assert {name: path.name[-11:] for name, path in case.masks.items()} == {
        "deface": "anon.nii.gz",
        "anatomy": "anat.nii.gz",
    }
    messages = {finding.code: finding.message for finding in found.findings}
    assert messages["listed_but_absent"].startswith("1 of 3 images are not in this folder")
    assert messages["contrast_unknown"].startswith("UNIT1 in the name of 1 files")


def test_a_table_of_scans_and_a_table_of_cases_say_the_same(tree, files_of):
    rows = [
        "subject session site contrast path label",
        "A 1 X T1 a1.nii seg.nii",
        "A 1 X FLAIR a2.nii seg.nii",
    ]
    long = "\n".join(row.replace(" ", "\t") for row in rows)
    wide = "subject,session,site,T1w_path,flair,label,brain_mask\nA,1,X,a1.nii,a2.nii,seg.nii,\n"
    folder = tree("a1.nii", "a2.nii", "seg.nii", texts={"long.tsv": long, "wide.csv": wide})
    (first,), (second,) = read_cases([folder / "long.tsv"]), read_cases([folder / "wide.csv"])
    assert first == second
    assert (first.case, first.subject, first.site) == ("A_1", "A", "X")
    assert files_of(first) == {"T1w": "a1.nii", "FLAIR": "a2.nii"}
    assert first.label.name == "seg.nii"


def test_a_table_without_scans_lists_its_columns(tree):
    folder = tree(texts={"ages.csv": "subject,age\nA,3\n"})
    with pytest.raises(DataError, match=r"columns \['subject', 'age'\]; expected `path`"):
        read_cases([folder / "ages.csv"])


@pytest.mark.parametrize(
    "content",
    ["{", "[1, 2", "[" * 100_000, "null", '{"datasets": []}', '{"datasets": {"d": 3}}',
     '{"training": {"image": 3}}', '{"training": [{"image": {"a": 1}}]}',
     '{"datasets": {"d": {"subjects": {"s": {"sessions": {"v": [1]}}}}}}',
     '{"modality": 3, "training": ["a.nii", "b.nii"]}',
     '{"modality": {"x": "T1", "y": "T2"}, "training": ["a.nii"]}'],
)  # fmt: skip
def test_a_list_of_another_kind_is_refused_with_its_name(tree, content):
    folder = tree("a.nii", "b.nii", texts={"list.json": content})
    with pytest.raises(DataError, match=r"list|no scan recognised"):
        read_cases([folder / "list.json"])


def test_a_list_that_is_too_large_is_refused_without_being_read(tree):
    folder = tree(texts={"list.json": "{"})
    with (folder / "list.json").open("r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(DataError, match="larger than 256 MiB"):
        read_cases([folder / "list.json"])


@pytest.mark.parametrize("name", ["../../etc/x", "a/b", ".hidden", "..", "x" * 300])
def test_a_name_that_no_file_can_have_refuses_its_case_only(tree, name):
    table = f"case,path\n{name},a_T1w.nii\ngood,b_T1w.nii\n"
    found = find_cases([tree("a_T1w.nii", "b_T1w.nii", texts={"t.csv": table}) / "t.csv"])
    assert [case.case for case in found.cases] == ["good"]
    assert [problem.code for problem in found.problems.values()] == ["case_name_unfit"]
