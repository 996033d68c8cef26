"""The page of an evaluation: over how many cases, by which rules, and every number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from brainsegfounder.evaluation.conventions import Convention
from brainsegfounder.evaluation.figures import dice_strip
from brainsegfounder.evaluation.lesions import SIZE_BINS
from brainsegfounder.evaluation.report import (
    Cell,
    Chapter,
    Highlight,
    Picture,
    Report,
    Table,
    write_report,
)
from brainsegfounder.evaluation.scores import (
    RegionScore,
    aggregate,
    by_region,
    counted,
    reliability,
    summarise,
)
from brainsegfounder.settings import Recipe

if TYPE_CHECKING:
    from brainsegfounder.workflows.evaluate import Evaluated

CASE_COLUMNS = (
    "dice",
    "hd95_mm",
    "volume_ml",
    "reference_volume_ml",
    "volume_difference_ml",
    "lesion_f1",
    "num_found",
    "num_missed",
    "num_false",
)
HEADINGS = {
    "volume_ml": "volume (mL)",
    "reference_volume_ml": "reference volume (mL)",
    "volume_difference_ml": "volume difference (mL)",
    "lesion_f1": "lesion F1",
    "num_found": "lesions found",
    "num_missed": "missed",
    "num_false": "false",
}


def write_evaluation_report(
    path: Path, result: Evaluated, rules: Convention, recipe: Recipe | None
) -> None:
    """Write the page of an evaluation.

    Args:
        path: Where to.
        result: What was found.
        rules: The convention.
        recipe: Whose regions were scored, or None.
    """
    scored = counted(result.scores)
    report = Report(
        title=f"Evaluation of {result.num_scored} cases, convention {rules.name}",
        subtitle=f"{result.summary()}. {_regions_sentence(rules, recipe)}",
        highlights=_highlights(result.scores, rules),
        warnings=[
            *_provisional(rules),
            *([result.fold_note()] if result.without_fold else []),
            *_left_out(result),
        ],
        chapters=[*_detection(result.scores), *_reliability(result.scores)],
        run=_facts(rules),
        curves=_strip(scored, rules),
        tables=[
            _metrics_table(result.scores),
            *_fold_table(result),
            _case_table(result.scores, rules),
        ],
        rules=rules.rules,
    )
    write_report(path, report)


def _regions_sentence(rules: Convention, recipe: Recipe | None) -> str:
    if rules.regions is not None:
        return f"Regions of the convention: {', '.join(rules.regions)}."
    return f"Regions of recipe {recipe.name}." if recipe else "Every label by itself."


def _highlights(scores: Sequence[RegionScore], rules: Convention) -> list[Highlight]:
    tiles = []
    for region, row in summarise(scores).items():
        values = [score.dice for score in counted(scores) if score.region == region]
        detail = f"{min(values):.2f} to {max(values):.2f}, {row.num_cases} cases"
        tiles.append(Highlight(f"{_dice_name(rules)} {region}", f"{row.dice_mean:.3f}", detail))
    return tiles


def _dice_name(rules: Convention) -> str:
    return rules.dice_name[0].upper() + rules.dice_name[1:]


def _provisional(rules: Convention) -> list[str]:
    if not rules.provisional:
        return []
    return [f"The convention {rules.name} is provisional. {rules.source}"]


def _left_out(result: Evaluated) -> list[str]:
    return [f"{case}: {reason}" for case, reason in result.refused.items()]


def _facts(rules: Convention) -> dict[str, Cell]:
    facts: dict[str, Cell] = {
        "convention": rules.name,
        "version": rules.version,
        "provisional": rules.provisional,
        "source": rules.source,
    }
    if rules.tumour_type:
        facts["tumour type"] = rules.tumour_type
        facts["dilation (steps)"] = rules.dilation_vox
        facts["lesions left out up to (mm³)"] = rules.min_lesion_mm3
    return facts


def _strip(scores: Sequence[RegionScore], rules: Convention) -> list[Picture]:
    if not scores:
        return []
    title = f"{_dice_name(rules)} of every case, convention {rules.name}"
    return [Picture(dice_strip(scores, title), f"{title}.", "Dots of Dice per region.")]


def _metrics_table(scores: Sequence[RegionScore]) -> Table:
    """One row for each region and number that is defined for some case."""
    rows: list[list[Cell]] = [
        [
            region, name, row["num_cases"], _short(row["mean"]), _short(row["sd"]),
            _short(row["median"]), _short(row["quartile_1"]), _short(row["quartile_3"]),
        ]
        for region, columns in aggregate(scores).items()
        for name, row in columns.items()
        if not name.startswith(("lesions_", "found_"))
    ]  # fmt: skip
    return Table(
        "Every number per region, over the cases for which it is defined. "
        "SD is the sample standard deviation.",
        ["region", "number", "cases", "mean", "SD", "median", "quartile 1", "quartile 3"],
        rows,
    )


def _short(value: float | None) -> Cell:
    """As text: rows of one column have different units here, so no common decimals."""
    return None if value is None else f"{value:.4g}".replace("-", "−")


def _fold_table(result: Evaluated) -> list[Table]:
    """Mean Dice of each fold and region; nothing where nobody says what was tested in which."""
    rows: list[list[Cell]] = []
    for fold in sorted(set(result.folds.values())):
        tested = [score for score in result.scores if result.folds.get(score.case) == fold]
        rows += [
            [fold, region, row.num_cases, row.dice_mean]
            for region, row in summarise(tested).items()
        ]
    columns = ["fold", "region", "cases", "mean Dice"]
    return [Table("Each fold, tested by a model of its own.", columns, rows)] if rows else []


def _case_table(scores: Sequence[RegionScore], rules: Convention) -> Table:
    headings = {**HEADINGS, "dice": rules.dice_name, "hd95_mm": f"{rules.hd95_name} (mm)"}
    rows: list[list[Cell]] = []
    for score in scores:
        row = score.row()
        empty = None if score.empty == "none" else score.empty
        rows.append([score.case, score.region, *(row[name] for name in CASE_COLUMNS), empty])
    columns = ["case", "region", *(headings[name] for name in CASE_COLUMNS), "empty mask"]
    return Table(
        "Scores per case and region; metrics.csv has all columns. Volume difference is prediction "
        "minus reference.",
        columns,
        rows,
    )


def _detection(scores: Sequence[RegionScore]) -> list[Chapter]:
    """How many lesions of each size were found, over all cases."""
    rows: list[list[Cell]] = []
    for region, members in by_region(scores).items():
        for name in SIZE_BINS:
            number = sum(score.detection.get(f"lesions_{name}", 0) for score in members)
            found = sum(score.detection.get(f"found_{name}", 0) for score in members)
            size = name.replace("_", " ").replace("ml", " mL")
            rows.append([region, size, number, found, found / number if number else None])
    columns = ["region", "volume of the lesion", "lesions", "found", "share"]
    table = Table("Reference lesions of all cases by size.", columns, rows)
    return [Chapter("detection", "Lesions found, by size", tables=[table])]


def _reliability(scores: Sequence[RegionScore]) -> list[Chapter]:
    """Mean probability against share of positives, over the voxels of all cases."""
    rows: list[list[Cell]] = []
    for region, bins in reliability(scores).items():
        for number, one in enumerate(bins):
            mean = one.sum_probability / one.num_voxels if one.num_voxels else None
            share = one.num_positive / one.num_voxels if one.num_voxels else None
            span = f"{number / len(bins):.1f} to {(number + 1) / len(bins):.1f}"
            rows.append([region, span, one.num_voxels, mean, share])
    if not rows:
        return []
    columns = ["region", "probability", "voxels", "mean probability", "share in the reference"]
    caption = "A calibrated model has equal numbers in the last two columns."
    table = Table(f"Voxels of all cases by probability. {caption}", columns, rows)
    return [Chapter("calibration", "Calibration", tables=[table])]
