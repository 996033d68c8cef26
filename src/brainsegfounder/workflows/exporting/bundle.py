"""A bundle for MONAI: its own network and transforms, our weights; this package is not needed.

BUNDLE/
configs/metadata.json    what goes in and comes out
configs/inference.json   what MONAI's bundle runner does
models/model.pt          the weights, tensors only
docs/README.md           the model card, and how to run it
docs/data_license.txt    what is known of the data
LICENSE                  of the bundle
scripts/                 only for weights trained with MONAI before 1.5
config.json, export.json, provenance.json, SHA256SUMS
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from brainsegfounder.errors import UsageError, WeightsError
from brainsegfounder.files import sha256, write_text
from brainsegfounder.inference.backends import require
from brainsegfounder.inference.model_config import ModelConfig, write_config
from brainsegfounder.inference.predictor import FLIPS
from brainsegfounder.inference.sliding_window import slide
from brainsegfounder.inference.voices import Voices
from brainsegfounder.models.scales import get_scale
from brainsegfounder.runs import RESEARCH_ONLY, package_version
from brainsegfounder.settings import OURS
from brainsegfounder.volumes.nifti import read_nifti, write_nifti
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.exporting.agreement import Agreement, dice_of_regions, first_window
from brainsegfounder.workflows.exporting.bundle_configs import inference_config, metadata
from brainsegfounder.workflows.exporting.cases import PHANTOM_WINDOWS, centre
from brainsegfounder.workflows.exporting.release import public_facts, write_licence
from brainsegfounder.workflows.model_card import model_card
from brainsegfounder.workflows.model_folder import SUMS_NAME, Model

CHILD = Path(__file__).with_name("bundle_child.py")
LIMIT_S = 1800
PLACE_MM = 1e-3
LEGACY_NAME = "legacy_merging.py"
LEGACY = '''"""Patch merging as in MONAI 0.9 to 1.4, which these weights were trained with."""

import torch
from monai.networks.nets.swin_unetr import PatchMergingV2
from torch.nn import functional

CORNERS = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1)]


class LegacyMerging(PatchMergingV2):
    """Two corners of each cube stand twice, two are lost."""

    def forward(self, x):
        i, j, k = (n % 2 for n in x.shape[1:4])
        x = functional.pad(x, (0, 0, 0, k, 0, j, 0, i))
        corners = [x[:, a::2, b::2, c::2] for a, b, c in CORNERS]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))
'''


def check_model(config: ModelConfig) -> None:
    """Refuse what a bundle cannot hold.

    Raises:
        UsageError: An ensemble, a baseline, copies of contrasts, a preparation that MONAI's
            transforms cannot do, or MONAI is not installed.
    """
    settings = config.preparation
    obstacles = {
        f"the mean of {config.members} networks; export each member by itself": config.members > 1,
        f"a {config.architecture}; export it to onnx or openvino": config.architecture != OURS,
        f"{config.copies} copies of each contrast; export it to onnx or openvino": config.copies
        > 1,
        "prepared by resizing the whole scan; export it to onnx or openvino": (
            settings.resize_vox is not None
        ),
    }
    for found, is_one in obstacles.items():
        if is_one:
            what, advice = found.split("; ")
            raise UsageError(
                f"{config.name}: {what}, which a MONAI bundle cannot hold; expected one SwinUNETR. "
                f"{advice[0].upper()}{advice[1:]}."
            )
    require("monai.bundle" if _is_installed("monai") else "monai")


def write_bundle(folder: Path, model: Model) -> None:
    """Write a bundle; see the module's docstring."""
    config, size = model.config, get_scale(model.config.scale)
    network = {
        "_target_": "SwinUNETR",
        "in_channels": len(config.contrasts),
        "out_channels": config.num_outputs,
        "feature_size": size.feature_size,
        "depths": list(size.depths),
        "num_heads": list(size.num_heads),
        "downsample": {
            "complete": "merging",
            "v2": "mergingv2",
            "legacy": "$LegacyMerging",
        }[config.merging],
    }
    for name, content in (
        ("metadata", metadata(config)),
        ("inference", inference_config(config, network)),
    ):
        write_text(folder / "configs" / f"{name}.json", json.dumps(content, indent=2) + "\n")
    (folder / "models").mkdir()
    state = {k: v.contiguous().clone() for k, v in model.network.cpu().state_dict().items()}
    torch.save(state, folder / "models" / "model.pt")
    if config.merging == "legacy":
        write_text(folder / "scripts" / "__init__.py", '"""What MONAI itself no longer has."""\n')
        write_text(folder / "scripts" / LEGACY_NAME, LEGACY)
    _write_docs(folder, config)


