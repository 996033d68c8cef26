"""Baselines through the same verbs: trained, resumed, saved, loaded; refused where they cannot."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from brainsegfounder.errors import RecipeError, UsageError
from brainsegfounder.inference.model_config import config_of, read_config
from brainsegfounder.models.baselines import output_layer
from brainsegfounder.models.weights import load_state
from brainsegfounder.recipes import load_recipe
from brainsegfounder.settings import Recipe
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.finetune import run_finetune
from brainsegfounder.workflows.model_folder import build_network, load_model, save_model
from brainsegfounder.workflows.plan import make_plan
from brainsegfounder.workflows.pretrain import run_pretrain

BASELINES = ("segresnet", "dynunet", "unetr")
TWO_STEPS = {"steps": 2, "batch_size": 1, "validate_every": 2, "checkpoint_every": 1}


def recipe_of(architecture: str, *overrides: str) -> Recipe:
    """Two steps of fine-tuning, nobody held out."""
    sets = [f"finetune.{key}={value}" for key, value in TWO_STEPS.items()]
    return load_recipe(
        "demo-target",
        [f"model.architecture={architecture}", "split.validation_fraction=0", *sets, *overrides],
    )


@pytest.mark.slow
@pytest.mark.parametrize("architecture", BASELINES)
def test_a_baseline_is_trained_resumed_bit_for_bit_saved_loaded_and_predicts(
    architecture: str, cohort: Path, tmp_path: Path
) -> None:
    pytest.importorskip("monai", reason="no MONAI here")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_finetune(recipe_of(architecture), cohort, whole)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "step-00000002")
    shutil.rmtree(cut / "model")
    run_finetune(recipe_of(architecture), cohort, cut, resume=True)
    weights = [load_state(run / "model" / "model.safetensors") for run in (whole, cut)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())

    assert read_config(whole / "model").architecture == architecture
    assert f"`{architecture}`" in (whole / "model" / "README.md").read_text()
    model = load_model(whole, "cpu")
    voxels = np.random.default_rng(0).normal(size=(4, 40, 64, 50)).astype(np.float32)
    found = model.segment(Volume(voxels, np.eye(4)))
    assert found.voxels.shape == (1, 40, 64, 50)
    assert set(np.unique(found.voxels)) <= {0, 1, 2, 4}


@pytest.mark.slow
def test_a_baseline_starts_from_the_same_prior_as_ours(cohort: Path, tmp_path: Path) -> None:
    pytest.importorskip("monai", reason="no MONAI here")
    rate = "finetune.optimizer.peak_lr=1e-12"
    run_finetune(recipe_of("dynunet", "finetune.steps=1", rate), cohort, tmp_path / "run")
    layer = output_layer(load_model(tmp_path / "run", "cpu").network, "dynunet")
    prior = recipe_of("dynunet").finetune.output_prior  # type: ignore[union-attr]
    assert layer.bias is not None
    assert layer.bias.sigmoid().tolist() == pytest.approx([prior] * 3, rel=1e-4)


def test_a_baseline_is_not_pretrained(cohort: Path, tmp_path: Path) -> None:
    recipe = recipe_of("segresnet")
    with pytest.raises(UsageError, match=r"segresnet: a baseline, which cannot be pretrained"):
        run_pretrain(recipe, cohort, tmp_path / "run")
    with pytest.raises(UsageError, match=r"segresnet: a baseline, which cannot be pretrained"):
        make_plan(recipe, subjects=8)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("start", "target"), [("swin-unetr", "unetr"), ("unetr", "swin-unetr")])
def test_no_encoder_moves_to_or_from_a_baseline(
    start: str, target: str, cohort: Path, tmp_path: Path
) -> None:
    pytest.importorskip("monai", reason="no MONAI here")
    config = config_of(recipe_of(start), "segmentation", {})
    save_model(tmp_path / "start", build_network(config), config)
    with pytest.raises(UsageError, match=f"a {start}, for a {target}; expected swin-unetr"):
        run_finetune(recipe_of(target), cohort, tmp_path / "run", start=tmp_path / "start")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("architecture", "overrides", "message"),
    [
        ("segresnet", ["model.drop_path=0.1"], "drop_path 0.1: segresnet has none"),
        ("unetr", ["model.checkpointing=true"], "set model.checkpointing=false"),
        ("dynunet", ["model.dropout=0.1"], "dropout 0.1: dynunet has none"),
        ("unetr", ["finetune.sharding=blocks"], "only swin-unetr can be sharded"),
        ("vnet", [], "model.architecture"),
    ],
)
def test_what_a_baseline_does_not_have_is_refused_with_the_recipe(
    architecture: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_of(architecture, *overrides)


def test_our_own_network_is_built_without_monai() -> None:
    code = (
        "import sys; sys.modules['monai'] = None\n"
        "import brainsegfounder.workflows.finetune, brainsegfounder.workflows.predict\n"
        "from brainsegfounder.inference.model_config import config_of\n"
        "from brainsegfounder.recipes import load_recipe\n"
        "from brainsegfounder.workflows.model_folder import build_network\n"
        "print(build_network(config_of(load_recipe('demo-target'), 'segmentation', {})).scale)\n"
        "load_recipe('demo-target', ['model.architecture=unetr'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "nano\n"), done.stderr
