"""What a run, a prediction or an evaluation shows: figures and tables put into one report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from brainsegfounder.data.quarantine import QUARANTINE_NAME, read_quarantine
from brainsegfounder.evaluation.figures import dice_strip, loss_curves
from brainsegfounder.evaluation.metrics import RULES, Regions, RegionScore
from brainsegfounder.evaluation.mosaic import case_mosaic
from brainsegfounder.evaluation.report import (
    Cell,
    GalleryCase,
    Highlight,
    Picture,
    Report,
    Table,
    pick_gallery,
    score_tables,
    write_report,
)
from brainsegfounder.models.weights import LoadReport
from brainsegfounder.settings import OURS, ModelSettings, PreparationSettings
from brainsegfounder.training.checkpoint import TrainingState
from brainsegfounder.volumes.geometry import resample_labels_to
from brainsegfounder.volumes.nifti import read_labels
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.stage import Stage

log = logging.getLogger(__name__)

PRETEXT_PARTS = {
    "loss": "total",
    "rotation": "rotation",
    "contrastive": "contrastive",
    "inpainting": "inpainting",
}
FINETUNE_PARTS = {"loss": "total", "dice": "1 - soft Dice", "ce": "cross-entropy"}


@dataclass(frozen=True, slots=True)
class Shown:
    """A case to look at: everything on one grid.

    Attributes:
        image: One or more contrasts, the first of which is shown.
        prediction: Labels.
        reference: Labels, or None.
    """

    image: Volume
    prediction: Volume
    reference: Volume | None


def write_finetune_report(
    stage: Stage, state: TrainingState, scores: Sequence[RegionScore]
) -> Path:
    """Write the report of a fine-tuning run into its folder."""
    path = stage.run.folder / "report.html"
    notes = [
        "The best model was chosen on the validation subjects; the cases scored here took no part "
        "in training, in the choice, or in the pretraining of this split.",
        *course_notes(stage),
        *transfer_notes(stage.transfer),
    ]
    warnings = [] if scores else ["No test case has a mask, so nothing was scored."]
    warnings += case_warnings(stage)
    report = Report(
        title=f"Fine-tuning: {stage.recipe.name}",
        subtitle=stage.recipe.description,
        highlights=dice_highlights(scores),
        warnings=warnings,
        notes=notes,
        run=run_facts(stage, state),
        curves=[*_curves(stage, FINETUNE_PARTS), *_validation_curve(stage), *_strip(scores)],
        tables=score_tables(scores) if scores else [],
        gallery=gallery(scores, lambda case: _stored_case(stage, case), stage_regions(stage)),
        rules=RULES,
        provenance=stage.config.provenance,
    )
    write_report(path, report)
    return path


def course_notes(stage: Stage) -> list[str]:
    """Where the run went on after an interruption, and which damaged checkpoints it passed over."""
    notes = []
    for record in stage.run.records("resume"):
        passed = f" Passed over: {record['passed_over']}" if record.get("passed_over") else ""
        notes.append(f"The run went on from step {record['step']}.{passed}")
    return notes


def case_warnings(stage: Stage) -> list[str]:
    """Each case that could not be read, and why; others took its place."""
    left_out: dict[str, str] = {}
    for file in sorted(stage.run.folder.glob(f"*{QUARANTINE_NAME}")):
        left_out |= read_quarantine(file)
    return [f"{case} was left out: {reason}" for case, reason in left_out.items()]


def stage_regions(stage: Stage) -> Regions:
    """Label values of each region of a stage's recipe."""
    return {name: region.labels for name, region in stage.recipe.data.regions.items()}


def dice_highlights(scores: Sequence[RegionScore]) -> list[Highlight]:
    """Mean Dice of each region, with range and number of cases."""
    highlights = []
    for region in dict.fromkeys(score.region for score in scores):
        values = [score.dice for score in scores if score.region == region]
        detail = f"{min(values):.2f} to {max(values):.2f}, {len(values)} cases"
        highlights.append(Highlight(f"Dice {region}", f"{sum(values) / len(values):.3f}", detail))
    return highlights


def gallery(
    scores: Sequence[RegionScore], show: Callable[[str], Shown | None], regions: Regions
) -> list[GalleryCase]:
    """Pictures of the best, median and worst case by the first-named largest region.

    Args:
        scores: Of all cases.
        show: From a case's name to a `Shown`, or None where it cannot be shown.
        regions: Which outlines to draw.
    """
    if not scores:
        return []
    deciding = max(regions, key=lambda name: len(regions[name]))
    cases: list[GalleryCase] = []
    roles: dict[str, list[str]] = {}
    for role, case in pick_gallery(scores, deciding).items():
        roles.setdefault(case, []).append(role)
    for case, names in roles.items():
        shown = show(case)
        if shown is not None:
            facts = {f"Dice {s.region}": round(s.dice, 3) for s in scores if s.case == case}
            role = f"{', '.join(names)} by Dice of {deciding}"
            cases.append(_gallery_case(role, case, shown, regions, facts))
    return cases


