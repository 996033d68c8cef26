"""Starts a few processes that find each other on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
CHILD = HERE / "child.py"
LIMIT_S = 240


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What a launcher sets."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    return {
        **os.environ,
        **{name: str(number) for name, number in numbers.items()},
        "MASTER_ADDR": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        return int(link.getsockname()[1])


def run_task(task: str, out: Path, size: int = 2) -> list[tuple[int, str]]:
    """Exit code and error output of each process."""
    out.mkdir(parents=True, exist_ok=True)
    port = free_port()
    words = [sys.executable, str(CHILD), task, str(out)]
    started = [
        subprocess.Popen(words, env=environment(n, size, port), stderr=subprocess.PIPE, text=True)
        for n in range(size)
    ]
    try:
        errors = [process.communicate(timeout=LIMIT_S)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(p.returncode, error) for p, error in zip(started, errors, strict=True)]


def found_by(task: str, out: Path) -> Mapping[str, Any]:
    """What two processes found."""
    ended = run_task(task, out)
    assert [code for code, _ in ended] == [0, 0], "\n".join(error for _, error in ended)
    found: Mapping[str, Any] = json.loads((out / "found.json").read_text())
    return found


@pytest.fixture(scope="session", name="run_task")
def _run_task() -> Callable[..., list[tuple[int, str]]]:
    return run_task


@pytest.fixture(scope="session")
def equality(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """How far two processes are from one with the joined batch."""
    return found_by("equality", tmp_path_factory.mktemp("equality"))


@pytest.fixture(scope="session")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What tiny runs on two processes did."""
    return found_by("loop", tmp_path_factory.mktemp("loop"))
