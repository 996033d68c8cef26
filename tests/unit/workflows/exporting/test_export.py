"""What an export writes, and what is refused."""

import json
import math
import subprocess

import numpy as np
import pytest
import torch

from brainsegfounder.data.store import open_store
from brainsegfounder.errors import StoreError, UsageError, WeightsError
from brainsegfounder.recipes import load_recipe
from brainsegfounder.workflows.exporting import export as exporting
from brainsegfounder.workflows.exporting.agreement import (
    SUREST_LOGIT,
    Agreement,
    _compare_logits,
    check,
    dice_of_regions,
)
from brainsegfounder.workflows.exporting.bundle import check_model
from brainsegfounder.workflows.exporting.cases import calibration_windows
from brainsegfounder.workflows.exporting.export import export_model
from brainsegfounder.workflows.exporting.release import public_facts
from brainsegfounder.workflows.exporting.speed import ROUNDS, seconds_a_window
from brainsegfounder.workflows.model_folder import load_model


def agreement(dice=1.0, difference=0.0):
    return Agreement("case", (64, 32, 32), 5.0, difference, 0.0, {"lesion": dice}, {"lesion": 9})


@pytest.mark.slow
def test_a_release_is_a_model_folder_that_gives_the_same_and_names_nobody(pico, tmp_path):
    done = export_model(pico, "safetensors", tmp_path / "out")
    files = {path.name for path in done.folder.iterdir()}
    assert files == {
        *("model.safetensors", "config.json", "provenance.json", "README.md"),
        *("LICENSE", "SHA256SUMS", "export.json"),
    }
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=done.folder, check=True)
    facts = load_model(done.folder, "cpu").config.provenance
    assert facts == {
        **{"seed": 7, "licence": "CC-BY-4.0", "num_train_subjects": 2},
        **{"num_validation_subjects": 1, "num_test_subjects": 1},
    }
    record = json.loads((done.folder / "export.json").read_text())
    assert record["agreement"]["largest_logit_difference"] == 0.0
    assert record["agreement"]["largest_probability_difference"] == 0.0
    assert record["speed"] is None
    assert record["notice"] == "Research use only. Not a medical device."
    assert "CC-BY-4.0" in (done.folder / "LICENSE").read_text()


