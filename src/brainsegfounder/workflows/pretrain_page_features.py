"""What the page of a pretraining run says of its features: their rank, and linear probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from brainsegfounder.evaluation.figures import loss_curves
from brainsegfounder.evaluation.probe import FEWEST_SUBJECTS, NUM_FOLDS, NUM_REPEATS
from brainsegfounder.evaluation.report import Cell, Chapter, Highlight, Picture, Table
from brainsegfounder.settings import PretrainSettings
from brainsegfounder.workflows.pretrain_probe import DARK_SD, Probed

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Target:
    """A value of the probes' records.

    Attributes:
        key: Of the record.
        title: What it says.
        axis: Its measure.
        chance: What nothing learned would reach, or the record's key of it.
    """

    key: str
    title: str
    axis: str
    chance: float | str


TARGETS = (
    _Target("sex_auc", "Sex", "ROC AUC", 0.5),
    _Target("sex_accuracy", "Sex", "accuracy", "sex_chance_accuracy"),
    _Target("age_r2", "Age", "R²", 0.0),
    _Target("age_mae", "Age", "mean absolute error (years)", "age_chance_mae"),
    _Target("dark_r2", "Dark tissue", "R²", 0.0),
    _Target("dark_mae", "Dark tissue", "mean absolute error (% of the brain)", "dark_chance_mae"),
)
DRAWN = ("sex_auc", "age_r2", "dark_r2")


def feature_chapter(
    settings: PretrainSettings, probes: Rows, probed: Probed, is_transferred: bool
) -> Chapter:
    """Curves and a table of the probes made so far.

    Args:
        settings: Of the run.
        probes: Records of kind `probe`.
        probed: Whose features they are of.
        is_transferred: Whether training started from other weights.
    """
    title = "Features and linear probes"
    if not probes:
        return Chapter("features", title, paragraphs=[_why_none(settings)])
    start = "the start weights" if is_transferred else "random weights"
    num_images = probes[-1]["num_images"]
    texts = [
        f"Features are the mean of the encoder's deepest map over the middle of the brains of "
        f"{num_images} training and validation subjects, always the same. Step 0 has {start}: "
        "only what lies above it has been learned here.",
        "Effective rank: how many directions the features spread over (the exponential of the "
        "entropy of their singular values). Near 1 they have collapsed.",
        *_probe_words(probes[-1], probed),
    ]
    pictures = [_rank_picture(probes), *_probe_pictures(probes)]
    return Chapter("features", title, paragraphs=texts, pictures=pictures, tables=[_table(probes)])


def _probe_words(last: Mapping[str, Any], probed: Probed) -> list[str]:
    if last["num_images"] < FEWEST_SUBJECTS:
        return [
            f"Linear probes need at least {FEWEST_SUBJECTS} subjects; the run has "
            f"{last['num_images']}."
        ]
    return [
        f"Probes: ridge regression on the features, {NUM_FOLDS}-fold cross-validation over "
        f"subjects, the mean of {NUM_REPEATS} draws. Dark tissue is the share of brain voxels "
        f"below −{-DARK_SD:g} SD in the first contrast: fluid, on T1w.",
        *_not_probed(last, probed),
    ]


def probe_highlights(probes: Rows) -> list[Highlight]:
    """The rank, and the first of the probes there is."""
    if not probes:
        return []
    first, last = probes[0], probes[-1]
    before = f"{first['rank']:.1f} at step {first['step']}"
    tiles = [Highlight("effective rank of the features", f"{last['rank']:.1f}", before)]
    for target in TARGETS:
        if target.key in last and target.key in first:
            detail = f"{_chance(target, last):.2f} is chance; "
            detail += f"{first[target.key]:.2f} at step {first['step']}"
            name = f"{target.title.lower()} by a linear probe ({target.axis})"
            tiles.append(Highlight(name, f"{last[target.key]:.2f}", detail))
            break
    return tiles


def _why_none(settings: PretrainSettings) -> str:
    if settings.sharding != "none":
        return (
            "Not measured: the model's blocks are spread over processes (pretrain.sharding), and "
            "no process can ask the encoder alone. Look at a checkpoint's model afterwards."
        )
    return "Nothing yet: features are looked at before the first step and at validations."


def _not_probed(last: Mapping[str, Any], probed: Probed) -> list[str]:
    if probed.num_known is None:
        return [
            "Age and sex are not probed, as no table of participants was given (--participants)."
        ]
    texts = [f"{probed.num_known} subjects of this run are in the table of participants."]
    missing = [name for name, key in (("Sex", "sex_auc"), ("Age", "age_r2")) if key not in last]
    if missing:
        texts.append(
            f"{' and '.join(missing)}: known of too few subjects to be probed (at least "
            f"{FEWEST_SUBJECTS}, and some of each sex)."
        )
    return texts


def _rank_picture(probes: Rows) -> Picture:
    curve = loss_curves(
        probes,
        {"rank": "effective rank"},
        y_label="directions",
        title="Effective rank of the features",
        levels={"collapsed": 1.0, "largest possible": float(probes[-1]["largest_rank"])},
    )
    return Picture(curve, "Effective rank; a fall towards 1 is collapse.", "Curve of the rank.")


def _probe_pictures(probes: Rows) -> list[Picture]:
    pictures = []
    for target in TARGETS:
        if target.key in DRAWN and any(target.key in row for row in probes):
            curve = loss_curves(
                probes,
                {target.key: "linear probe"},
                y_label=target.axis,
                title=f"{target.title} from the features",
                levels={"chance": _chance(target, probes[-1])},
            )
            caption = f"{target.title}: {target.axis} on subjects the probe has not seen."
            pictures.append(Picture(curve, caption, f"Curve of {target.title.lower()}."))
    return pictures


def _table(probes: Rows) -> Table:
    first, last = probes[0], probes[-1]
    rows: list[list[Cell]] = [
        ["effective rank", "directions", first["rank"], last["rank"], None, last["num_images"]]
    ]
    for target in TARGETS:
        if target.key in last:
            name = target.key.partition("_")[0]
            rows.append(
                [
                    target.title,
                    target.axis,
                    first.get(target.key),
                    last[target.key],
                    _chance(target, last),
                    last[f"{name}_images"],
                ]
            )
    steps = [f"step {row['step']:,}" for row in (first, last)]
    if len(probes) == 1:
        steps[1] = "last"
    return Table(
        "The first probe and the last.",
        ["what", "measure", *steps, "chance", "subjects"],
        rows,
    )


def _chance(target: _Target, record: Mapping[str, Any]) -> float:
    return float(record[target.chance] if isinstance(target.chance, str) else target.chance)
