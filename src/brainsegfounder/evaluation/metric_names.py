"""What a metric's column is called in words, and whether more of it is better."""

from __future__ import annotations

import re
from typing import Literal

Direction = Literal["higher", "lower", "none"]

WORDS = {
    "dice": "Dice", "soft_dice": "soft Dice", "iou": "IoU", "nsd": "NSD", "ece": "ECE",
    "brier": "Brier score", "hd95": "HD95", "hd": "HD", "assd": "ASSD", "f1": "F1", "auc": "AUC",
    "ap": "AP", "pq": "PQ", "sq": "SQ", "rq": "RQ",
}  # fmt: skip
UNITS = {"mm": "mm", "ml": "mL", "mm3": "mm³", "vox": "voxels", "percent": "%", "s": "s"}
HIGHER = re.compile(
    r"dice|iou|jaccard|sensitivity|specificity|precision|recall|accuracy|nsd|surface_dice|f1"
    r"|auc|(^|_)ap($|_)|(^|_)[psr]q($|_)|score$"
)
LOWER = re.compile(
    r"hd\d*|hausdorff|distance|assd|error|difference|brier|ece|loss|num_false|num_missed|false_positive"
    r"|false_negative"
)


def direction_of(metric: str) -> Direction:
    """Whether more of a metric is better, by its name; `none` where the name does not tell."""
    if LOWER.search(metric):
        return "lower"
    return "higher" if HIGHER.search(metric) else "none"


def is_signed(metric: str) -> bool:
    """Whether zero is best and both signs are worse, as of a difference of volumes."""
    return "difference" in metric or "volume_error" in metric


def label_of(metric: str) -> str:
    """A metric in words with its unit, such as `HD95 (mm)`."""
    name, unit = metric, ""
    head, _, tail = metric.rpartition("_")
    if head and tail in UNITS:
        name, unit = head, f" ({UNITS[tail]})"
    if name in WORDS:
        return WORDS[name] + unit
    words = [WORDS.get(word, word) for word in name.split("_")]
    prefix = "absolute " if is_signed(metric) and "absolute" not in words else ""
    return prefix + " ".join(words) + unit


def unit_of(metric: str) -> str:
    """Only the unit, with a space before it, or nothing."""
    tail = metric.rpartition("_")[2]
    return f" {UNITS[tail]}" if "_" in metric and tail in UNITS else ""
