import xml.etree.ElementTree as ET

import pytest

from brainsegfounder.evaluation.consort import FONT_PX, Box, Stage, consort_diagram, describe

ATTACK = "</text><script>alert(1)</script>"
STAGES = [
    Stage(
        Box("Cases found", 53),
        Box("Not considered", 32, [("excluded by the recipe", 30), ("left aside", 2)]),
    ),
    Stage(Box("Cases considered", 21), Box("Refused", 9, [("gz truncated " * 6, 8), (ATTACK, 1)])),
    Stage(Box("Prepared", 12, [("subjects", 1234)])),
]


def boxes_of(svg):
    names = ("x", "y", "width", "height")
    return [[float(node.get(n)) for n in names] for node in svg.iter("rect")]


@pytest.mark.parametrize("narrow", [False, True])
def test_every_heading_reason_and_count_stands_in_the_drawing(narrow):
    svg = ET.fromstring(consort_diagram(STAGES, narrow=narrow))
    text = " ".join(node.text for node in svg.iter("text")).replace("\u00a0", " ")
    for part in ("Cases found (n = 53)", "excluded by the recipe", "(n = 30)", "(n = 1,234)"):
        assert part in text, part
    assert len(boxes_of(svg)) == 5


@pytest.mark.parametrize("narrow", [False, True])
def test_boxes_stay_apart_and_inside_and_hold_their_text(narrow):
    svg = ET.fromstring(consort_diagram(STAGES, narrow=narrow))
    _, _, width, height = map(float, svg.get("viewBox").split())
    boxes = boxes_of(svg)
    for x, y, wide, high in boxes:
        assert x >= 0
        assert y >= 0
        assert x + wide <= width
        assert y + high <= height
    for number, (_, y, _, high) in enumerate(boxes):
        assert all(y + high < other[1] for other in boxes[number + 1 :])
    for node in svg.iter("text"):
        x, y = float(node.get("x")), float(node.get("y"))
        # Half of the font's size is less than most letters take.
        right = x + len(node.text) * FONT_PX / 2
        assert any(bx < x and right < bx + w and by < y < by + h for bx, by, w, h in boxes)


def test_one_arrow_goes_down_for_each_stage_and_one_aside_for_each_loss():
    svg = ET.fromstring(consort_diagram(STAGES))
    assert len(list(svg.iter("polygon"))) == 2 + 2


def test_names_cannot_become_markup():
    drawn = consort_diagram(STAGES)
    assert "<script" not in drawn
    assert "script" not in {node.tag for node in ET.fromstring(drawn).iter()}


def test_the_flow_can_be_read_without_seeing_it():
    svg = ET.fromstring(consort_diagram(STAGES))
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == describe(STAGES)
    assert "Leaving here: Not considered, 32 (excluded by the recipe, 30; left aside, 2)." in (
        describe(STAGES)
    )


def test_a_flow_of_one_stage_is_one_box():
    svg = ET.fromstring(consort_diagram([Stage(Box("Prepared", 0))]))
    assert len(boxes_of(svg)) == 1
    assert not list(svg.iter("polygon"))
