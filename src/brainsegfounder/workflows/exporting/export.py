"""`export`: write a model in another format, read it back, and compare it with the model."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from brainsegfounder.errors import UsageError
from brainsegfounder.files import check_new_folder, replace_folder, sha256, write_text
from brainsegfounder.inference.backends import FORMATS, Outside, open_backend
from brainsegfounder.inference.model_config import WEIGHTS_NAME
from brainsegfounder.runs import RESEARCH_ONLY, package_version
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.exporting import bundle, portable
from brainsegfounder.workflows.exporting.agreement import Agreement, check, compare, first_window
from brainsegfounder.workflows.exporting.cases import calibration_windows, choose_case
from brainsegfounder.workflows.exporting.quantise import Windows, quantise_onnx, quantise_openvino
from brainsegfounder.workflows.exporting.release import write_beside, write_release
from brainsegfounder.workflows.exporting.speed import seconds_a_window
from brainsegfounder.workflows.model_folder import Model, load_model, model_folder, seal

Format = Literal["safetensors", "onnx", "openvino", "pt2", "monai-bundle"]
RECORD_NAME = "export.json"
FLOAT32, INT8 = "float32", "int8"
PACKAGES = ("brainsegfounder", "torch", "onnx", "onnxruntime", "openvino", "nncf", "monai")
NUM_WINDOWS = 24


@dataclass(frozen=True, slots=True)
class Exported:
    """A finished export.

    Attributes:
        folder: Where it is.
        record: What stands in its `export.json`.
    """

    folder: Path
    record: dict[str, Any]

    def lines(self) -> list[str]:
        """Tell it in plain text."""
        agreement, size = self.record["agreement"], sum(self.record["bytes"].values())
        dice = [f"{k} {v:.4f}" for k, v in agreement["dice"].items() if v is not None]
        return [
            f"{self.record['format']}, {self.record['precision']}: {size / 1e6:.1f} MB",
            *self._speed(),
            f"compared on {agreement['case']}: largest difference of a logit "
            f"{agreement['largest_logit_difference']:.2g} (of values up to "
            f"{agreement['largest_logit']:.3g}), Dice of labels "
            f"{', '.join(dice) or 'not known: nothing was found'}",
            RESEARCH_ONLY,
        ]

    def _speed(self) -> list[str]:
        speed = self.record["speed"]
        if speed is None:
            return []
        seconds, shape = speed["seconds_a_window"], "x".join(map(str, self.record["window_vox"]))
        told = ", ".join(f"{name} {found:.2g} s" for name, found in seconds.items())
        threads = f"{speed['threads']} thread{'s' if speed['threads'] > 1 else ''}"
        lines = [f"a window of {shape} voxels on {threads}: {told}"]
        if seconds.get(INT8, 0.0) > seconds.get(FLOAT32, math.inf):
            lines.append("int8 is slower than float32 here: export without --int8.")
        return lines


def export_model(
    model_path: Path,
    to: str,
    out: Path,
    *,
    case: Path | None = None,
    calibration: Path | None = None,
    num_windows: int = NUM_WINDOWS,
    int8: bool = False,
) -> Exported:
    """Write a model in another format; what disagrees with it is never left behind.

    Args:
        model_path: A run or model folder with a segmentation model.
        to: `safetensors`, `onnx`, `openvino`, `pt2` or `monai-bundle`.
        out: The new folder.
        case: What to compare on: a folder with the scans of one case, a store, or `STORE/CASE`;
            None takes the embedded phantom.
        calibration: For int8, a store with cases that the model was trained on.
        num_windows: For int8, how many windows to calibrate on.
        int8: Quantise; for `onnx` and `openvino`.

    Raises:
        UsageError: The format cannot be had for this model or with these options, or a package
            for it is not installed.
        WeightsError: The model cannot be loaded, or the export disagrees with it.
        DataError: The case or the store cannot be used.
        OutputExistsError: `out` has content.
    """
    _check_request(to, int8, calibration)
    check_new_folder(out)
    model = load_model(model_path, "cpu")
    if to == "monai-bundle":
        bundle.check_model(model.config)
    name, image = choose_case(model.config, case)
    windows: Windows = []
    used: list[str] = []
    if calibration is not None:
        windows, used = calibration_windows(calibration, model.config, num_windows)
    facts = {
        "notice": RESEARCH_ONLY,
        "format": to,
        "precision": INT8 if int8 else FLOAT32,
        "model": {
            "name": model.config.name,
            "weights_sha256": sha256(model_folder(model_path) / WEIGHTS_NAME),
        },
        "window_vox": list(model.config.patch_size_vox),
        "calibration": {"cases": len(used), "windows": len(windows)} if int8 else None,
    }
    with _unfinished(out) as folder:
        agreement, speed = _write(to, folder, model, image, name, windows if int8 else None)
        check(agreement, str(facts["precision"]), f"{out}: the {to} export")
        record = _finish(folder, facts | {"speed": speed}, agreement)
        replace_folder(folder, out)
    return Exported(out, record)


class _unfinished:  # noqa: N801 (a context)
    """A folder beside the output, which is gone in the end if it was not moved into its place."""

    def __init__(self, out: Path) -> None:
        self.folder = out.with_name(f".{out.name}.{os.getpid()}.partial")

    def __enter__(self) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        return self.folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _check_request(to: str, int8: bool, calibration: Path | None) -> None:
    if to not in get_args(Format):
        raise UsageError(f"--to {to}: no such format; expected {', '.join(get_args(Format))}.")
    if int8 and to not in QUANTISERS:
        raise UsageError(
            f"--to {to} --int8: cannot be quantised; expected --to {' or '.join(QUANTISERS)}."
        )
    if int8 and calibration is None:
        raise UsageError(
            "--int8: no cases to calibrate on; expected the store that the model was trained on. "
            "Add --calibration STORE."
        )
    if calibration is not None and not int8:
        raise UsageError("--calibration: only for --int8. Add --int8, or leave it out.")


def _write(
    to: str, folder: Path, model: Model, image: Volume, name: str, windows: Windows | None
) -> tuple[Agreement, dict[str, Any] | None]:
    """Write one format, compare what is read back, and time it."""
    if to == "monai-bundle":
        bundle.write_bundle(folder, model)
        return bundle.compare_bundle(folder, model, image, name), None
    with tempfile.TemporaryDirectory(dir=folder) as place:
        first = folder if windows is None else Path(place)
        networks = {"PyTorch": model.network, FLOAT32: WRITERS[to](first, model)}
        if windows is not None:
            write_beside(folder, model.config)
            QUANTISERS[to](first, folder, windows)
            networks[INT8] = _reopened(folder, to, model)
        agreement = compare(model, networks[FLOAT32 if windows is None else INT8], image, name)
        if to == "safetensors":  # PyTorch runs it
            return agreement, None
        seconds = seconds_a_window(networks, first_window(model.config, image))
        return agreement, {"threads": torch.get_num_threads(), "seconds_a_window": seconds}


def _safetensors(folder: Path, model: Model) -> nn.Module:
    write_release(folder, model.network, model.config)
    return load_model(folder, "cpu").network


def _pt2(folder: Path, model: Model) -> nn.Module:
    write_beside(folder, model.config)
    portable.write_pt2(folder, portable.trace(model.network, model.config))
    return portable.reopen_pt2(folder)


def _onnx(folder: Path, model: Model) -> nn.Module:
    write_beside(folder, model.config)
    portable.write_onnx(folder, portable.trace(model.network, model.config))
    return _reopened(folder, "onnx", model)


def _openvino(folder: Path, model: Model) -> nn.Module:
    write_beside(folder, model.config)
    portable.write_onnx(folder, portable.trace(model.network, model.config))
    portable.write_openvino(folder, portable.as_openvino(folder / portable.ONNX_NAME))
    (folder / portable.ONNX_NAME).unlink()
    return _reopened(folder, "openvino", model)


WRITERS: dict[str, Callable[[Path, Model], nn.Module]] = {
    "safetensors": _safetensors,
    "onnx": _onnx,
    "openvino": _openvino,
    "pt2": _pt2,
}
# From the folder of an export in float32 to that of one in int8.
QUANTISERS: dict[str, Callable[[Path, Path, Windows], None]] = {
    "onnx": quantise_onnx,
    "openvino": quantise_openvino,
}


def _reopened(folder: Path, to: str, model: Model) -> nn.Module:
    kind = next(kind for kind, name in FORMATS.items() if name == to)
    return Outside(open_backend(kind, folder, model.config.patch_size_vox))


def _finish(folder: Path, facts: dict[str, Any], agreement: Agreement) -> dict[str, Any]:
    """Write `export.json` and the sums."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    record = facts | {
        "agreement": agreement.record(),
        "bytes": {str(path.relative_to(folder)): path.stat().st_size for path in files},
        "versions": {name: package_version(name) for name in PACKAGES},
    }
    write_text(folder / RECORD_NAME, json.dumps(record, indent=1) + "\n")
    seal_tree(folder)
    return record


def seal_tree(folder: Path) -> None:
    """Write the sums of a folder that may have folders."""
    if any(path.is_dir() for path in folder.iterdir()):
        bundle.seal_bundle(folder)
    else:
        seal(folder)
