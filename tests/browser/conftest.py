"""A real browser that draws pages from disk, without a network."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-dev-shm-usage",
    "--allow-file-access-from-files",
]  # fmt: skip


@pytest.fixture
def chromium(tmp_path):
    """Runs the browser with some arguments; what it prints."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")

    def run(*arguments: str) -> str:
        command = [str(CHROMIUM), *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *arguments]
        environment = {**os.environ, "HOME": str(tmp_path)}
        return subprocess.run(
            command, capture_output=True, timeout=120, check=True, env=environment
        ).stdout.decode()

    return run


@pytest.fixture
def measured(tmp_path, chromium):
    """Shows a page in a window of some width; what a script outside the page measured in it.

    The script stands in a page of its own, with `{page}` and `{width}` to fill in, and leaves its
    numbers as JSON in `document.body.dataset.result`.
    """

    def measure(script: str, page: Path, width: int) -> dict[str, object]:
        outer = tmp_path / "outer.html"
        outer.write_text(script.format(page=page.as_uri(), width=width), encoding="utf-8")
        dom = chromium("--dump-dom", "--virtual-time-budget=5000", outer.as_uri())
        [found] = re.findall(r'data-result="([^"]*)"', dom)
        result: dict[str, object] = json.loads(html.unescape(found))
        return result

    return measure
