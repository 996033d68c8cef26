"""What a BIDS App does beyond `predict`: choose subjects of a data set, and tables over all.

Subjects are chosen by a view: a folder of links that holds only them and the files at the top of
the data set, so that reading goes the one way there is.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from brainsegfounder.errors import DataError, Problem, RunError
from brainsegfounder.files import make_folder
from brainsegfounder.inference.model_config import WEIGHTS_NAME
from brainsegfounder.workflows.derivative_tables import write_tables
from brainsegfounder.workflows.predict_page import write_index

VALIDATOR = "bids-validator-deno"
TIMEOUT_S = 3600
LABEL = re.compile(r"[0-9a-zA-Z+]+")
# Files at the top that say how the data set is to be read.
TOP_FILES = ("dataset_description.json", "participants.tsv", "README.md")


def view_of(bids: Path, participants: Sequence[str], sessions: Sequence[str], folder: Path) -> Path:
    """A data set of links to some subjects, and some of their sessions, of another one.

    Args:
        bids: The data set.
        participants: Labels, with `sub-` or without; none takes all.
        sessions: Labels, with `ses-` or without; none takes all. Subjects without sessions are
            then left out.
        folder: Made for the links; must be empty or new.

    Raises:
        DataError: A subject is not there, or nothing is left.
        RunError: No link can be made.
    """
    subjects = _subjects(bids, [one.removeprefix("sub-") for one in participants])
    wanted = [one.removeprefix("ses-") for one in sessions]
    make_folder(folder)
    for name in TOP_FILES:
        if (bids / name).is_file():
            _link(bids / name, folder / name)
    linked = 0
    for subject in subjects:
        if not wanted:
            _link(subject, folder / subject.name)
            linked += 1
            continue
        for session in (subject / f"ses-{label}" for label in wanted):
            if session.is_dir():
                _link(session, folder / subject.name / session.name)
                linked += 1
    if not linked:
        raise DataError(_nothing(bids, "no session", f"ses-{', ses-'.join(wanted)}"))
    return folder


def check_bids(bids: Path) -> str:
    """Ask the official validator whether a data set is valid.

    Returns:
        A sentence where it could not be asked, else nothing.

    Raises:
        DataError: It found errors.
    """
    validator = _validator()
    if validator is None:
        return f"{VALIDATOR} is not installed; the data set was not checked."
    try:
        done = subprocess.run(
            [validator, "--format", "json", "--ignoreWarnings", str(bids.resolve())],
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        issues = json.loads(done.stdout)["issues"]["issues"]
    except (OSError, subprocess.TimeoutExpired, ValueError, LookupError) as error:
        return f"{VALIDATOR} could not check the data set ({type(error).__name__})."
    errors = [one for one in issues if one.get("severity") == "error"]
    if errors:
        first = "; ".join(f"{one.get('code')} in {one.get('location')}" for one in errors[:3])
        raise DataError(
            Problem(
                "bids_invalid", str(bids), f"{len(errors)} errors ({first})", "valid BIDS",
                "Correct them, or go on without with --skip-bids-validation.",
            )
        )  # fmt: skip
    return ""


def run_group(out: Path) -> tuple[int, Path]:
    """Tables over all cases of a derivative, and a page with them.

    Returns:
        How many cases there are, and the page.

    Raises:
        DataError: No case is there.
        RunError: A file cannot be written.
    """
    cases = write_tables(out)
    if not cases:
        raise DataError(_nothing(out, "no finished case", "results of the level participant"))
    last = next(reversed(cases.values()))[-1].record
    weights = last.get("Provenance", {}).get("model", {}).get(WEIGHTS_NAME, "")
    return len(cases), write_index(out, last.get("Model", ""), weights, {}, [])


def _subjects(bids: Path, labels: Sequence[str]) -> list[Path]:
    if not labels:
        found = sorted(path for path in bids.glob("sub-*") if path.is_dir())
        if not found:
            raise DataError(_nothing(bids, "no subject", "folders sub-LABEL"))
        return found
    # A label is a name in this folder, never a path out of it.
    missing = [
        one for one in labels if not LABEL.fullmatch(one) or not (bids / f"sub-{one}").is_dir()
    ]
    if missing:
        raise DataError(_nothing(bids, f"no sub-{', sub-'.join(missing)}", "a folder for each"))
    return [bids / f"sub-{one}" for one in dict.fromkeys(labels)]


def _link(target: Path, place: Path) -> None:
    make_folder(place.parent)
    try:
        place.symlink_to(target.resolve(), target_is_directory=target.is_dir())
    except OSError as error:
        raise RunError(
            f"{place}: no link can be made there: {error.strerror or error}. "
            "Choose another folder with -w, or run on all subjects."
        ) from error


def _validator() -> str | None:
    beside_python = Path(sys.executable).with_name(VALIDATOR)
    return str(beside_python) if beside_python.exists() else shutil.which(VALIDATOR)


def _nothing(place: Path, found: str, expected: str) -> Problem:
    return Problem("no_such_subject", str(place), found, expected, "Check the names and labels.")
