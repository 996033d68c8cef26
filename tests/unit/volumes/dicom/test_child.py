"""The process that decodes pixels: its limits hold, and it knows nothing of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from brainsegfounder.volumes.dicom import child as dicom_child

pytest.importorskip("resource", reason="this system has no limits for processes")

ROOMY = ("60", str(4 << 30), str(1 << 20))


def run(limits, code, folder):
    child = str(Path(dicom_child.__file__))
    command = [sys.executable, "-I", "-S", child, *limits, sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_file_larger_than_its_limit_is_not_written(tmp_path):
    code = "f = open('f', 'wb', 0); [f.write(bytes(999)) for _ in range(5)]"
    done = run(("60", str(4 << 30), "1000"), code, tmp_path)
    assert done.returncode != 0
    assert (tmp_path / "f").stat().st_size <= 1000


def test_memory_beyond_the_limit_is_not_given(tmp_path):
    done = run(("60", str(256 << 20), "1000"), "bytes(1 << 30)", tmp_path)
    assert "MemoryError" in done.stderr


def test_an_endless_loop_ends(tmp_path):
    assert run(("1", str(4 << 30), "1000"), "while True: pass", tmp_path).returncode < 0


def test_the_environment_is_empty(tmp_path):
    done = run(ROOMY, "import os; print(sorted(os.environ))", tmp_path)
    assert done.returncode == 0
    assert done.stdout.strip() in ("[]", "['LC_CTYPE']")  # Python sets the latter by itself
