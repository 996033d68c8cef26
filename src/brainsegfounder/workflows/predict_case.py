"""One case from its files to labels: the same preparation as in training, then the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from brainsegfounder.data.manifest import Case
from brainsegfounder.errors import ContrastError
from brainsegfounder.inference.predictor import Opinion
from brainsegfounder.settings import AS_IT_IS, ReadingSettings
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.preparation import Prepared, prepare_case
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows.model_folder import Model
from brainsegfounder.workflows.predict_memory import opinion_within


@dataclass(frozen=True, slots=True)
class Segmented:
    """A case that was segmented.

    Attributes:
        case: Which files.
        present: Contrasts of it that the model saw, in channel order.
        prepared: What the network saw, and the way back.
        opinion: Probabilities on the prepared grid, and where opinions differ.
        labels: int16 of shape (1, I, J, K), on the grid of the first contrast's file.
        findings: What was noticed about the scans.
        device: What computed it.
    """

    case: Case
    present: tuple[str, ...]
    prepared: Prepared
    opinion: Opinion
    labels: Volume
    findings: tuple[Finding, ...]
    device: str


def segment_case(
    case: Case,
    model: Model,
    reading: ReadingSettings = AS_IT_IS,
    *,
    disagreement: bool = False,
) -> Segmented:
    """Prepare a case and segment it.

    Args:
        case: Files of at least the contrasts that the model needs.
        model: What segments.
        reading: What is allowed of the files.
        disagreement: Whether to ask how far members and mirrored views differ.

    Raises:
        ContrastError: A contrast is absent that the model cannot do without.
        DataError: A scan cannot be read or prepared.
    """
    present = present_contrasts(case, model)
    prepared = prepare_case(
        case.case,
        case.contrasts,
        present,
        model.config.preparation,
        masks=case.masks,
        reading=reading,
        volumes=case.volumes,
    )
    findings = prepared.findings
    if present != model.contrasts:
        absent = [name for name in model.contrasts if name not in present]
        findings = (*findings, _absence(case, absent, present))
    image = _in_channels(prepared.image, present, model)
    opinion, device, noticed = opinion_within(model, image, prepared, disagreement=disagreement)
    labels = model.paint(opinion.probabilities, prepared.source_grid)
    return Segmented(case, present, prepared, opinion, labels, (*findings, *noticed), device)


def present_contrasts(case: Case, model: Model) -> tuple[str, ...]:
    """The contrasts of a case that the model knows, in the order of its channels.

    Raises:
        ContrastError: One is absent that the model cannot do without, or all are.
    """
    present = tuple(name for name in model.contrasts if name in case.contrasts)
    absent = [name for name in model.contrasts if name not in present]
    if not absent or (present and model.config.may_miss_contrasts):
        return present
    raise ContrastError(
        f"{case.case}: no {', '.join(absent)} found; the model was trained on "
        f"{', '.join(model.contrasts)}, and the case has "
        f"{', '.join(case.contrasts) or 'none of them'}. "
        "Add the scans, or use a model for the contrasts there are."
    )


def _in_channels(image: Volume, present: Sequence[str], model: Model) -> Volume:
    """An image of the contrasts there are, in the model's channels; absent ones are 0."""
    if len(present) == len(model.contrasts):
        return image
    voxels = np.zeros((len(model.contrasts), *image.shape_vox), dtype=np.float32)
    voxels[[model.contrasts.index(name) for name in present]] = image.voxels
    return Volume(voxels, image.affine, image.source)


def _absence(case: Case, absent: Sequence[str], present: Sequence[str]) -> Finding:
    message = f"no {', '.join(absent)} found; segmented from {', '.join(present)} alone, which the "
    message += "model was trained to do, but less well."
    return Finding("contrast_absent", case.case, message, "warning")
