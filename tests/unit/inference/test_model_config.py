import json

import pytest

from brainsegfounder.errors import WeightsError
from brainsegfounder.inference.model_config import config_of, read_config, write_config
from brainsegfounder.recipes import load_recipe, shipped_recipes

KINDS = [
    (name, kind)
    for name in shipped_recipes()
    for kind, section in [("pretraining", "pretrain"), ("segmentation", "finetune")]
    if getattr(load_recipe(name), section) is not None
]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_the_config_of_every_shipped_recipe_comes_back_as_written(tmp_path, name, kind):
    config = config_of(load_recipe(name), kind, {"seed": 3, "parents": ["a"]})
    write_config(tmp_path, config)
    assert read_config(tmp_path) == config


def test_the_config_says_what_the_network_sees_and_says():
    recipe = load_recipe("open-glioma", ["model.scale=nano", "predict.overlap=0.25"])
    config = config_of(recipe, "segmentation", {})
    assert config.contrasts == ("T1w", "T1ce", "T2w", "FLAIR")
    assert config.spacing_mm == (2.0, 2.0, 2.0)
    assert config.patch_size_vox == recipe.finetune.patch_size_vox
    assert (config.scale, config.merging, config.predict.overlap) == ("nano", "complete", 0.25)
    assert config.num_outputs == 3


def test_outputs_are_regions_or_background_and_every_label():
    classes = load_recipe("open-glioma", ["finetune.target=classes"])
    assert config_of(classes, "segmentation", {}).num_outputs == 4


def test_the_order_of_regions_survives_the_file(tmp_path):
    config = config_of(load_recipe("open-glioma"), "segmentation", {})
    write_config(tmp_path, config)
    assert list(read_config(tmp_path).regions) == ["TC", "WT", "ET"]


def test_a_recipe_without_the_stage_has_no_config():
    with pytest.raises(ValueError, match="no section for segmentation"):
        config_of(load_recipe("demo-stage1"), "segmentation", {})


def test_a_folder_without_a_config_is_no_model(tmp_path):
    with pytest.raises(WeightsError, match=r"no config\.json found; expected a model folder"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format"),
        ({"merging": "odd"}, "merging"),
        ({"extra": 1}, "extra"),
        ({"patch_size_vox": [64, 64]}, "patch_size_vox"),
        ({"regions": {"WT": {"labels": []}}}, r"regions\.WT"),
    ],
)
def test_an_invalid_config_names_the_field(tmp_path, change, message):
    write_config(tmp_path, config_of(load_recipe("open-glioma"), "segmentation", {}))
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(WeightsError, match=rf"config\.json: {message}.*Export or train"):
        read_config(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_a_damaged_config_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"config\.json: "):
        read_config(tmp_path)
