"""The release folder: a model as it is passed on, without what only its training needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from brainsegfounder.files import write_text
from brainsegfounder.inference.model_config import ModelConfig
from brainsegfounder.workflows.model_folder import save_model, write_facts

LICENCE_NAME = "LICENSE"
# Names of subjects are counted instead; fingerprints of scans stay, so that `audit` finds leaks.
SUBJECTS = ("train_subjects", "validation_subjects", "test_subjects")
# The machine that trained it and where its files were.
OF_THE_MACHINE = ("command", "platform", "device", "threads", "code", "start")


def write_release(folder: Path, network: nn.Module, config: ModelConfig) -> None:
    """Write a model folder that holds no name of a subject and no path."""
    clean = config.model_copy(update={"provenance": public_facts(config.provenance)})
    save_model(folder, network, clean)
    write_licence(folder / LICENCE_NAME, config)


def write_beside(folder: Path, config: ModelConfig) -> None:
    """Write config, provenance, model card and licence beside an exported network."""
    clean = config.model_copy(update={"provenance": public_facts(config.provenance)})
    write_facts(folder, clean)
    write_licence(folder / LICENCE_NAME, config)


def write_licence(path: Path, config: ModelConfig) -> None:
    """Write what is known of the licence of the weights; nothing where nothing is known."""
    facts = [config.provenance.get(key) for key in ("licence", "notice_of_origin")]
    told = [str(fact) for fact in facts if fact]
    if told:
        write_text(path, "Licence of the weights: " + "\n\n".join(told) + "\n")


def public_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance without names of subjects, commands and machines; members of an ensemble too."""
    public: dict[str, Any] = {}
    for key, value in facts.items():
        if key in SUBJECTS:
            public[f"num_{key}"] = len(value)
        elif key == "members":
            public[key] = [public_facts(member) for member in value]
        elif key not in OF_THE_MACHINE:
            public[key] = value
    return public
