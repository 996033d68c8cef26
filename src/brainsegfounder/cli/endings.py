"""How a verb ends where some cases could not be worked on."""

from __future__ import annotations

import typer


def end_with_refused(refused: dict[str, str]) -> None:
    """Exit code 3 where some case was refused, with a line for each."""
    for case, reason in refused.items():
        typer.echo(f"refused {case}: {reason}", err=True)
    if refused:
        raise typer.Exit(3)
