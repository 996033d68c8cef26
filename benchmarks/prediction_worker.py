"""One measurement of `prediction.py` in a process of its own: a JSON case in, a JSON line out."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CONTRASTS = {"T1w": "t1", "T1ce": "t1ce", "T2w": "t2", "FLAIR": "flair"}


def main() -> None:
    warnings.simplefilter("ignore")
    given = json.loads(sys.argv[1])
    paths = scans(Path(given["case"]))
    run = ours if given["side"] == "ours" else monai
    seconds, labels, facts = run(given, paths)
    with tempfile.NamedTemporaryFile(suffix=".npy", delete=False) as file:
        np.save(file, labels)
    reference = next(Path(given["case"]).glob("*_seg.nii.gz"))
    facts = {**facts, "seconds": seconds, "labels": file.name}
    if given["what"] == "whole":
        facts["dice"] = dice(labels, reference)
    print(json.dumps(facts))


def scans(folder: Path) -> dict[str, Path]:
    return {name: next(folder.glob(f"*_{end}.nii.gz")) for name, end in CONTRASTS.items()}


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def dice(labels: np.ndarray, path: Path) -> dict[str, float]:
    """Dice of TC, WT and ET against the reference."""
    import nibabel as nib

    reference = np.asarray(nib.load(path).dataobj)
    found = {}
    for name, values in (("TC", (1, 4)), ("WT", (1, 2, 4)), ("ET", (4,))):
        one, other = np.isin(labels, values), np.isin(reference, values)
        found[name] = round(2 * float((one & other).sum()) / float(one.sum() + other.sum()), 4)
    return found


def our_model(given: dict[str, Any]) -> Any:
    """The trained model, or one of scale tiny with random weights at 1 mm and 96 voxels."""
    import torch

    from brainsegfounder.workflows.model_folder import Model, build_network, load_model, place

    model = load_model(given["model"], "cpu")
    if not given["what"].startswith("tiny"):
        return model
    changes = {"scale": "tiny", "patch_size_vox": (96, 96, 96), "members": 1}
    preparation = model.config.preparation.model_copy(update={"spacing_mm": (1.0, 1.0, 1.0)})
    config = model.config.model_copy(update={**changes, "preparation": preparation})
    torch.manual_seed(0)
    network = place(build_network(config), torch.device("cpu"))
    return Model(network.eval(), config, torch.device("cpu"))


def monai_network(model: Any) -> Any:
    from monai.networks.nets import SwinUNETR

    from brainsegfounder.models.scales import get_scale

    size = get_scale(model.config.scale)
    network = SwinUNETR(
        4,
        model.config.num_outputs,
        feature_size=size.feature_size,
        depths=size.depths,
        num_heads=size.num_heads,
    )
    network.load_state_dict(model.network.state_dict())
    return network.eval()


def prepared_volume(model: Any, paths: dict[str, Path]) -> Any:
    """The whole volume on the network's grid, not cut to the brain."""
    import torch

    from brainsegfounder.volumes.preparation import prepare_case

    settings = model.config.preparation.model_copy(update={"margin_mm": 1000.0})
    prepared = prepare_case("case", paths, model.contrasts, settings)
    return torch.from_numpy(np.ascontiguousarray(prepared.image.voxels))


