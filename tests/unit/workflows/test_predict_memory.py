"""A prediction fits the memory there is, or says what it would need."""

import numpy as np
import pytest
import torch

from brainsegfounder.errors import VolumeError
from brainsegfounder.inference.model_config import config_of
from brainsegfounder.recipes import load_recipe
from brainsegfounder.volumes import header
from brainsegfounder.volumes.header import available_memory_gib, memory_limit
from brainsegfounder.volumes.preparation import prepare
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows import predict_memory
from brainsegfounder.workflows.model_folder import Model, build_network
from brainsegfounder.workflows.predict_memory import Room, find_room, opinion_within, window_bytes

GIB = 2**30


@pytest.fixture(scope="module")
def case():
    """A model with random weights, and a prepared image for it."""
    recipe = load_recipe("demo-target", ["predict.batch_size=4"])
    config = config_of(recipe, "segmentation", {})
    torch.manual_seed(0)
    model = Model(build_network(config).eval(), config, torch.device("cpu"))
    rng = np.random.default_rng(0)
    ball = (np.stack(np.indices((40, 44, 40)) - 20) ** 2).sum(axis=0) < 300
    voxels = (rng.normal(100, 10, (4, 40, 44, 40)) * ball).astype(np.float32)
    prepared = prepare(Volume(voxels, np.diag([3.0, 3.0, 3.0, 1.0])), config.preparation)
    return model, prepared


def free(monkeypatch, gib):
    monkeypatch.setattr(predict_memory, "available_memory_gib", lambda: gib)


def room(case):
    model, prepared = case
    return find_room(model, prepared.image, prepared)


def needs(case):
    """Of a window, of the result, of the way back, in GiB."""
    model, prepared = case
    result = 3 * 4 * np.prod(prepared.image.shape_vox) / GIB
    return window_bytes(model.config) / GIB, result, 4 * 4 * 40 * 44 * 40 / GIB


def test_with_much_memory_all_windows_of_a_batch_go_at_once(case, monkeypatch):
    free(monkeypatch, 64.0)
    assert room(case) == Room(4, on_disk=False)


def test_with_less_memory_there_are_fewer_windows_at_once_then_a_file_then_a_refusal(
    case, monkeypatch
):
    window, result, back = needs(case)
    free(monkeypatch, 2.5 * window + result + back)
    assert room(case) == Room(2, on_disk=False)
    free(monkeypatch, window + result / 2 + back)
    assert room(case) == Room(1, on_disk=True)
    free(monkeypatch, 0.9 * window)
    with pytest.raises(VolumeError, match=r"GiB are needed.*--max-memory"):
        room(case)


def test_a_window_takes_no_more_than_is_counted(case):
    import resource

    model, _ = case
    window = torch.randn(1, 4, *model.config.patch_size_vox)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    with torch.inference_mode():
        model.network(window)
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
    assert taken < window_bytes(model.config)
    assert window_bytes(model.config) < GIB


def test_what_is_computed_in_little_memory_is_the_same(case, monkeypatch):
    model, prepared = case
    free(monkeypatch, 64.0)
    whole, *_ = opinion_within(model, prepared.image, prepared, disagreement=False)
    window, result, back = needs(case)
    free(monkeypatch, window + result / 2 + back)
    tight, device, found = opinion_within(model, prepared.image, prepared, disagreement=False)
    np.testing.assert_allclose(tight.probabilities.voxels, whole.probabilities.voxels, atol=1e-5)
    assert device == "cpu"
    assert [one.code for one in found] == ["on_disk"]


def test_a_limit_is_what_it_leaves_beside_what_is_taken(monkeypatch):
    before = available_memory_gib()
    with memory_limit(4.0):
        assert 0 < available_memory_gib() < 4.0
    with memory_limit(0.001):
        assert available_memory_gib() == 0
    assert available_memory_gib() == pytest.approx(before, rel=0.5)
    monkeypatch.setattr(header, "_meminfo_bytes", lambda: None)
    monkeypatch.setattr(header, "_cgroup_bytes", lambda: None)
    assert available_memory_gib() == float("inf")


def test_a_full_gpu_gives_way_to_single_windows_and_then_to_the_cpu(case, monkeypatch):
    model, prepared = case
    tried = []

    def opinion(self, image, **_):
        tried.append((self.device.type, self.config.predict.batch_size))
        if len(tried) < 3:
            raise torch.OutOfMemoryError("full")
        return "told"

    monkeypatch.setattr(Model, "opinion", opinion)
    monkeypatch.setattr(predict_memory, "place", lambda network, device: network)
    on_gpu = Model(model.network, model.config, torch.device("meta"))
    told, device, found = opinion_within(on_gpu, prepared.image, prepared, disagreement=False)
    assert tried == [("meta", 4), ("meta", 1), ("cpu", 1)]
    assert (told, device) == ("told", "cpu")
    assert [one.code for one in found] == ["on_cpu"]