@pytest.mark.slow
def test_an_export_that_disagrees_is_refused_and_removed(pico, tmp_path, monkeypatch):
    def spoilt(folder, model):
        network = load_model(pico, "cpu").network
        network.out.conv.conv.bias.data += 1.0
        return network

    monkeypatch.setitem(exporting.WRITERS, "pt2", spoilt)
    with pytest.raises(WeightsError, match="logits differ by 1 on the embedded phantom"):
        export_model(pico, "pt2", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("tflite", {}, "no such format; expected safetensors, onnx"),
        ("pt2", {"int8": True}, "cannot be quantised; expected --to onnx or openvino"),
        ("onnx", {"int8": True}, "Add --calibration STORE"),
        ("onnx", {"calibration": "store"}, "only for --int8"),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_is_read(to, options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        export_model(tmp_path / "no-model", to, tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": 5}, "the mean of 5 networks.*Export each member by itself"),
        ({"architecture": "segresnet"}, "a segresnet.*Export it to onnx or openvino"),
        ({"copies": 2}, "2 copies of each contrast"),
    ],
)
def test_a_bundle_of_what_monais_network_cannot_be_is_refused(pico_config, changes, message):
    with pytest.raises(UsageError, match=message):
        check_model(pico_config.model_copy(update=changes))


@pytest.mark.parametrize(
    ("found", "precision", "message"),
    [
        (agreement(difference=0.02), "float32", "logits differ by 0.02"),
        (agreement(difference=float("nan")), "float32", "logits differ by nan"),
        (agreement(dice=0.98), "float32", "Dice lesion 0.9800; expected 0.999"),
        (agreement(dice=0.98), "int8", "Calibrate on more cases"),
        (agreement(dice=None), "int8", "finds nothing in case"),
    ],
)
def test_what_differs_too_much_is_refused(found, precision, message):
    with pytest.raises(WeightsError, match=message):
        check(found, precision, "out")


@pytest.mark.parametrize(
    ("found", "precision"),
    [
        (agreement(dice=0.9995, difference=1e-4), "float32"),
        (agreement(dice=None, difference=1e-4), "float32"),
        (agreement(dice=0.992, difference=3.0), "int8"),
    ],
)
def test_what_agrees_is_not(found, precision):
    assert check(found, precision, "out") is None


@pytest.mark.parametrize(
    ("seconds", "advice"),
    [
        ({"PyTorch": 0.36, "float32": 0.29, "int8": 0.46}, True),
        ({"PyTorch": 0.36, "float32": 0.16, "int8": 0.11}, False),
        ({"PyTorch": 0.36, "float32": 0.29}, False),
    ],
)
def test_int8_that_is_slower_is_advised_against(seconds, advice):
    record = {
        **{"format": "onnx", "precision": "int8", "bytes": {"model.onnx": 48e6}},
        **{"agreement": agreement().record(), "window_vox": [64, 64, 64]},
        "speed": {"threads": 2, "seconds_a_window": seconds},
    }
    lines = exporting.Exported(None, record).lines()
    assert lines[1].startswith("a window of 64x64x64 voxels on 2 threads: PyTorch 0.36 s, float32")
    assert ("int8 is slower than float32 here: export without --int8." in lines) == advice


def test_one_thread_is_not_told_of_as_several():
    record = {"speed": {"threads": 1, "seconds_a_window": {"PyTorch": 1.0}}, "window_vox": [64] * 3}
    assert exporting.Exported(None, record)._speed() == [
        "a window of 64x64x64 voxels on 1 thread: PyTorch 1 s"
    ]


def test_networks_are_timed_in_turns_after_one_that_does_not_count():
    called = []
    networks = {name: lambda _, name=name: called.append(name) for name in ("a", "b")}
    seconds = seconds_a_window(networks, torch.zeros(1))
    assert called == ["a", "b"] * (1 + ROUNDS)
    assert list(seconds) == ["a", "b"]


def test_agreement_of_labels_is_by_region(pico_config):
    (name, region) = next(iter(pico_config.regions.items()))
    labels = np.zeros((4, 4, 4), np.int16)
    labels[:2] = region.labels[0]
    half = np.where(np.arange(4)[:, None, None] < 1, labels, 0)
    assert dice_of_regions(labels, half, {name: region}) == {name: pytest.approx(2 / 3)}
    assert dice_of_regions(labels * 0, labels * 0, {name: region}) == {name: None}


def test_where_an_ensemble_is_sure_its_logits_are_not_compared():
    windows = [torch.zeros(1, 1, 2, 2, 2)]
    network, exported = (lambda x: x + 13.0), (lambda x: x + 13.5)
    assert _compare_logits(network, exported, windows, math.inf) == (13.0, 0.5)
    assert _compare_logits(network, exported, windows, SUREST_LOGIT) == (SUREST_LOGIT, 0.0)


def test_members_of_an_ensemble_name_nobody_either():
    facts = {"members": [{"train_subjects": ["sub-1"], "weights_sha256": "ab"}]}
    assert public_facts(facts) == {
        "members": [{"num_train_subjects": 1, "weights_sha256": "ab"}],
    }


def config_for(cohort, pico_config, seen):
    """A config with the facts that `finetune` leaves in a model trained on some subjects."""
    recipe = load_recipe("demo-target")
    store = open_store(cohort)
    scans = [mark for case in store.cases if case.subject in seen for mark in case.fingerprints]
    changes = {"preparation": recipe.preparation, "contrasts": recipe.data.contrasts}
    return pico_config.model_copy(update=changes | {"provenance": {"seen_scans": scans}})


def test_int8_is_calibrated_only_on_cases_that_the_model_saw(cohort, pico_config):
    config = config_for(cohort, pico_config, ["sub-000", "sub-004", "sub-005"])
    windows, cases = calibration_windows(cohort, config, 7)
    again, _ = calibration_windows(cohort, config, 7)
    assert len(windows) == 7
    assert {name[:7] for name in cases} == {"sub-000", "sub-004", "sub-005"}
    assert all(window.shape == (1, len(config.contrasts), 64, 32, 32) for window in windows)
    assert all(window.any() for window in windows)
    assert all(np.array_equal(a, b) for a, b in zip(windows, again, strict=True))


def test_a_store_without_training_cases_cannot_calibrate(cohort, pico_config):
    config = config_for(cohort, pico_config, [])
    with pytest.raises(StoreError, match="has seen none of its 6 cases"):
        calibration_windows(cohort, config, 4)


def test_a_model_that_does_not_say_what_it_saw_is_calibrated_with_a_warning(
    cohort, pico_config, caplog
):
    config = config_for(cohort, pico_config, [])
    config = config.model_copy(update={"provenance": {}})
    _, cases = calibration_windows(cohort, config, 6)
    assert len(cases) == 6
    assert "does not say what it was trained on" in caplog.text
