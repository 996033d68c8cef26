"""How far our numbers are from other people's, pair by pair: the comparison of all conventions.

    python tests/oracle/reference_numbers.py --pairs 500 --out theirs.json    # their environment
    python tests/oracle/agreement.py theirs.json                              # ours

prints the largest disagreement of every number and whose it is; exit code 1 if any is above 1e-6.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from made_masks import made_pair, made_probabilities, voxels_of

from brainsegfounder.evaluation.conventions import convention
from brainsegfounder.evaluation.metrics import score_case
from brainsegfounder.volumes.volume import Volume

LIMIT = 1e-6
Number = float | int | None


def scored(number: int, name: str, tumour: str | None = None):
    """Our score of one pair by a convention."""
    prediction, reference, spacing_mm = made_pair(number)
    affine = np.diag([*spacing_mm, 1.0])
    volumes = [Volume(mask[None].astype(np.int16), affine) for mask in (prediction, reference)]
    [score] = score_case("case", *volumes, {"lesion": [1]}, convention=convention(name, tumour))
    return score


def comparisons(theirs: dict[str, Any]) -> Iterator[tuple[str, Number, Number]]:
    """Name of a number, what we say, and what they say, for one pair."""
    number = theirs["pair"]
    if (surfaces := theirs["surfaces"]) is not None:
        ours = scored(number, "brats-2023")
        yield "surface-distance HD95", ours.whole_hd95_mm, surfaces["hd95_mm"]
        yield "surface-distance NSD 1 mm", ours.nsd["nsd_1mm"], surfaces["nsd_1mm"]
        yield "surface-distance NSD 2 mm", ours.nsd["nsd_2mm"], surfaces["nsd_2mm"]
        mean_mm = ours.mean_surface_distance_mm
        yield "surface-distance mean", mean_mm, surfaces["mean_mm"]
    ours, found = scored(number, "isles-2026"), theirs["one_to_one"]
    yield "panoptica TP", ours.num_found, found["tp"]
    yield "panoptica FP", ours.num_false, found["fp"]
    yield "panoptica FN", ours.num_missed, found["fn"]
    if found["rq"] is not None:
        yield "panoptica RQ", ours.lesion_f1, found["rq"]
    if (surfaces := theirs["surfaces"]) is not None:
        plain = scored(number, "plain")
        yield "plain Dice", plain.dice, theirs["brats-2021"]["dice"]
        yield "plain HD95", plain.hd95_mm, theirs["brats-2021"]["hd95_mm"]
    for name in ("brats-2021", "atlas-2022"):
        ours = scored(number, name)
        for column, value in theirs[name].items():
            yield f"{name} {column}", getattr(ours, column), value
    for tumour, found in theirs["brats-2023"].items():
        ours = scored(number, "brats-2023", tumour)
        yield f"brats-2023 {tumour} lesion-wise Dice", ours.dice, found["dice"]
        yield f"brats-2023 {tumour} lesion-wise HD95", ours.hd95_mm, found["hd95_mm"]
        yield f"brats-2023 {tumour} TP", ours.num_found, found["tp"]
        yield f"brats-2023 {tumour} FP", ours.num_false, found["fp"]
        yield f"brats-2023 {tumour} FN", ours.num_missed, found["fn"]


def comparisons_of_probabilities(number: int) -> Iterator[tuple[str, Number, Number]]:
    """The same for the soft Dice, by MONAI's loss, and average precision, by scikit-learn."""
    import torch
    from monai.losses import DiceLoss
    from sklearn.metrics import average_precision_score

    prediction, reference, spacing_mm = made_pair(number)
    probabilities = made_probabilities(number)
    affine = np.diag([*spacing_mm, 1.0])
    labels = [Volume(mask[None].astype(np.int16), affine) for mask in (prediction, reference)]
    volume = Volume(probabilities[None], affine)
    rules = convention("published-soft")
    [ours] = score_case(
        "case", *labels, {"lesion": [1]}, convention=rules, probabilities={"lesion": volume}
    )
    if not reference.any():
        yield "published-soft Dice is left out", float(not np.isnan(ours.dice)), 0.0
        return
    pair = (torch.from_numpy(one[None, None].astype(float)) for one in (probabilities, reference))
    loss = DiceLoss(include_background=True, smooth_nr=0, smooth_dr=0)(*pair)
    yield "published-soft Dice (MONAI)", ours.dice, 1 - float(loss)
    flat = (reference.ravel(), probabilities.ravel().astype(float))
    theirs = float(average_precision_score(*flat))
    yield "average precision (scikit-learn)", ours.average_precision, theirs


def same_masks(theirs: dict[str, Any]) -> bool:
    """Whether both environments drew the same pair."""
    prediction, reference, _ = made_pair(theirs["pair"])
    return theirs["voxels"] == [voxels_of(prediction), voxels_of(reference)]


def apart(ours: Number, theirs: Number) -> float:
    """By how much two numbers differ."""
    return float("inf") if ours is None or theirs is None else abs(ours - theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("theirs", type=Path)
    table = json.loads(parser.parse_args().theirs.read_text(encoding="utf-8"))
    worst: dict[str, tuple[float, int]] = {}
    over: list[str] = []
    for row in table["pairs"]:
        assert same_masks(row), row["pair"]
        found = (comparisons(row), comparisons_of_probabilities(row["pair"]))
        for name, ours, theirs in itertools.chain(*found):
            difference = apart(ours, theirs)
            worst[name] = max(worst.get(name, (0.0, -1)), (difference, row["pair"]))
            if difference > LIMIT:
                over.append(f"pair {row['pair']}: {name}: ours {ours}, theirs {theirs}")
    for name, (difference, pair) in worst.items():
        print(f"{name:40s} {difference:.2e}  (pair {pair})")
    print(
        f"{len(table['pairs'])} pairs, {len(over)} disagreements above {LIMIT:g}", *over, sep="\n"
    )
    sys.exit(bool(over))


if __name__ == "__main__":
    main()
