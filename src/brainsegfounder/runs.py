"""A run's folder: what was asked, with what, and everything measured on the way.

RUN/
recipe.resolved.yaml   the complete recipe; feeding it back repeats the run
provenance.json        versions, code state, command, device, fingerprints, seeds
metrics.jsonl          one record a step, a validation and a resume
fitted.json            fine-tuning: how a batch was split to fit the memory
finished.json          written last; says that nothing is left to do
bad_batches.json       which batches ended it, where loss or gradient was not finite
checkpoints/           see training/checkpoint.py
model/                 the best model so far, as a model folder
test/                  fine-tuning: label files and scores of the held-out cases
test-T1w-FLAIR/        the same with only these contrasts
report.html            pictures and tables
"""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from brainsegfounder.errors import OutputExistsError, RecipeError
from brainsegfounder.files import check_new_folder, restore_folder, sha256, write_text
from brainsegfounder.recipes import dump_recipe, load_recipe
from brainsegfounder.settings import Recipe

log = logging.getLogger(__name__)

PROVENANCE_NAME = "provenance.json"
# Each time that the test part was scored; see `workflows.audit_runs`.
OPENINGS_NAME = "test_openings.jsonl"
RECIPE_NAME = "recipe.resolved.yaml"
FINISHED_NAME = "finished.json"
RESEARCH_ONLY = "Research use only. Not a medical device."
PACKAGES = ("brainsegfounder", "torch", "numpy", "scipy", "nibabel", "blosc2", "safetensors")
SECONDS_BETWEEN_LINES = 60.0


@dataclass(frozen=True, slots=True)
class Run:
    """An opened run folder.

    Attributes:
        folder: Where it is.
        changes: Which fields of the recipe are not as the run was started with, each a sentence.
    """

    folder: Path
    changes: tuple[str, ...] = ()

    @property
    def recipe_sha256(self) -> str:
        """Of the recipe the run was started with."""
        return sha256(self.folder / RECIPE_NAME)

    @property
    def bad_batches(self) -> Path:
        """Where the batches are named that ended it."""
        return self.folder / "bad_batches.json"

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.folder / "checkpoints"

    @property
    def model(self) -> Path:
        """Where the best model is."""
        return self.folder / "model"

    def record(self, values: Mapping[str, float | int | str]) -> None:
        """Append one record to `metrics.jsonl`."""
        self._append("metrics.jsonl", values)

    def record_opening(
        self, weights_sha256: str, num_cases: int, contrasts: Sequence[str] = ()
    ) -> None:
        """Note that the test part was scored: once is honest, and `audit` counts.

        Args:
            weights_sha256: Of the model.
            num_cases: How many were scored.
            contrasts: Those it saw, where it did not see all.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        opening: dict[str, int | str] = {
            "time": now,
            "weights_sha256": weights_sha256,
            "num_cases": num_cases,
        }
        if contrasts:
            opening["contrasts"] = ", ".join(contrasts)
        self._append(OPENINGS_NAME, opening)

    def add_provenance(self, facts: Mapping[str, Any]) -> None:
        """Add facts that were found after `provenance.json` was written."""
        path = self.folder / PROVENANCE_NAME
        record = json.loads(path.read_text(encoding="utf-8"))
        write_text(path, json.dumps({**record, **facts}, indent=1))

    def finish(self, facts: Mapping[str, float | int | None]) -> None:
        """Note that nothing of the run is left to do."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_text(self.folder / FINISHED_NAME, json.dumps({"time": now, **facts}) + "\n")

    def _append(self, name: str, values: Mapping[str, float | int | str]) -> None:
        line = json.dumps(values).encode() + b"\n"
        with (self.folder / name).open("ab+") as file:
            if file.tell() and _last_byte(file) != b"\n":
                line = b"\n" + line  # the one before was cut off by a full disk
            file.write(line)

    def rewind(self, step: int) -> None:
        """Drop records beyond a step, as a resumed run makes these steps again."""
        if not (self.folder / "metrics.jsonl").is_file():
            return
        kept = [record for record in self.records() if record.get("step", 0) <= step]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_text(self.folder / "metrics.jsonl", text)

    def records(self, kind: str | None = None) -> list[dict[str, Any]]:
        """All records, or those of one kind; a line cut off by a kill is left out."""
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return []
        records = []
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
        return [record for record in records if kind is None or record.get("kind") == kind]


