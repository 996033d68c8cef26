"""`tables`: the paper's tables and figures, with our numbers beside the published ones.

What was not run stays empty. Our numbers are of other data, sizes and schedules than the paper's
unless a user ran it on them, so numbers beside each other are for orientation; the page says what
differs, and what the comparisons within our own runs show.

OUT/
report.html              the page
table-N.csv, .md, .tex   each table
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from brainsegfounder.data.store import Store, open_store
from brainsegfounder.errors import UsageError
from brainsegfounder.evaluation.participants import Participants, read_participants
from brainsegfounder.evaluation.published import SOURCE
from brainsegfounder.evaluation.report import (
    Chapter,
    Highlight,
    Picture,
    Report,
    Table,
    write_report,
)
from brainsegfounder.evaluation.tables import to_csv, to_latex, to_markdown
from brainsegfounder.files import check_new_folder, write_text
from brainsegfounder.workflows.experiments import paper_tables as tables
from brainsegfounder.workflows.experiments.records import RecordedGrid, read_grids
from brainsegfounder.workflows.experiments.scales import curves_picture
from brainsegfounder.workflows.prepare_report import stored_flow_drawing
from brainsegfounder.workflows.prepare_tables import subjects_chapter

NOT_RUN = "Not run."


def run_tables(
    runs: Sequence[Path],
    out: Path,
    *,
    stores: Sequence[Path] = (),
    participants: Path | None = None,
    published_curves: Path | None = None,
) -> Path:
    """Write the paper's tables and figures from grids of runs.

    Args:
        runs: Grids, or folders of grids.
        out: A new folder.
        stores: What was prepared, for Table 1 and Figure 3.
        participants: A table of age and sex, for Table 7 and Figure 2.
        published_curves: Points of Figure 4; see `figures_scales.read_published`.

    Returns:
        The page.

    Raises:
        DataError: A grid, store or table cannot be read.
        UsageError: Participants without a store.
        OutputExistsError: `out` has content.
    """
    check_new_folder(out)
    if participants is not None and not stores:
        raise UsageError("--participants: describe subjects of a store; expected --store, too.")
    grids = read_grids(runs)
    opened = [open_store(path) for path in stores]
    people = read_participants(participants) if participants else None
    chapters = _chapters(grids, opened, people, published_curves)
    for chapter in chapters:
        for number, table in enumerate(chapter.tables):
            _write(out, f"{chapter.id}{'' if number == 0 else f'-{number + 1}'}", table)
    there = [chapter for chapter in chapters if NOT_RUN not in chapter.paragraphs]
    page = Report(
        title="The paper's tables and figures",
        subtitle=f"Our runs beside what {SOURCE} prints.",
        highlights=[
            Highlight("grids", str(len(grids))),
            Highlight("finished runs", str(sum(len(grid.runs) for grid in grids))),
            Highlight("tables and figures with runs", f"{len(there)} of {len(chapters)}"),
        ],
        warnings=_warnings(grids),
        chapters=[_certainty(grids), *chapters],
        provenance={grid.name: [run.facts.get("sha256") for run in grid.runs] for grid in grids},
    )
    write_report(out / "report.html", page)
    return out / "report.html"


def _chapters(
    grids: Sequence[RecordedGrid],
    stores: Sequence[Store],
    people: Participants | None,
    published_curves: Path | None,
) -> list[Chapter]:
    """Tables 1 to 9 and Figures 2 to 5, in the paper's order."""
    runs = [run for grid in grids for run in grid.runs]
    return [
        _chapter("table-1", "Table 1. Data", *tables.data(stores)),
        _people(stores, people),
        _flows(stores),
        _chapter("table-2", "Table 2. Sizes of the network", *tables.sizes(runs)),
        _chapter("table-3", "Table 3. Training", *tables.training(runs)),
        _figure_4(grids, published_curves),
        _chapter("table-4", "Table 4. Folds", *tables.folds(grids)),
        _chapter("table-5", "Table 5. One contrast", *tables.one_contrast(grids)),
        _chapter("table-6", "Table 6. Lesions", *tables.lesions(grids)),
        _chapter("table-8", "Table 8. Folds by scale", *tables.folds_by_scale(grids)),
        _few_shot(grids),
    ]


