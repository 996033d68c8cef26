"""The one place that runs deepbet, in a process of its own: `python -m` this module IN OUT.

deepbet (Fisch et al., 2024) finds the brain in a T1w scan; its networks come with its wheel, so
nothing is downloaded. It needs torch, loads TorchScript files of its own package, and installs a
top-level package called `data`; none of this gets into the process that prepares a study. IN and
OUT are `.npy` files: intensities in RAS order, and the mask.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np

MAX_MEMORY_GIB = 24
MAX_OUTPUT_GIB = 4


def main(source: str, target: str) -> None:
    """Read intensities (I, J, K) from one file and write the brain's mask, uint8, to the other."""
    _limit()
    warnings.simplefilter("ignore")
    import torch
    from deepbet.bet import BrainExtraction

    # Sums in one order, whatever the number of cores; as many of these run as there are jobs.
    torch.set_num_threads(1)
    voxels = np.load(source, allow_pickle=False).astype(np.float32)
    deepbet = BrainExtraction(no_gpu=True)
    mask = deepbet.postprocess(deepbet.run_model(voxels) > 0.5)
    with Path(target).open("wb") as file:
        np.save(file, np.asarray(mask > 0, dtype=np.uint8))


def _limit() -> None:
    """Bounds on memory and files, where the system has them; no core dump holds a scan."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_GIB << 30,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_OUTPUT_GIB << 30,) * 2)


if __name__ == "__main__":
    main(*sys.argv[1:3])