def ours(given: dict[str, Any], paths: dict[str, Path]) -> tuple[float, np.ndarray, dict[str, Any]]:
    import torch

    from brainsegfounder.data.cases import Case
    from brainsegfounder.inference.sliding_window import plan_windows, slide
    from brainsegfounder.volumes.nifti import write_nifti
    from brainsegfounder.workflows.predict_case import segment_case

    torch.set_num_threads(given["threads"])
    model = our_model(given)
    predict, window = model.config.predict, model.config.patch_size_vox
    if given["what"].endswith("windows"):
        from monai.data.utils import dense_patch_slices

        image = prepared_volume(model, paths)
        steps = [max(1, int(side * (1 - predict.overlap))) for side in window]
        slices = dense_patch_slices(tuple(image.shape[1:]), window, steps)
        starts = [tuple(one.start for one in box) for box in slices]
        before = peak_gib()
        began = time.perf_counter()
        with torch.inference_mode():
            probabilities = slide(
                model.network,
                image,
                window=window,
                blending=predict.blending,
                batch_size=1,
                starts=starts,
                finish=torch.Tensor.sigmoid_,
            )
        seconds = time.perf_counter() - began
        peak = peak_gib()
        return seconds, label_map(probabilities.numpy(), model), facts(peak, before, len(starts))
    before = peak_gib()
    began = time.perf_counter()
    done = segment_case(Case("case", "case", paths), model)
    parts = {"to labels": time.perf_counter() - began}
    with tempfile.TemporaryDirectory() as folder:
        write_nifti(Path(folder) / "labels.nii.gz", done.labels)
        seconds = time.perf_counter() - began
    peak = peak_gib()
    prepared = done.prepared
    inside = prepared.image.voxels.any(axis=0)
    windows = plan_windows(prepared.image.shape_vox, window, predict.overlap, inside)
    told = facts(peak, before, len(windows))
    return seconds, done.labels.voxels[0], {**told, "parts_s": {**parts, "all": seconds}}


def facts(peak: float, before: float, windows: int) -> dict[str, Any]:
    return {"peak_gib": peak, "before_gib": before, "windows": windows}


def label_map(probabilities: np.ndarray, model: Any) -> np.ndarray:
    from brainsegfounder.inference.postprocess import paint_regions

    return paint_regions(probabilities, model.config.regions)


def monai(
    given: dict[str, Any], paths: dict[str, Path]
) -> tuple[float, np.ndarray, dict[str, Any]]:
    import torch
    from monai import transforms as mt
    from monai.inferers import sliding_window_inference

    torch.set_num_threads(given["threads"])
    model = our_model(given)
    network, config = monai_network(model), model.config
    count = [0]

    def counted(windows: Any) -> Any:
        count[0] += 1
        return network(windows)

    def inferred(image: Any) -> Any:
        return sliding_window_inference(
            image[None],
            config.patch_size_vox,
            1,
            counted,
            overlap=config.predict.overlap,
            mode=config.predict.blending,
        )[0]

    if given["what"].endswith("windows"):
        image = prepared_volume(model, paths)
        before = peak_gib()
        began = time.perf_counter()
        with torch.inference_mode():
            probabilities = inferred(image).sigmoid()
        seconds = time.perf_counter() - began
        peak = peak_gib()
        return seconds, label_map(probabilities.numpy(), model), facts(peak, before, count[0])
    del model
    read = mt.Compose(
        [
            mt.LoadImaged("image", ensure_channel_first=True),
            mt.Orientationd("image", axcodes="RAS", labels=None),
            mt.Spacingd("image", pixdim=config.spacing_mm, mode="bilinear"),
            mt.NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        ]
    )
    before = peak_gib()
    began = time.perf_counter()
    files = {"image": [str(paths[name]) for name in config.contrasts]}
    item: dict[str, Any] = read(files)
    with torch.inference_mode():
        item["pred"] = inferred(item["image"]).sigmoid()
    back = invert(mt, read)
    labels = label_map(np.asarray(back(item)["pred"]), _named(config))
    saved = labels[None].astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        save = mt.SaveImage(output_dir=folder, print_log=False)
        save(
            mt.EnsureType()(
                item["image"].__class__(torch.from_numpy(saved), meta=item["pred"].meta)
            )
        )
        seconds = time.perf_counter() - began
    return seconds, labels, facts(peak_gib(), before, count[0])


def invert(mt: Any, read: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return mt.Invertd("pred", transform=read, orig_keys="image", nearest_interp=False)


def _named(config: Any) -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(config=config)


if __name__ == "__main__":
    main()
