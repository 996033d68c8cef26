"""The verbs on real scans; skipped with a reason where the folder of `--real-data` is absent."""

from pathlib import Path

import numpy as np
import pytest
import torch

from brainsegfounder.data.layouts import read_cases
from brainsegfounder.data.splits import split_subjects
from brainsegfounder.inference.model_config import config_of
from brainsegfounder.models.ssl_heads import SSLNetwork
from brainsegfounder.models.swin_unetr import SwinUNETR
from brainsegfounder.models.weights import load_encoder, load_state
from brainsegfounder.recipes import load_recipe
from brainsegfounder.volumes.geometry import resample_labels_to
from brainsegfounder.volumes.nifti import read_labels, read_nifti
from brainsegfounder.volumes.preparation import prepare_case, undo_labels
from brainsegfounder.workflows.convert import run_convert
from brainsegfounder.workflows.model_folder import build_network, save_model
from brainsegfounder.workflows.predict import run_predict

pytestmark = [pytest.mark.real_data, pytest.mark.slow]


def test_the_layouts_of_the_real_sets_are_recognised(real_data: Path) -> None:
    glioma = read_cases([real_data / "glioma_1mm"])
    assert len(glioma) == 12
    assert all(list(case.contrasts) and case.label for case in glioma)
    assert {tuple(sorted(case.contrasts)) for case in glioma} == {("FLAIR", "T1ce", "T1w", "T2w")}
    assert len(read_cases([real_data / "t1_ds002748_1p5mm"])) == 60
    assert len(read_cases([real_data / "ixi_2mm"])) == 160
    visits = read_cases([real_data / "ms_long_1p5mm"])
    assert len({case.subject for case in visits}) == 4 < len(visits) == 6


def test_stroke_cases_belong_to_the_brain_they_are_made_from(real_data: Path) -> None:
    stroke = read_cases([real_data / "stroke_semisynth_1p5mm"])
    brains = {case.subject for case in read_cases([real_data / "t1_ds002748_1p5mm"])}
    assert len(stroke) == 31
    assert {case.subject for case in stroke} <= brains


def test_stage_1_sees_159_brains_and_no_later_test_brain(real_data: Path) -> None:
    recipe = load_recipe("open-stage1")
    cases = read_cases([real_data / "ixi_2mm", real_data / "t1_ds002748_1p5mm"])
    kept = [case for case in cases if case.subject not in recipe.data.exclude_subjects]
    assert len(kept) == 159
    assert len(recipe.data.exclude_subjects) == 61
    stroke = read_cases([real_data / "stroke_semisynth_1p5mm"])
    assert not {case.subject for case in kept} & {case.subject for case in stroke}


def test_every_fold_of_the_stroke_set_parts_by_brain(real_data: Path) -> None:
    settings = load_recipe("open-stroke").split
    cases = read_cases([real_data / "stroke_semisynth_1p5mm"])
    tested = [
        split_subjects([case.subject for case in cases], settings, fold).test
        for fold in range(settings.folds)
    ]
    everyone = [subject for fold in tested for subject in fold]
    assert sorted(everyone) == sorted({case.subject for case in cases})


def test_a_real_mask_survives_preparation_and_its_undoing(real_data: Path) -> None:
    case = read_cases([real_data / "brats_case_original"])[0]
    recipe = load_recipe("open-glioma")
    settings = recipe.preparation.model_copy(update={"spacing_mm": None})
    prepared = prepare_case(
        case.case, case.contrasts, recipe.data.contrasts, settings, label=case.label
    )
    assert prepared.labels is not None
    back = undo_labels(prepared.labels, prepared.source_grid)
    assert case.label is not None
    assert np.array_equal(back.voxels, read_labels(case.label).voxels)
    inside = prepared.image.voxels[:, prepared.brain].astype(np.float64)
    assert np.allclose(inside.mean(axis=1), 0, atol=1e-4)
    assert np.allclose(inside.std(axis=1), 1, atol=1e-4)


def test_the_original_brats_case_comes_back_on_its_own_grid(
    real_data: Path, tmp_path: Path
) -> None:
    recipe = load_recipe("open-glioma", ["model.scale=nano", "predict.overlap=0"])
    config = config_of(recipe, "segmentation", {})
    save_model(tmp_path / "model", build_network(config), config)
    folder = real_data / "brats_case_original"
    done = run_predict([folder], tmp_path / "model", tmp_path / "out")
    labels = read_labels(next(iter(done.files.values())))
    scan = read_nifti(folder / "Brats18_TCIA03_265_1_t1.nii.gz")
    assert labels.shape_vox == (240, 240, 155)
    assert np.array_equal(labels.affine, scan.affine)
    assert set(np.unique(labels.voxels)) <= {0, 1, 2, 4}


def test_the_original_and_its_cropped_copy_prepare_to_the_same_voxels(real_data: Path) -> None:
    recipe = load_recipe("open-glioma")
    settings = recipe.preparation.model_copy(update={"spacing_mm": None})
    name = "Brats18_TCIA03_265_1"
    one = read_cases([real_data / "brats_case_original"])[0]
    other = next(c for c in read_cases([real_data / "glioma_1mm"]) if c.case == name)
    labels = [
        prepare_case(c.case, c.contrasts, recipe.data.contrasts, settings, label=c.label).labels
        for c in (one, other)
    ]
    assert labels[0] is not None
    assert labels[1] is not None
    moved = resample_labels_to(labels[1], labels[0].grid)
    same = moved.voxels == labels[0].voxels
    assert same.mean() > 0.999


@pytest.mark.parametrize("start", [("T1w",), ("T1w", "FLAIR")])
def test_one_and_two_contrast_encoders_begin_on_a_real_case_of_four(
    real_data: Path, tmp_path: Path, start: tuple[str, ...]
) -> None:
    recipe = load_recipe("open-glioma", ["model.scale=nano"])
    torch.manual_seed(0)
    state = {f"module.{k}": v for k, v in SSLNetwork(len(start), "nano").state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "model_weights_UKB-pretrain.pt")
    run_convert(tmp_path / "model_weights_UKB-pretrain.pt", tmp_path / "start")

    case = read_cases([real_data / "brats_case_original"])[0]
    settings = recipe.preparation.model_copy(update={"spacing_mm": None})
    prepared = prepare_case(
        case.case, case.contrasts, recipe.data.contrasts, settings, label=case.label
    )
    patch = torch.from_numpy(prepared.image.voxels[:, 40:104, 40:104, 40:104])[None]
    contrasts = recipe.data.contrasts
    embeddings = {}
    for new_contrast in ("mean", "kaiming"):
        network = SwinUNETR(4, 3, "nano", "legacy").eval()
        report = load_encoder(
            network,
            load_state(tmp_path / "start" / "model.safetensors"),
            source_contrasts=start,
            target_contrasts=contrasts,
            source_merging="legacy",
            new_contrast=new_contrast,
        )
        assert set(report.missing) == set()
        only_known = torch.zeros_like(patch)
        for name in start:
            only_known[:, contrasts.index(name)] = patch[:, contrasts.index(name)]
        with torch.no_grad():
            embeddings[new_contrast] = network.swinViT.patch_embed(only_known)
            assert bool(torch.isfinite(network(patch)).all())
    source = SSLNetwork(len(start), "nano", "legacy")
    source.load_state_dict(load_state(tmp_path / "start" / "model.safetensors"))
    known = patch[:, [contrasts.index(name) for name in start]]
    with torch.no_grad():
        expected = source.swinViT.patch_embed(known)
    for found in embeddings.values():
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
