"""How a prepared case lies in MNI152, so that places in it can be named."""

from __future__ import annotations

import numpy as np

from brainsegfounder.errors import VolumeError
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.preparation import Prepared
from brainsegfounder.volumes.template import check_in_template, register_to_template
from brainsegfounder.volumes.volume import Affine, Volume


def matrix_to_mni(prepared: Prepared) -> tuple[Affine | None, tuple[Finding, ...]]:
    """The map from a case's millimetres to those of MNI152; no case fails for want of it.

    Args:
        prepared: A case; one that was prepared in MNI space knows the map already, any other is
            registered here by its first contrast, which takes seconds.

    Returns:
        A matrix of shape (4, 4), or None where no sound one was found, and what was noticed.
    """
    space = prepared.steps.get("space", {})
    if space.get("name") == "mni" and "matrix" in space:
        return np.asarray(space["matrix"], dtype=np.float64), ()
    tissue = Volume(prepared.brain[None], prepared.image.affine, prepared.image.source)
    is_brain = prepared.steps.get("brain", {}).get("method") != "foreground"
    try:
        found = register_to_template(_positive(prepared), tissue, is_brain)
        dice, doubts = check_in_template(found, tissue, is_brain)
    except VolumeError as error:
        return None, (_not_registered(prepared, str(error)),)
    if doubts:
        message = f"registered to MNI152 poorly (brains share {dice:.0%}); no places are named"
        return None, (_not_registered(prepared, message),)
    return found.matrix, ()


def _positive(prepared: Prepared) -> Volume:
    """The first contrast without its negative numbers: outside the brain must be darkest."""
    voxels = prepared.image.voxels[:1]
    lowest = voxels.min(initial=0, where=prepared.brain[None])
    lifted = np.where(prepared.brain[None], voxels - lowest + 1, 0)
    return Volume(lifted.astype(np.float32), prepared.image.affine, prepared.image.source)


def _not_registered(prepared: Prepared, message: str) -> Finding:
    return Finding("not_in_mni", prepared.image.source, message, "note")
