"""How far a prediction deserves trust: the Dice to be expected, and why a person should look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from brainsegfounder.inference.expected_dice import Expected, estimate_dice, expect_dice
from brainsegfounder.inference.familiarity import doubts
from brainsegfounder.volumes.appearance import appearance
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.workflows.model_folder import Model
from brainsegfounder.workflows.predict_case import Segmented

# Where the interval of the expected Dice reaches below this, a person should look.
REVIEW_BELOW = 0.5
NOT_CALIBRATED = (
    "The model was not checked on cases beside its training; the ensemble of a cross-validation "
    "(brainsegfounder crossval) is."
)


def expected_dice(done: Segmented, model: Model) -> dict[str, Expected]:
    """What Dice to expect of each region that was found and that the model was checked on."""
    lines = model.config.expected_dice
    if not lines:
        return {}
    estimates = estimate_dice(done.opinion.probabilities.voxels, model.config)
    return {
        region: expect_dice(lines[region], estimate)
        for region, estimate in estimates.items()
        if region in lines and estimate is not None
    }


def why_not_expected(model: Model) -> str:
    """Why there is no expected Dice, as a sentence."""
    if not model.config.expected_dice:
        return NOT_CALIBRATED
    return "Nothing was found, and Dice says nothing about an empty result."


def flags_of(
    done: Segmented, model: Model, expected: Mapping[str, Expected], review_below: float
) -> tuple[Finding, ...]:
    """Everything noticed about a scan and its prediction; what is a warning asks for review.

    Args:
        done: The segmented case.
        model: What segmented it.
        expected: From `expected_dice`.
        review_below: See `REVIEW_BELOW`.
    """
    case = done.case.case
    found = [*done.findings, *_unfamiliar(done, model), *_doubtful(case, expected, review_below)]
    return tuple(dict.fromkeys(found))


def _unfamiliar(done: Segmented, model: Model) -> Iterator[Finding]:
    familiar = model.config.familiar
    if familiar is None:
        message = "the model does not say how the scans looked that it was trained on, so this one "
        yield Finding("not_compared", done.case.case, message + "was not compared to them.", "note")
        if _is_head(done):
            message = (
                "a whole head, as no brain was taken out of it; was the model trained on such?"
            )
            yield Finding("whole_head", done.case.case, message, "warning")
        return
    for code, message in doubts(familiar, appearance(done.prepared.image, done.present)):
        yield Finding(code, done.case.case, message, "warning")


def _doubtful(
    case: str, expected: Mapping[str, Expected], review_below: float
) -> Iterator[Finding]:
    for region, one in expected.items():
        if one.low < review_below:
            message = (
                f"{region}: a Dice of {one.dice:.2f} is expected, and {one.low:.2f} to "
                f"{one.high:.2f} would be no surprise."
            )
            yield Finding("expected_dice_low", case, message, "warning")


def _is_head(done: Segmented) -> bool:
    """Whether the model saw the skull, too."""
    seen = {finding.code for finding in done.findings}
    return done.prepared.steps["brain"]["method"] == "foreground" and "whole_head" in seen
