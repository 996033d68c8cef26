"""`convert-weights`: a published or foreign weight file becomes a model folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from brainsegfounder.errors import RecipeError, UsageError, WeightsError
from brainsegfounder.files import check_new_folder, sha256, write_text
from brainsegfounder.inference.model_config import WEIGHTS_NAME, ModelConfig
from brainsegfounder.models.foreign import ForeignFile, read_foreign
from brainsegfounder.models.published import KnownFile, Recognised, known_file, recognise
from brainsegfounder.models.swin import Merging, check_merging
from brainsegfounder.models.weights import load_state, save_state
from brainsegfounder.recipes import load_recipe
from brainsegfounder.runs import package_version
from brainsegfounder.settings import PredictSettings, PreparationSettings, Recipe, Region
from brainsegfounder.workflows.model_card import UK_BIOBANK_NOTICE
from brainsegfounder.workflows.model_folder import seal, write_facts

REPORT_NAME = "conversion.json"
MIN_COVERAGE = 0.95
DEFAULT_PATCH_VOX = (96, 96, 96)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a conversion did.

    Attributes:
        recognised: The network in the file, and what became of each tensor.
        config: Of the model folder written.
        known: The published file it is, or None.
    """

    recognised: Recognised
    config: ModelConfig
    known: KnownFile | None

    def lines(self) -> list[str]:
        """Tell it in plain text."""
        found, config = self.recognised, self.config
        outputs = f", {found.out_channels} outputs" if found.out_channels else ""
        told = [
            f"{self.known.what if self.known else 'not a file known to us'}: {found.kind}, scale "
            f"{found.scale}, {', '.join(config.contrasts)}{outputs}, merging {config.merging}",
            f"encoder: {100 * found.coverage:.1f} % of its parameters; {len(found.tensors)} "
            f"tensors loaded, {len(found.renamed)} of them renamed, {len(found.dropped)} dropped, "
            f"{len(found.missing)} missing",
        ]
        reasons: dict[str, list[str]] = {}
        for name, reason in found.dropped.items():
            reasons.setdefault(reason, []).append(name)
        for reason, names in reasons.items():
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            told.append(f"dropped {', '.join(names[:3])}{more}: {reason}")
        told += [f"missing {name}" for name in found.missing]
        notice = self.config.provenance.get("notice_of_origin")
        return [*told, str(notice)] if notice else told


def run_convert(
    file: Path,
    out: Path,
    *,
    merging: str | None = None,
    contrasts: Sequence[str] = (),
    recipe: Recipe | None = None,
    min_coverage: float = MIN_COVERAGE,
) -> Conversion:
    """Turn a weight file into a model folder, and read it back bit for bit.

    Args:
        file: `.pt`, `.pth` or `.safetensors` with a SwinUNETR, an SSL network or a Swin encoder.
        out: The new model folder.
        merging: How patches were merged in training; needed unless the file is a known one.
        contrasts: One for each input channel, in order; needed unless the file is a known one.
        recipe: Labels, regions and preparation of a segmentation network.
        min_coverage: Least share of the encoder's parameters that the file must have.

    Raises:
        UsageError: `merging` or `contrasts` is needed, or does not fit.
        WeightsError: The file is refused, or is not such a network.
        OutputExistsError: `out` has content.
    """
    check_new_folder(out)
    foreign = read_foreign(file)
    digest = sha256(file)
    known = known_file(file.name, digest)
    found = recognise(foreign.tensors, str(file))
    if found.coverage < min_coverage:
        raise WeightsError(
            f"{file}: has {100 * found.coverage:.1f} % of the encoder's parameters, expected "
            f"{100 * min_coverage:.0f} % or more; missing {', '.join(found.missing[:3])} ... "
            "Lower --min-coverage if you want the rest to begin at random."
        )
    config = _make_config(
        found,
        _choose_merging(file, merging, known),
        _choose_contrasts(file, tuple(contrasts), known, found),
        recipe or (load_recipe(known.recipe) if known and known.recipe else None),
        _origin(file, foreign, digest, known),
    )
    _write(out, found, config)
    conversion = Conversion(found, config, known)
    report = {
        "encoder_coverage": found.coverage,
        "loaded": sorted(found.tensors),
        "renamed": dict(found.renamed),
        "dropped": dict(found.dropped),
        "missing": list(found.missing),
    }
    write_text(out / REPORT_NAME, json.dumps(report, indent=1) + "\n")
    seal(out)
    return conversion


