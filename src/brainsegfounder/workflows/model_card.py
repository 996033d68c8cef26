"""`README.md` of a model folder: what the model is, for people and for machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from brainsegfounder.inference.model_config import ModelConfig
from brainsegfounder.runs import RESEARCH_ONLY
from brainsegfounder.settings import OURS

UK_BIOBANK_NOTICE = (
    "Derived from UK Biobank data: these weights are not redistributed by this software, which "
    "never downloads weights. Keep to UK Biobank's Material Transfer Agreement and to the licence "
    "under which you got them, and pass them on only if both allow it."
)
METRICS_ARE = "On the held-out test cases of the run that made it."


def model_card(config: ModelConfig) -> str:
    """Markdown with a YAML front matter that model hubs read."""
    facts = config.provenance
    front: dict[str, Any] = {
        "library_name": "brainsegfounder",
        "license": facts.get("licence", "unknown"),
        "tags": ["brain", "MRI", "3-D", _task(config)],
        "contrasts": list(config.contrasts),
        "labels": dict(config.labels),
        "training_sets": list(facts.get("trained_on", ())),
        "metrics": facts.get("metrics", {}),
        "intended_use": RESEARCH_ONLY,
    }
    matter = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return f"---\n{matter}---\n\n" + "\n".join(_body(config, facts)) + "\n"


def _body(config: ModelConfig, facts: Mapping[str, Any]) -> list[str]:
    spacing = config.spacing_mm
    grid = "the scan's own voxels" if spacing is None else f"{spacing} mm voxels"
    merging = f", patch merging `{config.merging}`" if config.architecture == OURS else ""
    if config.preparation.resize_vox is not None:
        grid = f"the whole scan resized to {config.preparation.resize_vox} voxels"
    absent = " Some of them may be absent." if config.may_miss_contrasts else ""
    lines = [
        f"# {config.name}",
        "",
        f"**{RESEARCH_ONLY}** Never a basis for a decision about a patient.",
        "",
        f"{_count(config)} (`{config.architecture}`, scale `{config.scale}`{merging}).",
        "",
        f"- **Input**: {', '.join(config.contrasts)}, in this order, on {grid}, normalised by "
        f"`{config.preparation.normalisation}`.{absent}",
    ]
    if config.kind == "segmentation":
        labels = ", ".join(f"{name} = {value}" for name, value in config.labels.items())
        lines += [f"- **Output**: regions {', '.join(config.regions)}; labels {labels}."]
    else:
        lines += ["- **Output**: features; fine-tune it with `brainsegfounder finetune --from`."]
    trained_on = ", ".join(facts.get("trained_on", ())) or "see `provenance.json`"
    lines += [f"- **Trained on**: {trained_on}.", "", "## Results", ""]
    lines += _results(facts.get("metrics", {}), facts.get("metrics_are", METRICS_ARE))
    lines += [
        "",
        "## Limits",
        "",
        "- Scans unlike those it was trained on (other contrasts, scanners, ages, diseases, after "
        "surgery) may be segmented wrongly without any sign of it.",
        "- It does not know when it is wrong; look at every result.",
        "",
        "## Files",
        "",
        "`model.safetensors` (weights), `config.json` (what inference must know), "
        "`provenance.json` (where it comes from), `SHA256SUMS` (check with `sha256sum -c`; "
        "`brainsegfounder` does so at every load).",
    ]
    if facts.get("notice_of_origin"):
        lines += ["", "## Licence", "", str(facts["notice_of_origin"])]
    return lines


def _count(config: ModelConfig) -> str:
    if config.members == 1:
        return f"A {_task(config)} network"
    return f"The mean of the probabilities of {config.members} {_task(config)} networks"


def _results(metrics: Mapping[str, Any], told: str) -> list[str]:
    if not metrics:
        return ["None are recorded."]
    rows = ["| region | cases | Dice (mean) | HD95 in mm (mean) |", "|---|---|---|---|"]
    for region, row in metrics.items():
        dice, hd95 = row.get("dice_mean"), row.get("hd95_mm_mean")
        cells = ["–" if value is None else f"{value:.3f}" for value in (dice, hd95)]
        rows.append(f"| {region} | {row.get('num_cases')} | {cells[0]} | {cells[1]} |")
    return [*rows, "", told]


def _task(config: ModelConfig) -> str:
    return "segmentation" if config.kind == "segmentation" else "self-supervised pretraining"
