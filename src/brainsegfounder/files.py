"""Files that exist whole or not at all, and their fingerprints."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from brainsegfounder.errors import OutputExistsError, RunError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside its place, then rename it there; folders are made as needed.

    Raises:
        RunError: The file cannot be written; what stood there before is untouched.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        _remove(partial)
        raise RunError(
            f"{path}: cannot be written: {error.strerror or error}. "
            "Free space there, or choose another output folder."
        ) from error


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, for text in UTF-8.

    Raises:
        RunError: The file cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_folder(new: Path, place: Path) -> None:
    """Move a finished folder into its place; the one that stood there is removed.

    A process killed in between leaves the older one under `previous_folder(place)`, from where
    `restore_folder` brings it back.
    """
    previous = previous_folder(place)
    shutil.rmtree(previous, ignore_errors=True)
    if place.exists():
        place.replace(previous)
    new.replace(place)
    shutil.rmtree(previous, ignore_errors=True)


def previous_folder(place: Path) -> Path:
    """Where `replace_folder` keeps the older folder for a moment."""
    return place.with_name(f".{place.name}.previous")


def restore_folder(place: Path) -> None:
    """Undo a `replace_folder` that was cut off before the new folder was in its place."""
    previous = previous_folder(place)
    if previous.exists() and not place.exists():
        previous.replace(place)


def check_new_folder(path: Path, remedy: str = "Choose another --out, or remove it.") -> None:
    """Refuse an output folder that has content, so nothing is ever overwritten.

    Args:
        path: Where output shall go.
        remedy: What the user can do, for the message.

    Raises:
        OutputExistsError: It exists and is not an empty folder.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise OutputExistsError(f"{path}: exists already; expected a new folder. {remedy}")


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # its folder is a file, or gone: then there is nothing to remove
        return
