"""Each format, written and read back by the program it is for."""

import json
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from brainsegfounder.errors import WeightsError
from brainsegfounder.inference.backends import open_backend, precision_beside_int8
from brainsegfounder.volumes.nifti import write_nifti
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.exporting import export as exporting
from brainsegfounder.workflows.exporting import portable
from brainsegfounder.workflows.exporting.bundle import _labels
from brainsegfounder.workflows.exporting.bundle_configs import FAR_MM, _preprocessing
from brainsegfounder.workflows.exporting.export import export_model
from brainsegfounder.workflows.exporting.quantise import quantise_onnx, quantise_openvino
from brainsegfounder.workflows.model_folder import load_model, save_ensemble, save_model

NOT_INSTALLED = "the extra `export` is not installed"
WINDOW = (64, 32, 32)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program(pico):
    """The model as a graph, made once."""
    model = load_model(pico, "cpu")
    return exporting.portable.trace(model.network, model.config)


@pytest.fixture
def traced(program, monkeypatch):
    """Formats are written from the graph that was made once."""
    monkeypatch.setattr(exporting.portable, "trace", lambda network, config: program)


@pytest.fixture(scope="module")
def onnx_export(pico, program, tmp_path_factory):
    """An export to ONNX."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=NOT_INSTALLED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting.portable, "trace", lambda network, config: program)
        return export_model(pico, "onnx", tmp_path_factory.mktemp("onnx") / "out").folder


def some_windows(config, number=2):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(number, len(config.contrasts), *WINDOW, generator=generator)


def test_a_pt2_gives_the_logits_of_its_model(pico, tmp_path, traced):
    record = export_model(pico, "pt2", tmp_path / "out").record
    assert record["agreement"]["largest_logit_difference"] < 1e-4
    assert record["bytes"]["model.pt2"] > 1e6
    assert list(record["speed"]["seconds_a_window"]) == ["PyTorch", "float32"]


def test_the_onnx_runs_without_torch(pico, onnx_export, tmp_path):
    model = load_model(pico, "cpu")
    window = some_windows(model.config, 1)
    np.save(tmp_path / "window.npy", window.numpy())
    child = """
        import sys
        sys.modules["torch"] = None
        import numpy, onnxruntime
        session = onnxruntime.InferenceSession(sys.argv[1])
        logits = session.run(["logits"], {"image": numpy.load("window.npy")})[0]
        numpy.save("logits.npy", logits)
    """
    words = [sys.executable, "-c", textwrap.dedent(child), str(onnx_export / "model.onnx")]
    subprocess.run(words, cwd=tmp_path, check=True)
    with torch.inference_mode():
        expected = model.network(window).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-4)


def test_onnxruntime_takes_several_windows_but_of_one_size(pico, onnx_export):
    model = load_model(pico, "cpu")
    windows = some_windows(model.config)
    compute = open_backend("onnxruntime", onnx_export, WINDOW, threads=1)
    with torch.inference_mode():
        expected = model.network(windows)
    torch.testing.assert_close(compute(windows), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(WeightsError, match=r"takes windows of \(64, 32, 32\) voxels"):
        open_backend("onnxruntime", onnx_export, (64, 64, 64))


def test_openvino_gives_the_logits_of_the_model(pico, tmp_path, traced):
    for package in ("onnx", "onnxscript", "openvino"):
        pytest.importorskip(package, reason=NOT_INSTALLED)
    done = export_model(pico, "openvino", tmp_path / "out")
    model = load_model(pico, "cpu")
    windows = some_windows(model.config)
    compute = open_backend("openvino", done.folder, WINDOW, threads=1)
    with torch.inference_mode():
        expected = model.network(windows)
    torch.testing.assert_close(compute(windows), expected, atol=1e-3, rtol=1e-3)
    assert not (done.folder / "model.onnx").exists()


def test_an_ensemble_is_exported_with_all_its_members(pico, pico_config, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=NOT_INSTALLED)
    network = load_model(pico, "cpu").network
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 1.1
    save_model(tmp_path / "other", network, pico_config)
    save_ensemble(tmp_path / "both", [pico, tmp_path / "other"], {})
    done = export_model(tmp_path / "both", "onnx", tmp_path / "out")
    assert done.record["agreement"]["largest_logit_difference"] < 1e-2
    windows = some_windows(pico_config)
    with torch.inference_mode():
        expected = load_model(tmp_path / "both", "cpu").network(windows)
    found = open_backend("onnxruntime", done.folder, WINDOW, threads=1)(windows)
    torch.testing.assert_close(found.sigmoid(), expected.sigmoid(), atol=1e-4, rtol=0)


def test_int8_stays_near_the_model(pico, onnx_export, tmp_path):
    model = load_model(pico, "cpu")
    windows = some_windows(model.config)
    quantise_onnx(onnx_export, tmp_path, [window[None].numpy() for window in windows])
    with torch.inference_mode():
        expected = model.network(windows)
    found = open_backend("onnxruntime", tmp_path, WINDOW, threads=1)(windows)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert 0 < float((found - expected).abs().mean()) < 0.2 * float(expected.std())


def test_an_int8_export_tells_the_time_of_a_window_beside_float32(
    pico, traced, tmp_path, monkeypatch, caplog
):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=NOT_INSTALLED)
    windows = [window[None].numpy() for window in some_windows(load_model(pico, "cpu").config)]
    monkeypatch.setattr(exporting, "calibration_windows", lambda *_: (windows, ["case"]))
    monkeypatch.setattr(exporting, "check", lambda *_: None)  # weights of a `pico` mean nothing
    done = export_model(pico, "onnx", tmp_path / "out", int8=True, calibration=tmp_path)
    speed = json.loads((done.folder / "export.json").read_text())["speed"]
    seconds = speed["seconds_a_window"]
    assert list(seconds) == ["PyTorch", "float32", "int8"]
    assert all(found > 0 for found in seconds.values())
    slower = "int8 is slower than float32 here: export without --int8." in done.lines()
    assert slower == (seconds["int8"] > seconds["float32"])
    assert f"on {speed['threads']} thread" in done.lines()[1]
    assert {path.name for path in done.folder.iterdir()} >= {"model.onnx", "config.json"}
    assert not [path for path in done.folder.iterdir() if path.is_dir()]
    assert "pre-processing" not in caplog.text


def test_what_sees_intensities_and_what_makes_logits_stay_float32(pico, onnx_export, tmp_path):
    onnx = pytest.importorskip("onnx", reason=NOT_INSTALLED)
    windows = some_windows(load_model(pico, "cpu").config)
    quantise_onnx(onnx_export, tmp_path, [window[None].numpy() for window in windows])
    graph = onnx.load(str(tmp_path / "model.onnx")).graph
    weights = {initializer.name for initializer in graph.initializer}
    convolutions = [node.input[1] for node in graph.node if node.op_type == "Conv"]
    assert {name for name in convolutions if name in weights} == {
        "swinViT.patch_embed.proj.weight",
        "encoder1.layer.conv1.conv.weight",
        "encoder1.layer.conv3.conv.weight",
        "out.conv.conv.weight",
    }
    assert len(convolutions) == 28


def test_openvino_in_int8_stays_near_the_model(pico, onnx_export, tmp_path):
    for package in ("openvino", "nncf"):
        pytest.importorskip(package, reason=NOT_INSTALLED)
    model = load_model(pico, "cpu")
    windows = some_windows(model.config)
    float32, int8 = tmp_path / "float32", tmp_path / "int8"
    float32.mkdir()
    int8.mkdir()
    portable.write_openvino(float32, portable.as_openvino(onnx_export / "model.onnx"))
    quantise_openvino(float32, int8, [window[None].numpy() for window in windows])
    with torch.inference_mode():
        expected = model.network(windows)
    found = open_backend("openvino", int8, WINDOW, threads=1)(windows)
    assert 0 < float((found - expected).abs().mean()) < 0.2 * float(expected.std())


@pytest.mark.parametrize(
    ("operation", "abilities", "precision"),
    [
        ("FakeQuantize", ["FP32", "INT8", "BF16"], "bf16"),
        ("FakeQuantize", ["FP32", "INT8"], "f32"),
        ("Convolution", ["FP32", "INT8", "BF16"], "f32"),
    ],
)
def test_only_what_stands_beside_int8_may_be_bfloat16(operation, abilities, precision):
    core = SimpleNamespace(get_property=lambda *_: abilities)
    node = SimpleNamespace(get_type_name=lambda: operation)
    network = SimpleNamespace(get_ops=lambda: [node])
    assert precision_beside_int8(core, network) == precision


@pytest.mark.parametrize(("merging", "target"), [("complete", "regions"), ("legacy", "classes")])
def test_a_bundle_runs_in_monais_runner_and_gives_our_labels(
    pico, pico_config, shaken, merging, target, tmp_path
):
    pytest.importorskip("monai", reason="MONAI is not installed")
    folder = pico
    if merging == "legacy":
        folder = tmp_path / "model"
        config = pico_config.model_copy(update={"merging": merging, "target": target})
        exporting.write_release(folder, shaken(config), config)
        (folder / "LICENSE").unlink()
        exporting.seal(folder)
    done = export_model(folder, "monai-bundle", tmp_path / "out")
    assert done.record["agreement"]["largest_logit_difference"] < 1e-3
    assert set(done.record["agreement"]["dice"].values()) - {None}
    metadata = json.loads((done.folder / "configs" / "metadata.json").read_text())
    channels = metadata["network_data_format"]["inputs"]["image"]["channel_def"]
    assert tuple(channels.values()) == pico_config.contrasts
    assert (done.folder / "scripts").is_dir() == (merging == "legacy")
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=done.folder, check=True)


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI, of a decoder it misses
@pytest.mark.parametrize("spacing_mm", [4.0, 2.0])
def test_a_bundle_resamples_in_place_wherever_the_origin_is(pico_config, spacing_mm, tmp_path):
    parser = pytest.importorskip("monai.bundle.config_parser", reason="MONAI is not installed")
    imports = ["$import numpy as np", "$import torch"]
    steps = {"_target_": "Compose", "transforms": _preprocessing(pico_config)}
    prepare = parser.ConfigParser({"imports": imports, "steps": steps}).get_parsed_content("steps")
    voxels = np.random.default_rng(0).random((1, 8, 10, 12)).astype(np.float32)
    prepared = []
    for origin_mm in (0.5, -0.5, 90.0):
        affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
        affine[:3, 3] = origin_mm
        file = tmp_path / f"{origin_mm}.nii.gz"
        write_nifti(file, Volume(voxels, affine))
        image = prepare({"image": [str(file)]})["image"]
        prepared.append(image.numpy())
        coarser = image.affine.numpy()[:3, 3] - FAR_MM - (4.0 - spacing_mm) / 2
        np.testing.assert_allclose(coarser, origin_mm, atol=1e-6)
    np.testing.assert_allclose(prepared[0], prepared[2], atol=1e-4)
    np.testing.assert_allclose(prepared[1], prepared[2], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "shift_mm"), [("0_seg.nii.gz", 0.0), ("case/T1w_seg.nii.gz", 2.0), (None, 0.0)]
)
def test_a_bundle_whose_labels_stand_elsewhere_is_refused(name, shift_mm, tmp_path):
    image = Volume(np.zeros((1, 4, 4, 4), np.float32), np.eye(4))
    moved = np.eye(4)
    moved[0, 3] = shift_mm
    if name is not None:
        write_nifti(tmp_path / name, Volume(np.zeros((1, 4, 4, 4), np.int16), moved))
    with pytest.raises(WeightsError, match=r"not case/T1w_seg.nii.gz on the grid of the case"):
        _labels(tmp_path, tmp_path, "T1w", image)
