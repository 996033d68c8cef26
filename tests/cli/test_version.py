"""Which version is installed."""

from collections.abc import Callable
from importlib import metadata

import pytest

from brainsegfounder import __version__
from brainsegfounder.cli import bids_app

Call = Callable[..., tuple[int, str, str]]


def test_the_version_is_told_without_a_verb(call: Call) -> None:
    assert call("--version")[:2] == (0, f"brainsegfounder {__version__}\n")
    assert __version__ == metadata.version("brainsegfounder")


def test_the_bids_app_tells_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        bids_app.parser().parse_args(["--version"])
    assert capsys.readouterr().out == f"brainsegfounder {__version__}\n"
