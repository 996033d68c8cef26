"""What the data show and what they do not, in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence

from brainsegfounder.evaluation.comparison import Comparison
from brainsegfounder.evaluation.metric_names import label_of, unit_of
from brainsegfounder.evaluation.sources import Sources
from brainsegfounder.evaluation.statistics import Interval

# Comparisons that a summary names; tables have all.
MOST_NAMED = 6

KINDS = {"bca": "BCa bootstrap", "student_t": "Student's t", "constant": "all alike"}


def number(value: float, metric: str, *, signed: bool = False) -> str:
    """A value of a metric as text: four decimals for shares, two where it has a unit."""
    decimals = 2 if unit_of(metric) else 4
    # Never a minus before zeros.
    value = 0.0 if abs(value) < 0.5 * 10.0**-decimals else value
    return f"{value:{'+' if signed else ''}.{decimals}f}".replace("-", "−")


def probability(p: float) -> str:
    """A probability with a sign of equality: `= 0.031`, `< 0.001`."""
    if p < 0.001:
        return "< 0.001"
    # On which side of one in twenty it lies must be seen.
    return f"= {p:.5f}" if f"{p:.3f}" == "0.050" and p != 0.05 else f"= {p:.3f}"


def interval_text(interval: Interval, metric: str) -> str:
    """Such as `95 % interval −0.0012 to 0.0031`."""
    low, high = number(interval.low, metric), number(interval.high, metric)
    return f"{100 * interval.level:g} % interval {low} to {high}"


def subject_text(one: Comparison) -> str:
    """What is compared: metric, region and labels."""
    return f"{label_of(one.metric)} of {place_text(one)}"


def place_text(one: Comparison) -> str:
    """Region, and labels where there are several numbers of them."""
    return one.region if one.labels is None else f"{one.region} (labels: {one.labels})"


def sentence(one: Comparison) -> str:
    """Means, difference with interval, and what that shows."""
    result, metric = one.result, one.metric
    unit = unit_of(metric)
    many = f"{result.num} {plural(one.unit)}"
    if result.num_equal == result.num:
        return (
            f"{subject_text(one)}: {one.method} and {one.baseline} scored exactly the same in all "
            f"{many} ({number(one.method_mean, metric)}{unit} on average). If these are two "
            "methods, the same predictions were probably given twice."
        )
    effect = (
        f"{subject_text(one)}: {one.method} {number(one.method_mean, metric)}, {one.baseline} "
        f"{number(one.baseline_mean, metric)}{unit} over {many}; difference "
        f"{number(result.mean, metric, signed=True)}{unit} "
        f"({interval_text(result.interval, metric)}, {KINDS[result.interval.kind]})."
    )
    return " ".join([effect, verdict(one), *_few(one), *_margin(one), *_trainings(one)])


def verdict(one: Comparison) -> str:
    """Whether a difference is shown, and what remains possible where it is not."""
    tested = f"sign-flip test: p {probability(one.result.p_permutation)}"
    if one.num_family > 1:
        tested += f", p {probability(one.p_holm)} corrected for {one.num_family} comparisons"
    if one.shown and _only_here(one):
        return (
            f"The data show that these very trainings of {one.method} are {_word(one)} ({tested}). "
            "They do not show it for other trainings of these methods."
        )
    if one.shown:
        return f"The data show that {one.method} is {_word(one)} ({tested})."
    ends = one.result.interval
    sides = _possible(one, ends)
    return (
        f"The data do not show that {one.method} and {one.baseline} differ ({tested}); "
        f"they do not show that both are equal either: {sides}."
    )


def effect_text(one: Comparison) -> str:
    """The difference with its interval, short: `+0.0034 (−0.0008 to 0.0076)`."""
    mean, ends = one.result.mean, one.result.interval
    low, high = number(ends.low, one.metric), number(ends.high, one.metric)
    return f"{number(mean, one.metric, signed=True)} ({low} to {high})"


def plural(unit: str) -> str:
    """Several of a unit."""
    return f"{unit}s"


def short_verdict(one: Comparison) -> str:
    """The verdict in a few words, for a table."""
    if one.result.num_equal == one.result.num:
        return "identical"
    if not one.shown:
        return "not shown"
    return f"{_word(one)}, these trainings only" if _only_here(one) else _word(one)


def summary(comparisons: Sequence[Comparison], metric: str) -> str:
    """How many of the comparisons of a metric show a difference, and for which trainings."""
    family = [one for one in comparisons if one.metric == metric]
    found = [one for one in family if one.shown]
    name = label_of(metric)
    if len(family) == 1:
        count = f"The one comparison of {name} {'shows' if found else 'does not show'} a difference"
    else:
        verb = "show" if len(found) > 1 else "shows"
        count = f"{len(found) or 'None'} of {len(family)} comparisons of {name} {verb} a difference"
    return f"{count}{_where(found)}."


def _where(found: Sequence[Comparison]) -> str:
    """Which comparisons show a difference, and whether for other trainings, too."""
    if not found:
        return ""
    if all(one.sources is None for one in found):
        return f": {_named(found)}"
    lasting = [one for one in found if not _only_here(one)]
    if not lasting:
        return f" between these very trainings, not for other trainings: {_named(found)}"
    if len(lasting) == len(found):
        return f", for other trainings, too: {_named(found)}"
    return (
        f" between these very trainings, {len(lasting)} of them for other trainings, too: "
        f"{_named(lasting)}"
    )


def _named(found: Sequence[Comparison]) -> str:
    """Who is better or worse where, of the first few."""
    named = [f"{one.method} {_word(one)} in {place_text(one)}" for one in found[:MOST_NAMED]]
    left = len(found) - len(named)
    return "; ".join(named) + (f"; and {left} more" if left else "")


def sources_text(sources: Sources, metric: str, unit: str) -> str:
    """Of how many trainings, and the interval that counts them as draws."""
    trainings = f"{sources.num_folds} folds" if sources.num_folds > 1 else ""
    seeds = f"{sources.num_seeds} trainings" if sources.num_seeds > 1 else ""
    joined = " of ".join(part for part in (seeds, trainings) if part)
    joined += " each" if seeds and trainings else ""
    return (
        f"If the methods were trained anew, too ({joined}, Student's t with "
        f"{sources.degrees:.1f} degrees of freedom): {number(sources.mean, metric, signed=True)}, "
        f"{interval_text(sources.interval, metric)}, for other trainings and other {plural(unit)}."
    )


def _only_here(one: Comparison) -> bool:
    """Whether the methods, trained anew, might as well be equal."""
    return one.sources is not None and one.sources.interval.low <= 0 <= one.sources.interval.high


def _word(one: Comparison) -> str:
    higher = one.result.mean > 0
    if one.direction == "none":
        return "higher" if higher else "lower"
    return "better" if higher == (one.direction == "higher") else "worse"


def _possible(one: Comparison, ends: Interval) -> str:
    unit = unit_of(one.metric)
    low, high = number(abs(ends.low), one.metric), number(abs(ends.high), one.metric)
    if ends.low < 0 < ends.high:
        return f"from {low}{unit} less to {high}{unit} more is compatible with them"
    side = "more" if ends.low >= 0 else "less"
    least, most = (low, high) if ends.low >= 0 else (high, low)
    return f"from {least}{unit} to {most}{unit} {side} is compatible with them"


def _few(one: Comparison) -> list[str]:
    level, smallest = 1 - one.result.interval.level, one.result.p_smallest
    if smallest <= level:
        return []
    return [
        f"With {one.result.num} {plural(one.unit)} the test cannot go below "
        f"p = {smallest:.4g}, whatever the difference."
    ]


def _margin(one: Comparison) -> list[str]:
    found = one.non_inferiority
    if found is None:
        return []
    margin = number(found.margin, one.metric) + unit_of(one.metric)
    if found.shown:
        return [f"A loss of {margin} or more is excluded: not inferior (p {probability(found.p)})."]
    return [
        f"A loss of {margin} or more is not excluded: non-inferiority is not shown "
        f"(p {probability(found.p)})."
    ]


def _trainings(one: Comparison) -> list[str]:
    return [] if one.sources is None else [sources_text(one.sources, one.metric, one.unit)]
