"""A fine-tuning step and a validation against the same with MONAI's network, transforms, inferer.

    python benchmarks/finetuning.py STORE CASES      # a store of open-glioma, and its BraTS folder

Both sides train on the same four cases in patches of 64 voxels at 2 mm with batches of two, and
validate on a fifth. Ours reads patches from the store. MONAI's side has all cases in memory after
its deterministic transforms (`CacheDataset`), so that no file is read while the clock runs; then
`RandCropByPosNegLabeld`, flips, scaling and shifting of intensities; `DiceCELoss`, AdamW;
`sliding_window_inference` over the whole volume. Every figure is of a process of its own, the sides
take turns, and one step and one validation go ahead of the clock.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from model import RESULTS, machine

SIDES = ("ours", "monai")
PATCH, BATCH, TRAINED = (64, 64, 64), 2, 4
CONTRASTS = {"T1w": "t1", "T1ce": "t1ce", "T2w": "t2", "FLAIR": "flair"}
PEAK_LR = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--scale", default="tiny")
    parser.add_argument("--steps", type=int, default=4, help="timed in each process")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", choices=SIDES, help="measure one side here, for this script")
    parser.add_argument("--out", type=Path, default=RESULTS / "finetuning_cpu.json")
    arguments = parser.parse_args()
    if arguments.side:
        warnings.simplefilter("ignore")
        print(json.dumps(measure(arguments)))
        return
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(arguments.rounds):
        for side in SIDES:
            runs[side].append(work(side))
    settings = {"scale": arguments.scale, "steps": arguments.steps, "threads": arguments.threads}
    record = {"machine": machine(), "settings": settings, **summary(runs)}
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["times_faster"], indent=1), f"\nkept in {arguments.out}")


def work(side: str) -> dict[str, Any]:
    """One side in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of each side and their ratios; a round is ten steps and one validated case."""
    found: dict[str, Any] = {}
    for side, of_side in runs.items():
        medians = {
            what: statistics.median(run[what] for run in of_side)
            for what in ("step_s", "validation_s", "peak_gib")
        }
        round_s = 10 * medians["step_s"] + medians["validation_s"]
        found[side] = {**medians, "ten_steps_and_a_case_s": round_s, "runs": of_side}
    times = ("step_s", "validation_s", "ten_steps_and_a_case_s")
    found["times_faster"] = {what: found["monai"][what] / found["ours"][what] for what in times}
    found["share_of_peak_memory"] = found["ours"]["peak_gib"] / found["monai"]["peak_gib"]
    return found


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step and of a validation, and the peak memory of this process."""
    import torch

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    step, validate = (ours if arguments.side == "ours" else monai)(arguments)
    step()
    began = time.perf_counter()
    for _ in range(arguments.steps):
        step()
    step_s = (time.perf_counter() - began) / arguments.steps
    validate()
    began = time.perf_counter()
    validate()
    validation_s = time.perf_counter() - began
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"step_s": step_s, "validation_s": validation_s, "peak_gib": peak_gib}


def case_names(arguments: argparse.Namespace) -> list[str]:
    """The first cases by name; the last of them is validated."""
    names = sorted(path.name for path in arguments.cases.iterdir() if path.is_dir())
    return names[: TRAINED + 1]


