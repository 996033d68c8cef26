"""Release format: what a model folder holds, and what is noticed when it was changed."""

import json
import subprocess

import pytest
import torch
import yaml

from brainsegfounder.errors import WeightsError
from brainsegfounder.files import previous_folder, restore_folder
from brainsegfounder.inference.model_config import config_of, read_config
from brainsegfounder.recipes import load_recipe
from brainsegfounder.workflows.model_folder import (
    add_metrics,
    build_network,
    load_model,
    save_model,
    seal,
)

FILES = {"model.safetensors", "config.json", "provenance.json", "README.md", "SHA256SUMS"}


@pytest.fixture
def folder(tmp_path):
    config = config_of(load_recipe("demo-target"), "segmentation", {"seed": 7})
    torch.manual_seed(0)
    save_model(tmp_path / "model", build_network(config), config)
    return tmp_path / "model"


def test_a_saved_model_has_all_files_and_sums_that_others_can_check(folder):
    assert {path.name for path in folder.iterdir()} == FILES
    assert list(folder.parent.iterdir()) == [folder]
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert load_model(folder, "cpu").config.provenance == {"seed": 7}


def test_the_card_has_front_matter_that_says_what_the_model_wants_and_gives(folder):
    _, matter, body = (folder / "README.md").read_text().split("---\n", 2)
    front, config = yaml.safe_load(matter), read_config(folder)
    assert tuple(front["contrasts"]) == config.contrasts
    assert front["labels"] == config.labels
    assert "Research use only" in front["intended_use"]
    assert "Research use only" in body


def test_metrics_stand_in_card_and_provenance(folder):
    add_metrics(folder, {"WT": {"num_cases": 4, "dice_mean": 0.853, "hd95_mm_mean": None}})
    assert "| WT | 4 | 0.853 | – |" in (folder / "README.md").read_text()
    facts = json.loads((folder / "provenance.json").read_text())
    assert facts["metrics"]["WT"]["dice_mean"] == 0.853
    assert facts["seed"] == 7
    load_model(folder, "cpu")


@pytest.mark.parametrize("name", sorted(FILES - {"SHA256SUMS"}))
def test_a_changed_or_missing_file_is_noticed_before_it_is_used(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(bytes(content))
    with pytest.raises(WeightsError, match=f"{name}: its SHA-256"):
        load_model(folder, "cpu")
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=name):
        load_model(folder, "cpu")


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"abc  ../../etc/passwd\n"])
def test_sums_that_are_missing_or_malformed_are_refused(folder, content):
    path = folder / "SHA256SUMS"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(WeightsError, match="SHA256SUMS"):
        load_model(folder, "cpu")


def test_sums_do_not_reach_outside_the_folder(folder):
    (folder.parent / "secret").write_text("x")
    with (folder / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  ../secret\n")
    with pytest.raises(WeightsError, match="not there"):
        load_model(folder, "cpu")


def test_weights_of_another_shape_are_refused_though_their_sum_is_right(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "scale": "tiny"}))
    seal(folder)
    with pytest.raises(WeightsError, match="wrong shape"):
        load_model(folder, "cpu")


def test_a_save_cut_off_between_two_folders_is_undone(folder):
    folder.replace(previous_folder(folder))
    restore_folder(folder)
    load_model(folder, "cpu")
    restore_folder(folder)  # nothing to undo
    assert folder.is_dir()
