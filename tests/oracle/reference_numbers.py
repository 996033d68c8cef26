"""What other people's tools say of made masks; run in an environment of their own.

    python -m venv theirs
    theirs/bin/pip install surface-distance panoptica connected-components-3d
    cd tests/oracle
    ../../theirs/bin/python reference_numbers.py --pairs 60 --out reference_numbers.json

surface-distance (google-deepmind) measures surfaces, panoptica matches lesions one to one, and for
BraTS 2023 cc3d, scipy and surface-distance are put together in the straightforward way, lesion by
lesion over the whole volume. That last part is ours, written from the definition: no tool on PyPI
does it. ATLAS 2022 and BraTS 2021 are written from their definitions over scipy.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parent))
from made_masks import made_pair, voxels_of

# surface-distance 0.1 is older than numpy 2 and scipy 1.15.
np.Inf = np.inf
if not hasattr(ndimage, "filters"):
    ndimage.filters = ndimage.morphology = ndimage

PENALTY_MM = 374.0
TUMOURS = {"glioma": (3, 50.0), "meningioma": (1, 50.0), "metastasis": (1, 2.0)}
TOOLS = ("surface-distance", "panoptica", "connected-components-3d", "numpy", "scipy")


def by_surface_distance(prediction, reference, spacing_mm):
    """HD95, NSD and mean distances; None where a mask is empty."""
    import surface_distance

    if not prediction.any() or not reference.any():
        return None
    found = surface_distance.compute_surface_distances(reference, prediction, spacing_mm)
    there, back = surface_distance.compute_average_surface_distance(found)
    return {
        "hd95_mm": float(surface_distance.compute_robust_hausdorff(found, 95)),
        "nsd_1mm": float(surface_distance.compute_surface_dice_at_tolerance(found, 1.0)),
        "nsd_2mm": float(surface_distance.compute_surface_dice_at_tolerance(found, 2.0)),
        "mean_mm": float((there + back) / 2),
    }


def by_panoptica(prediction, reference):
    """Lesions matched one to one at IoU 0.25."""
    from panoptica import (
        ConnectedComponentsInstanceApproximator,
        InputType,
        Metric,
        NaiveThresholdMatching,
        Panoptica_Evaluator,
    )

    judge = Panoptica_Evaluator(
        expected_input=InputType.SEMANTIC,
        instance_approximator=ConnectedComponentsInstanceApproximator(),
        instance_matcher=NaiveThresholdMatching(
            matching_metric=Metric.IOU, matching_threshold=0.25
        ),
        instance_metrics=[Metric.IOU],
        global_metrics=[],
        verbose=False,
    )
    pair = (prediction.astype(np.uint8), reference.astype(np.uint8))
    found = next(iter(judge.evaluate(*pair, verbose=False).values()))
    counts = {"tp": int(found.tp), "fp": int(found.fp), "fn": int(found.fn)}
    return {**counts, "rq": float(found.rq) if sum(counts.values()) else None}


def by_definition_of_brats_2023(prediction, reference, spacing_mm, dilation, threshold_mm3):
    """Lesion-wise Dice and HD95, one lesion after the other, nothing saved."""
    import cc3d
    import surface_distance

    element = ndimage.generate_binary_structure(3, 2)
    components = cc3d.connected_components(prediction, connectivity=26)
    dilated = ndimage.binary_dilation(reference, element, iterations=dilation)
    joined = cc3d.connected_components(dilated, connectivity=26)
    dices, distances_mm, touched, hits, misses = [], [], set(), 0, 0
    for number in range(1, int(joined.max()) + 1):
        lesion = reference & (joined == number)
        reach = ndimage.binary_dilation(lesion, element, iterations=dilation)
        here = [int(n) for n in np.unique(components[reach]) if n]
        touched.update(here)
        if lesion.sum() * math.prod(spacing_mm) <= threshold_mm3:
            continue
        found = np.isin(components, here) if here else np.zeros_like(prediction)
        if not here:
            misses += 1
            dices.append(0.0)
            distances_mm.append(PENALTY_MM)
            continue
        hits += 1
        dices.append(2.0 * (found & lesion).sum() / (found.sum() + lesion.sum()))
        measured = surface_distance.compute_surface_distances(lesion, found, spacing_mm)
        distances_mm.append(float(surface_distance.compute_robust_hausdorff(measured, 95)))
    false = int(components.max()) - len(touched)
    total = len(dices) + false
    return {
        "dice": float(sum(dices) / total) if total else 1.0,
        "hd95_mm": float((sum(distances_mm) + PENALTY_MM * false) / total) if total else 0.0,
        "tp": hits,
        "fn": misses,
        "fp": false,
    }


def by_definition_of_atlas_2022(prediction, reference):
    """Dice, volume and count differences, and F1 by any shared voxel; lesions by faces."""
    predicted, num_predicted = ndimage.label(prediction)
    expected, num_expected = ndimage.label(reference)
    hits = sum(bool(prediction[expected == n].any()) for n in range(1, num_expected + 1))
    false = sum(not reference[predicted == n].any() for n in range(1, num_predicted + 1))
    missed = num_expected - hits
    total = prediction.sum() + reference.sum()
    wrong = (false + missed) / 2
    return {
        "dice": float(2 * (prediction & reference).sum() / total) if total else 1.0,
        "volume_difference_vox": int(abs(int(prediction.sum()) - int(reference.sum()))),
        "lesion_count_difference": abs(num_predicted - num_expected),
        "lesion_f1": hits / (hits + wrong) if hits + wrong else 1.0,
    }


def by_definition_of_brats_2021(prediction, reference, spacing_mm):
    """Dice, HD95 of surface voxels by a distance transform, sensitivity, specificity."""
    both = int((prediction & reference).sum())
    p, r, n = int(prediction.sum()), int(reference.sum()), prediction.size
    if p == r == 0:
        return {"dice": 1.0, "hd95_mm": 0.0, "sensitivity": 1.0, "specificity": 1.0}
    hd95_mm = math.sqrt(240**2 + 240**2 + 155**2)
    if p and r:
        hd95_mm = max(
            float(np.percentile(_voxel_distances_mm(*pair, spacing_mm), 95))
            for pair in ((prediction, reference), (reference, prediction))
        )
    neither = n - p - r + both
    return {
        "dice": 2 * both / (p + r),
        "hd95_mm": hd95_mm,
        "sensitivity": both / r if r else 0.0,
        "specificity": neither / (n - r) if n - r else 0.0,
    }


def _voxel_distances_mm(one, other, spacing_mm):
    surface = other & ~ndimage.binary_erosion(other)
    away_mm = ndimage.distance_transform_edt(~surface, sampling=spacing_mm)
    return away_mm[one & ~ndimage.binary_erosion(one)]


def numbers_of(number: int):
    """Everything about one pair."""
    prediction, reference, spacing_mm = made_pair(number)
    pair = (prediction, reference)
    return {
        "pair": number,
        "voxels": [voxels_of(mask) for mask in pair],
        "surfaces": by_surface_distance(*pair, spacing_mm),
        "one_to_one": by_panoptica(*pair),
        "brats-2021": by_definition_of_brats_2021(*pair, spacing_mm),
        "atlas-2022": by_definition_of_atlas_2022(*pair),
        "brats-2023": {
            tumour: by_definition_of_brats_2023(*pair, spacing_mm, *parameters)
            for tumour, parameters in TUMOURS.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    versions = {tool: importlib.metadata.version(tool) for tool in TOOLS}
    rows = [json.dumps(numbers_of(number)) for number in range(options.pairs)]
    head = json.dumps(versions)
    options.out.write_text(f'{{"versions": {head},\n"pairs": [\n' + ",\n".join(rows) + "\n]}\n")


if __name__ == "__main__":
    main()
