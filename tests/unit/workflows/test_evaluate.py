import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import brainsegfounder
from brainsegfounder.errors import DataError, UsageError
from brainsegfounder.evaluation.conventions import CONVENTIONS, convention
from brainsegfounder.recipes import load_recipe
from brainsegfounder.settings import ReadingSettings
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.evaluate import Evaluated, run_evaluate

SHAPE = (20, 18, 16)


def save(path: Path, voxels, affine=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def tumour(shift: int = 0, enhancing: int = 4):
    labels = np.zeros(SHAPE, np.uint8)
    for size, value in ((8, 2), (6, 1), (3, enhancing)):
        labels[4 + shift : 4 + shift + size, 4 : 4 + size, 4 : 4 + size] = value
    return labels


def folders(root: Path, number: int = 3, **changes) -> tuple[Path, Path]:
    for case in range(number):
        save(root / "p" / f"case{case}_seg.nii.gz", tumour(case % 3, **changes))
        save(root / "r" / f"case{case}_seg.nii.gz", tumour())
    return root / "p", root / "r"


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def evaluated(root: Path, name: str, tumour_type: str | None = None, **more) -> Evaluated:
    predictions, references = folders(root)
    rules = convention(name, tumour_type)
    return run_evaluate(predictions, references, root / "out", rules=rules, **more)


@pytest.mark.parametrize("name", ["plain", "brats-2021", "brats-2023"])
def test_files_state_the_convention_and_have_a_row_for_each_case_and_region(
    name: str, tmp_path: Path
) -> None:
    evaluated(tmp_path, name)
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    rules = convention(name)
    assert (content["convention"], content["version"]) == (name, rules.version)
    assert content["source"] == rules.source
    assert content["rules"] == rules.rules
    assert content["parameters"]["dilation_vox"] == rules.dilation_vox
    regions = ["label-1", "label-2", "label-4"] if name == "plain" else ["WT", "TC", "ET"]
    rows = rows_of(tmp_path / "out")
    assert [(row["case"], row["region"]) for row in rows] == [
        (f"case{case}", region) for case in range(3) for region in regions
    ]
    assert len(content["cases"]) == 9
    assert float(rows[0]["dice"]) == 1.0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "3 of 3 cases scored" in page
    assert f"convention {name}" in page


def test_the_first_columns_are_the_promised_ones_in_every_convention(tmp_path: Path) -> None:
    for name in CONVENTIONS:
        folder = tmp_path / name
        reference = (tumour() > 0).astype(np.uint8)
        save(folder / "r" / "a_seg.nii.gz", reference)
        save(folder / "p" / "a_seg.nii.gz", reference)
        regions = convention(name).regions or {"label-1": (1,)}
        for region, values in regions.items():
            voxels = np.isin(reference, values).astype(np.float32)
            save(folder / "q" / f"a_{region}_probseg.nii.gz", voxels)
        out = folder / "out"
        run_evaluate(
            folder / "p", folder / "r", out, rules=convention(name), probabilities=folder / "q"
        )
        columns = list(rows_of(out)[0])
        assert columns[:8] == [
            "case", "region", "dice", "hd95_mm", "volume_difference_vox", "volume_difference_ml",
            "lesion_count_difference", "lesion_f1",
        ]  # fmt: skip
        assert {"nsd_1mm", "nsd_2mm", "average_precision", "ece", "found_1_to_10ml"} < set(columns)
        assert rows_of(out)[0]["average_precision"] == "1.0000"


def test_label_3_and_label_4_are_the_same_enhancing_tumour(tmp_path: Path) -> None:
    predictions, references = folders(tmp_path, 1, enhancing=3)
    for name in ("brats-2021", "brats-2023"):
        out = tmp_path / name
        run_evaluate(predictions, references, out, rules=convention(name))
        assert {row["region"]: row["dice"] for row in rows_of(out)}["ET"] == "1.0000"


def test_atlas_counts_voxels_and_lesions_by_faces(tmp_path: Path) -> None:
    reference, prediction = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    reference[2, 2, 2] = reference[3, 3, 3] = 1
    prediction[2, 2, 2:5] = 1
    save(tmp_path / "r" / "a_mask.nii.gz", reference)
    save(tmp_path / "p" / "a.nii.gz", prediction)
    rules = convention("atlas-2022")
    run_evaluate(tmp_path / "p", tmp_path / "r", tmp_path / "out", rules=rules)
    [row] = rows_of(tmp_path / "out")
    assert row["volume_difference_vox"] == "1"
    assert row["lesion_count_difference"] == "1"
    assert float(row["lesion_f1"]) == pytest.approx(1 / 1.5, abs=1e-4)
    assert float(row["dice"]) == pytest.approx(2 / 5)


def test_published_soft_takes_probabilities_and_leaves_out_empty_references(tmp_path: Path) -> None:
    reference = (tumour() > 0).astype(np.uint8)
    for case, mask in (("a", reference), ("b", np.zeros_like(reference))):
        save(tmp_path / "r" / f"{case}_seg.nii.gz", mask)
        save(tmp_path / "p" / f"{case}_seg.nii.gz", reference)
        save(tmp_path / "p" / f"{case}_probseg.nii.gz", 0.5 * reference.astype(np.float32))
    rules, out = convention("published-soft"), tmp_path / "out"
    run_evaluate(tmp_path / "p", tmp_path / "r", out, rules=rules, probabilities=tmp_path / "p")
    rows = rows_of(out)
    assert [row["dice"] for row in rows] == ["0.6667", ""]
    assert [row["whole_dice"] for row in rows] == ["1.0000", "0.0000"]
    content = json.loads((out / "metrics.json").read_text())
    assert content["cases"][1]["dice"] is None
    assert content["aggregate"]["label-1"]["num_cases"] == 1
    assert content["aggregate"]["label-1"]["metrics"]["whole_dice"]["num_cases"] == 2
    assert sum(one["num_voxels"] for one in content["reliability"]["label-1"]["bins"]) == (
        2 * np.prod(SHAPE)
    )
    with pytest.raises(UsageError, match="expected --probabilities"):
        run_evaluate(tmp_path / "p", tmp_path / "r", tmp_path / "other", rules=rules)


def test_a_case_without_probabilities_or_with_other_numbers_is_listed(tmp_path: Path) -> None:
    predictions, references = folders(tmp_path)
    probable = tmp_path / "q"
    for case, top in ((0, 1.0), (1, 3.0)):
        for region in ("WT", "TC", "ET"):
            voxels = (top * (tumour() > 0)).astype(np.float32)
            save(probable / f"case{case}_label-{region}_probseg.nii.gz", voxels)
    done = run_evaluate(
        predictions,
        references,
        tmp_path / "out",
        rules=convention("brats-2021"),
        probabilities=probable,
    )
    assert {score.case for score in done.scores} == {"case0"}
    assert "values from 0 to 3; expected probabilities" in done.refused["case1"]
    assert "case2_label-WT_probseg.nii.gz" in done.refused["case2"]


def test_a_file_of_one_volume_is_not_taken_for_several_regions(tmp_path: Path) -> None:
    predictions, references = folders(tmp_path, 2)
    voxels = (tumour() > 0).astype(np.float32)
    save(tmp_path / "q" / "case0_probseg.nii.gz", np.stack([voxels] * 3, axis=-1))
    save(tmp_path / "q" / "case1_probseg.nii.gz", voxels)
    rules = convention("brats-2021")
    done = run_evaluate(
        predictions, references, tmp_path / "out", rules=rules, probabilities=tmp_path / "q"
    )
    assert done.scores[0].average_precision == 1.0
    assert "one volume for 3 regions" in done.refused["case1"]


def test_several_processes_find_what_one_finds(tmp_path: Path) -> None:
    predictions, references = folders(tmp_path, 9)
    (predictions / "case4_seg.nii.gz").write_bytes(b"broken")
    found = [
        run_evaluate(
            predictions,
            references,
            tmp_path / f"out{jobs}",
            rules=convention("brats-2021"),
            jobs=jobs,
        )
        for jobs in (0, 2)
    ]
    assert found[0] == found[1]
    assert list(found[0].refused) == ["case4"]
    texts = [(tmp_path / f"out{jobs}" / "metrics.json").read_text() for jobs in (0, 2)]
    assert texts[0] == texts[1]


def test_a_turned_prediction_scores_as_if_it_were_not_and_another_grid_is_refused(
    tmp_path: Path,
) -> None:
    predictions, references = folders(tmp_path, 2)
    flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
    flipped[0, 3] = SHAPE[0] - 1
    save(predictions / "case0_seg.nii.gz", tumour()[::-1], flipped)
    save(predictions / "case1_seg.nii.gz", tumour(), np.diag([1.2, 1, 1, 1]))
    done = run_evaluate(predictions, references, tmp_path / "out", rules=convention("brats-2021"))
    assert [score.dice for score in done.scores] == [1.0] * 3
    assert "expected one physical grid" in done.refused["case1"]


def test_labels_of_the_recipe_are_the_legal_ones(tmp_path: Path) -> None:
    predictions, references = folders(tmp_path, 2, enhancing=3)
    recipe = load_recipe("open-glioma")
    with pytest.raises(DataError, match=r"label values \[3\] found; expected 0, 1"):
        run_evaluate(predictions, references, tmp_path / "out", recipe)
    done = run_evaluate(
        predictions,
        references,
        tmp_path / "mapped",
        recipe,
        reading=ReadingSettings(label_map={3: 4}),
    )
    assert {score.region: score.dice for score in done.scores[:3]}["ET"] == 1.0


def test_regions_given_in_python_need_not_name_every_label(tmp_path: Path) -> None:
    predictions, references = folders(tmp_path, 1)
    rows = brainsegfounder.evaluate(predictions, references, {"ET": (4,)})
    assert [(row["region"], row["dice"]) for row in rows] == [("ET", 1.0)]


def test_tolerances_name_their_columns(tmp_path: Path) -> None:
    predictions, references = folders(tmp_path, 1)
    run_evaluate(predictions, references, tmp_path / "out", tolerances_mm=[0.5, 3])
    columns = rows_of(tmp_path / "out")[0]
    assert {name for name in columns if name.startswith("nsd_")} == {"nsd_0.5mm", "nsd_3mm"}


def test_a_provisional_convention_says_so_on_its_page_and_in_its_file(tmp_path: Path) -> None:
    reference = (tumour() > 0).astype(np.uint8)
    for side in ("p", "r"):
        save(tmp_path / side / "a_seg.nii.gz", reference)
    rules = convention("isles-2026")
    run_evaluate(tmp_path / "p", tmp_path / "r", tmp_path / "out", rules=rules)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["provisional"] is True
    assert "is provisional" in (tmp_path / "out" / "report.html").read_text()


def test_python_takes_a_convention_too() -> None:
    volumes = [Volume(tumour(shift)[None].astype(np.int16), np.eye(4)) for shift in (0, 1)]
    rows = brainsegfounder.evaluate(*volumes, convention_name="brats-2023", tumour_type="glioma")
    assert [row["region"] for row in rows] == ["WT", "TC", "ET"]
    assert rows[0]["whole_dice"] == pytest.approx(7 / 8)
