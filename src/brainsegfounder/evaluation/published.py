"""Numbers that Cox et al. (Medical Image Analysis 2024, arXiv 2406.10395 v3) print in their tables.

They stand beside our own and are marked as published. What is known to be a misprint, or not
comparable, is a note. Dice of the paper is of probabilities, without a threshold, its empty
references are left out, and the epoch was chosen on the fold that is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SOURCE = "Cox et al. 2024, arXiv 2406.10395 v3"
SOFT = (
    "Published Dice is of probabilities without a threshold, without cases whose reference is "
    "empty, of the epoch that was best on the very fold it is reported on."
)


@dataclass(frozen=True, slots=True)
class Printed:
    """A published table.

    Attributes:
        number: Of the table in the paper.
        rows: Names of its rows.
        columns: Numbers of each column, by its heading; None where nothing is printed.
        notes: What a reader must know of them.
    """

    number: int
    rows: Sequence[str]
    columns: Mapping[str, Sequence[float | str | None]]
    notes: Sequence[str] = ()


FOLDS = ("1", "2", "3", "4", "5", "average")

DATA = Printed(
    1,
    ("UK Biobank", "BraTS 2021", "ATLAS v2.0"),
    {
        "subjects": (41_400, 1_251, 655),
        "contrasts": ("T1w, T2-FLAIR", "T1w, T1ce, T2w, FLAIR", "T1-ce"),
        "images": (82_800, 5_004, 655),
        "shows": ("healthy brains", "malignant neoplasms", "stroke"),
    },
    ("ATLAS has plain T1w scans; T1-ce is a mistake of the paper.",),
)

SCALES = Printed(
    2,
    ("tiny", "small", "big"),
    {
        "depths": ("2,2,2,2", "2,2,6,2", "2,2,18,2"),
        "heads": ("3,6,12,24",) * 3,
        "encoder parameters": (19_097_191, 20_982_103, 26_636_839),
    },
    (
        "Printed as parameters of the encoder; they are those of the whole pretraining network "
        "with one input channel.",
    ),
)

BRATS_FOLDS = Printed(
    4,
    FOLDS,
    {
        "BSF-S 64M": (0.9032, 0.9182, 0.9121, 0.9100, 0.9139, 0.9115),
        "BSF-1-S 64M": (0.8994, 0.9055, 0.9125, 0.9133, 0.9114, 0.9110),
        "SwinU-MRI": (0.8854, 0.9059, 0.8981, 0.8924, 0.9035, 0.8971),
        "SwinU-Res": (0.895, 0.899, 0.894, 0.890, 0.903, 0.896),
        "SwinU-CT": (0.894, 0.902, 0.898, 0.893, 0.902, 0.898),
        "nnU-Net": (0.896, 0.917, 0.910, 0.909, 0.909, 0.908),
        "SegResNet": (0.899, 0.916, 0.909, 0.908, 0.906, 0.907),
        "TransBTS": (0.883, 0.902, 0.889, 0.893, 0.892, 0.891),
        "Model-Zoo": (0.857, 0.879, 0.820, 0.889, 0.893, 0.868),
    },
    (
        "Misprints: fold 2 of BSF-1-S is 0.9186 in Table 8 (0.9055 is the value of 69M, and does "
        "not give the printed mean); fold 5 of BSF-S is 0.9141 there.",
        "SwinU-MRI is quoted from another project, not retrained.",
        SOFT,
    ),
)

T1W_ONLY = Printed(
    5,
    FOLDS,
    {
        "BSF, T1w only": (0.718, 0.721, 0.707, 0.731, 0.725, 0.721),
        "SwinUNETR, T1w only": (0.700, 0.672, 0.657, 0.686, 0.676, 0.678),
    },
    (
        "The mean of the printed folds of BSF is 0.7204.",
        "Logs of the official code show 0.7165 and 0.7248 for the first two folds of SwinUNETR "
        "from scratch, about as much as BSF.",
        SOFT,
    ),
)

ATLAS = Printed(
    6,
    ("Dice", "lesion F1", "simple lesion count", "volume difference (voxels)"),
    {
        "BSF": (0.712, 0.711, 3.421, 8993.85),
        "SwinUNETR": (0.703, 0.703, 3.677, 9165.18),
        "CTRL": (0.663, 0.556, 4.657, 8804.91),
        "HeRN": (0.718, 0.724, 2.750, 6162.00),
        "POBOTRI": (0.663, 0.559, 4.500, 9535.23),
    },
    (
        "BSF and SwinUNETR on held-out training images; CTRL, HeRN and POBOTRI are ensembles on "
        "the hidden test set of the challenge: not the same data.",
    ),
)

AGES = Printed(
    7,
    ("up to 45", "45 to 49", "50 to 54", "55 to 59", "60 to 64", "65 and above", "women", "men"),
    {
        "subjects": (4_601, 5_031, 7_563, 8_819, 9_579, 5_796, 21_891, 19_497),
        "% of the cohort": (11.1, 12.2, 18.3, 21.3, 23.1, 14.0, 52.9, 47.1),
    },
)

BRATS_SCALES = Printed(
    8,
    FOLDS,
    {
        "SwinUNETR 62M": (0.8854, 0.9059, 0.8981, 0.8924, 0.9035, 0.8971),
        "BSF-T 62M": (0.9027, 0.9181, 0.9102, 0.9103, 0.9139, 0.9110),
        "BSF-S 64M": (0.9032, 0.9182, 0.9121, 0.9100, 0.9141, 0.9115),
        "BSF-B 69M": (0.9014, 0.9164, 0.9097, 0.9070, 0.9101, 0.9089),
        "one-stage 62M": (0.9019, 0.9188, 0.9119, 0.9107, 0.9132, 0.9112),
        "one-stage 64M": (0.8994, 0.9186, 0.9125, 0.9133, 0.9114, 0.9110),
        "one-stage 69M": (0.8999, 0.9055, 0.9002, 0.9109, 0.9103, 0.9054),
    },
    (
        "Stage 2 adds -0.0003 (62M), +0.0005 (64M) and +0.0036 (69M) over one stage; none of these "
        "is shown by a paired t test over the folds.",
        SOFT,
    ),
)

FEW_SHOT = Printed(
    9,
    ("5 %", "10 %", "20 %", "40 %"),
    {
        "BSF": (0.7870, 0.8758, 0.8883, 0.8948),
        "SwinU": (0.7816, 0.8670, 0.8849, 0.8937),
    },
    (
        "Means of five subsets; no difference is shown by a paired t test at any level.",
        SOFT,
    ),
)

# BSF and SwinU of each repeat, by share of the labels; Table 9.
FEW_SHOT_REPEATS: Mapping[str, tuple[Sequence[float], Sequence[float]]] = {
    "5 %": ((0.7810, 0.7912, 0.7797, 0.8071, 0.7758), (0.7437, 0.7899, 0.7886, 0.7966, 0.7893)),
    "10 %": ((0.8771, 0.8764, 0.8683, 0.8705, 0.8869), (0.8594, 0.8553, 0.8812, 0.8735, 0.8656)),
    "20 %": ((0.8893, 0.8814, 0.8901, 0.8911, 0.8895), (0.8837, 0.8834, 0.8869, 0.8844, 0.8860)),
    "40 %": ((0.8949, 0.8981, 0.8906, 0.9048, 0.8857), (0.8885, 0.8981, 0.8956, 0.8938, 0.8938)),
}