def compare_bundle(folder: Path, model: Model, image: Volume, case: str) -> Agreement:
    """Run a bundle by MONAI's own runner in a process of its own, and compare it with its model.

    The middle of the case is taken, where MONAI puts windows where we do.

    Raises:
        WeightsError: It does not run.
    """
    part = centre(image, [int(PHANTOM_WINDOWS * n) for n in model.config.patch_size_vox])
    window = first_window(model.config, part)
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        for name, channel in zip(model.contrasts, part.voxels, strict=True):
            write_nifti(work / "in" / "case" / f"{name}.nii.gz", Volume(channel[None], part.affine))
        np.save(work / "window.npy", window.numpy())
        _run(folder, work)
        labels = _labels(folder, work / "out", model.contrasts[0], part)
        logits = torch.from_numpy(np.load(work / "logits.npy"))
        probabilities = np.load(work / "probabilities.npy")
    with torch.inference_mode():
        expected = model.network(window)
    i, j, k = part.shape_vox
    wanted = _everywhere(model, part)
    expected_labels = model.paint(wanted).voxels[0]
    regions = model.config.regions
    return Agreement(
        case,
        (i, j, k),
        float(expected.abs().max()),
        float((expected - logits).abs().max()),
        float(np.abs(wanted.voxels - probabilities).max()),
        dice_of_regions(expected_labels, labels, regions),
        {name: int(np.isin(expected_labels, r.labels).sum()) for name, r in regions.items()},
    )


def _labels(bundle: Path, out: Path, contrast: str, image: Volume) -> NDArray[Any]:
    """What a bundle wrote of `case`, if it stands where the case does."""
    wanted, files = Path("case") / f"{contrast}_seg.nii.gz", sorted(out.rglob("*.nii.gz"))
    written = read_nifti(files[0]) if files == [out / wanted] else None
    if written is None or not np.allclose(written.affine, image.affine, atol=PLACE_MM):
        what = [str(path.relative_to(out)) for path in files]
        raise WeightsError(
            f"{bundle}: MONAI's bundle runner wrote {what}, not {wanted} on the grid of the case. "
            "It was removed. Use MONAI 1.6, or export to onnx."
        )
    labels: NDArray[Any] = written.voxels[0]
    return labels


def _everywhere(model: Model, image: Volume) -> Volume:
    """Probabilities from windows over the whole image, as MONAI puts them: not around the brain."""
    config = model.config
    voices = Voices(model.network, FLIPS[:1], config.target, torch.device("cpu"), False)
    with torch.inference_mode():
        values = slide(
            voices,
            torch.from_numpy(np.ascontiguousarray(image.voxels, dtype=np.float32)),
            window=config.patch_size_vox,
            overlap=config.predict.overlap,
            blending=config.predict.blending,
            batch_size=1,
            finish=voices.finish,
        )
    return Volume(values.numpy(), image.affine, image.source)


def _run(folder: Path, work: Path) -> None:
    try:
        subprocess.run(
            [sys.executable, str(CHILD), str(folder.resolve()), str(work)],
            cwd=work,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise WeightsError(
            f"{folder}: MONAI's bundle runner ended with {error.returncode}: {last}. It was "
            "removed. Use MONAI 1.6, or export to onnx."
        ) from None


def _write_docs(folder: Path, config: ModelConfig) -> None:
    clean = config.model_copy(update={"provenance": public_facts(config.provenance)})
    write_config(folder, clean)
    write_text(folder / "docs" / "README.md", model_card(clean) + HOW_TO_RUN)
    trained_on = ", ".join(clean.provenance.get("trained_on", ())) or "not recorded"
    write_text(
        folder / "docs" / "data_license.txt",
        f"Trained on: {trained_on}. No data are part of this bundle; keep to the licences of the "
        "data sets it was trained on.\n",
    )
    write_licence(folder / "LICENSE", config)
    if not (folder / "LICENSE").is_file():
        write_text(
            folder / "LICENSE",
            "No licence of the weights is recorded; ask whoever gave you the model. "
            f"{RESEARCH_ONLY}\n",
        )


HOW_TO_RUN = """
## As a MONAI bundle

A folder for each case with one file for each contrast, named as above (`T1w.nii.gz` ...), all on
one grid, skull-stripped. From the bundle's folder:

    PYTHONPATH=. python -m monai.bundle run --config_file configs/inference.json \\
        --bundle_root . --dataset_dir CASES --output_dir OUT

A bundle's configuration is code: MONAI runs what stands in it. Run only bundles that you trust.
"""


def seal_bundle(folder: Path) -> None:
    """Write the sums of all files of a folder with folders, as `sha256sum -c` reads them."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SUMS_NAME)
    lines = [f"{sha256(path)}  {path.relative_to(folder)}\n" for path in files]
    write_text(folder / SUMS_NAME, "".join(lines))


def _is_installed(package: str) -> bool:
    return package_version(package) is not None
