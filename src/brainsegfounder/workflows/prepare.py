"""`prepare`: scans to a store; one bad case never stops the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from brainsegfounder.data.layouts import read_cases
from brainsegfounder.data.manifest import Case
from brainsegfounder.data.store import finish_store, write_case
from brainsegfounder.errors import ContrastError, DataError
from brainsegfounder.files import check_new_folder
from brainsegfounder.runs import progress
from brainsegfounder.settings import PreparationSettings, Recipe
from brainsegfounder.volumes.preparation import prepare_case

PREFERRED_ORDER = ("T1w", "T1ce", "T2w", "FLAIR")


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a preparation did.

    Attributes:
        store: The folder.
        cases: Names of the prepared cases.
        excluded: Cases left out because the recipe names their subject.
        refused: Reason for each case that could not be prepared.
    """

    store: Path
    cases: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def run_prepare(
    inputs: Sequence[Path], out: Path, recipe: Recipe | None = None, layout: str = "auto"
) -> Prepared:
    """Prepare every case found and write the store.

    Args:
        inputs: Folders or files.
        out: The store to make; must not exist, or be one whose preparation was cut off.
        recipe: Contrasts, labels, spacing and excluded subjects. Without one: the contrasts that
            all cases share, 1 mm, labels as they are.
        layout: How the inputs are laid out.

    Raises:
        OutputExistsError: `out` has content.
        DataError: No case at all could be prepared.
    """
    if not (out / "unfinished").is_file():
        check_new_folder(out)
    found = read_cases(inputs, layout)
    excluded = set(recipe.data.exclude_subjects) if recipe else set()
    result = Prepared(out, excluded=[c.case for c in found if c.subject in excluded])
    cases = [case for case in found if case.subject not in excluded]
    contrasts = recipe.data.contrasts if recipe else shared_contrasts(cases)
    settings = recipe.preparation if recipe else PreparationSettings()
    labels = recipe.data.labels if recipe else None
    out.mkdir(parents=True, exist_ok=True)
    (out / "unfinished").touch()
    written = _write_cases(cases, contrasts, settings, labels, result)
    if not written:
        first = next(iter(result.refused.values()), "every subject is excluded by the recipe")
        raise DataError(f"{out}: none of {len(found)} cases could be prepared; the first: {first}")
    finish_store(out, written, contrasts, settings)
    (out / "unfinished").unlink()
    return result


def shared_contrasts(cases: Sequence[Case]) -> tuple[str, ...]:
    """The contrasts that every case has, in the usual order.

    Raises:
        ContrastError: There is none.
    """
    shared = set.intersection(*(set(case.contrasts) for case in cases)) if cases else set()
    if not shared:
        raise ContrastError(
            f"{len(cases)} cases share no contrast; expected at least one. "
            "Give a recipe that names the contrasts, or prepare them apart."
        )
    return tuple(name for name in PREFERRED_ORDER if name in shared)


def _write_cases(
    cases: Sequence[Case],
    contrasts: Sequence[str],
    settings: PreparationSettings,
    labels: Mapping[str, int] | None,
    result: Prepared,
) -> list[Case]:
    written = []
    wants_labels = labels is None or bool(labels)
    with progress(len(cases), "preparing") as report:
        for number, case in enumerate(cases, start=1):
            try:
                label_path = case.label if wants_labels else None
                prepared = prepare_case(
                    case.case, case.contrasts, contrasts, settings, label=label_path
                )
                write_case(result.store, case, prepared, labels)
            except DataError as error:
                result.refused[case.case] = str(error)
            else:
                written.append(case)
                result.cases.append(case.case)
            report(number, case.case)
    return written
