"""Tables of a derivative as BIDS writes them: rows as TSV, and the lookup table of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from brainsegfounder.evaluation.lesion_table import Cell
from brainsegfounder.volumes.label_image import colours_of
from brainsegfounder.workflows.derivative_names import label_of
from brainsegfounder.workflows.derivative_record import printable

LABEL_COLUMNS = ("index", "name", "abbreviation", "color")


def table_text(rows: Sequence[Mapping[str, Cell]], columns: Sequence[str]) -> str:
    """Rows as TSV in the way of BIDS: `n/a` where there is nothing."""
    lines = ["\t".join(columns)]
    lines += ["\t".join(_cell(row.get(column)) for column in columns) for row in rows]
    return "\n".join(lines) + "\n"


def label_rows(names: Mapping[str, int]) -> list[dict[str, Cell]]:
    """A row for each label and the background, with `LABEL_COLUMNS`."""
    colours = colours_of(names)
    rows: list[dict[str, Cell]] = [
        {"index": 0, "name": "background", "abbreviation": "BG", "color": "#000000"}
    ]
    taken = {"BG"}
    for name, value in names.items():
        short = _abbreviation(name, taken)
        taken.add(short)
        rows.append({"index": value, "name": name, "abbreviation": short, "color": colours[value]})
    return sorted(rows, key=lambda row: int(str(row["index"])))


def _abbreviation(name: str, taken: set[str]) -> str:
    """First letters of several words, or of one; with a number where it is taken."""
    words = [label_of(word) for word in name.replace("_", " ").split()] or ["L"]
    short = ("".join(word[0] for word in words) if len(words) > 1 else words[0][:3]).upper()
    numbers = (f"{short}{number}" for number in range(2, len(taken) + 3))
    return next(text for text in (short, *numbers) if text not in taken)


def _cell(value: Cell) -> str:
    if value is None:
        return "n/a"
    return " ".join(printable(str(value)).split()) or "n/a"
