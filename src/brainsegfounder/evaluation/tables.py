"""A table as CSV, Markdown or LaTeX; and the tables of a comparison, for machines and for readers.

CSV holds full numbers, one to a cell. Markdown, LaTeX and the page hold text: effect and interval
stand in one cell, so that neither is copied without the other.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from brainsegfounder.evaluation.comparison import Comparison
from brainsegfounder.evaluation.metric_names import label_of
from brainsegfounder.evaluation.report import Cell, Table
from brainsegfounder.evaluation.statistics import Interval
from brainsegfounder.evaluation.subgroups import Subgroup
from brainsegfounder.evaluation.verdicts import (
    KINDS,
    number,
    place_text,
    probability,
    short_verdict,
)

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$",
    "–": "--", "<": "$<$", ">": "$>$", "≥": r"$\geq$", "≤": r"$\leq$", "³": r"$^3$",
}  # fmt: skip
NUMBER = re.compile(r"[−+-]?[\d,.]+( %)?|[<=] ?[\d.]+|–|")


def to_csv(table: Table) -> str:
    """Comma-separated, with a header; an empty cell is nothing, numbers are written in full."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([["" if cell is None else cell for cell in row] for row in table.rows])
    return buffer.getvalue()


def to_markdown(table: Table) -> str:
    """A GitHub table with its caption above; columns of numbers stand right."""
    rows = [[_plain(cell).replace("|", "\\|") for cell in row] for row in table.rows]
    rule = ["---:" if right else "---" for right in _stand_right(table)]
    lines = [list(table.columns), rule, *rows]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{table.caption}\n\n{body}\n"


def to_latex(table: Table, label: str) -> str:
    """A `table` with the rules of booktabs; special characters are escaped."""
    align = "".join("r" if right else "l" for right in _stand_right(table))
    lines = [" & ".join(_latex(_plain(cell)) for cell in row) + r" \\" for row in table.rows]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            rf"\caption{{{_latex(table.caption)}}}",
            rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            " & ".join(_latex(column) for column in table.columns) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """For readers: one row a comparison, of one or several metrics."""
    level = 100 * comparisons[0].result.interval.level
    margins = any(one.non_inferiority for one in comparisons)
    columns = [
        "metric", "region", "method", "n", "method mean", "baseline mean",
        f"difference ({level:g} % interval)", "difference shown", "p (Holm)", "p", "p (Wilcoxon)",
        "dz", "rank-biserial", "better / equal / worse", "interval by",
    ]  # fmt: skip
    if margins:
        columns.append("not inferior by margin")
    rows = [_text_row(one, margins=margins) for one in comparisons]
    return Table(
        f"Paired differences, method minus baseline ({comparisons[0].baseline}). p: sign-flip "
        "permutation test of the mean; Holm: corrected over all comparisons of the metric; dz: "
        "Cohen's d of paired differences.",
        columns,
        rows,
    )


def comparison_numbers(comparisons: Sequence[Comparison]) -> Table:
    """For machines: the same with every number in a column of its own."""
    columns = [
        "method", "baseline", "metric", "region", "labels", "n", "method_mean", "baseline_mean",
        "difference", "low", "high", "level", "interval", "median_difference", "sd_difference",
        "p_permutation", "exact", "p_smallest", "p_holm", "num_family", "p_wilcoxon", "cohen_dz",
        "rank_biserial", "num_higher", "num_equal", "num_lower", "shown", "margin", "bound",
        "p_non_inferior", "non_inferior", "trainings_difference", "trainings_low",
        "trainings_high", "fold_sd", "training_sd", "subject_sd", "rest_sd",
    ]  # fmt: skip
    return Table("Comparisons", columns, [_number_row(one) for one in comparisons])