def _chapter(
    name: str, title: str, ours: Sequence[Table], published: Sequence[Table], notes: Sequence[str]
) -> Chapter:
    told = list(notes) if ours else [NOT_RUN, *notes]
    return Chapter(name, title, told, tables=[*ours, *published])


def _people(stores: Sequence[Store], people: Participants | None) -> Chapter:
    """Table 7 and Figure 2."""
    _, published, notes = tables.ages()
    found = [subjects_chapter(store, people) for store in stores] if people else []
    there = [chapter for chapter in found if chapter is not None]
    return Chapter(
        "table-7",
        "Table 7 and Figure 2. Subjects",
        [*(text for chapter in there for text in chapter.paragraphs), *notes]
        if there
        else [NOT_RUN, *notes],
        pictures=[picture for chapter in there for picture in chapter.pictures],
        tables=[*(table for chapter in there for table in chapter.tables), *published],
    )


def _flows(stores: Sequence[Store]) -> Chapter:
    """Figure 3, of the first store; the others have it on their own pages."""
    told = ["Each store has its flow on its own page, too (report.html in its folder)."]
    drawing = stored_flow_drawing(stores[0]) if stores else None
    return Chapter("figure-3", "Figure 3. Flow of cases", told if stores else [NOT_RUN], drawing)


def _figure_4(grids: Sequence[RecordedGrid], published_curves: Path | None) -> Chapter:
    """Figure 4."""
    runs = [run for grid in grids if grid.kind == "scales" for run in grid.runs]
    stage1 = [(run.recipe.model.scale, run.folder) for run in runs if run.folder.name == "stage1"]
    if not stage1:
        return Chapter("figure-4", "Figure 4. Losses by scale", [NOT_RUN])
    picture = curves_picture(stage1, published_curves)
    return Chapter("figure-4", "Figure 4. Losses by scale", wide=[picture])


def _few_shot(grids: Sequence[RecordedGrid]) -> Chapter:
    """Table 9 and Figure 5."""
    chapter = _chapter("table-9", "Table 9 and Figure 5. Fewer labels", *tables.few_shot(grids))
    pictures = []
    for grid in grids:
        figures = grid.folder / "results" / "comparison" / "figures"
        for path in sorted(figures.glob("labels*dice*.svg")) if grid.kind == "fewshot" else []:
            uri = base64.b64encode(path.read_bytes()).decode("ascii")
            told = f"{grid.name}: {path.stem.replace('-', ' ')}"
            pictures.append(Picture(f"data:image/svg+xml;base64,{uri}", told, told))
    return replace(chapter, pictures=pictures)


def _certainty(grids: Sequence[RecordedGrid]) -> Chapter:
    """What was reproduced, what differs, and how sure that is, in sentences."""
    told = []
    for grid in grids:
        told.append(f"{grid.name} ({grid.kind}): {tables.differences(grid)}")
        told += [f"{grid.name}: {sentence}" for sentence in grid.summaries]
        if not grid.summaries:
            told.append(f"{grid.name}: nothing was compared, so nothing is shown.")
    told.append(
        "Differences between our numbers and published ones are not tested: data, sizes, schedules "
        "and metrics differ, and the published predictions are not at hand."
    )
    return Chapter("certainty", "What was reproduced, what differs, how certain it is", told)


def _warnings(grids: Sequence[RecordedGrid]) -> list[str]:
    return [
        f"{grid.name}: {grid.num_cells - len(grid.runs)} of {grid.num_cells} runs are not finished."
        for grid in grids
        if not grid.is_finished
    ]


def _write(out: Path, name: str, table: Table) -> None:
    write_text(out / f"{name}.csv", to_csv(table))
    write_text(out / f"{name}.md", to_markdown(table))
    write_text(out / f"{name}.tex", to_latex(table, name))
