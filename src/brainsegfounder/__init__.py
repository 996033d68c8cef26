"""brainsegfounder: a 3-D foundation model for brain MRI. Research use only.

The public names; everything else may change. They are imported when first used, so that
`import brainsegfounder` is quick and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brainsegfounder.models.swin_unetr import SwinUNETR
    from brainsegfounder.workflows.evaluate import evaluate
    from brainsegfounder.workflows.model_folder import load_model
    from brainsegfounder.workflows.predict import predict

__version__ = "0.1.0"
__all__ = ["SwinUNETR", "__version__", "evaluate", "load_model", "predict"]

_HOMES = {
    "SwinUNETR": "brainsegfounder.models.swin_unetr",
    "evaluate": "brainsegfounder.workflows.evaluate",
    "load_model": "brainsegfounder.workflows.model_folder",
    "predict": "brainsegfounder.workflows.predict",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'brainsegfounder' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