def difference_numbers(comparisons: Sequence[Comparison]) -> Table:
    """For machines: one row a unit of every comparison."""
    columns = [
        "method", "baseline", "metric", "region", "labels", comparisons[0].unit, "method_value",
        "baseline_value", "difference", "reference_volume_ml",
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for one in comparisons:
        head: list[Cell] = [one.method, one.baseline, one.metric, one.region, one.labels]
        for unit in one.pairs.units():
            volume = None if unit.reference_ml != unit.reference_ml else unit.reference_ml
            rows.append([*head, unit.subject, unit.method, unit.baseline, unit.difference, volume])
    return Table("Differences", columns, rows)


def subgroup_table(groups: Sequence[Subgroup]) -> Table:
    """For readers: differences within groups, without probabilities."""
    rows: list[list[Cell]] = [
        [
            one.by, one.group, _place(one), one.method, one.num,
            number(one.method_mean, one.metric), number(one.baseline_mean, one.metric),
            _effect(one.difference, one.interval, one.metric),
        ]
        for one in groups
    ]  # fmt: skip
    level = next((100 * g.interval.level for g in groups if g.interval), 95.0)
    return Table(
        f"{label_of(groups[0].metric)} within groups, method minus baseline. Explored, not "
        "tested: that one interval holds zero and another does not is no difference of groups.",
        ["by", "group", "region", "method", "n", "method mean", "baseline mean",
         f"difference ({level:g} % interval)"],
        rows,
    )  # fmt: skip


def subgroup_numbers(groups: Sequence[Subgroup]) -> Table:
    """For machines: differences within groups."""
    columns = [
        "method", "metric", "region", "labels", "by", "group", "n", "method_mean", "baseline_mean",
        "difference", "low", "high", "interval",
    ]  # fmt: skip
    rows: list[list[Cell]] = [
        [
            one.method, one.metric, one.region, one.labels, one.by, one.group, one.num,
            one.method_mean, one.baseline_mean, one.difference, *_ends(one.interval),
        ]
        for one in groups
    ]  # fmt: skip
    return Table("Subgroups", columns, rows)


def sources_table(comparisons: Sequence[Comparison]) -> Table | None:
    """For readers: where the differences vary; None where nothing was trained twice."""
    rows: list[list[Cell]] = []
    for one in comparisons:
        found = one.sources
        if found is not None:
            parts = (found.fold_sd, found.training_sd, found.subject_sd, found.rest_sd)
            spread = [None if sd is None else number(sd, one.metric) for sd in parts]
            effect = _effect(found.mean, found.interval, one.metric)
            rows.append(
                [label_of(one.metric), place_text(one), one.method, effect, found.num_folds,
                 found.num_seeds, found.num_subjects, *spread]
            )  # fmt: skip
    if not rows:
        return None
    return Table(
        "Standard deviation of a difference by its source, and the interval of the mean when "
        "trainings are draws, too. Folds share most training subjects, so that even this interval "
        "is rather too narrow.",
        ["metric", "region", "method", "difference (interval)", "folds", "trainings a fold",
         "subjects", "SD folds", "SD trainings", "SD subjects", "SD rest"],
        rows,
    )  # fmt: skip


def _text_row(one: Comparison, *, margins: bool) -> list[Cell]:
    result, metric = one.result, one.metric
    higher, lower = result.num_higher, result.num_lower
    better, worse = (lower, higher) if one.direction == "lower" else (higher, lower)
    row: list[Cell] = [
        label_of(metric), place_text(one), one.method, result.num,
        number(one.method_mean, metric), number(one.baseline_mean, metric),
        _effect(result.mean, result.interval, metric), short_verdict(one),
        _p(one.p_holm), _p(result.p_permutation), _p(result.p_wilcoxon),
        None if result.cohen_dz is None else f"{result.cohen_dz:+.2f}".replace("-", "−"),
        f"{result.rank_biserial:+.2f}".replace("-", "−"),
        f"{better} / {result.num_equal} / {worse}", KINDS[result.interval.kind],
    ]  # fmt: skip
    if margins:
        safe = one.non_inferiority
        told = "shown" if safe and safe.shown else "not shown"
        row.append(None if safe is None else f"{told} ({number(safe.margin, metric)})")
    return row


def _number_row(one: Comparison) -> list[Cell]:
    result, safe, sources = one.result, one.non_inferiority, one.sources
    row: list[Cell] = [
        one.method, one.baseline, one.metric, one.region, one.labels, result.num, one.method_mean,
        one.baseline_mean, result.mean, result.interval.low, result.interval.high,
        result.interval.level, result.interval.kind, result.median, result.sd,
        result.p_permutation, result.exact, result.p_smallest, one.p_holm, one.num_family,
        result.p_wilcoxon, result.cohen_dz, result.rank_biserial, result.num_higher,
        result.num_equal, result.num_lower, one.shown,
    ]  # fmt: skip
    row += [None] * 4 if safe is None else [safe.margin, safe.bound, safe.p, safe.shown]
    if sources is None:
        return [*row, *[None] * 7]
    spread = [sources.fold_sd, sources.training_sd, sources.subject_sd, sources.rest_sd]
    return [*row, sources.mean, sources.interval.low, sources.interval.high, *spread]


def _ends(interval: Interval | None) -> list[Cell]:
    return [None] * 3 if interval is None else [interval.low, interval.high, interval.kind]


def _effect(mean: float, interval: Interval | None, metric: str) -> str:
    shown = number(mean, metric, signed=True)
    if interval is None:
        return f"{shown} (one only)"
    return f"{shown} ({number(interval.low, metric)} to {number(interval.high, metric)})"


def _p(value: float) -> str:
    return probability(value).removeprefix("= ")


def _place(one: Subgroup) -> str:
    return one.region if one.labels is None else f"{one.region} (labels: {one.labels})"


def _plain(cell: Cell) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return "–" if cell is None or cell == "" else str(cell)


def _stand_right(table: Table) -> list[bool]:
    columns = [[_plain(row[n]) for row in table.rows] for n in range(len(table.columns))]
    return [all(NUMBER.fullmatch(cell) for cell in column) for column in columns]


def _latex(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)
