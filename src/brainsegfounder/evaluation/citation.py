"""What to cite for a result: the paper of the method, this software, and the model itself."""

from __future__ import annotations

from collections.abc import Sequence

from brainsegfounder.runs import package_version

PAPER = (
    "Cox J, Liu P, Stolte SE, Yang Y, Liu K, See KB, Ju H, Fang R. BrainSegFounder: Towards 3D "
    "foundation models for neuroimage segmentation. Medical Image Analysis 97:103301, 2024. "
    "doi:10.1016/j.media.2024.103301. arXiv:2406.10395."
)
SOFTWARE = "brainsegfounder"


def citations(model: str, sha256: str) -> Sequence[str]:
    """The sentences of a page's last section.

    Args:
        model: Name of the model that made the result; empty where there was none.
        sha256: Of its weights, in hexadecimal.
    """
    version = package_version(SOFTWARE) or "of unknown version"
    software = (
        f"The brainsegfounder developers. brainsegfounder {version}: an independent implementation "
        "of a 3-D foundation model for brain MRI. Apache-2.0."
    )
    weights = f"Model: {model}, weights with SHA-256 {sha256 or 'unknown'}." if model else ""
    return [text for text in (PAPER, software, weights) if text]
