"""A process that fails or dies: the job ends soon, says why, and goes on where it stood."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from brainsegfounder.runs import Run

CHILD = Path(__file__).with_name("child.py")
SOON_S = 60


def test_F23_where_one_process_fails_the_others_end_soon(run_task, tmp_path):
    began_s = time.monotonic()
    raised, waiting = run_task("fail", tmp_path)[::-1]
    assert time.monotonic() - began_s < SOON_S
    assert raised[0] == 1
    assert "ValueError: a fault in the middle of a step" in raised[1]
    assert "Traceback" in raised[1]
    # It was at something without an end, yet it was told, and has nothing to add.
    assert waiting[0] == 1
    assert "another failed: process 1: ValueError: a fault in the middle" in waiting[1]
    assert "Traceback" not in waiting[1]


@pytest.mark.slow
def test_F23_and_F26_torchrun_starts_again_and_the_run_goes_on(tmp_path):
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words += ["--nproc-per-node=2", "--max-restarts=3", "--monitor-interval=0.1"]
    unset = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*words, str(CHILD), "restart", str(tmp_path)],
        env={**os.environ, **unset},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    # Killed twice; the third attempt made the last step.
    assert found == {"attempt": 2, "step": 50, "samples": 400}
    steps = [record["step"] for record in Run(tmp_path / "work").records("train")]
    assert steps == list(range(1, 51))
    # Of a step that was made and not saved, nothing is counted twice.
    assert [r["step"] for r in Run(tmp_path / "work").records("resume")] == [10, 30]
