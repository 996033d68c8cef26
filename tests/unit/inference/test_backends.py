"""What computes a window: what is refused, and how."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from brainsegfounder.errors import UsageError, WeightsError
from brainsegfounder.inference.backends import Outside, open_backend

WINDOW = (64, 32, 32)


class Double(nn.Module):
    """A network that doubles."""

    def forward(self, windows):
        return 2 * windows


def test_an_unknown_backend_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(UsageError, match="expected torch, openvino, onnxruntime"):
        open_backend("tensorrt", tmp_path, WINDOW)


@pytest.mark.parametrize(("kind", "model"), [("openvino", Double()), ("torch", "folder")])
def test_a_network_goes_with_torch_and_a_folder_with_the_others(kind, model, tmp_path):
    with pytest.raises(UsageError, match=f"backend {kind}: got"):
        open_backend(kind, tmp_path if model == "folder" else model, WINDOW)


@pytest.mark.parametrize(
    ("kind", "file", "to"),
    [("openvino", "model.xml", "openvino"), ("onnxruntime", "model.onnx", "onnx")],
)
def test_a_folder_without_an_export_says_how_to_make_one(kind, file, to, tmp_path):
    with pytest.raises(WeightsError, match=rf"no {file} found.*--to {to} "):
        open_backend(kind, tmp_path, WINDOW)


@pytest.mark.parametrize(
    ("kind", "file"), [("openvino", "model.xml"), ("onnxruntime", "model.onnx")]
)
def test_a_missing_package_names_the_extra(kind, file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, kind, None)
    (tmp_path / file).write_bytes(b"")
    with pytest.raises(UsageError, match=r"brainsegfounder\[export\]"):
        open_backend(kind, tmp_path, WINDOW)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "file"), [("openvino", "model.xml"), ("onnxruntime", "model.onnx")]
)
def test_a_damaged_file_is_refused(kind, file, tmp_path):
    pytest.importorskip(kind, reason="the extra `export` is not installed")
    (tmp_path / file).write_bytes(b"not a model")
    with pytest.raises(WeightsError, match="cannot open it"):
        open_backend(kind, tmp_path, WINDOW)


def test_torch_takes_tensors_and_arrays_and_keeps_no_gradient():
    compute = open_backend("torch", Double(), WINDOW)
    windows = torch.ones(2, 1, *WINDOW, requires_grad=True)
    assert torch.equal(compute(windows), 2 * torch.ones_like(windows))
    assert not compute(windows).requires_grad
    assert float(compute(np.ones((1, 1, *WINDOW), np.float32)).sum()) == 2 * np.prod(WINDOW)


def test_a_backend_can_stand_where_a_network_stands():
    network = Outside(lambda windows: windows + 1).eval()
    assert torch.equal(network(torch.zeros(1, 1, 2, 2, 2)), torch.ones(1, 1, 2, 2, 2))


@pytest.mark.slow
@pytest.mark.parametrize("package", ["openvino", "nncf"])
def test_openvino_and_nncf_tell_nobody_of_their_use(package):
    pytest.importorskip(package, reason="the extra `export` is not installed")
    code = (
        "import sys\n"
        "from brainsegfounder.inference.backends import require\n"
        f"require({package!r})\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "print(sys.modules['openvino_telemetry'], telemetry_utils.tm.__name__)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["None", "openvino.tools.ovc.telemetry_stub"]
