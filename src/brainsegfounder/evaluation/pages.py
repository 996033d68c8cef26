"""What every page is made of: tables and pictures, texts of numbers, and the templates.

`page.css` is the style of all pages, `page_parts.html.j2` what they show in the same way. Every
text is escaped as it enters a template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined

from brainsegfounder.runs import RESEARCH_ONLY

Cell = str | int | float | None

MISSING = "–"
# So many times the smallest value: the column holds values of other kinds.
MIXED = 5_000


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure with what is to be read beside it.

    Attributes:
        data_uri: `data:image/...;base64,...`, as `figures` gives it.
        caption: What the picture shows and how it was made.
        alt: What a reader who does not see the picture needs to know.
    """

    data_uri: str
    caption: str
    alt: str

    def __post_init__(self) -> None:
        if not self.data_uri.startswith(("data:image/png;base64,", "data:image/svg+xml;base64,")):
            raise ValueError(f"not an embedded picture: {self.data_uri[:40]!r}")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns; numbers are aligned and rounded per column, None shows as a dash."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True, slots=True)
class PrintedTable:
    """A table as text: every cell rounded as its column wants it.

    Attributes:
        caption: As given.
        columns: Heading of each column, and whether it holds numbers (they stand right).
        rows: Text of each cell, beside the same mark.
    """

    caption: str
    columns: list[tuple[str, bool]]
    rows: list[list[tuple[str, bool]]]

    @classmethod
    def of(cls, table: Table) -> PrintedTable:
        """Round a table's cells, column by column."""
        for row in table.rows:
            if len(row) != len(table.columns):
                raise ValueError(f"{table.caption!r}: {len(row)} cells, {table.columns}")
        columns = [[row[number] for row in table.rows] for number in range(len(table.columns))]
        printed = [_column(column) for column in columns]
        numeric = [
            any(isinstance(cell, int | float) for cell in column)
            and not any(isinstance(cell, str) for cell in column)
            for column in columns
        ]
        rows = [list(zip(row, numeric, strict=True)) for row in zip(*printed, strict=True)]
        return cls(table.caption, list(zip(table.columns, numeric, strict=True)), rows)


def _column(cells: Sequence[Cell]) -> list[str]:
    """Floats of one column with one number of decimals: more for small numbers.

    Where they are of other kinds (a Dice above a volume), each stands as it would alone.
    """
    sizes = [abs(cell) for cell in cells if isinstance(cell, float) and cell]
    largest = max(sizes, default=0.0)
    if 0 < largest < 0.01 or largest > MIXED * min(sizes, default=largest):
        return [cell_text(cell) for cell in cells]
    decimals = 3 if largest < 10 else 2 if largest < 100 else 1
    return [
        f"{cell:.{decimals}f}".replace("-", "−") if isinstance(cell, float) else cell_text(cell)
        for cell in cells
    ]


def cell_text(value: Cell) -> str:
    """One value as text, when it stands alone."""
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "−")
    return str(value)


def millilitres(volume_ml: float) -> str:
    """A volume with as many decimals as a reader needs: two below 10 mL, else one."""
    if 0 < volume_ml < 0.005:
        return "< 0.01"
    return f"{volume_ml:.2f}" if volume_ml < 10 else f"{volume_ml:,.1f}"


def render_page(template: str, **fields: object) -> str:
    """Fill one of this package's templates.

    Args:
        template: Its file name.
        **fields: What it names; `disclaimer` is added.

    Returns:
        HTML text, with every field escaped.
    """
    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(shipped_text),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = cell_text
    environment.filters["ml"] = millilitres
    environment.filters["printed"] = PrintedTable.of
    return environment.get_template(template).render(disclaimer=RESEARCH_ONLY, **fields)


def shipped_text(name: str) -> str:
    """The text of a file that stands beside this one."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