def open_run(
    folder: Path, recipe: Recipe, *, resume: bool, may_change: Collection[str] = ()
) -> Run:
    """Make a run's folder, or reopen it to go on.

    Args:
        folder: Where.
        recipe: What to run; saved as `recipe.resolved.yaml`.
        resume: Go on in a folder that has a run of the same recipe.
        may_change: Fields that may be other than the run was started with, such as
            `pretrain.num_workers`. What it was started with stays in `recipe.resolved.yaml`.

    Raises:
        OutputExistsError: It has content and `resume` is off.
        RecipeError: It was started with another recipe, or `may_change` names no field of it; the
            message names the fields.
    """
    _check_fields(may_change, recipe)
    saved = folder / RECIPE_NAME
    if resume and saved.is_file():
        changes = _check_same_recipe(load_recipe(saved), recipe, folder, may_change)
        restore_folder(Run(folder).model)
        (folder / FINISHED_NAME).unlink(missing_ok=True)
        return Run(folder, changes)
    if saved.is_file():
        raise OutputExistsError(
            f"{folder}: holds a run already; expected a new folder. Add --resume to go on with "
            "it, or choose another --out."
        )
    check_new_folder(folder)
    write_text(saved, dump_recipe(recipe))
    return Run(folder)


def write_provenance(run: Run, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write `provenance.json`: versions, code state, command and the facts given.

    Returns:
        What was written.
    """
    record = {
        "notice": RESEARCH_ONLY,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": {name: package_version(name) for name in PACKAGES},
        "code": _git_state(),
        **facts,
    }
    write_text(run.folder / PROVENANCE_NAME, json.dumps(record, indent=1))
    return record


@contextlib.contextmanager
def progress(
    total: int, what: str, start: int = 0, *, shown: bool = True
) -> Iterator[Callable[..., None]]:
    """Show how far a long job is: a bar on a terminal, one plain line a minute otherwise.

    Yields:
        A function to call with the number done so far and, if any, a few words to show.
    """
    if not shown:  # another process shows it
        yield lambda *_: None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line_reporter(total, what, start)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total, completed=start, note="")
        yield lambda done, note="": bar.update(task, completed=done, note=note)


def _line_reporter(total: int, what: str, start: int) -> Callable[..., None]:
    began_s = last_s = time.monotonic()

    def report(done: int, note: str = "") -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s < SECONDS_BETWEEN_LINES and done < total:
            return
        last_s = now_s
        rate = (done - start) / max(now_s - began_s, 1e-6)
        if rate <= 0:
            log.info("%s %d/%d %s", what, done, total, note)
            return
        left_min = (total - done) / rate / 60
        log.info("%s %d/%d, %.2f/s, %.0f min to go %s", what, done, total, rate, left_min, note)

    return report


def _check_same_recipe(
    found: Recipe, wanted: Recipe, folder: Path, may_change: Collection[str]
) -> tuple[str, ...]:
    """Refuse a change of a field that may not; give those that may, each as a sentence."""
    one, other = _flat(found.model_dump(mode="json")), _flat(wanted.model_dump(mode="json"))
    changed = {
        field: f"{field} was {one.get(field)}, now {other.get(field)}"
        for field in sorted(one.keys() | other.keys())
        if one.get(field) != other.get(field)
    }
    refused = [told for field, told in changed.items() if field not in may_change]
    if refused:
        raise RecipeError(
            f"{folder}: started with another recipe ({'; '.join(refused[:5])}). "
            "Give the same recipe to resume, or another --out; a change that you want needs "
            "--allow-config-change FIELD."
        )
    for told in changed.values():
        log.warning("%s: goes on with another recipe: %s", folder, told)
    return tuple(changed.values())


def _check_fields(names: Collection[str], recipe: Recipe) -> None:
    fields = _flat(recipe.model_dump(mode="json"))
    for name in names:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            advice = f"did you mean '{near[0]}'?" if near else "recipe show lists them."
            raise RecipeError(f"--allow-config-change {name}: no such field; {advice}")


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def package_version(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any]:
    """Commit of the source checkout this package runs from; empty for an installed one."""
    here = Path(__file__).parent

    def ask(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return {}
