"""The flow of cases as a CONSORT diagram: who was found, who left and why, who stayed.

The drawing is SVG markup to stand in the page itself, so its text can be read, searched and
printed, and it takes the page's colour and font (`currentColor`). It is built as an XML tree, so
that names can never become markup. Boxes and arrows carry the meaning; there is no other colour.
"""

from __future__ import annotations

import textwrap
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

FONT_PX, LINE_PX, PADDING_PX, GAP_PX = 15, 21, 12, 26
# Wider than the letters of common fonts are on average, so that lines end inside their box.
LETTER_PX = 0.58 * FONT_PX
INDENT_PX, ARROW_PX = 14, 6


@dataclass(frozen=True, slots=True)
class Box:
    """A box of the diagram.

    Attributes:
        heading: Its first, bold line.
        num_cases: How many cases it stands for.
        lines: Reasons or parts, each with its own count.
    """

    heading: str
    num_cases: int
    lines: Sequence[tuple[str, int]] = ()

    @property
    def sentence(self) -> str:
        """The box in words."""
        parts = "; ".join(f"{text}, {number:,}" for text, number in self.lines)
        return f"{self.heading}, {self.num_cases:,}" + (f" ({parts})" if parts else "")


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the flow: who is in it, and who leaves after it."""

    kept: Box
    left: Box | None = None


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things stand, in pixels: the main boxes, the side boxes, and the arrow down."""

    width: int
    main_width: int
    side_x: int
    spine_x: int


WIDE = _Layout(width=740, main_width=330, side_x=390, spine_x=165)
NARROW = _Layout(width=340, main_width=340, side_x=56, spine_x=28)


def consort_diagram(stages: Sequence[Stage], *, narrow: bool = False) -> str:
    """Draw the flow from the first stage to the last.

    Args:
        stages: From top to bottom, at least one; whoever leaves stands beside the arrow down.
        narrow: For a small screen: the boxes of those who left stand under the main ones.

    Returns:
        One `<svg>` element with a text alternative.
    """
    layout = NARROW if narrow else WIDE
    svg = ET.Element("svg")
    top, tops = 1, []
    for stage in stages:
        height = _draw_box(svg, stage.kept, 1, top, layout.main_width - 2)
        tops.append((top, top + height))
        top += height + GAP_PX
        if stage.left is not None:
            width = layout.width - layout.side_x - 1
            side = _draw_box(svg, stage.left, layout.side_x, top, width)
            _draw_arrow(svg, layout.spine_x, top + side / 2, layout.side_x, top + side / 2)
            top += side + GAP_PX
    for (_, bottom), (next_top, _) in pairwise(tops):
        _draw_arrow(svg, layout.spine_x, bottom, layout.spine_x, next_top)
    height_px = top - GAP_PX + 1
    svg.attrib.update(
        {
            "viewBox": f"0 0 {layout.width} {height_px}",
            "width": str(layout.width),
            "role": "img",
            "aria-label": describe(stages),
            "font-size": str(FONT_PX),
            "fill": "currentColor",
        }
    )
    return ET.tostring(svg, encoding="unicode")


def describe(stages: Sequence[Stage]) -> str:
    """The flow in words, for readers who do not see the drawing."""
    sentences = []
    for stage in stages:
        sentences.append(f"{stage.kept.sentence}.")
        if stage.left is not None:
            sentences.append(f"Leaving here: {stage.left.sentence}.")
    return "Flow of cases. " + " ".join(sentences)


def _draw_box(svg: ET.Element, box: Box, x: int, top: int, width: int) -> int:
    """Draw a box and its text; returns its height in pixels."""
    rows = list(_rows(box, width - 2 * PADDING_PX))
    height = len(rows) * LINE_PX + 2 * PADDING_PX - (LINE_PX - FONT_PX) // 2
    frame = {"x": x, "y": top, "width": width, "height": height, "rx": 6}
    ET.SubElement(svg, "rect", {**_texts(frame), "fill": "none", "stroke": "currentColor"})
    for number, (text, indent, bold) in enumerate(rows):
        place = {
            "x": x + PADDING_PX + indent,
            "y": top + PADDING_PX + FONT_PX - 2 + number * LINE_PX,
        }
        style = {"font-weight": "600"} if bold else {}
        ET.SubElement(svg, "text", {**_texts(place), **style}).text = text
    return height


def _rows(box: Box, width: int) -> Iterator[tuple[str, int, bool]]:
    """Each line of text with its indentation and whether it is bold."""
    for row in _wrapped(f"{box.heading} (n = {box.num_cases:,})", width / 1.06):
        yield row, 0, True
    for text, number in box.lines:
        first, *rest = _wrapped(f"{text} (n = {number:,})", width - INDENT_PX)
        yield first, 0, False
        for row in rest:
            yield row, INDENT_PX, False


def _wrapped(text: str, width: float) -> list[str]:
    # "(n = 3)" stays on one line.
    glued = text.replace("(n = ", "(n\u00a0=\u00a0")
    wrapper = textwrap.TextWrapper(int(width / LETTER_PX), break_on_hyphens=False)
    # TextWrapper breaks at ASCII spaces only, and so leaves the glue alone.
    return wrapper.wrap(glued) or [""]


def _draw_arrow(svg: ET.Element, x1: float, y1: float, x2: float, y2: float) -> None:
    _line(svg, x1, y1, x2, y2)
    back, wing = 1.5 * ARROW_PX, 0.7 * ARROW_PX
    if x1 == x2:
        points = ((x2, y2), (x2 - wing, y2 - back), (x2 + wing, y2 - back))
    else:
        points = ((x2, y2), (x2 - back, y2 - wing), (x2 - back, y2 + wing))
    text = " ".join(f"{x:g},{y:g}" for x, y in points)
    ET.SubElement(svg, "polygon", {"points": text})


def _line(svg: ET.Element, x1: float, y1: float, x2: float, y2: float) -> None:
    ends = _texts({"x1": x1, "y1": y1, "x2": x2, "y2": y2})
    ET.SubElement(svg, "line", {**ends, "stroke": "currentColor", "stroke-width": "1.5"})


def _texts(numbers: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:g}" for name, value in numbers.items()}
