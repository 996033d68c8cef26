"""A small model to export."""

from types import MappingProxyType

import pytest
import torch

from brainsegfounder.inference.model_config import config_of
from brainsegfounder.models import scales
from brainsegfounder.recipes import load_recipe
from brainsegfounder.workflows.model_folder import build_network, save_model

PICO = scales.Scale(feature_size=12, depths=(1, 2, 1, 1), num_heads=(3, 6, 12, 24))
FACTS = {
    "seed": 7,
    "command": ["brainsegfounder", "finetune", "--data", "/home/someone/store"],
    "train_subjects": ["sub-000", "sub-001"],
    "validation_subjects": ["sub-002"],
    "test_subjects": ["sub-003"],
    "licence": "CC-BY-4.0",
}


@pytest.fixture(scope="module", autouse=True)
def _pico():
    """A scale with few blocks, so that a conversion takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scales, "SCALES", MappingProxyType({**scales.SCALES, "pico": PICO}))
        yield


@pytest.fixture(scope="session")
def pico_config():
    """Small windows on a coarse grid."""
    config = config_of(load_recipe("demo-target"), "segmentation", FACTS)
    preparation = config.preparation.model_copy(update={"spacing_mm": (4.0, 4.0, 4.0)})
    changes = {"scale": "pico", "patch_size_vox": (64, 32, 32), "preparation": preparation}
    return config.model_copy(update=changes)


@pytest.fixture(scope="module")
def shaken():
    """Makes a network with random weights that are off their start."""

    def build(config):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = build_network(config)
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter += 0.05 * torch.randn_like(parameter)
        return network

    return build


@pytest.fixture(scope="module")
def pico(pico_config, shaken, tmp_path_factory):
    """A model folder."""
    folder = tmp_path_factory.mktemp("pico") / "model"
    save_model(folder, shaken(pico_config), pico_config)
    return folder
