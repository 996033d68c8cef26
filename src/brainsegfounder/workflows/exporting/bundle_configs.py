"""`metadata.json` and `inference.json` of a bundle, from a model's config."""

from __future__ import annotations

import math
from typing import Any

from brainsegfounder.inference.model_config import ModelConfig
from brainsegfounder.runs import RESEARCH_ONLY, package_version

# Mean 0 and standard deviation 1 where any contrast is not 0, tails clipped; as `zscore_inside`.
NORMALISE = (
    "$lambda x: torch.stack([torch.where(m, (c - c[m].mean()) / c[m].std(unbiased=False), 0) "
    "for m in [(x != 0).any(dim=0)] for c in [v.clip(*(float(q) for q in np.percentile("
    "v[m].double().numpy(), (0.1, 99.9)))) for v in x]])"
)
# MONAI 1.6 mirrors an origin that is less than half a voxel from 0 (the sign in its
# `compute_shape_offset`), so that such a scan would be resampled in the wrong place.
FAR_MM = 4096.0
MOVE = (
    "$lambda x: setattr(x, 'affine', x.affine + torch.tensor([[0, 0, 0, {}]] * 3 + [[0] * 4])) or x"
)


def metadata(config: ModelConfig) -> dict[str, Any]:
    """What MONAI's tools ask of a bundle; see its schema `meta_schema_20240725`."""
    sides = list(config.patch_size_vox)
    is_regions = config.target == "regions"
    classes = list(config.regions) if is_regions else ["background", *config.labels]
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": "MR",
        "num_channels": len(config.contrasts),
        "spatial_shape": sides,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(n): name for n, name in enumerate(config.contrasts)},
    }
    logits = {
        "type": "image",
        "format": "segmentation",
        "num_channels": config.num_outputs,
        "spatial_shape": sides,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(n): name for n, name in enumerate(classes)},
    }
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/"
        "0.8.1/meta_schema_20240725.json",
        "version": "0.1.0",
        "changelog": {"0.1.0": "exported by brainsegfounder"},
        "monai_version": package_version("monai") or "1.6.1",
        "pytorch_version": (package_version("torch") or "2.8.0").split("+")[0],
        "numpy_version": package_version("numpy") or "1.26.0",
        "required_packages_version": {"nibabel": package_version("nibabel") or "5.2.0"},
        "task": f"brain MRI segmentation ({config.name})",
        "description": f"{config.name}: a SwinUNETR of scale {config.scale}. {RESEARCH_ONLY}",
        "authors": "see docs/README.md",
        "copyright": "see LICENSE",
        "intended_use": RESEARCH_ONLY,
        "name": config.name,
        "network_data_format": {
            "inputs": {"image": image},
            "outputs": {"pred": logits},
        },
    }


def inference_config(config: ModelConfig, network: dict[str, Any]) -> dict[str, Any]:
    """The runner's configuration: read, prepare, slide, carry back, paint, write."""
    imports = ["$import glob", "$import os", "$import numpy as np", "$import torch"]
    if config.merging == "legacy":
        imports.append("$from scripts.legacy_merging import LegacyMerging")
    return {
        "imports": imports,
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/cases'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "contrasts": list(config.contrasts),
        "folders": "$sorted(glob.glob(os.path.join(@dataset_dir, '*', '')))",
        "names": "$[name + '.nii.gz' for name in @contrasts]",
        "datalist": "$[{'image': [os.path.join(f, n) for n in names]} for f, names in "
        "[(f, n) for f, n in zip(@folders, [@names] * len(@folders))]]",
        "network_def": network,
        "network": "$@network_def.to(@device).eval().requires_grad_(False)",
        "load": "$@network_def.load_state_dict(torch.load(@bundle_root + '/models/model.pt', "
        "map_location='cpu', weights_only=True))",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(config)},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(config.patch_size_vox),
            "sw_batch_size": config.predict.batch_size,
            "overlap": config.predict.overlap,
            "mode": config.predict.blending,
        },
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing(config)},
        "segment": "$lambda case, i=@inferer, n=@network, d=@device, p=@postprocessing: "
        "p({**case, 'pred': i(case['image'].as_tensor()[None].to(d), n)[0].cpu()})",
        "initialize": ["$@load"],
        "run": ["$list(map(@segment, @dataset))"],
    }


def _preprocessing(config: ModelConfig) -> list[dict[str, Any]]:
    settings = config.preparation
    steps: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": settings.orientation},
        {
            "_target_": "CropForegroundd",
            "keys": "image",
            "source_key": "image",
            "select_fn": "$lambda x: x != 0",
            "margin": math.ceil(settings.margin_mm),
            "allow_smaller": True,
        },
    ]
    if settings.spacing_mm is not None:
        spacing = {
            "_target_": "Spacingd",
            "keys": "image",
            "pixdim": list(settings.spacing_mm),
            "mode": "bilinear",
            "scale_extent": True,
            "align_corners": True,  # MONAI warns otherwise, though it changes nothing here
        }
        steps += [_moved("image", FAR_MM), spacing]
    return [*steps, {"_target_": "Lambdad", "keys": "image", "func": NORMALISE}]


def _moved(key: str, by_mm: float) -> dict[str, Any]:
    """A step that moves the origin and no voxel; MONAI does not undo it by itself."""
    return {"_target_": "Lambdad", "keys": key, "func": MOVE.format(by_mm)}


def _postprocessing(config: ModelConfig) -> list[dict[str, Any]]:
    is_regions = config.target == "regions"
    activation = {"sigmoid": True} if is_regions else {"softmax": True}
    return [
        {"_target_": "Activationsd", "keys": "pred", **activation},
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
        },
        *([] if config.preparation.spacing_mm is None else [_moved("pred", -FAR_MM)]),
        {"_target_": "Lambdad", "keys": "pred", "func": _paint(config)},
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_postfix": "seg",
            "output_dtype": "$np.int16",
            "data_root_dir": "@dataset_dir",
            "separate_folder": False,
            "resample": False,
        },
    ]


def _paint(config: ModelConfig) -> str:
    """An expression from probabilities to labels; see `postprocess`."""
    if config.target == "classes":
        values = [0, *config.labels.values()]
        # Indexed by `p` itself, the labels keep its place in space and the name of its file.
        return f"$lambda p: torch.tensor({values})[p.argmax(dim=0, keepdim=True)]"
    painted = "torch.zeros_like(p[:1])"
    channels = list(enumerate(config.regions.values()))
    for number, region in sorted(channels, key=lambda pair: -len(pair[1].labels)):
        painted = f"torch.where(p[{number}:{number + 1}] > 0.5, {region.paint}, {painted})"
    return f"$lambda p: {painted}"
