"""The rows of the paper's tables: ours, what is printed, and what a reader must know of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from statistics import fmean, median

from brainsegfounder.data.store import Store
from brainsegfounder.evaluation.published import (
    AGES,
    ATLAS,
    BRATS_FOLDS,
    BRATS_SCALES,
    DATA,
    FEW_SHOT,
    SCALES,
    T1W_ONLY,
    Printed,
)
from brainsegfounder.evaluation.report import Cell, Table
from brainsegfounder.workflows.experiments.fewshot import labels_table
from brainsegfounder.workflows.experiments.records import FinishedRun, RecordedGrid
from brainsegfounder.workflows.experiments.results import (
    Scored,
    arm_of,
    headline_region,
    pivot,
    pooled,
    region_in_words,
    regions_of,
)
from brainsegfounder.workflows.experiments.scales import sizes_table

Parts = tuple[list[Table], list[Table], Sequence[str]]
"""Our tables, the published ones (or none where they stand in ours), and notes."""

PAPER_SUBJECTS = 1_251
LESION_METRICS = {
    "Dice": "dice",
    "lesion F1": "lesion_f1",
    "simple lesion count": "lesion_count_difference",
    "volume difference (voxels)": "volume_difference_vox",
}


def data(stores: Sequence[Store]) -> Parts:
    """Table 1: subjects, contrasts and images."""
    rows: list[list[Cell]] = [
        [
            store.folder.name,
            len({case.subject for case in store.cases}),
            ", ".join(store.contrasts),
            len(store.cases) * len(store.contrasts),
            sum(case.has_labels for case in store.cases),
        ]
        for store in stores
    ]
    columns = ["store", "subjects", "contrasts", "images", "cases with labels"]
    ours = [Table("Our stores.", columns, rows)] if rows else []
    return ours, [printed_table(DATA)], DATA.notes


def ages() -> Parts:
    """Table 7, as printed."""
    return [], [printed_table(AGES)], AGES.notes


def sizes(runs: Sequence[FinishedRun]) -> Parts:
    """Table 2: widths, depths and parameters."""
    ours = [sizes_table([run.recipe for run in runs])] if runs else []
    return ours, [printed_table(SCALES)], SCALES.notes


def training(runs: Sequence[FinishedRun]) -> Parts:
    """Table 3: schedules and hours."""
    kinds: dict[tuple[Cell, ...], list[FinishedRun]] = {}
    for run in runs:
        kinds.setdefault(_schedule(run), []).append(run)
    rows: list[list[Cell]] = []
    for schedule, of in kinds.items():
        seconds = [run.training_s for run in of if run.training_s is not None]
        rows.append([*schedule, len(of), round(median(seconds) / 3600, 3) if seconds else None])
    columns = [
        "recipe", "stage", "network", "device", "processes", "steps", "cases a step", "patch",
        "peak rate", "weight decay", "runs", "hours a run (median)",
    ]  # fmt: skip
    note = "The paper's Table 3, its text and the published scripts contradict each other."
    return ([Table("Our runs.", columns, rows)] if rows else []), [], [note]


def folds(grids: Sequence[RecordedGrid]) -> Parts:
    """Table 4: mean Dice of each fold."""
    return _by_folds([g for g in grids if g.kind == "crossval"], BRATS_FOLDS, arm_of)


def folds_by_scale(grids: Sequence[RecordedGrid]) -> Parts:
    """Table 8: the same for several sizes of the network."""

    def name(one: Scored) -> str:
        return f"{one.tags['scale']} {arm_of(one)}"

    return _by_folds([grid for grid in grids if grid.kind == "scales"], BRATS_SCALES, name)


def one_contrast(grids: Sequence[RecordedGrid]) -> Parts:
    """Table 5: one contrast at a time."""
    ours = []
    for grid in (grid for grid in grids if grid.kind == "contrasts" and grid.scored):
        region = headline_region(grid.scored)
        caption = f"{grid.name}: Dice of {region_in_words(region)}."
        ours.append(pivot(grid.scored, "contrasts", caption, region, summed_up=False))
    return ours, [printed_table(T1W_ONLY)], T1W_ONLY.notes


def lesions(grids: Sequence[RecordedGrid]) -> Parts:
    """Table 6: metrics of ATLAS, of grids whose only region is a lesion."""
    ours: dict[str, Sequence[Cell]] = {}
    for grid in grids:
        if grid.kind != "crossval" or not grid.scored or regions_of(grid.scored) != ["lesion"]:
            continue
        for arm, of in _grouped(grid.scored, arm_of).items():
            rows = [row for one in of for row in one.rows]
            ours[f"{grid.name}: {arm}"] = [
                _mean([row.values.get(metric) for row in rows])
                for metric in LESION_METRICS.values()
            ]
    caption = "Means over the test cases of all folds; published ones of 100 other cases."
    table = beside(ATLAS, list(LESION_METRICS), ours, caption)
    return ([table], [], ATLAS.notes) if ours else ([], [printed_table(ATLAS)], ATLAS.notes)


def few_shot(grids: Sequence[RecordedGrid]) -> Parts:
    """Table 9: Dice by number of labels."""
    ours = [
        labels_table(grid.scored, grid.name)
        for grid in grids
        if grid.kind == "fewshot" and grid.scored
    ]
    return ours, [printed_table(FEW_SHOT)], FEW_SHOT.notes


def differences(grid: RecordedGrid) -> str:
    """What is not as in the paper, in a sentence."""
    tuned = [run for run in grid.runs if run.verb == "finetune"] or list(grid.runs)
    if not tuned:
        return "no run is finished."
    first = tuned[0]
    section = first.recipe.finetune or first.recipe.pretrain
    steps = section.steps if section is not None else 0
    scales = ", ".join(dict.fromkeys(run.recipe.model.scale for run in tuned))
    subjects = {subject for run in tuned for subject in run.subjects}
    return (
        f"recipe {first.recipe.name} on {len(subjects)} subjects (paper: {PAPER_SUBJECTS:,} "
        f"of BraTS 2021), {scales} (paper: tiny, small, big), {steps:,} steps (paper: 50,000); "
        "Dice of masks at a threshold, the model chosen on subjects of its own."
    )


def printed_table(printed: Printed) -> Table:
    """A published table as it is printed."""
    rows: list[list[Cell]] = [
        [row, *(column[n] for column in printed.columns.values())]
        for n, row in enumerate(printed.rows)
    ]
    return Table(f"Published, Table {printed.number}.", ["", *printed.columns], rows)


def beside(
    printed: Printed, names: Sequence[str], ours: Mapping[str, Sequence[Cell]], caption: str
) -> Table:
    """Our columns, and the published ones after them, row by row."""
    columns = [*ours.values(), *printed.columns.values()]
    rows: list[list[Cell]] = [[name] for name in names]
    for column in columns:
        for row, value in zip_longest(rows, column):
            row.append(value)
    headings = ["", *ours, *(f"published: {name}" for name in printed.columns)]
    return Table(caption, headings, rows)


def _by_folds(
    grids: Sequence[RecordedGrid], printed: Printed, name: Callable[[Scored], str]
) -> Parts:
    """Mean Dice of each fold, ours and published; folds are of other cases, so rows do not pair."""
    ours: dict[str, dict[int, Cell]] = {}
    averages: dict[str, Cell] = {}
    for grid in (grid for grid in grids if grid.scored):
        region = headline_region(grid.scored)
        for method, of in _grouped(grid.scored, name).items():
            by_fold = {
                int(fold): round(float(pooled(found, region)["dice_mean"] or 0), 4)
                for fold, found in _grouped(of, lambda one: one.tags["fold"]).items()
            }
            ours[f"{grid.name}: {method}"] = dict(by_fold)
            if grid.is_finished and len(by_fold) > 1:
                averages[f"{grid.name}: {method}"] = round(fmean(by_fold.values()), 4)
    if not ours:
        return [], [printed_table(printed)], printed.notes
    num_printed = len(printed.rows) - 1
    num_folds = max(num_printed, *(fold + 1 for by_fold in ours.values() for fold in by_fold))
    folds = [str(fold + 1) for fold in range(num_folds)]
    published = {
        key: _column(dict(enumerate(values[:-1])), num_folds, values[-1])
        for key, values in printed.columns.items()
    }
    filled = {key: _column(of, num_folds, averages.get(key)) for key, of in ours.items()}
    caption = (
        "Mean Dice of each fold. Folds of ours and published ones are of other cases: columns may "
        "be read side by side, rows may not be paired across them. An average is of the "
        "folds of a grid, where all are finished."
    )
    names = [*folds, "average"]
    shown = Printed(printed.number, names, published)
    return [beside(shown, names, filled, caption)], [], printed.notes


def _column(by_fold: Mapping[int, Cell], num_folds: int, average: Cell) -> list[Cell]:
    """Each fold in its row, and the average in the last one."""
    return [*(by_fold.get(fold) for fold in range(num_folds)), average]


def _grouped(found: Sequence[Scored], name: Callable[[Scored], str]) -> dict[str, list[Scored]]:
    groups: dict[str, list[Scored]] = {}
    for one in found:
        groups.setdefault(name(one), []).append(one)
    return groups


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None and value == value]
    return round(fmean(there), 4) if there else None


def _schedule(run: FinishedRun) -> tuple[Cell, ...]:
    """What a run was made with, without its fold and seed."""
    recipe = run.recipe
    section = recipe.pretrain if run.verb == "pretrain" else recipe.finetune
    if section is None:
        raise ValueError(f"{run.folder} has no section for {run.verb}")
    optimizer = section.optimizer
    processes = int(run.facts.get("processes", 1))
    return (
        recipe.name,
        run.verb,
        recipe.model.scale
        if recipe.model.architecture == "swin-unetr"
        else f"{recipe.model.architecture} {recipe.model.scale}",
        str(run.facts.get("device", "")),
        processes,
        section.steps,
        section.batch_size * optimizer.accumulation * processes,
        "x".join(map(str, section.patch_size_vox)),
        optimizer.peak_lr,
        optimizer.weight_decay,
    )
