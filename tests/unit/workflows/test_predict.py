"""`predict` and `replay`: what is kept, what is flagged, and that the same comes out again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from brainsegfounder.data.cases import Case
from brainsegfounder.data.layouts import read_cases
from brainsegfounder.errors import DataError, OutputExistsError, UsageError
from brainsegfounder.inference.familiarity import learn_usual
from brainsegfounder.inference.model_config import DiceLine, config_of
from brainsegfounder.recipes import load_recipe
from brainsegfounder.volumes.appearance import appearance
from brainsegfounder.volumes.nifti import read_labels, read_nifti, write_nifti
from brainsegfounder.volumes.preparation import prepare_case
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows import predict
from brainsegfounder.workflows.model_folder import build_network, load_model, save_model
from brainsegfounder.workflows.predict import run_predict
from brainsegfounder.workflows.predict_case import segment_case
from brainsegfounder.workflows.predict_output import PredictOptions
from brainsegfounder.workflows.replay import run_replay

CONTRASTS = ("T1w", "T1ce", "T2w", "FLAIR")
QUICK = PredictOptions(pages=False)
LINE = DiceLine(slope=1.0, intercept=0.0, misses=(0.1,) * 20)


@pytest.fixture(scope="module")
def scans(bids_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects of the made cohort."""
    folder = tmp_path_factory.mktemp("scans")
    shutil.copy(bids_tree / "dataset_description.json", folder)
    for subject in ("sub-000", "sub-001"):
        shutil.copytree(bids_tree / subject, folder / subject)
    return folder


