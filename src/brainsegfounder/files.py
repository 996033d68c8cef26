"""Files that exist whole or not at all, and their fingerprints."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from brainsegfounder.errors import OutputExistsError, RunError, UsageError

try:
    import fcntl
except ImportError:  # not on Windows, where two writers of one folder are not told apart
    fcntl = None  # type: ignore[assignment]


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
        raise RunError(
            f"{path}: cannot be written: {error.strerror or error}. "
            "Free space there, or choose another output folder."
        ) from error
    finally:  # also where a signal ends us; after the rename there is nothing to remove
        _remove(partial)


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, for text in UTF-8.

    Raises:
        RunError: The file cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_changed(path: Path, text: str) -> bool:
    """As `write_text`, but a file that says the same already is left alone.

    Returns:
        Whether it was written.

    Raises:
        RunError: The file cannot be written.
    """
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path.read_text(encoding="utf-8") == text:
            return False
    write_text(path, text)
    return True


def remove_partials(folder: Path, process: int | str = "*") -> None:
    """Remove what writers that were killed left half done: those of one process, or all."""
    for partial in folder.glob(f".*.{process}.partial"):
        _remove(partial)


@contextlib.contextmanager
def held(folder: Path, *, alone: bool, wait: bool = True) -> Iterator[bool]:
    """Hold a folder: alone, or together with others who do not ask to be alone.

    Where the file system keeps no locks on folders (some network drives, Windows) nothing is held.

    Args:
        folder: It must exist.
        alone: Nobody else may hold it.
        wait: Wait until that can be; without it, ask once.

    Yields:
        Whether it is held.
    """
    kind = 0 if fcntl is None else (fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        yield _lock(handle, kind, wait)
    finally:
        os.close(handle)


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


def check_apart(out: Path, inputs: Sequence[Path]) -> None:
    """Refuse output that would lie in an input, where it could overwrite or be read as input.

    Raises:
        UsageError: `out` is an input, or is inside one.
    """
    place = out.resolve()
    for path in inputs:
        there = path.resolve()
        if place == there or there in place.parents:
            where = "is the input itself" if place == there else f"lies inside the input {path}"
            raise UsageError(
                f"{out}: {where}; expected an output folder apart from it, so that no input is "
                "ever overwritten. Choose another --out."
            )


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, unless it is there.

    Raises:
        RunError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be written: {error.strerror or error}. "
            "Choose another output folder, or remove the file that stands there."
        ) from error


def check_writable(folder: Path) -> None:
    """Write to a folder and clean up, before hours are spent on what it shall hold.

    Raises:
        RunError: Nothing can be written there.
    """
    probe = folder / f".probe.{os.getpid()}.partial"
    write_bytes(probe, b"x")
    _remove(probe)


def _lock(handle: int, kind: int, wait: bool) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # its folder is a file, or gone: then there is nothing to remove
        return
