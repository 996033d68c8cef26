"""Linear probes of finished encoders: age and sex from the mean feature of each brain's middle.

    python benchmarks/probe_encoders.py STORE --participants FILE --patch 64 64 64 \\
        --arm random=nano --arm three-task=RUN --arm mae=RUN --out probes.json

`STORE` should hold subjects that no pretraining saw, or all that it saw alike. An arm is a run or
model folder, or a scale for random weights (then with three seeds).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from brainsegfounder.data.store import open_store
from brainsegfounder.evaluation.features import effective_rank
from brainsegfounder.evaluation.participants import read_participants, subject_key
from brainsegfounder.evaluation.probe import probe_classes, probe_number
from brainsegfounder.models.scales import SCALES, get_scale
from brainsegfounder.models.swin import SwinTransformer
from brainsegfounder.models.weights import load_state
from brainsegfounder.workflows.model_folder import model_folder
from brainsegfounder.workflows.pretrain_probe import middle_of

RANDOM_SEEDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--participants", type=Path, required=True)
    parser.add_argument("--patch", type=int, nargs=3, default=(64, 64, 64))
    parser.add_argument("--arm", action="append", required=True, help="NAME=RUN or NAME=SCALE")
    parser.add_argument("--out", type=Path, default=Path("probes.json"))
    arguments = parser.parse_args()
    store = open_store(arguments.store)
    rows = read_participants(arguments.participants).rows
    cases = [case for case in store.cases if subject_key(case.subject) in rows]
    people = [rows[subject_key(case.subject)] for case in cases]
    ages = np.array([float(row.get("age", "nan")) for row in people])
    male = np.array([float(str(row.get("sex")).upper().startswith("M")) for row in people])
    crops = [middle_of(store, case, range(len(store.contrasts)), arguments.patch) for case in cases]
    found: dict[str, list[dict[str, Any]]] = {}
    for arm in arguments.arm:
        name, _, source = arm.partition("=")
        for encoder in encoders(source, len(store.contrasts)):
            features = np.stack([pooled(encoder, crop) for crop in crops])
            subjects = [case.subject for case in cases]
            age, sex = (
                probe_number(features, ages, subjects),
                probe_classes(features, male, subjects),
            )
            row = {"rank": effective_rank(features), "subjects": len(cases)}
            row |= {f"age_{k}": getattr(age, k) for k in ("r2", "mae", "chance_mae")}
            row |= {f"sex_{k}": getattr(sex, k) for k in ("auc", "accuracy", "chance_accuracy")}
            found.setdefault(name, []).append(row)
            print(name, json.dumps(row), flush=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")


def encoders(source: str, in_channels: int) -> list[nn.Module]:
    """The encoder of a run or model folder, or three random ones of a scale."""
    if source in SCALES:
        made = []
        for seed in range(RANDOM_SEEDS):
            torch.manual_seed(seed)
            made.append(SwinTransformer(in_channels, get_scale(source)).eval())
        return made
    folder = model_folder(Path(source))
    config = json.loads((folder / "config.json").read_text())
    encoder = SwinTransformer(in_channels, get_scale(config["scale"]), config["merging"])
    state = load_state(folder / "model.safetensors")
    prefix = "swinViT."
    encoder.load_state_dict(
        {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    )
    return [encoder.eval()]


def pooled(encoder: nn.Module, crop: torch.Tensor) -> np.ndarray:
    """The mean of the deepest map."""
    with torch.inference_mode():
        return encoder(crop[None])[-1][0].double().mean(dim=(1, 2, 3)).numpy()


if __name__ == "__main__":
    main()
