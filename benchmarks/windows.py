"""Where windows stand, and what that does to Dice: around the brain, or over the whole volume.

    python benchmarks/windows.py MODEL CASES --out benchmarks/results/windows.json

`CASES` is a folder of cases with masks. Network, preparation and blending are the same in all rows;
`whole` puts windows over a volume of 120 x 120 x 78 voxels around the case (a BraTS file at 2 mm),
as MONAI does, with windows of nothing but air left out, which change nothing. No case is named in
the result.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from brainsegfounder.data.layouts import read_cases
from brainsegfounder.evaluation.metrics import dice
from brainsegfounder.inference.predictor import FLIPS
from brainsegfounder.inference.sliding_window import Triple, plan_windows, slide
from brainsegfounder.inference.voices import Voices
from brainsegfounder.volumes.nifti import read_labels
from brainsegfounder.volumes.preparation import Prepared, prepare_case
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.model_folder import Model, load_model

WHOLE_VOX = (120, 120, 78)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("cases", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    model, rows = load_model(arguments.model, "cpu"), []
    for case in read_cases(arguments.cases):
        prepared = prepare_case(
            case.case, case.contrasts, model.contrasts, model.config.preparation
        )
        assert case.label is not None
        reference = read_labels(case.label).voxels[0]
        found = {
            name: {"windows": len(starts), **scored(model, prepared, reference, starts)}
            for name, starts in plans(model, prepared).items()
        }
        rows.append({"case": case.case, **found})
        print(json.dumps(rows[-1]), flush=True)
    means = {
        name: {key: fmean(row[name][key] for row in rows) for key in rows[0][name]}
        for name in rows[0]
        if name != "case"
    }
    record = {
        "cases": len(rows),
        "mean": means,
        "gains_over_whole": sorted(
            row["brain 0.5"]["mean"] - row["whole 0.5"]["mean"] for row in rows
        ),
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def plans(model: Model, prepared: Prepared) -> dict[str, list[Triple]]:
    """First voxels of the windows, in each way."""
    size, window = prepared.image.shape_vox, model.config.patch_size_vox
    inside = np.asarray(prepared.image.voxels.any(axis=0))
    whole = tuple(max(n, full) for n, full in zip(size, WHOLE_VOX, strict=True))
    before = [(full - n) // 2 for n, full in zip(size, whole, strict=True)]
    starts = [
        (i - before[0], j - before[1], k - before[2])
        for i, j, k in plan_windows((whole[0], whole[1], whole[2]), window, 0.5)
    ]
    touching = [
        start
        for start in starts
        if all(a < n and a + w > 0 for a, w, n in zip(start, window, size, strict=True))
    ]
    return {
        "brain 0.5": plan_windows(size, window, 0.5, inside),
        "prepared 0.5": plan_windows(size, window, 0.5),
        "brain 0.75": plan_windows(size, window, 0.75, inside),
        "whole 0.5": touching,
    }


def scored(
    model: Model, prepared: Prepared, reference: np.ndarray, starts: list[Triple]
) -> dict[str, Any]:
    """Dice of each region on the grid of the scan."""
    config, image = model.config, prepared.image
    voices = Voices(model.network, FLIPS[:1], config.target, torch.device("cpu"), False)
    with torch.inference_mode():
        values = slide(
            voices,
            torch.from_numpy(np.ascontiguousarray(image.voxels)),
            window=config.patch_size_vox,
            blending=config.predict.blending,
            batch_size=1,
            starts=starts,
            finish=voices.finish,
        )
    told = Volume(values.numpy(), image.affine, image.source)
    labels = model.paint(told, prepared.source_grid).voxels[0]
    of_regions = {
        name: dice(np.isin(labels, region.labels), np.isin(reference, region.labels))
        for name, region in config.regions.items()
    }
    return {**of_regions, "mean": fmean(of_regions.values())}


if __name__ == "__main__":
    main()