def _choose_merging(file: Path, merging: str | None, known: KnownFile | None) -> Merging:
    """The order asked for, or that of a known file; a state dict does not say which it was."""
    if merging is not None:
        return check_merging(merging)
    if known is None:
        raise UsageError(
            f"{file}: not a file known to us by its content or name, and its tensors do not say "
            "how patches were merged in training; the wrong way would silently give wrong results. "
            "Add --merging legacy (trained with MONAI 0.9 to 1.4), --merging complete (1.5 or "
            "later, or this package) or --merging v2 (MONAI's `mergingv2`)."
        )
    return "legacy"


def _choose_contrasts(
    file: Path, contrasts: tuple[str, ...], known: KnownFile | None, found: Recognised
) -> tuple[str, ...]:
    chosen = contrasts or (known.contrasts.get(found.in_channels, ()) if known else ())
    if len(set(chosen)) != found.in_channels or len(chosen) != found.in_channels:
        named = ", ".join(chosen) or "none"
        raise UsageError(
            f"{file}: has {found.in_channels} input channels, contrasts named: {named}. Name one "
            "for each channel, in the order of training: --contrasts T1w,FLAIR"
        )
    return tuple(chosen)


def _make_config(
    found: Recognised,
    merging: Merging,
    contrasts: tuple[str, ...],
    recipe: Recipe | None,
    origin: dict[str, Any],
) -> ModelConfig:
    """The config of what was found; outputs without a recipe get numbers for names."""
    is_segmentation = found.kind == "segmentation"
    numbers = range(1, (found.out_channels or 0) + 1) if recipe is None else ()
    stage = recipe.finetune if recipe else None
    config = ModelConfig(
        kind=found.kind,
        name=str(origin["name"]),
        scale=found.scale,
        merging=merging,
        contrasts=contrasts,
        labels=recipe.data.labels if recipe else {f"output_{n}": n for n in numbers},
        regions=recipe.data.regions
        if recipe
        else {f"output_{n}": Region(labels=(n,), paint=n) for n in numbers},
        target=stage.target if stage else "regions",
        preparation=recipe.preparation if recipe else PreparationSettings(),
        patch_size_vox=stage.patch_size_vox if stage else DEFAULT_PATCH_VOX,
        predict=recipe.predict if recipe else PredictSettings(),
        provenance=origin,
    )
    if is_segmentation and config.num_outputs != found.out_channels:
        raise RecipeError(
            f"{recipe.name if recipe else ''}: describes {config.num_outputs} outputs, but the "
            f"file has {found.out_channels}. Choose the recipe it was trained with, or none."
        )
    if is_segmentation and recipe is None:
        log.warning("outputs are named output_1, ...; name them with --recipe RECIPE")
    return config


def _origin(
    file: Path, foreign: ForeignFile, digest: str, known: KnownFile | None
) -> dict[str, Any]:
    """What travels with the weights: of the file its name and content, not its folder."""
    facts: dict[str, Any] = {
        "name": known.what if known else file.stem,
        "converted_from": {"file": file.name, "sha256": digest, "bytes": file.stat().st_size},
        "known_as": known.what if known else None,
        "trained_on": list(known.trained_on) if known else [],
        "classes_not_made": list(foreign.shells),
        "versions": {"brainsegfounder": package_version("brainsegfounder")},
    }
    if known and known.from_uk_biobank:
        facts |= {"licence": "other", "notice_of_origin": UK_BIOBANK_NOTICE}
    return facts


def _write(out: Path, found: Recognised, config: ModelConfig) -> None:
    out.mkdir(parents=True, exist_ok=True)
    save_state(out / WEIGHTS_NAME, found.tensors)
    written = load_state(out / WEIGHTS_NAME)
    for name, tensor in found.tensors.items():
        if not torch.equal(written[name], tensor):
            raise WeightsError(
                f"{out / WEIGHTS_NAME}: '{name}' reads back otherwise than it was written. Check "
                "the disk, and convert again."
            )
    write_facts(out, config)
