"""Trees of empty files: layouts look at names only."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """Makes empty files under `tmp_path`, and files with a text; returns the folder."""

    def make(*names: str, texts: dict[str, str] | None = None) -> Path:
        for name, text in {**dict.fromkeys(names, ""), **(texts or {})}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return make


@pytest.fixture
def files_of() -> Callable[..., dict[str, str]]:
    """The names of a case's files, by contrast."""
    return lambda case: {contrast: path.name for contrast, path in case.contrasts.items()}
