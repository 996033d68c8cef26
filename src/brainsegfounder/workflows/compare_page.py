"""The page of a comparison: what the data show, pictures, tables, and what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brainsegfounder.evaluation.comparison import Compared, Comparison
from brainsegfounder.evaluation.figures_lesions import calibration_curve, detection_by_size
from brainsegfounder.evaluation.figures_paired import (
    bland_altman,
    few_shot_curve,
    forest,
    paired_boxes,
)
from brainsegfounder.evaluation.lesion_counts import calibration_of, detection_of
from brainsegfounder.evaluation.metric_names import label_of
from brainsegfounder.evaluation.pairing import Method, reasons_counted
from brainsegfounder.evaluation.report import (
    Chapter,
    Group,
    Highlight,
    Picture,
    Report,
    Table,
)
from brainsegfounder.evaluation.score_rows import ScoreFile
from brainsegfounder.evaluation.subgroups import Subgroup
from brainsegfounder.evaluation.tables import comparison_table, sources_table, subgroup_table
from brainsegfounder.evaluation.verdicts import (
    effect_text,
    plural,
    sentence,
    short_verdict,
    subject_text,
    summary,
)
from brainsegfounder.workflows.compare_inputs import Gathered
from brainsegfounder.workflows.compare_worst import worst_chapter

if TYPE_CHECKING:
    from brainsegfounder.workflows.compare import CompareOptions

# Groups of boxes in one picture.
MOST_BOXES = 6
RULES = {
    "difference": "Method minus baseline, one number for each subject: visits of a subject, and "
    "its scores after several trainings, are averaged first, so that what is resampled and "
    "exchanged is independent. Every subject counts the same.",
    "interval": "Of the mean difference. BCa bootstrap (9,999 resamples of subjects) from 30 "
    "subjects on; Student's t below, where the bootstrap's interval is too narrow.",
    "p": "Sign-flip permutation test of the mean, two-sided: exact up to 16 subjects, else 19,999 "
    "random patterns. Wilcoxon's signed-rank test stands beside it; it asks about ranks.",
    "correction": "Holm, over all methods, regions and numbers of labels of one metric. Metrics "
    "are families of their own: the first named is the primary one.",
    "shown": "A difference is called shown where the corrected p is at most one minus the level "
    "and the interval does not hold zero. Anything else is 'not shown', which is not 'equal'.",
    "effect sizes": "dz = mean over standard deviation of the differences. Rank-biserial: rank sum "
    "of positive minus that of negative differences, over their sum.",
    "trainings": "With several folds: Student's t of the folds' means (folds as draws). With one "
    "fold and several seeds: mean squares of seeds and subjects, both random, Satterthwaite's "
    "degrees of freedom. Folds share training subjects, so this is rather too narrow.",
    "non-inferiority": "Shown where the whole interval lies above minus the margin, and the "
    "one-sided sign-flip test of that says so at half the two-sided level.",
}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture with the name of its file and the chapter it belongs to."""

    name: str
    chapter: str
    picture: Picture
    wide: bool = False


def draw_all(methods: Sequence[Method], compared: Compared, gathered: Gathered) -> list[Drawn]:
    """Every picture that there are numbers for."""
    comparisons = compared.comparisons
    drawn: list[Drawn] = []
    for metric in dict.fromkeys(one.metric for one in comparisons):
        family = [one for one in comparisons if one.metric == metric]
        drawn += _draw_metric(metric, family)
    for region in dict.fromkeys(one.region for one in comparisons):
        drawn += _draw_volumes(methods, region)
        drawn += _draw_lesions(region, gathered)
    return drawn


def comparison_page(
    methods: Sequence[Method],
    compared: Compared,
    subgroups: Sequence[Subgroup],
    drawn: Sequence[Drawn],
    gathered: Gathered,
    options: CompareOptions,
    warnings: Sequence[str],
) -> Report:
    """Put everything into one report."""
    baseline, *others = (method.name for method in methods)
    chapters = [
        _conclusions(compared.comparisons),
        _chapter("differences", "Differences", drawn, [comparison_table(compared.comparisons)]),
        _chapter("pairs", "Values in pairs", drawn),
        _chapter("labels", "Fewer labels", drawn),
        _chapter(
            "sources", "Where the difference varies", drawn, [sources_table(compared.comparisons)]
        ),
        _chapter("subgroups", "Subgroups", drawn, [subgroup_table(subgroups)] if subgroups else []),
        _chapter("volumes", "Volumes", drawn),
        _chapter("lesions", "Lesions and probabilities", drawn),
        worst_chapter(compared.comparisons, gathered, options.scans, options.references),
        _left_out(compared),
    ]
    comparisons = compared.comparisons
    metrics = ", ".join(dict.fromkeys(label_of(one.metric) for one in comparisons))
    nums = [one.result.num for one in comparisons]
    many = f"{min(nums)} to {max(nums)}" if min(nums) < max(nums) else f"{nums[0]}"
    return Report(
        title=f"{' and '.join(others)} against {baseline}",
        subtitle=f"Paired comparison of {many} {plural(options.unit)} by {metrics}.",
        highlights=[_highlight(one) for one in comparisons[:4]],
        warnings=warnings,
        chapters=[chapter for chapter in chapters if chapter is not None],
        run={
            "convention": gathered.convention or "not stated by the files",
            **{f"scores of {name}": _told(files) for name, files in gathered.files.items()},
        },
        rules=RULES,
        provenance={name: [str(file.path) for file in of] for name, of in gathered.files.items()},
    )


