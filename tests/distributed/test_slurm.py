"""A real Slurm cluster of two nodes, both of them this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm_two_nodes"
NOT_INSTALLED = 77
LIMIT_S = 280


@pytest.mark.slow
def test_a_job_on_two_nodes_and_an_array_of_two_folds_train(tmp_path):
    pytest.importorskip("submitit", reason="submitit is not installed: the extra `cluster`")
    path = f"{os.environ['PATH']}:/usr/sbin"
    missing = [
        name for name in ("slurmctld", "slurmd", "munged") if not shutil.which(name, path=path)
    ]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and Slurm (slurm-wlm, munge); missing here: {missing or 'root'}")
    done = subprocess.run(
        [str(SCRIPT), str(tmp_path / "slurm")],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NodeList=n[1-2]" in done.stdout
    assert "array: done" in done.stdout
