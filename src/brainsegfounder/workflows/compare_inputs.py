"""What `compare` is given: names, folders and files of scores, gathered into methods.

`NAME=PATH` names a method; the same name again adds files to it (folds, seeds). A path is a file of
scores, an evaluation, a run, or a folder of runs. `NAME@fold=0,seed=1,labels=50=PATH` says what
the files do not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brainsegfounder.errors import DataError, Problem, UsageError
from brainsegfounder.evaluation.pairing import Method
from brainsegfounder.evaluation.score_rows import TAGS, ScoreFile, read_scores

NAMED = re.compile(r"(?P<name>[^=@/\\]+)(?:@(?P<tags>\w+=[^=,]+(?:,\w+=[^=,]+)*))?=(?P<path>.+)")
SCORE_NAMES = ("metrics.json", "metrics.csv")
TEST = "test"


@dataclass(frozen=True, slots=True)
class Source:
    """One argument: the method it belongs to, what is said of it, and where it is."""

    name: str
    tags: Mapping[str, str]
    path: Path


@dataclass(frozen=True, slots=True)
class Gathered:
    """All scores.

    Attributes:
        methods: In order of first mention.
        files: Those of each method.
        convention: By which all were computed, or None where no file says.
        warnings: What a reader must know.
        of_structures: Whether a file says that its regions are structures, which have no lesions.
    """

    methods: Sequence[Method]
    files: Mapping[str, Sequence[ScoreFile]]
    convention: str | None
    warnings: Sequence[str]
    of_structures: bool = False


def gather(words: Sequence[str], *, by_labels: bool = False) -> Gathered:
    """Read everything that `compare` is given.

    Args:
        words: `PATH`, `NAME=PATH` or `NAME@tag=value=PATH`; the first is the baseline's.
        by_labels: Take the number of labelled subjects from the runs.

    Raises:
        UsageError: Fewer than two methods, an unknown tag, or two conventions.
        DataError: A file cannot be read, or scores of one training stand in two files.
    """
    files: dict[str, list[ScoreFile]] = {}
    for word in words:
        source = parse_source(word)
        for path in score_files(source.path):
            tags = {**_run_tags(path, by_labels=by_labels), **source.tags}
            files.setdefault(source.name, []).append(read_scores(path, tags))
    if len(files) < 2:
        raise UsageError(
            f"{', '.join(words) or 'nothing'}: {len(files)} method(s); expected two or more. "
            "Name them: compare ours=RUNS/ours theirs=RUNS/theirs --out DIR"
        )
    for name, of_method in files.items():
        _check_once(name, of_method)
    methods = [Method(name, [row for f in of for row in f.rows]) for name, of in files.items()]
    warnings = [*_split_warnings(files), *_fold_warnings(methods), *_label_warnings(methods)]
    kinds = {file.extra.get("regions_are") for of in files.values() for file in of}
    return Gathered(methods, files, _convention(files), warnings, "structures" in kinds)


def parse_source(word: str) -> Source:
    """An argument in parts; an existing path needs no name and takes that of its run.

    Raises:
        UsageError: A tag is unknown.
    """
    found = NAMED.fullmatch(word)
    if found is None or Path(word).exists():
        path = Path(word)
        inner = path.parent if path.is_file() else path
        run = inner.resolve().parent if inner.name == TEST else inner.resolve()
        plain = path.is_file() and path.name not in SCORE_NAMES
        return Source(path.stem if plain else run.name, {}, path)
    tags = dict(part.split("=", 1) for part in (found["tags"] or "").split(",") if part)
    unknown = [tag for tag in tags if tag not in TAGS]
    if unknown:
        raise UsageError(
            f"{word}: no such tag as '{unknown[0]}'; expected {', '.join(TAGS)}, as in "
            "NAME@fold=0,seed=1=PATH"
        )
    return Source(found["name"].strip(), tags, Path(found["path"]))


def score_files(path: Path) -> list[Path]:
    """The files of scores in a path: the file itself, an evaluation's, a run's, or those of runs.

    Raises:
        DataError: There is none.
    """
    if path.is_file():
        return [path]
    for folder in (path, path / TEST):
        found = [folder / name for name in SCORE_NAMES if (folder / name).is_file()]
        if found:
            return found[:1]
    folders = sorted({p.parent for name in SCORE_NAMES for p in path.rglob(name)})
    if not folders:
        raise DataError(
            Problem(
                code="no_scores",
                file=str(path),
                found="no metrics.json or metrics.csv" if path.exists() else "no file or folder",
                expected="an evaluation, a fine-tuning run, a folder of these, or a table",
                advice="Run `evaluate` or `finetune` first, or correct the path; "
                "methods are named as NAME=PATH.",
            )
        )
    return [score_files(folder)[0] for folder in folders]


def run_folder(scores: Path) -> Path | None:
    """The run that wrote a file of scores, or None."""
    for folder in (scores.parent, scores.parent.parent):
        if (folder / "provenance.json").is_file():
            return folder
    return None


def _run_tags(scores: Path, *, by_labels: bool) -> dict[str, str]:
    """Fold and seed by the provenance of a run; nothing for other files."""
    folder = run_folder(scores)
    if folder is None:
        return {}
    try:
        facts: dict[str, Any] = json.loads((folder / "provenance.json").read_text("utf-8"))
        tags = {tag: str(facts[tag]) for tag in ("fold", "seed") if facts.get(tag) is not None}
        if by_labels:
            tags["labels"] = str(len(facts["train_subjects"]) + len(facts["validation_subjects"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            Problem(
                code="provenance_unreadable",
                file=str(folder / "provenance.json"),
                found=f"{type(error).__name__}: {error}",
                expected="the provenance of a fine-tuning run",
                advice="Restore it, or give the file of scores from a folder of its own.",
            )
        ) from error
    return tags


def _check_once(name: str, files: Sequence[ScoreFile]) -> None:
    """Refuse two files of one method that score the same case after the same training."""
    seen: dict[tuple[str | None, ...], Path] = {}
    for file in files:
        for row in file.rows:
            key = (row.case, row.region, row.fold, row.seed, row.labels)
            other = seen.setdefault(key, file.path)
            if other is not file.path:
                raise DataError(
                    Problem(
                        code="score_twice",
                        file=str(file.path),
                        found=f"case {row.case}, region {row.region} of {name} stands in "
                        f"{other}, too, after the same training",
                        expected="one score for each training",
                        advice=f"Say what tells them apart: {name}@seed=0=PATH {name}@seed=1=PATH.",
                    )
                )


def _convention(files: Mapping[str, Sequence[ScoreFile]]) -> str | None:
    found = {file.convention: file.path for of in files.values() for file in of if file.convention}
    if len(found) > 1:
        told = "; ".join(f"{path}: {name}" for name, path in found.items())
        raise UsageError(
            f"{told}; expected one convention. Numbers of two conventions are not comparable: "
            "evaluate the predictions again with one."
        )
    return next(iter(found), None)


def _split_warnings(files: Mapping[str, Sequence[ScoreFile]]) -> list[str]:
    """Where methods were tested on other splits."""
    splits = {
        name: {file.split_sha256 for file in of if file.split_sha256} for name, of in files.items()
    }
    known = [name for name, of in splits.items() if of]
    return [
        f"{name} and {known[0]} were trained on different splits of the subjects; only cases that "
        "both tested are compared."
        for name in known[1:]
        if splits[name] != splits[known[0]]
    ]


def _fold_warnings(methods: Sequence[Method]) -> list[str]:
    """Where cases that were tested together by one method were not so by the first."""
    first, *others = methods
    told = _folds_of(first)
    found = []
    for method in others:
        folds = _folds_of(method)
        pairs = {(told[case], folds[case]) for case in told.keys() & folds.keys()}
        # Folds may be numbered otherwise, but each must be one of the other's.
        if len(pairs) > min(len({a for a, _ in pairs}), len({b for _, b in pairs})):
            found.append(
                f"{method.name} and {first.name} were cross-validated with different folds: a case "
                "was tested by models that were trained on other subjects."
            )
    return found


def _folds_of(method: Method) -> dict[str, str]:
    """The fold of each case, where one is named."""
    return {row.case: row.fold for row in method.rows if row.fold is not None}


def _label_warnings(methods: Sequence[Method]) -> list[str]:
    """Where each method was trained on one number of labels, but not all on the same."""
    levels = {method.name: {row.labels for row in method.rows} for method in methods}
    if any(len(of) > 1 for of in levels.values()) or len(set.union(*levels.values())) == 1:
        return []
    told = ", ".join(f"{name} {next(iter(of)) or 'not stated'}" for name, of in levels.items())
    return [f"The methods were trained on different numbers of labels ({told})."]


def named(methods: Sequence[Method], baseline: str | None) -> list[Method]:
    """The methods with the baseline first.

    Raises:
        UsageError: No method has that name.
    """
    if baseline is None:
        return list(methods)
    names = [method.name for method in methods]
    if baseline not in names:
        raise UsageError(f"--baseline {baseline}: no such method; expected {', '.join(names)}.")
    return sorted(methods, key=lambda method: method.name != baseline)