@pytest.fixture(scope="module")
def model(bids_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, which know how the cohort looks and what Dice to expect."""
    recipe = load_recipe("demo-target")
    config = config_of(recipe, "segmentation", {})
    looks = [
        appearance(
            prepare_case(c.case, c.contrasts, CONTRASTS, config.preparation).image, CONTRASTS
        )
        for c in read_cases([bids_tree])[:6]
    ]
    lines = {"TC": LINE, "WT": LINE, "ET": LINE}
    changes = {"familiar": learn_usual(looks), "expected_dice": lines}
    config = config.model_copy(update=changes)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "model"
    save_model(folder, build_network(config), config)
    return folder


@pytest.fixture(scope="module")
def predicted(scans: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("predicted") / "out"
    run_predict([scans], model, out, options=QUICK)
    return out


@pytest.fixture
def copied(predicted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(predicted, tmp_path / "copy"))


def _labels(out: Path) -> list[Path]:
    return sorted(out.rglob("*_dseg.nii.gz"))


def test_what_is_there_is_kept_and_what_is_missing_is_made(
    scans: Path, model: Path, copied: Path
) -> None:
    first, second = _labels(copied)
    before, moment = first.read_bytes(), second.stat().st_mtime_ns
    first.unlink()
    done = run_predict([scans], model, copied, options=QUICK)
    assert done.kept == ["sub-001"]
    assert list(done.files) == ["sub-000", "sub-001"]
    assert first.read_bytes() == before
    assert second.stat().st_mtime_ns == moment


def test_other_options_make_results_anew(scans: Path, model: Path, copied: Path) -> None:
    done = run_predict([scans], model, copied, flips=True, options=QUICK)
    assert done.kept == []


def test_memory_and_pages_are_no_reason_to_make_results_anew(
    scans: Path, model: Path, copied: Path
) -> None:
    roomy = PredictOptions(pages=False, max_memory_gib=64.0)
    assert len(run_predict([scans], model, copied, options=roomy).kept) == 2
    with_pages = PredictOptions(viewer=True)
    assert run_predict([scans], model, copied, options=with_pages).kept == []
    assert len(run_predict([scans], model, copied, options=QUICK).kept) == 2


def test_a_rerun_tells_of_a_case_what_the_first_run_told(
    scans: Path, model: Path, tmp_path: Path
) -> None:
    first = run_predict([scans], model, tmp_path / "out", options=QUICK)
    again = run_predict([scans], model, tmp_path / "out", options=QUICK)
    assert again.findings == first.findings
    assert again.review == first.review


def test_a_changed_scan_is_segmented_anew(
    scans: Path, model: Path, copied: Path, tmp_path: Path
) -> None:
    changed = Path(shutil.copytree(scans, tmp_path / "changed"))
    path = changed / "sub-000" / "anat" / "sub-000_T2w.nii.gz"
    scan = read_nifti(path)
    write_nifti(path, Volume(scan.voxels * 1.01, scan.affine))
    assert run_predict([changed], model, copied, options=QUICK).kept == ["sub-001"]


def test_one_bad_case_costs_only_itself(scans: Path, model: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(scans, tmp_path / "broken"))
    path = broken / "sub-000" / "anat" / "sub-000_FLAIR.nii.gz"
    path.write_bytes(path.read_bytes()[:-3000])
    done = run_predict([broken], model, tmp_path / "out", options=QUICK)
    assert list(done.files) == ["sub-001"]
    assert list(done.refused) == ["sub-000"]
    told = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert told["refused"] == done.refused


def test_a_mistake_of_ours_on_one_case_does_not_cost_the_others(
    scans: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = predict.segment_case

    def fails(case: Case, *given: object, **asked: object) -> object:
        if case.case == "sub-000":
            raise ZeroDivisionError("division by zero")
        return segment(case, *given, **asked)  # type: ignore[arg-type]

    monkeypatch.setattr(predict, "segment_case", fails)
    done = run_predict([scans], model, tmp_path / "out", options=QUICK)
    assert list(done.files) == ["sub-001"]
    assert "ZeroDivisionError: division by zero" in done.refused["sub-000"]


def test_a_folder_of_something_else_is_left_alone(scans: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputExistsError):
        run_predict([scans], model, tmp_path, options=QUICK)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_the_expected_dice_stands_in_the_tables_and_asks_for_review(
    predicted: Path, scans: Path, model: Path
) -> None:
    rows = json.loads((predicted / "volumes.json").read_text())["volumes"]
    told = [row for row in rows if row.get("expected_dice") is not None]
    assert told
    assert all(row["low"] <= row["expected_dice"] <= row["high"] for row in told)
    review = json.loads((predicted / "predictions.json").read_text())["review"]
    # Random weights are undecided everywhere.
    assert any("a Dice of" in reason for reason in review["sub-000"])


def test_swapped_files_are_flagged_and_segmented(
    bids_tree: Path, model: Path, tmp_path: Path
) -> None:
    anat = bids_tree / "sub-000" / "anat"
    given = {
        "T1w": anat / "sub-000_T2w.nii.gz",
        "T1ce": anat / "sub-000_ce-gadolinium_T1w.nii.gz",
        "T2w": anat / "sub-000_T1w.nii.gz",
        "FLAIR": anat / "sub-000_FLAIR.nii.gz",
    }
    done = run_predict([], model, tmp_path / "out", given=given, name="anna", options=QUICK)
    codes = {flag.code for flag in done.findings["anna"]}
    assert {"contrast_name", "contrast_unlike"} <= codes
    assert list(done.files) == ["anna"]
    assert done.review["anna"]


def test_probabilities_maps_and_every_grid_come_when_asked_for(
    scans: Path, model: Path, tmp_path: Path
) -> None:
    options = PredictOptions(pages=False, probabilities=True, maps=True, every_grid=True)
    one = tmp_path / "one"
    shutil.copytree(scans / "sub-000", one / "sub-000")
    done = run_predict([one], model, tmp_path / "out", flips=True, options=options)
    names = {path.name for path in done.files["sub-000"].parent.iterdir()}
    for ending in (
        "label-WT_desc-demotarget_probseg.nii.gz",
        "desc-entropy_map.nii.gz",
        "desc-disagreement_map.nii.gz",
        "space-FLAIR_desc-demotarget_dseg.nii.gz",
    ):
        assert any(name.endswith(ending) for name in names), ending
    scan = read_nifti(scans / "sub-000" / "anat" / "sub-000_T1w.nii.gz")
    whole = next(done.files["sub-000"].parent.glob("*label-WT*_probseg.nii.gz"))
    values = read_nifti(whole)
    assert values.shape_vox == scan.shape_vox
    labels = read_labels(done.files["sub-000"])
    np.testing.assert_array_equal(np.isin(labels.voxels, (1, 2, 4)), _any_region(whole.parent))


def _any_region(folder: Path) -> np.ndarray:
    files = [next(folder.glob(f"*label-{name}_*_probseg.nii.gz")) for name in ("TC", "WT", "ET")]
    return np.any([read_nifti(path).voxels > 0.5 for path in files], axis=0)


def test_pages_are_written_for_each_scan_and_over_all(
    scans: Path, model: Path, tmp_path: Path, bids_errors: Callable[[Path], list[str]]
) -> None:
    done = run_predict([scans], model, tmp_path / "out", options=PredictOptions(viewer=False))
    index = (tmp_path / "out" / "report.html").read_text()
    pages = sorted((tmp_path / "out" / "reports").glob("*.html"))
    assert len(pages) == 2
    assert bids_errors(tmp_path / "out") == []
    for page in pages:
        assert f'href="reports/{page.name}"' in index
        text = page.read_text()
        assert "Research use only. Not a medical device." in text
        assert "../report.html" in text
    kept = run_predict([scans], model, tmp_path / "out", options=PredictOptions(viewer=False))
    assert kept.kept == list(done.files)
    pages[0].unlink()
    again = run_predict([scans], model, tmp_path / "out", options=PredictOptions(viewer=False))
    assert len(again.kept) == 1
    assert pages[0].is_file()


def test_replaying_finds_renamed_scans_and_gives_the_same_bytes(
    predicted: Path, scans: Path, model: Path, tmp_path: Path
) -> None:
    for number, path in enumerate(sorted(scans.rglob("*.nii.gz"))):
        (tmp_path / "in" / str(number)).mkdir(parents=True)
        shutil.copy(path, tmp_path / "in" / str(number) / "scan.bin")
    done = run_replay(predicted / "provenance.json", [tmp_path / "in"], model)
    assert [case.case for case in done.cases] == ["sub-000", "sub-001"]
    assert done.is_same
    assert [case.share_equal for case in done.cases] == [1.0, 1.0]


def test_replaying_says_what_differs(copied: Path, scans: Path, model: Path) -> None:
    path = copied / "provenance.json"
    told = json.loads(path.read_text())
    told["cases"]["sub-000"]["labels"]["sha256"] = "0" * 64
    told["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(told))
    done = run_replay(path, [scans], model)
    assert not done.is_same
    assert [case.is_same for case in done.cases] == [False, True]
    assert any(one.startswith("torch was 1.0") for one in done.other)
    assert any("other bytes, 100" in line for line in done.lines())


def test_replaying_refuses_another_model_and_missing_scans(
    predicted: Path, scans: Path, model: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(model, tmp_path / "model"))
    loaded = load_model(other)
    save_model(other, build_network(loaded.config), loaded.config)
    with pytest.raises(UsageError, match="not the one that made the prediction"):
        run_replay(predicted / "provenance.json", [scans], other)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no file with SHA-256"):
        run_replay(predicted / "provenance.json", [tmp_path / "empty"], model)
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(DataError, match="provenance"):
        run_replay(tmp_path / "broken.json", [scans], model)


def test_windows_around_the_brain_change_no_label_of_a_scan_with_more_air(
    scans: Path, model: Path, tmp_path: Path
) -> None:
    case = read_cases([scans])[0]
    wide = {}
    for name, path in case.contrasts.items():
        scan = read_nifti(path)
        affine = scan.affine.copy()
        affine[:3, 3] -= affine[:3, :3] @ np.full(3, 12.0)
        padded = np.pad(scan.voxels[0], 12)[None]
        wide[name] = tmp_path / path.name
        write_nifti(wide[name], Volume(padded, affine))
    loaded = load_model(model)
    one = segment_case(case, loaded).labels.voxels
    other = segment_case(type(case)("wide", "wide", wide), loaded).labels.voxels
    np.testing.assert_array_equal(other[:, 12:-12, 12:-12, 12:-12], one)