def ours(arguments: argparse.Namespace) -> tuple[Callable[[], None], Callable[[], None]]:
    import torch

    from brainsegfounder.data.loader import PatchDataset, PatchSampling, batches
    from brainsegfounder.data.store import open_store
    from brainsegfounder.evaluation.metrics import dice
    from brainsegfounder.inference.model_config import config_of
    from brainsegfounder.inference.predictor import Predictor
    from brainsegfounder.recipes import load_recipe
    from brainsegfounder.workflows.finetune import loss_function
    from brainsegfounder.workflows.model_folder import build_network, place

    recipe = load_recipe("open-glioma", [f"model.scale={arguments.scale}"])
    settings, store = recipe.finetune, open_store(arguments.store)
    config = config_of(recipe, "segmentation", {}).model_copy(update={"patch_size_vox": PATCH})
    of_name = {case.case: case for case in store.cases}
    *trained, validated = (of_name[name] for name in case_names(arguments))
    network = place(build_network(config, recipe.model), torch.device("cpu"))
    sampling = PatchSampling(
        PATCH, 1, settings.foreground_fraction, settings.augment, with_labels=True
    )
    dataset = PatchDataset(store, trained, recipe.data.contrasts, sampling, 0)
    source = batches(dataset, first_batch=0, num_batches=1000, batch_size=BATCH, num_workers=0)
    loss_of = loss_function(recipe, settings)
    optimizer = torch.optim.AdamW(network.parameters(), PEAK_LR)
    stream = iter(source)

    def step() -> None:
        network.train()
        loss = loss_of(network, next(stream), 0).parts
        torch.stack(list(loss.values())).sum().backward()
        finish(network, optimizer)

    def validate() -> None:
        image = store.prepared_image(validated, recipe.data.contrasts)
        labels = Predictor(network, config, torch.device("cpu")).segment(image).voxels
        reference = store.labels(validated)[:]
        for region in recipe.data.regions.values():
            dice(
                torch.isin(torch.from_numpy(labels), torch.tensor(region.labels)).numpy(),
                torch.isin(torch.from_numpy(reference), torch.tensor(region.labels)).numpy(),
            )

    return step, validate


def monai(arguments: argparse.Namespace) -> tuple[Callable[[], None], Callable[[], None]]:
    import torch
    from monai.data import CacheDataset, DataLoader
    from monai.inferers import sliding_window_inference
    from monai.losses import DiceCELoss
    from monai.metrics import DiceMetric
    from monai.networks.nets import SwinUNETR
    from monai.transforms import Compose

    from brainsegfounder.models.scales import get_scale

    size = get_scale(arguments.scale)
    network = SwinUNETR(
        4, 3, feature_size=size.feature_size, depths=size.depths, num_heads=size.num_heads
    )
    *trained, validated = (files(arguments.cases / name) for name in case_names(arguments))
    fixed, random = monai_transforms()
    dataset = CacheDataset(trained, Compose([*fixed, *random]), progress=False)
    held_out = CacheDataset([validated], Compose(fixed), progress=False)[0]

    def stream() -> Iterator[dict[str, Any]]:
        while True:
            yield from DataLoader(dataset, batch_size=BATCH, shuffle=True)

    loss_of, source = DiceCELoss(sigmoid=True), stream()
    optimizer = torch.optim.AdamW(network.parameters(), PEAK_LR)

    def step() -> None:
        network.train()
        batch = next(source)
        loss_of(network(batch["image"]), batch["label"]).backward()
        finish(network, optimizer)

    def validate() -> None:
        network.eval()
        with torch.inference_mode():
            logits = sliding_window_inference(
                held_out["image"][None], PATCH, 1, network, overlap=0.5, mode="gaussian"
            )
            DiceMetric()(logits.sigmoid() > 0.5, held_out["label"][None])

    return step, validate


def monai_transforms() -> tuple[list[Any], list[Any]]:
    """What is done once, and what is done to every patch."""
    from monai import transforms as mt

    both = ["image", "label"]
    fixed = [
        mt.LoadImaged(both, ensure_channel_first=True),
        mt.ConvertToMultiChannelBasedOnBratsClassesd("label"),
        mt.Orientationd(both, axcodes="RAS", labels=None),
        mt.Spacingd(both, pixdim=(2.0, 2.0, 2.0), mode=("bilinear", "nearest")),
        mt.NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        mt.SpatialPadd(both, PATCH),
    ]
    flips = [mt.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)]
    random = [
        mt.RandCropByPosNegLabeld(both, "label", PATCH, pos=1, neg=1, num_samples=1),
        *flips,
        mt.RandScaleIntensityd("image", factors=0.1, prob=1.0),
        mt.RandShiftIntensityd("image", offsets=0.1, prob=1.0),
    ]
    return fixed, random


def files(folder: Path) -> dict[str, Any]:
    """The scans of a BraTS case, and its mask."""
    name = folder.name
    scans = [str(folder / f"{name}_{end}.nii.gz") for end in CONTRASTS.values()]
    return {"image": scans, "label": str(folder / f"{name}_seg.nii.gz")}


def finish(network: Any, optimizer: Any) -> None:
    """Clip, step, forget; the same on both sides."""
    import torch

    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main()
