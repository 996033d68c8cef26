"""The conventions by which predictions are scored, each a frozen record that states its rules.

A number without its convention means little: whether an empty region counts, what a lesion is, and
whether a mask or a probability is compared moves a mean Dice by more than most models differ. So a
convention has a name, a version and a source, and its sentences go into every result.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from brainsegfounder.errors import UsageError

Matching = Literal["overlap", "one-to-one", "dilated"]
Connectivity = Literal[6, 26]

# The corner of the BraTS grid of 240 x 240 x 155 mm that is farthest away.
BRATS_DIAGONAL_MM = math.sqrt(240**2 + 240**2 + 155**2)
BRATS_2023_PENALTY_MM = 374.0
MIN_IOU = 0.25
# How far lesions are dilated (steps), and up to which volume they are left out (mm³).
TUMOUR_TYPES: dict[str, tuple[int, float]] = {
    "glioma": (3, 50.0),
    "glioma-africa": (3, 50.0),
    "paediatric": (3, 50.0),
    "meningioma": (1, 50.0),
    "metastasis": (1, 2.0),
}


@dataclass(frozen=True, slots=True)
class Convention:
    """How a case is scored.

    Attributes:
        name: What to call it on the command line.
        version: Of this record; it grows whenever a number could change.
        source: Where the definition comes from.
        provisional: The definition is second-hand and may turn out otherwise.
        regions: Label values of each region, where the convention has regions of its own.
        soft_dice: Dice is taken on probabilities, and cases with an empty reference have none.
        lesion_wise: Dice and HD95 are means over lesions, not of whole masks.
        surface: What surface HD95 runs between: surface voxels, each counting the same, or
            surface elements, each weighing its area.
        one_empty_hd95_mm: What HD95 is where exactly one mask is empty; None is the diagonal of
            the field of view.
        connectivity: Whether lesions hang together by faces (6) or by any contact (26).
        matching: Which lesions count as found.
        min_iou: Smallest overlap of a one-to-one match.
        dilation_vox: How far the reference's lesions are dilated.
        min_lesion_mm3: Reference lesions up to this volume are left out.
        tumour_type: Whose parameters these are, or empty.
        rules: The definitions in sentences.
    """

    name: str
    version: int
    source: str
    rules: Mapping[str, str]
    provisional: bool = False
    regions: Mapping[str, tuple[int, ...]] | None = None
    soft_dice: bool = False
    lesion_wise: bool = False
    surface: Literal["voxels", "elements"] = "voxels"
    one_empty_hd95_mm: float | None = None
    connectivity: Connectivity = 26
    matching: Matching = "overlap"
    min_iou: float = MIN_IOU
    dilation_vox: int = 0
    min_lesion_mm3: float = 0.0
    tumour_type: str = ""

    @property
    def dice_name(self) -> str:
        """What its Dice is, in the heading of a table."""
        if self.lesion_wise:
            return "lesion-wise Dice"
        return "soft Dice" if self.soft_dice else "Dice"

    @property
    def hd95_name(self) -> str:
        """What its HD95 is, in the heading of a table."""
        return "lesion-wise HD95" if self.lesion_wise else "HD95"


_COMMON = {
    "overlap": "IoU, sensitivity, specificity and precision are counts of voxels of the whole "
    "grid. 0/0 counts as 0, except that all are 1 where both masks are empty.",
    "surface": "NSD and mean surface distance are taken between surface elements (marching cubes "
    "in cells of 2x2x2 voxels), each weighed by its area in mm². NSD at t mm: the share of both "
    "surfaces' area that lies within t mm of the other surface. Mean surface distance: the mean of "
    "the two directed means. Both masks empty: NSD 1, distance 0. Exactly one empty: NSD 0, "
    "distance as HD95.",
    "volume": "Volumes are voxel counts times the voxel volume, in millilitres. "
    "volume_difference_ml is prediction minus reference; volume_difference_vox and "
    "absolute_volume_error_ml are absolute. relative_volume_error is the difference over the "
    "reference's volume: 0 where both are empty, undefined (left out) where only the reference is.",
    "detection": "Reference lesions by volume, and how many of them were found: under 0.1 mL, 0.1 "
    "to 1 mL, 1 to 10 mL, from 10 mL on.",
    "probabilities": "Only with --probabilities, over all voxels of the grid. average_precision: "
    "the sum of precision times step in recall over all thresholds; undefined where the reference "
    "is empty. brier: the mean of (p - r)². ece: the mean over ten bins of p of |mean p - share of "
    "r|, weighed by the number of voxels.",
    "grid": "Scored on the reference's own grid. A prediction whose axes are permuted or flipped "
    "is turned by whole voxels; nothing is interpolated. Another grid is refused.",
    "aggregate": "Mean, median and sample standard deviation (n-1) over all cases of a region "
    "for which the number is defined; each says over how many.",
}
_WHOLE_DICE = (
    "Dice = 2|P∩R| / (|P|+|R|) on binary masks, never on probabilities. "
    "Both masks empty: 1. Exactly one empty: 0."
)
_VOXEL_HD95 = (
    "95th percentile of the distances from each surface voxel of one mask to the "
    "nearest surface voxel of the other, in millimetres; the larger of the two directions. "
    "Surface = mask minus its erosion with face connectivity; the border of the image counts as "
    "surface. Both masks empty: 0. "
)
_DIAGONAL = "Exactly one empty: the diagonal of the field of view."
_COUNTED = (
    "No case is left out: empty masks count by the rules above, and the column 'empty' "
    "says which mask was empty."
)
_F1 = "F1 = TP / (TP + (FP+FN)/2); 1 where there is no lesion on either side. "
_ANY_OVERLAP = (
    "A reference lesion is found (TP) if a voxel of it is predicted, else missed (FN); a "
    "predicted lesion without a voxel of the reference is false (FP). Not one to one: a blob can "
    "find many. "
)
_COUNT = "lesion_count_difference is the absolute difference of the numbers of lesions."
_BY_CONTACT = "Lesions are connected by any contact of voxels (26). "
_EITHER_ET = (
    "Enhancing tumour is label 4 up to 2022 and 3 from 2023 on; both are read as ET. WT = 1, 2 "
    "and ET; TC = 1 and ET. Sets of 2024 that use 4 for something else (resection cavity, oedema "
    "of paediatric tumours) must be renumbered first."
)
_BRATS_REGIONS = {"WT": (1, 2, 3, 4), "TC": (1, 3, 4), "ET": (3, 4)}

PLAIN = Convention(
    name="plain",
    version=1,
    source="This package.",
    rules={
        "convention": "plain: each region of each case is scored once, as one whole mask.",
        "dice": _WHOLE_DICE,
        "hd95_mm": _VOXEL_HD95 + _DIAGONAL,
        "lesions": _BY_CONTACT + _ANY_OVERLAP + _F1 + _COUNT,
        "labels": "Regions of the recipe; without one every label value of the references.",
        "empty": _COUNTED,
        **_COMMON,
    },
)
_BRATS_2021 = replace(
    PLAIN,
    name="brats-2021",
    source="Task pages of BraTS 2019 to 2021; the scorer's source was not recovered, and the "
    "values for empty masks are those of re-implementations.",
    regions=_BRATS_REGIONS,
    one_empty_hd95_mm=BRATS_DIAGONAL_MM,
    rules={
        **PLAIN.rules,
        "convention": "brats-2021: WT, TC and ET, each as one whole mask.",
        "hd95_mm": _VOXEL_HD95 + "Exactly one empty: 373.1287 mm, the diagonal of 240x240x155.",
        "lesions": "Not part of the challenge; as in plain. " + PLAIN.rules["lesions"],
        "labels": _EITHER_ET,
    },
)
_BRATS_2023 = replace(
    _BRATS_2021,
    name="brats-2023",
    source="rachitsaluja/BraTS-2023-Metrics at 43c9052, as used by the challenge; ours is written "
    "from its definition.",
    lesion_wise=True,
    surface="elements",
    one_empty_hd95_mm=BRATS_2023_PENALTY_MM,
    matching="dilated",
)
_ATLAS_2022 = replace(
    PLAIN,
    name="atlas-2022",
    source="npnl/atlas2_grand_challenge at 55b9524. Another version there (1c46738) connects "
    "lesions by any contact (26) and gives other counts.",
    regions={"lesion": (1,)},
    connectivity=6,
    rules={
        **PLAIN.rules,
        "convention": "atlas-2022: Dice, volume difference (voxels), simple lesion count and "
        "lesion-wise F1 of the lesion mask, per subject. The rest is ours, as in plain.",
        "hd95_mm": "Not part of the challenge. " + PLAIN.rules["hd95_mm"],
        "lesions": "Lesions are connected by faces (6). " + _ANY_OVERLAP + _F1 + _COUNT,
        "labels": "Label 1 is the lesion.",
    },
)
_ISLES_2026 = replace(
    PLAIN,
    name="isles-2026",
    source="PROVISIONAL: second-hand, from participants' account of the organisers' change of "
    "2026-07-24 (panoptica's recognition quality); not checked against the official scorer.",
    provisional=True,
    regions={"lesion": (1,)},
    matching="one-to-one",
    rules={
        **PLAIN.rules,
        "convention": "isles-2026 (PROVISIONAL, second-hand): lesion F1 by one-to-one matching at "
        "IoU 0.25, Dice, volume and count differences, and average precision over voxels.",
        "lesions": _BY_CONTACT + "Pairs of a predicted and a reference lesion with IoU >= 0.25 are "
        "taken from the largest IoU down, each lesion at most once; pairs of equal IoU in the "
        "order of the reference's lesions, then of the predicted ones (array order). A pair is TP, "
        "a reference lesion left over FN, a predicted one FP. " + _F1 + _COUNT,
        "labels": "Label 1 is the lesion.",
    },
)
_PUBLISHED_SOFT = replace(
    PLAIN,
    name="published-soft",
    source="What the published code of BrainSegFounder effectively computes: its post-processing "
    "has no threshold, and MONAI's DiceMetric ignores empty references.",
    soft_dice=True,
    rules={
        **PLAIN.rules,
        "convention": "published-soft: Dice of probabilities, to compare with the published "
        "tables only. It is another number than Dice of masks.",
        "dice": "Dice = 2 Σ p r / (Σ p + Σ r) with probabilities p and a binary reference r. A "
        "reference without a voxel has no Dice and is left out of the aggregates: a false alarm "
        "there costs nothing. whole_dice is Dice of the masks, by plain's rule.",
        "empty": "dice is left out where the reference is empty; the other numbers count by the "
        "rules above. The column 'empty' says which mask was empty.",
    },
)
CONVENTIONS: dict[str, Convention] = {
    one.name: one
    for one in (PLAIN, _BRATS_2021, _BRATS_2023, _ATLAS_2022, _ISLES_2026, _PUBLISHED_SOFT)
}


def convention(name: str, tumour_type: str | None = None) -> Convention:
    """The convention of a name, with the parameters of a tumour type where it has any.

    Args:
        name: A key of `CONVENTIONS`.
        tumour_type: A key of `TUMOUR_TYPES`; only for `brats-2023`, where None is `glioma`.

    Raises:
        UsageError: There is no such convention or tumour type, or it has none.
    """
    if name not in CONVENTIONS:
        raise UsageError(_unknown("--convention", name, list(CONVENTIONS)))
    found = CONVENTIONS[name]
    if found.matching == "dilated":
        return _for_tumour(found, tumour_type or "glioma")
    if tumour_type is not None:
        raise UsageError(
            f"--tumour-type {tumour_type}: {name} has no parameters per tumour type; expected "
            "brats-2023. Leave it out, or choose --convention brats-2023."
        )
    return found


def _for_tumour(found: Convention, tumour_type: str) -> Convention:
    if tumour_type not in TUMOUR_TYPES:
        raise UsageError(_unknown("--tumour-type", tumour_type, list(TUMOUR_TYPES)))
    dilation_vox, min_lesion_mm3 = TUMOUR_TYPES[tumour_type]
    return replace(
        found,
        dilation_vox=dilation_vox,
        min_lesion_mm3=min_lesion_mm3,
        tumour_type=tumour_type,
        rules={**found.rules, **_lesion_wise_rules(tumour_type, dilation_vox, min_lesion_mm3)},
    )


def _lesion_wise_rules(
    tumour_type: str, dilation_vox: int, min_lesion_mm3: float
) -> dict[str, str]:
    steps = "1 step" if dilation_vox == 1 else f"{dilation_vox} steps"
    return {
        "convention": f"brats-2023, {tumour_type}: WT, TC and ET, lesion by lesion. dice and "
        "hd95_mm are lesion-wise; whole_dice and whole_hd95_mm are of the whole masks (the "
        "challenge calls them legacy).",
        "lesions": f"{_BY_CONTACT}The reference is dilated by {steps} of an 18-neighbour element; "
        "components whose dilations touch are one lesion. All predicted components that touch a "
        "lesion's dilation are taken together as its prediction (TP), none is a miss (FN); a "
        "predicted component that touches none is false (FP). Lesions of the reference up to "
        f"{min_lesion_mm3:g} mm³ are left out; what touches only these is neither TP nor FP. "
        + _F1
        + "lesion_count_difference compares predicted components with reference lesions that "
        "count.",
        "dice": "The sum of the lesions' Dice, each against the undilated lesion, over the number "
        "of reference lesions that count plus false ones. A missed or false lesion: 0. No lesion "
        f"on either side: 1. whole_dice: {_WHOLE_DICE}",
        "hd95_mm": "The same mean of the lesions' HD95, where a missed or false lesion costs 374 "
        "mm and no lesion on either side gives 0. HD95 runs between surface elements: the "
        "distance below which 95 % of a surface's area lies, the larger of the two directions. "
        "whole_hd95_mm: both masks empty 0, exactly one empty 374 mm.",
    }


def _unknown(option: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"{option} {name}: unknown; expected one of {', '.join(known)}.{hint}"