def _draw_metric(metric: str, family: Sequence[Comparison]) -> list[Drawn]:
    label = label_of(metric)
    drawn = [
        Drawn(
            f"differences {metric}",
            "differences",
            Picture(
                forest(family, f"Differences of {label}"),
                f"Mean difference of {label} with its interval. Filled: the difference is shown.",
                f"{summary(family, metric)}",
            ),
            wide=True,
        )
    ]
    for method in dict.fromkeys(one.method for one in family):
        members = [one for one in family if one.method == method]
        parts = [members[n : n + MOST_BOXES] for n in range(0, len(members), MOST_BOXES)]
        for place, part in enumerate(parts):
            name = f"pairs {metric} {method}" + (f" {place + 1}" if len(parts) > 1 else "")
            drawn.append(Drawn(name, "pairs", _boxes(part), wide=len(part) > 3))
    if any(one.labels is not None for one in family):
        for region in dict.fromkeys(one.region for one in family):
            members = [one for one in family if one.region == region]
            caption = (
                f"{label} of {region} by labelled subjects. Bands that overlap say nothing about a "
                "paired difference; the differences above do."
            )
            curve = few_shot_curve(members, f"{label} of {region}")
            alt = f"Curves of {label} against the number of labels."
            drawn.append(Drawn(f"labels {metric} {region}", "labels", Picture(curve, caption, alt)))
    return drawn


def _boxes(part: Sequence[Comparison]) -> Picture:
    first = part[0]
    label = label_of(first.metric)
    return Picture(
        paired_boxes(part, f"{label}: {first.method} beside {first.baseline}"),
        f"{label} of every {first.unit}, joined in pairs; box: middle half and median.",
        f"Boxes of {label} for {first.baseline} and {first.method}.",
    )


def _draw_volumes(methods: Sequence[Method], region: str) -> list[Drawn]:
    picture = bland_altman(methods, region, f"Volumes of {region}")
    if picture is None:
        return []
    caption = (
        f"Bland-Altman plot of the volumes of {region}: solid, mean error; dashed, 95 % limits of "
        "agreement (mean ± 1.96 SD). A case's trainings are averaged."
    )
    shown = Picture(picture, caption, f"Error of volumes of {region} against their size.")
    return [Drawn(f"volumes {region}", "volumes", shown, wide=len(methods) > 2)]


def _draw_lesions(region: str, gathered: Gathered) -> list[Drawn]:
    drawn = []
    found = {name: detection_of(files, region) for name, files in gathered.files.items()}
    found = {name: bins for name, bins in found.items() if bins}
    if found:
        picture = detection_by_size(found, f"Detection of lesions, {region}")
        caption = (
            "Share of reference lesions found, over all cases and trainings; whiskers: Wilson's "
            "95 % interval, as if lesions were independent."
        )
        shown = Picture(picture, caption, f"Bars of lesions found in {region} by their size.")
        drawn.append(Drawn(f"detection {region}", "lesions", shown))
    curves = {name: calibration_of(files, region) for name, files in gathered.files.items()}
    curves = {name: bins for name, bins in curves.items() if bins}
    if curves:
        picture = calibration_curve(curves, f"Calibration, {region}")
        caption = "How often voxels of a predicted probability are in the reference."
        shown = Picture(picture, caption, f"Calibration curves of {region}.")
        drawn.append(Drawn(f"calibration {region}", "lesions", shown))
    return drawn


def _conclusions(comparisons: Sequence[Comparison]) -> Chapter:
    metrics = dict.fromkeys(one.metric for one in comparisons)
    groups = [
        Group(
            short_verdict(one),
            f"{subject_text(one)}, {one.method}",
            0,
            sentence(one),
            (),
            effect_text(one),
        )
        for one in comparisons
    ]
    texts = [summary(comparisons, metric) for metric in metrics]
    return Chapter("conclusions", "What the data show, and what not", texts, groups=groups)


def _chapter(
    name: str, title: str, drawn: Sequence[Drawn], tables: Sequence[Table | None] = ()
) -> Chapter | None:
    wide = [one.picture for one in drawn if one.chapter == name and one.wide]
    pictures = [one.picture for one in drawn if one.chapter == name and not one.wide]
    there = [table for table in tables if table is not None]
    if not (wide or pictures or there):
        return None
    return Chapter(name, title, wide=wide, pictures=pictures, tables=there)


def _left_out(compared: Compared) -> Chapter | None:
    groups = []
    for method, cases in compared.unmatched.items():
        for reason, _ in reasons_counted(cases):
            names = list(dict.fromkeys(one.case for one in cases if one.reason == reason))
            advice = "These count in no comparison with this method."
            groups.append(Group(method, reason, len(names), advice, [(names, "")]))
    for one in compared.untested:
        labels = "" if one.labels is None else f", labels {one.labels}"
        where = f"{label_of(one.metric)} of {one.region}{labels}"
        groups.append(Group(one.method, where, 0, "", [((where,), one.reason)], "not compared"))
    return Chapter("left-out", "Left out", groups=groups) if groups else None


def _told(files: Sequence[ScoreFile]) -> str:
    """How many files there are, or the one."""
    return str(files[0].path) if len(files) == 1 else f"{len(files)} files"


def _highlight(one: Comparison) -> Highlight:
    value, _, interval = effect_text(one).partition(" ")
    detail = f"{interval.strip('()')}; {short_verdict(one)}"
    return Highlight(f"{subject_text(one)}, {one.method}", value, detail)
