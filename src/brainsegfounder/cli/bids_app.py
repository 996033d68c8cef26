"""`brainsegfounder-bids BIDS_DIR OUT_DIR participant|group`: the face of a BIDS App.

It takes its options as BIDS Apps do, several labels after one option, which is why it is written
with argparse and not as a verb.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from brainsegfounder import __version__
from brainsegfounder.errors import BrainSegFounderError, Interrupted, UsageError

if TYPE_CHECKING:
    from brainsegfounder.workflows.predict import Predicted

NOTICE = "Research use only. Not a medical device."
DONE, BAD_DATA, INTERRUPTED = 0, 3, 130


def parser() -> argparse.ArgumentParser:
    """The options, in the spelling of BIDS Apps and in that of before (`--participant_label`)."""
    options = argparse.ArgumentParser(
        prog="brainsegfounder-bids",
        description=f"Segment the brain MRI of a BIDS data set. {NOTICE}",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong use, 3 bad data (listed), 130 interrupted.",
    )
    options.add_argument("bids_dir", type=Path, metavar="BIDS_DIR", help="The data set.")
    options.add_argument("out_dir", type=Path, metavar="OUT_DIR", help="For the derivative.")
    options.add_argument(
        "level",
        choices=("participant", "group"),
        help="participant: segment; group: tables and an index over what is there.",
    )
    options.add_argument(
        "--participant-label", "--participant_label", nargs="+", default=[], metavar="LABEL",
        help="Subjects, with sub- or without; all without this option.",
    )  # fmt: skip
    options.add_argument(
        "--session-label", "--session_label", "--session-id", nargs="+", default=[],
        metavar="LABEL", help="Sessions, with ses- or without; all without this option.",
    )  # fmt: skip
    options.add_argument(
        "--skip-bids-validation", "--skip_bids_validation", action="store_true",
        help="Do not ask bids-validator first.",
    )  # fmt: skip
    options.add_argument(
        "-w", "--work-dir", type=Path, metavar="WORK", help="For files of the way; else a new one."
    )
    options.add_argument("--model", type=Path, help="A model folder or a run (participant).")
    options.add_argument("--json", action="store_true", help="Print for machines.")
    options.add_argument("--version", action="version", version=f"brainsegfounder {__version__}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the app; every error of ours is one line and its own exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("highdicom").setLevel(logging.ERROR)
    chosen = parser().parse_args(arguments)
    try:
        sys.exit(participant(chosen) if chosen.level == "participant" else group(chosen))
    except BrainSegFounderError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def participant(chosen: argparse.Namespace) -> int:
    """Segment the subjects that were chosen.

    Raises:
        UsageError: There is no --model, or a folder is where it must not be.
        DataError: The data set is not valid, or a subject is not there.
    """
    from brainsegfounder.workflows.bids_app import check_bids, view_of

    if chosen.model is None:
        raise UsageError("participant: no --model given; expected a model folder or a run.")
    _check_folders(chosen.bids_dir, chosen.out_dir)
    if not chosen.skip_bids_validation and (doubt := check_bids(chosen.bids_dir)):
        print(doubt, file=sys.stderr)
    if chosen.work_dir is not None:
        chosen.work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="brainsegfounder-", dir=chosen.work_dir) as room:
        # Always a view, so that what lies in derivatives/ is no input.
        view = view_of(
            chosen.bids_dir, chosen.participant_label, chosen.session_label, Path(room, "bids")
        )
        done = predict(view, chosen.model, chosen.out_dir)
    return _told(done, as_json=chosen.json)


def group(chosen: argparse.Namespace) -> int:
    """Tables and an index page over what is there.

    Raises:
        DataError: Nothing is there.
    """
    from brainsegfounder.workflows.bids_app import run_group

    num_cases, page = run_group(chosen.out_dir)
    record = {"num_cases": num_cases, "index": str(page)}
    print(json.dumps(record) if chosen.json else f"{num_cases} cases: {page}. {NOTICE}")
    return DONE


def predict(bids: Path, model: Path, out: Path) -> Predicted:
    """Segment a data set: the one place where this face meets the verb."""
    from brainsegfounder.workflows.predict import run_predict

    return run_predict([bids], model, out, "bids")


def _told(done: Predicted, *, as_json: bool) -> int:
    if as_json:
        files = {case: str(path) for case, path in done.files.items()}
        print(json.dumps({"notice": NOTICE, "files": files, "refused": done.refused}, indent=1))
    else:
        print(f"cases: {len(done.files)} segmented, {len(done.refused)} refused. {NOTICE}")
    for case, reason in done.refused.items():
        print(f"refused {case}: {reason}", file=sys.stderr)
    return BAD_DATA if done.refused else DONE


def _check_folders(bids: Path, out: Path) -> None:
    """Refuse results among the scans; `derivatives` of a data set is where results belong."""
    if not bids.is_dir():
        raise UsageError(f"{bids}: no such folder; expected a BIDS data set. Check its name.")
    source, place = bids.resolve(), out.resolve()
    if place == source or (source in place.parents and source / "derivatives" not in place.parents):
        raise UsageError(
            f"{out}: lies among the scans of {bids}; expected a folder apart, or one in its "
            "derivatives/. Choose another OUT_DIR."
        )
