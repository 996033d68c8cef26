import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from brainsegfounder.errors import RunError, UsageError
from brainsegfounder.evaluation.metrics import RULES, RegionScore
from brainsegfounder.evaluation.report import (
    Chapter,
    Film,
    GalleryCase,
    Highlight,
    Picture,
    Report,
    Table,
    pick_gallery,
    render,
    score_tables,
    write_report,
)
from brainsegfounder.runs import RESEARCH_ONLY

ATTACK = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
PICTURE = Picture("data:image/png;base64,iVBORw0KGgo=", "A caption.", "An alternative text.")
VOID = {"meta", "img", "br"}


class Outline(HTMLParser):
    """Checks that tags close in order, and keeps tags, attributes and text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.open, self.text = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


def score(case, region="WT", dice=0.5, empty="none"):
    return RegionScore(case, region, dice, 2.0, 3.0, 4.0, -1.0, empty)


def full_report(name="case-1"):
    return Report(
        title=f"Evaluation {name}",
        subtitle=name,
        highlights=[Highlight("Dice WT", "0.91", "SD 0.03")],
        warnings=[name],
        notes=[name, "A second note."],
        run={"recipe": "atlas.yaml", "peak learning rate": 1e-4, "fold": None, "amp": True},
        curves=[PICTURE],
        tables=score_tables([score(name), score("case-2", dice=0.75)]),
        gallery=[GalleryCase("best", name, PICTURE, {"Dice": 0.912345, name: name})],
        rules=RULES,
        provenance={"command": ["brainsegfounder", name], "path": Path("runs/x")},
    )


def test_a_report_holds_every_section_and_says_twice_what_it_is_not():
    html = render(full_report())
    outline = Outline(html)
    text = " ".join(" ".join(outline.text).split())
    for part in (
        "Evaluation case-1", "Warnings", "What was run", "atlas.yaml", "0.0001", "Figures",
        "Tables", "case-2", "0.750", "Cases", "0.9123", "A caption.", "Rules of the metrics",
        RULES["hd95_mm"], "Provenance", "SD 0.03",
    ):  # fmt: skip
        assert part in text, part
    assert text.count(RESEARCH_ONLY) == 2
    assert text.startswith("Evaluation case-1")
    assert text.endswith(RESEARCH_ONLY)
    assert outline.count("details") == 1
    assert all(attributes["alt"] for tag, attributes in outline.tags if tag == "img")


def test_a_report_reaches_for_nothing_outside_itself():
    html = render(full_report())
    outline = Outline(html)
    assert not re.search(r"https?://|//cdn|@import|url\(", html)
    assert all(link.startswith(("data:image/", "#")) for link in outline.links)
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in outline.tags}
    [policy] = [
        attributes["content"]
        for tag, attributes in outline.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy


def test_every_link_inside_a_report_leads_somewhere():
    outline = Outline(render(full_report()))
    places = {attributes.get("id") for _, attributes in outline.tags}
    assert {link[1:] for link in outline.links if link.startswith("#")} <= places


def test_names_that_look_like_html_are_shown_as_text():
    html = render(full_report(ATTACK))
    outline = Outline(html)
    assert "<script" not in html
    assert outline.count("script") == 0
    assert outline.count("img") == 2
    assert not any("onerror" in attributes for _, attributes in outline.tags)
    assert ATTACK in "".join(outline.text)


def test_a_page_of_a_run_reloads_itself_and_one_of_the_past_does_not():
    running = Outline(render(Report("t", status="Running: step 3.", reload_s=60)))
    assert ("meta", {"http-equiv": "refresh", "content": "60"}) in running.tags
    assert "Running: step 3." in running.text
    done = Outline(render(Report("t", status="Finished.")))
    assert all(attributes.get("http-equiv") != "refresh" for _, attributes in done.tags)


def test_pictures_over_time_stand_in_a_grid_with_names_of_rows_and_columns():
    film = Film(["given", "step 5"], [("a<b", [[PICTURE, PICTURE], [PICTURE]])])
    outline = Outline(render(Report("t", chapters=[Chapter("p", "Pictures", film=film)])))
    assert outline.count("img") == 3
    text = " ".join(" ".join(outline.text).split())
    assert "case given step 5 a<b" in text
    assert [a.get("scope") for tag, a in outline.tags if tag == "th"] == ["col"] * 3 + ["row"]


def test_an_empty_report_leaves_its_sections_out():
    outline = Outline(render(Report("Nothing yet")))
    assert outline.count("section") == 0
    assert outline.count("a") == 0


def test_numbers_stand_right_and_share_decimals_within_a_column():
    rows = [["a", 0.5, 1200, -12.345, None], ["b", 0.25, 3, 7.0, 2.0]]
    outline = Outline(render(Report("t", tables=[Table("c", ["n", "p", "k", "q", "r"], rows)])))
    text = " ".join(" ".join(outline.text).split())
    assert "a 0.500 1,200 −12.35 – b 0.250 3 7.00 2.000" in text
    cells = [attributes.get("class") for tag, attributes in outline.tags if tag == "td"]
    assert cells == [None, "number", "number", "number", "number"] * 2


def test_values_of_other_kinds_in_a_column_have_decimals_of_their_own():
    rows = [["Dice", 0.712], ["volume", 8993.85], ["nothing", 0.0]]
    outline = Outline(render(Report("t", tables=[Table("c", ["", "BSF"], rows)])))
    assert "Dice 0.712 volume 8994 nothing 0" in " ".join(" ".join(outline.text).split())


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "deep/report.html"
    write_report(path, full_report("Größe µ"))
    assert "Größe µ" in path.read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(RunError, match="cannot be written"):
        write_report(path / "report.html", full_report())


def test_a_picture_must_be_embedded():
    with pytest.raises(ValueError, match="not an embedded picture"):
        Picture("https://example.org/x.png", "", "")


def test_a_table_with_a_short_row_is_refused():
    with pytest.raises(ValueError, match="1 cells"):
        render(Report("t", tables=[Table("c", ["a", "b"], [["x"]])]))


def test_the_gallery_shows_the_best_the_median_and_the_worst_case():
    dices = {"a": 0.9, "b": 0.1, "c": 0.5, "d": 0.7}
    scores = [score(case, dice=value) for case, value in dices.items()]
    scores += [score("b", "ET", 1.0), score("e", dice=1.0, empty="both")]
    scores += [score("f", dice=0.0, empty="reference"), score("g", dice=0.0, empty="prediction")]
    assert pick_gallery(scores, "WT") == {"best": "a", "median": "c", "worst": "g"}
    assert pick_gallery(scores[:1], "WT") == {"best": "a", "median": "a", "worst": "a"}
    only_empty = [score("e", dice=1.0, empty="both")]
    assert pick_gallery(only_empty, "WT")["best"] == "e"
    with pytest.raises(UsageError, match="'NCR'; regions found: WT, ET"):
        pick_gallery(scores, "NCR")
