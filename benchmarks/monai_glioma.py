"""A plain MONAI SwinUNETR on the same cases, for the same minutes, as `finetune open-glioma`.

    python benchmarks/monai_glioma.py STORE --minutes 30 --out benchmarks/results/monai_glioma.json

Network, loss and sliding window are MONAI's; the prepared cases, the patches and the scoring on
each file's own grid are ours, so a difference is one of network, loss and training. All training
and validation subjects of the split are trained on (it has no inner validation), and the last
weights are scored.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict
from pathlib import Path

import torch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import SwinUNETR

from brainsegfounder.data.loader import PatchDataset, PatchSampling, batches
from brainsegfounder.data.splits import split_subjects
from brainsegfounder.data.store import Store, open_store
from brainsegfounder.evaluation.metrics import score_case, summarise
from brainsegfounder.inference.postprocess import paint_regions
from brainsegfounder.recipes import load_recipe
from brainsegfounder.settings import Recipe
from brainsegfounder.training.losses import region_targets
from brainsegfounder.volumes.preparation import undo
from brainsegfounder.volumes.volume import Volume

WARMUP = 0.05
MANY_BATCHES = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--peak-lr", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    recipe, store = load_recipe("open-glioma"), open_store(arguments.store)
    split = split_subjects([case.subject for case in store.cases], recipe.split)
    torch.manual_seed(recipe.seed)
    network = SwinUNETR(in_channels=4, out_channels=3, feature_size=12)
    seconds, peak_lr = arguments.minutes * 60, arguments.peak_lr
    steps, losses = train(network, store, recipe, set(split.test), seconds, peak_lr)
    record = {
        "network": "monai SwinUNETR, feature size 12",
        "minutes": arguments.minutes,
        "peak_lr": peak_lr,
        "threads": torch.get_num_threads(),
        "steps": steps,
        "loss_first_10": sum(losses[:10]) / 10,
        "loss_last_10": sum(losses[-10:]) / 10,
        **test(network, store, recipe, set(split.test)),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1))
    print(json.dumps(record["aggregate"], indent=1))


def train(
    network: torch.nn.Module,
    store: Store,
    recipe: Recipe,
    held_out: set[str],
    seconds: float,
    peak_lr: float,
) -> tuple[int, list[float]]:
    settings = recipe.finetune
    assert settings is not None
    cases = [case for case in store.cases if case.subject not in held_out]
    sampling = PatchSampling(
        settings.patch_size_vox, 1, settings.foreground_fraction, settings.augment, with_labels=True
    )
    dataset = PatchDataset(store, cases, recipe.data.contrasts, sampling, recipe.seed)
    regions = [region.labels for region in recipe.data.regions.values()]
    optimizer = torch.optim.AdamW(network.parameters(), peak_lr, weight_decay=1e-5)
    loss_of = DiceCELoss(sigmoid=True)
    began, losses = time.monotonic(), []
    network.train()
    source = batches(
        dataset,
        first_batch=0,
        num_batches=MANY_BATCHES,
        batch_size=settings.batch_size,
        num_workers=0,
    )
    for batch in source:
        progress = (time.monotonic() - began) / seconds
        if progress >= 1:
            break
        cosine = (1 + math.cos(math.pi * progress)) / 2
        for group in optimizer.param_groups:
            group["lr"] = peak_lr * min(cosine, (progress + 1e-3) / WARMUP)
        optimizer.zero_grad()
        loss = loss_of(network(batch.image), region_targets(batch.labels, regions))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss))
        if len(losses) % 10 == 0:
            print(len(losses), f"{progress:.2f}", sum(losses[-10:]) / 10, flush=True)
    return len(losses), losses


def test(network: torch.nn.Module, store: Store, recipe: Recipe, held_out: set[str]) -> dict:
    network.eval()
    regions = {name: region.labels for name, region in recipe.data.regions.items()}
    scores = []
    for case in store.cases:
        if case.subject not in held_out:
            continue
        image = store.prepared_image(case, recipe.data.contrasts)
        with torch.inference_mode():
            logits = sliding_window_inference(
                torch.from_numpy(image.voxels)[None],
                recipe.finetune.patch_size_vox,
                1,
                network,
                overlap=recipe.predict.overlap,
                mode="gaussian",
            )
        probabilities = Volume(logits[0].sigmoid().numpy(), image.affine, case.case)
        painted = paint_regions(undo(probabilities, case.source_grid).voxels, recipe.data.regions)
        prediction = Volume(painted[None], case.source_grid.affine, case.case)
        scores += score_case(case.case, prediction, store.reference(case), regions)
    aggregate = {name: asdict(row) for name, row in summarise(scores).items()}
    return {"aggregate": aggregate}


if __name__ == "__main__":
    main()