def picture_of(case: str, shown: Shown, regions: Regions) -> Picture:
    """The mosaic of one case with its caption."""
    outlines = "Solid: prediction."
    if shown.reference is not None:
        outlines = "Solid: prediction; dashed: reference."
    return Picture(
        case_mosaic(shown.image, shown.prediction, shown.reference, regions, title=case),
        f"{case}. {outlines}",
        f"Slices of {case} in three planes with outlines of {', '.join(regions)}.",
    )


def shown_contrast(contrasts: Sequence[str]) -> str:
    """The contrast that shows lesions best, of those there are."""
    return next((c for c in ("FLAIR", "T1ce", "T2w") if c in contrasts), contrasts[0])


def _gallery_case(
    role: str, case: str, shown: Shown, regions: Regions, facts: Mapping[str, Cell]
) -> GalleryCase:
    return GalleryCase(role, case, picture_of(case, shown, regions), facts)


def _stored_case(stage: Stage, name: str) -> Shown | None:
    """A test case of a run, on the prepared grid."""
    case = next(case for case in stage.store.cases if case.case == name)
    image = stage.store.prepared_image(case, [shown_contrast(stage.recipe.data.contrasts)])
    reference = Volume(stage.store.labels(case)[:], image.affine, name)
    prediction = read_labels(stage.run.folder / "test" / f"{name}_seg.nii.gz")
    return Shown(image, resample_labels_to(prediction, case.grid), reference)


def transfer_notes(transfer: LoadReport | None) -> list[str]:
    """What a run started from, in sentences."""
    if transfer is None:
        return ["Training started from random weights."]
    return transfer.summary().splitlines()


def run_facts(stage: Stage, state: TrainingState) -> dict[str, Cell]:
    """What was run: recipe, data, sizes, time."""
    split, settings = stage.split, stage.settings
    return {
        "recipe": stage.recipe.name,
        "model": _model(stage.recipe.model),
        "contrasts": ", ".join(stage.recipe.data.contrasts),
        "subjects": f"{len(split.train)} training, {len(split.validation)} validation, "
        f"{len(split.test)} test",
        "steps": f"{state.step} of {settings.steps}",
        "best at step": state.best_step,
        "training time": f"{state.elapsed_s / 60:.1f} min",
        "cases per batch": settings.batch_size,
        "patches per case": settings.crops_per_case,
        "patch (voxels)": " x ".join(map(str, settings.patch_size_vox)),
        "spacing (mm)": _spacing(stage.recipe.preparation),
        "device": str(stage.config.provenance.get("device")),
        "version": str(stage.config.provenance.get("versions", {}).get("brainsegfounder")),
    }


def _model(model: ModelSettings) -> str:
    merging = f", merging {model.merging}" if model.architecture == OURS else ""
    return f"{model.architecture}, {model.scale}{merging}"


def _spacing(preparation: PreparationSettings) -> str:
    if preparation.resize_vox is not None:
        return f"whole scan in {' x '.join(map(str, preparation.resize_vox))} voxels"
    if preparation.spacing_mm is None:
        return "as scanned"
    return " x ".join(f"{mm:g}" for mm in preparation.spacing_mm)


def _curves(stage: Stage, parts: Mapping[str, str]) -> list[Picture]:
    records = stage.run.records("train")
    if not records:
        return []
    present = {key: name for key, name in parts.items() if key in records[-1]}
    curve = loss_curves(records, present, title="Training loss")
    return [Picture(curve, "Training loss and its parts.", "Curves of the training loss.")]


def _validation_curve(stage: Stage) -> list[Picture]:
    records = stage.run.records("validation")
    if not records:
        return []
    names = {key: key.removeprefix("dice_") for key in records[-1] if key.startswith("dice")}
    names = {key: "mean" if key == "dice" else name for key, name in names.items()}
    curve = loss_curves(records, names, y_label="Dice", title="Validation Dice")
    caption = "Dice of the validation subjects, whole volumes, by the predictor that ships."
    return [Picture(curve, caption, "Curves of the validation Dice.")]


def _strip(scores: Sequence[RegionScore]) -> list[Picture]:
    if not scores:
        return []
    return [Picture(dice_strip(scores), "Dice of every test case.", "Dots of Dice per region.")]


def comparison_table(arms: Mapping[str, Sequence[RegionScore]]) -> Table:
    """Mean Dice of several arms per region, with the number of cases."""
    first = next(iter(arms.values()))
    rows: list[list[Cell]] = []
    for region in dict.fromkeys(score.region for score in first):
        values = [[s.dice for s in scores if s.region == region] for scores in arms.values()]
        rows.append([region, len(values[0]), *(sum(v) / len(v) for v in values)])
    return Table("Mean Dice of the held-out cases.", ["region", "cases", *arms], rows)
