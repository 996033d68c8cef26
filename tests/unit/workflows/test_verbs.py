"""The verbs on a few drawn brains, one training step each: files, names, numbers."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import brainsegfounder
from brainsegfounder.errors import CheckpointError, OutputExistsError, UsageError
from brainsegfounder.models.ssl_heads import SSLNetwork
from brainsegfounder.recipes import load_recipe
from brainsegfounder.settings import Recipe
from brainsegfounder.volumes.nifti import read_labels, read_nifti
from brainsegfounder.workflows.convert import run_convert
from brainsegfounder.workflows.evaluate import case_name, run_evaluate
from brainsegfounder.workflows.finetune import run_finetune
from brainsegfounder.workflows.model_folder import load_model
from brainsegfounder.workflows.predict import run_predict
from brainsegfounder.workflows.pretrain import run_pretrain

pytestmark = pytest.mark.slow
ONE_STEP = {"steps": 1, "batch_size": 1, "validate_every": 1, "checkpoint_every": 1}


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def _recipe(verb: str) -> Recipe:
    sets = [f"{verb}.{key}={value}" for key, value in ONE_STEP.items()]
    return load_recipe("demo-target", [*sets, "predict.overlap=0"])


@pytest.fixture(scope="module")
def pretrained(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "stage2"
    run_pretrain(_recipe("pretrain"), cohort, run, fold=0)
    return run


@pytest.fixture(scope="module")
def finetuned(cohort: Path, pretrained: Path) -> Path:
    run = pretrained.parent / "finetuned"
    run_finetune(_recipe("finetune"), cohort, run, start=pretrained, fold=0)
    return run


KINDS = {
    "pretrained": ["probe", "train", "validation", "probe"],
    "finetuned": ["train", "validation"],
}


@pytest.mark.parametrize("name", KINDS)
def test_a_run_folder_is_complete(name: str, request: pytest.FixtureRequest) -> None:
    run: Path = request.getfixturevalue(name)
    assert (run / "model" / "model.safetensors").is_file()
    assert (run / "model" / "config.json").is_file()
    assert (run / "checkpoints" / "step-00000001" / "state.json").is_file()
    assert (run / "report.html").stat().st_size > 10_000
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["kind"] for record in records] == KINDS[name]
    assert load_recipe(run).name == "demo-target"


def test_the_config_tells_what_the_model_wants_and_where_it_comes_from(finetuned: Path) -> None:
    config = json.loads((finetuned / "model" / "config.json").read_text())
    assert config["contrasts"] == ["T1w", "T1ce", "T2w", "FLAIR"]
    assert config["labels"] == {"necrosis": 1, "oedema": 2, "enhancing": 4}
    assert config["preparation"]["spacing_mm"] == [3.0, 3.0, 3.0]
    provenance = json.loads((finetuned / "model" / "provenance.json").read_text())
    assert provenance["start"]["report"]["encoder_coverage"] == pytest.approx(1.0)
    assert provenance["versions"]["brainsegfounder"] == brainsegfounder.__version__


def test_held_out_subjects_are_seen_by_no_stage(pretrained: Path, finetuned: Path) -> None:
    for run in (pretrained, finetuned):
        facts = json.loads((run / "provenance.json").read_text())
        parts = [set(facts[f"{name}_subjects"]) for name in ("train", "validation", "test")]
        assert not (parts[0] & parts[2])
        assert not (parts[1] & parts[2])
        assert not (parts[0] & parts[1])
        assert parts[2]
    scored = {row["case"] for row in _rows(finetuned / "test" / "metrics.csv")}
    assert scored == set(facts["test_subjects"])


def test_a_finished_run_is_not_overwritten_and_resuming_it_changes_nothing(
    cohort: Path, finetuned: Path
) -> None:
    weights = (finetuned / "model" / "model.safetensors").read_bytes()
    with pytest.raises(OutputExistsError, match="--resume"):
        run_finetune(_recipe("finetune"), cohort, finetuned, fold=0)
    with pytest.raises(CheckpointError, match="start weights"):
        run_finetune(_recipe("finetune"), cohort, finetuned, fold=0, resume=True)
    assert (finetuned / "model" / "model.safetensors").read_bytes() == weights


def test_predicting_a_bids_tree_gives_bids_names_on_the_scans_grid(
    finetuned: Path, bids_tree: Path, tmp_path: Path
) -> None:
    done = run_predict([bids_tree], finetuned, tmp_path / "out")
    assert not done.refused
    path = tmp_path / "out" / "sub-000" / "anat" / "sub-000_desc-demotarget_dseg.nii.gz"
    scan = read_nifti(bids_tree / "sub-000" / "anat" / "sub-000_T1w.nii.gz")
    labels = read_labels(path)
    assert labels.shape_vox == scan.shape_vox
    assert np.array_equal(labels.affine, scan.affine)
    assert set(np.unique(labels.voxels)) <= {0, 1, 2, 4}
    assert "Research use only" in (tmp_path / "out" / "report.html").read_text()


def test_the_test_scores_of_a_run_are_those_of_predict_and_evaluate(
    finetuned: Path, bids_tree: Path, tmp_path: Path
) -> None:
    run_predict([bids_tree], finetuned, tmp_path / "p")
    recipe = load_recipe("demo-target")
    scores = run_evaluate(tmp_path / "p", bids_tree / "derivatives", tmp_path / "e", recipe).scores
    here = {(s.case, s.region): s.dice for s in scores}
    told = _rows(finetuned / "test" / "metrics.csv")
    assert told
    for row in told:
        # The store keeps intensities in half precision, so a few voxels may differ.
        assert float(row["dice"]) == pytest.approx(here[row["case"], row["region"]], abs=0.01)


def test_the_python_interface_predicts_and_evaluates(finetuned: Path, bids_tree: Path) -> None:
    model = brainsegfounder.load_model(finetuned)
    assert model.contrasts == ("T1w", "T1ce", "T2w", "FLAIR")
    assert model.labels["oedema"] == 2
    assert model.spacing_mm == (3.0, 3.0, 3.0)
    anat = bids_tree / "sub-000" / "anat"
    paths = {
        "T1w": anat / "sub-000_T1w.nii.gz",
        "T1ce": anat / "sub-000_ce-gadolinium_T1w.nii.gz",
        "T2w": anat / "sub-000_T2w.nii.gz",
        "FLAIR": anat / "sub-000_FLAIR.nii.gz",
    }
    labels, affine = brainsegfounder.predict(paths, model)
    scan = read_nifti(paths["T1w"])
    assert labels.shape == scan.shape_vox
    assert np.array_equal(affine, scan.affine)
    everything = brainsegfounder.predict(bids_tree, model)
    assert np.array_equal(everything["sub-000"].labels, labels)
    records = brainsegfounder.evaluate(everything["sub-000"].volume, everything["sub-000"].volume)
    assert all(record["dice"] == 1.0 for record in records)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("case1_seg.nii.gz", "case1"),
        ("sub-01_desc-brainsegfounder_dseg.nii.gz", "sub-01"),
        ("sub-01_ses-2_label-L_desc-T1lesion_mask.nii.gz", "sub-01_ses-2"),
        ("stroke003_lesion.nii.gz", "stroke003"),
        ("plain.nii", "plain"),
    ],
)
def test_a_mask_file_names_its_case(name: str, case: str) -> None:
    assert case_name(Path(name)) == case


def test_start_weights_that_saw_a_held_out_subject_are_refused(
    cohort: Path, pretrained: Path, tmp_path: Path
) -> None:
    """The stage 2 of fold 0 has trained on subjects that fold 1 holds out."""
    with pytest.raises(UsageError, match=r"has seen 2 of 2 held-out subjects .*pretrain --fold"):
        run_finetune(_recipe("finetune"), cohort, tmp_path / "run", start=pretrained, fold=1)
    assert not (tmp_path / "run").exists()


def test_a_model_folder_names_no_subject_and_no_folder(
    cohort: Path, finetuned: Path, bids_tree: Path
) -> None:
    files = ("config.json", "provenance.json", "README.md")
    text = "".join((finetuned / "model" / name).read_text() for name in files)
    assert "sub-0" not in text
    assert str(cohort) not in text
    assert str(finetuned.parent) not in text


def test_contrasts_given_as_single_files_are_one_case(
    finetuned: Path, bids_tree: Path, tmp_path: Path
) -> None:
    files = []
    for name, contrast in {"T1w": "t1", "ce-gadolinium_T1w": "t1ce", "T2w": "t2"}.items():
        files.append(tmp_path / f"anna_{contrast}.nii.gz")
        files[-1].write_bytes((bids_tree / f"sub-000/anat/sub-000_{name}.nii.gz").read_bytes())
    files.append(tmp_path / "anna_flair.nii.gz")
    files[-1].write_bytes((bids_tree / "sub-000/anat/sub-000_FLAIR.nii.gz").read_bytes())
    done = run_predict(files, finetuned, tmp_path / "out")
    assert list(done.files) == ["anna"]
    assert done.files["anna"] == (
        tmp_path / "out" / "sub-anna" / "anat" / "sub-anna_desc-demotarget_dseg.nii.gz"
    )
    assert done.files["anna"].is_file()


def test_training_from_converted_weights_inherits_their_merging_and_origin(
    cohort: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model_weights_BRATS-pretrain.pt"
    torch.save({"state_dict": SSLNetwork(4, "nano", "legacy").state_dict()}, file)
    run_convert(file, tmp_path / "start")
    run_finetune(_recipe("finetune"), cohort, tmp_path / "run", start=tmp_path / "start", fold=0)
    model = load_model(tmp_path / "run", "cpu")
    assert model.config.merging == model.network.merging == "legacy"
    assert "BraTS 2021" in model.config.provenance["trained_on"]
    assert "UK Biobank" in (tmp_path / "run" / "model" / "README.md").read_text()
    adapted = model.config.provenance["start"]["report"]["adapted"]
    assert "T1w, T1ce, T2w, FLAIR" in adapted["swinViT.patch_embed.proj.weight"]
