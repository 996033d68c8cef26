"""One contrast in several channels of a network, given once, from training to prediction."""

import pytest
import torch

from brainsegfounder.inference.model_config import config_of
from brainsegfounder.recipes import load_recipe
from brainsegfounder.workflows.finetune import run_finetune
from brainsegfounder.workflows.model_folder import build_network, load_model
from brainsegfounder.workflows.predict import predict
from brainsegfounder.workflows.pretrain import run_pretrain

CHANGES = ["data.contrasts=[T1w, FLAIR]", "data.copies=2", "preparation.margin_mm=3.0"]


def test_copies_are_the_same_scan_in_further_channels():
    config = config_of(load_recipe("demo-target", CHANGES), "segmentation", {})
    assert config.channels == ("T1w", "FLAIR", "T1w (2)", "FLAIR (2)")
    network = build_network(config).eval()
    scan = torch.randn(1, 2, 64, 64, 64, generator=torch.Generator().manual_seed(0))
    plain = build_network(config.model_copy(update={"copies": 1, "contrasts": config.channels}))
    plain.load_state_dict(network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(network(scan), plain.eval()(torch.cat([scan, scan], dim=1)))


@pytest.mark.slow
def test_four_copies_are_trained_from_one_channel_and_predict(cohort, bids_tree, tmp_path):
    once = [f"{stage}.{field}" for stage in ("pretrain", "finetune") for field in
            ("steps=1", "optimizer.warmup_steps=0")]  # fmt: skip
    recipe = load_recipe("demo-target", ["data.contrasts=[FLAIR]", "data.copies=4", *once])
    run_pretrain(recipe, cohort, tmp_path / "stage2", fold=0)
    run_finetune(recipe, cohort, tmp_path / "run", start=tmp_path / "stage2", fold=0)
    model = load_model(tmp_path / "run")
    assert (model.contrasts, model.config.copies) == (("FLAIR",), 4)
    weight = model.network.swinViT.patch_embed.proj.weight
    assert weight.shape[1] == 4
    scan = min(bids_tree.rglob("*_FLAIR.nii.gz"))
    assert predict({"FLAIR": scan}, model).labels.ndim == 3
