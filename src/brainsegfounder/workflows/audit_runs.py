"""What a finished run says about who it has seen: is that one story, and an honest one?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brainsegfounder.data.identity import person, spelling
from brainsegfounder.data.layouts.names import subject_of
from brainsegfounder.data.splits import Split
from brainsegfounder.errors import DataError, Problem
from brainsegfounder.runs import OPENINGS_NAME, PROVENANCE_NAME

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at in a run.

    Attributes:
        run: Its name.
        code: Which guard: `parts_disjoint`, `choices`, `test_opened_once`, `split_unchanged`.
        is_met: Whether it holds.
        sentence: What was found.
    """

    run: str
    code: str
    is_met: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class SeenBy:
    """Whom a run or model has seen.

    Attributes:
        marks: Fingerprints of every scan of its training and validation, and of its start weights.
        subjects: Names of its training and validation subjects; a model folder has none.
    """

    marks: frozenset[str]
    subjects: tuple[str, ...]


def read_provenance(folder: Path) -> dict[str, Any]:
    """The provenance of a run or of a model folder.

    Raises:
        DataError: It cannot be read, or is not a dictionary.
    """
    path = folder / PROVENANCE_NAME
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(_unreadable(path, str(error))) from error
    if not isinstance(facts, dict):
        raise DataError(_unreadable(path, type(facts).__name__))
    return facts


def seen_by(facts: Mapping[str, Any]) -> SeenBy:
    """Whom a run or model has seen, by its provenance."""
    subjects = (*_names(facts, "train"), *_names(facts, "validation"))
    return SeenBy(frozenset(map(str, facts.get("seen_scans", ()))), subjects)


def check_run(
    name: str, folder: Path, facts: Mapping[str, Any], aliases: Mapping[str, str]
) -> Iterator[Check]:
    """Check a run's account of itself.

    Args:
        name: Of the run, for the report.
        folder: Of the run.
        facts: Its provenance.
        aliases: Which names are one person's.
    """
    if "train_subjects" not in facts:
        return
    people = {part: {person(who, aliases) for who in _names(facts, part)} for part in PARTS}
    yield _check_disjoint(name, people)
    yield _check_choices(name, facts, people["test"], aliases)
    yield _check_split(name, facts)
    yield from _check_openings(name, folder)


def check_held_out(run: Path, cases: Iterable[str]) -> dict[str, Any]:
    """Refuse to score, in a run's name, what it was not tested on.

    Args:
        run: Its folder.
        cases: Names of the cases to score; a case belongs to the subject that its name shows.

    Returns:
        The run's split, for the scores' record: `split_sha256` and `fold`.

    Raises:
        DataError: The split is not the one that the run was trained with, or a case is of a
            subject that it trained on or chose its model by.
    """
    facts = read_provenance(run)
    file = f"{run.name}/{PROVENANCE_NAME}"
    kept = _check_split(run.name, facts)
    if not kept.is_met:
        advice = "Score with the run's folder as training left it."
        raise DataError(Problem("split_changed", file, kept.sentence, "an unchanged split", advice))
    seen = {spelling(who) for part in ("train", "validation") for who in _names(facts, part)}
    leaked = [c for c in cases if {spelling(c), spelling(subject_of(c)[0])} & seen]
    if leaked:
        raise DataError(
            Problem(
                code="not_held_out",
                file=file,
                found=f"{_some(leaked)}: seen in training or in the choice of the model",
                expected="cases of its test subjects or of others",
                advice="Leave these cases out.",
            )
        )
    return {"split_sha256": facts.get("sha256", {}).get("split"), "fold": facts.get("fold")}


def _check_disjoint(name: str, people: Mapping[str, set[str]]) -> Check:
    shared = {
        f"{who} ({one}, {other})"
        for one, other in (("train", "test"), ("validation", "test"), ("train", "validation"))
        for who in people[one] & people[other]
    }
    counts = ", ".join(f"{len(people[part])} {part}" for part in PARTS)
    found = f"in two parts: {_some(sorted(shared))}" if shared else f"{counts}, none in two"
    return Check(name, "parts_disjoint", not shared, f"Subjects: {found}.")


def _check_choices(
    name: str, facts: Mapping[str, Any], test: set[str], aliases: Mapping[str, str]
) -> Check:
    choices = facts.get("choices")
    if not isinstance(choices, dict):
        return Check(name, "choices", False, "It does not say on whom its choices were made.")
    leaked = []
    for what, basis in choices.items():
        listed = basis if isinstance(basis, list) else facts.get(str(basis), ())
        seen = {person(str(who), aliases) for who in listed} & test
        if seen:
            leaked.append(f"{what} was chosen on {len(seen)} test subjects")
    told = "; ".join(f"{what}: {_basis(basis)}" for what, basis in choices.items())
    return Check(name, "choices", not leaked, f"{'; '.join(leaked) or told}.")


def _basis(basis: object) -> str:
    return f"{len(basis)} subjects" if isinstance(basis, list) else str(basis).replace("_", " ")


def _check_split(name: str, facts: Mapping[str, Any]) -> Check:
    told = facts.get("sha256", {}).get("split")
    fold = facts.get("fold")
    train, validation, test = (tuple(_names(facts, part)) for part in PARTS)
    split = Split(train, validation, test, fold)
    is_met = split.sha256 == told
    found = "as it was" if is_met else "the lists of subjects are not those it was trained with"
    return Check(name, "split_unchanged", is_met, f"Split {str(told)[:12]}: {found}.")


def _check_openings(name: str, folder: Path) -> Iterator[Check]:
    try:
        lines = (folder / OPENINGS_NAME).read_text(encoding="utf-8").splitlines()
        openings = [json.loads(line) for line in lines if line.strip()]
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise DataError(_unreadable(folder / OPENINGS_NAME, str(error))) from error
    weights = {opening.get("weights_sha256") for opening in openings}
    # With fewer contrasts it is another question, each to be asked once.
    seen = [opening.get("contrasts", "") for opening in openings]
    is_met = bool(seen) and len(set(seen)) == len(seen) and len(weights) <= 1
    if is_met:
        others = "; ".join(contrasts for contrasts in seen if contrasts)
        more = f", and once with only each of {others}" if others else ""
        sentence = f"The test part was scored once{more}."
    else:
        sentence = (
            f"The test part was scored {len(openings)} times, with {len(weights)} different "
            "weights; a choice between them would be a choice on the test part."
        )
    yield Check(name, "test_opened_once", is_met, sentence)


def _names(facts: Mapping[str, Any], part: str) -> list[str]:
    return [str(who) for who in facts.get(f"{part}_subjects", ())]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _unreadable(path: Path, found: str) -> Problem:
    return Problem(
        code="run_unreadable",
        file=f"{path.parent.name}/{path.name}",
        found=found,
        expected="what a run wrote",
        advice="Name the folder of a run or of a model.",
    )
