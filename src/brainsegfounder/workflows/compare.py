"""`compare`: methods against a baseline, case by case, with what the data show and do not.

DIR/
report.html         sentences, pictures and tables in one file
comparison.json     everything, for machines
comparisons.csv     one row a comparison; .md and .tex for readers
differences.csv     one row a comparison and subject
subgroups.csv       differences by reference volume, age, sex, site; .md and .tex for readers
unmatched.csv       what was left out, and why
figures/*.svg       the pictures of the page
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brainsegfounder.errors import UsageError
from brainsegfounder.evaluation.comparison import Compared, Settings, compare_methods
from brainsegfounder.evaluation.metric_names import direction_of
from brainsegfounder.evaluation.pairing import Method
from brainsegfounder.evaluation.participants import Participants, read_participants
from brainsegfounder.evaluation.report import write_report
from brainsegfounder.evaluation.score_rows import metrics_of, with_region_mean
from brainsegfounder.evaluation.subgroups import Subgroup, subgroups_of
from brainsegfounder.evaluation.verdicts import sentence, summary
from brainsegfounder.files import check_new_folder
from brainsegfounder.workflows.compare_files import comparison_record, write_files
from brainsegfounder.workflows.compare_inputs import gather, named
from brainsegfounder.workflows.compare_page import comparison_page, draw_all

# What a case is of, unless --unit says otherwise.
SUBJECT = "subject"
# Compared where no metric is named and every method has them; the first one counts most.
USUAL = ("dice", "hd95_mm", "lesion_f1")
USUAL_OF_STRUCTURES = ("dice", "hd95_mm")


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """What is asked of a comparison.

    Attributes:
        metrics: Columns to compare, the most important first; empty takes
            `USUAL`, or `USUAL_OF_STRUCTURES`.
        margins: Largest loss accepted, each `VALUE` (of the first metric) or `METRIC=VALUE`.
        baseline: Name of the method to compare with; None takes the first.
        level: Of intervals, such as 0.95.
        participants: A table of site, sex and age, or None.
        by_labels: Whether to compare by number of labelled subjects, as the runs say.
        unit: What one case is, in a word.
        region_mean: Whether the mean over regions is compared, too, and first.
        seed: Of bootstrap samples and random signs.
        scans: Folder of scans, to show the worst cases, or None.
        references: Folder of references, likewise.
    """

    metrics: Sequence[str] = ()
    margins: Sequence[str] = ()
    baseline: str | None = None
    level: float = 0.95
    participants: Path | None = None
    by_labels: bool = False
    unit: str = SUBJECT
    region_mean: bool = False
    seed: int = 0
    scans: Path | None = None
    references: Path | None = None


@dataclass(frozen=True, slots=True)
class ComparisonDone:
    """What `compare` found.

    Attributes:
        compared: All comparisons.
        subgroups: Of the first metric.
        record: What `comparison.json` holds.
        sentences: One for each comparison, after one for each metric.
        warnings: What a reader must know.
    """

    compared: Compared
    subgroups: Sequence[Subgroup]
    record: Mapping[str, Any]
    sentences: Sequence[str]
    warnings: Sequence[str] = field(default_factory=list)


def run_compare(words: Sequence[str], out: Path, options: CompareOptions) -> ComparisonDone:
    """Compare methods and write everything into a new folder.

    Args:
        words: What is compared; see `compare_inputs`.
        out: A new folder.
        options: How.

    Raises:
        UsageError: A metric, baseline or margin does not fit.
        DataError: A file cannot be read, or nothing can be compared.
        OutputExistsError: `out` has content.
    """
    check_new_folder(out)
    if not 0.5 <= options.level < 1:
        raise UsageError(f"--level {options.level}: expected 0.5 to below 1, such as 0.95.")
    gathered = gather(words, by_labels=options.by_labels)
    methods = named(gathered.methods, options.baseline)
    if options.region_mean:
        methods = [Method(one.name, with_region_mean(one.rows)) for one in methods]
    usual = USUAL_OF_STRUCTURES if gathered.of_structures else USUAL
    metrics = choose_metrics(methods, options.metrics, usual)
    margins = parse_margins(options.margins, metrics)
    settings = Settings(options.level, margins, options.seed, options.unit)
    people = read_participants(options.participants) if options.participants else None
    compared = compare_methods(methods, metrics, settings)
    subgroups = _subgroups(compared, metrics[0], people, options.seed)
    warnings = [*gathered.warnings, *_warnings(compared)]
    sentences = [summary(compared.comparisons, metric) for metric in compared.metrics]
    sentences += [sentence(one) for one in compared.comparisons]
    record = comparison_record(gathered, methods, metrics, settings, compared, subgroups, warnings)
    done = ComparisonDone(compared, subgroups, record, sentences, warnings)
    drawn = draw_all(methods, compared, gathered)
    write_files(out, record, compared, subgroups, drawn)
    page = comparison_page(methods, compared, subgroups, drawn, gathered, options, warnings)
    write_report(out / "report.html", page)
    return done


def choose_metrics(
    methods: Sequence[Method], wanted: Sequence[str], usual: Sequence[str]
) -> list[str]:
    """The metrics to compare: those wanted, else the usual ones that all methods have.

    Raises:
        UsageError: A method lacks one that is wanted, or there is none in common.
    """
    there = {method.name: metrics_of(method.rows) for method in methods}
    shared = [m for m in there[methods[0].name] if all(m in of for of in there.values())]
    for metric in wanted:
        for name, found in there.items():
            if metric not in found:
                raise UsageError(
                    f"--metric {metric}: {name} has no such numbers; expected one of "
                    f"{', '.join(shared) or 'none in common'}."
                )
    judged = [metric for metric in shared if direction_of(metric) != "none"]
    chosen = list(dict.fromkeys(wanted)) or [m for m in usual if m in shared] or judged[:1]
    if not chosen:
        told = "; ".join(f"{name} has {', '.join(of) or 'none'}" for name, of in there.items())
        raise UsageError(
            f"no metric in common that has a better and a worse ({told}). "
            "Evaluate with one version of `evaluate`, or name a column by --metric."
        )
    return chosen


def parse_margins(words: Sequence[str], metrics: Sequence[str]) -> dict[str, float]:
    """Margins of non-inferiority by metric.

    Raises:
        UsageError: No number above zero, or a metric that is not compared.
    """
    margins = {}
    for word in words:
        metric, _, text = word.rpartition("=")
        metric = metric or metrics[0]
        try:
            margin = float(text)
        except ValueError:
            margin = math.nan
        if not (math.isfinite(margin) and margin > 0):
            raise UsageError(
                f"--margin {word}: expected a loss above zero, such as 0.01 or hd95_mm=2."
            )
        if metric not in metrics or direction_of(metric) == "none":
            raise UsageError(
                f"--margin {word}: {metric} is not compared, or has no better and worse; "
                f"expected one of {', '.join(metrics)}."
            )
        margins[metric] = margin
    return margins


def _subgroups(
    compared: Compared, metric: str, people: Participants | None, seed: int
) -> list[Subgroup]:
    first = [one for one in compared.comparisons if one.metric == metric]
    return [group for one in first for group in subgroups_of(one, people, seed)]


def _warnings(compared: Compared) -> list[str]:
    """What limits the conclusions."""
    found = []
    comparisons = compared.comparisons
    of_subjects = comparisons[0].unit == SUBJECT
    if of_subjects and all(one.sources is None for one in comparisons):
        found.append(
            "No file says that a method was trained more than once. The intervals are for these "
            "very models and other subjects; the same methods trained anew may differ otherwise."
        )
    differing = {one.method for one in comparisons if one.result.num_equal < one.result.num}
    same = [name for name in dict.fromkeys(c.method for c in comparisons) if name not in differing]
    if same:
        names = ", ".join(same)
        found.append(f"All differences are zero for {names}: probably the same predictions twice.")
    few = min(one.result.num for one in comparisons)
    if few < 6:
        found.append(
            f"With {few} pairs no permutation test can go below p = {2.0 ** (1 - few):.4g}."
        )
    for method, cases in compared.unmatched.items():
        if cases:
            left = list(dict.fromkeys(one.case for one in cases))
            found.append(
                f"{len(left)} cases of {method} or the baseline were left out of some comparison "
                f"({', '.join(left[:3])}{', …' if len(left) > 3 else ''}): see Left out."
            )
    found += [
        f"{one.method}, {one.metric} of {one.region}: not compared: {one.reason}."
        for one in compared.untested
        if "one " in one.reason
    ]
    return found
