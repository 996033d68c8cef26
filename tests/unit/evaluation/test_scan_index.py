import re

from brainsegfounder.evaluation.pages import Picture
from brainsegfounder.evaluation.scan_index import IndexRow, ScanIndex, write_scan_index
from brainsegfounder.evaluation.scan_page import ExpectedDice
from brainsegfounder.runs import RESEARCH_ONLY

PIXEL = Picture("data:image/png;base64,iVBORw0KGgo=", "", "A slice")
HOSTILE = '"><script>alert(1)</script>'


def written(tmp_path, index):
    path = tmp_path / "index.html"
    write_scan_index(path, index)
    return path.read_text(encoding="utf-8")


def row(case, **more):
    return IndexRow(case, f"{case}/page.html", {"whole": 12.3}, PIXEL, **more)


def test_scans_that_need_review_come_first_and_say_why(tmp_path):
    rows = [row("a"), row("c", review=["Looks like a T1w scan."]), row("b", review=["x", "y"])]
    page = written(tmp_path, ScanIndex("Three scans", rows))
    assert re.findall(r'<th scope="row"><a href="(.)/', page) == ["b", "c", "a"]
    assert "Looks like a T1w scan." in page
    assert page.count("Needs review") == 2
    assert page.count(RESEARCH_ONLY) == 2


def test_refused_scans_are_listed_with_their_reasons(tmp_path):
    refused = {"sub-07": "sub-07: no T1ce found. Add the scan."}
    page = written(tmp_path, ScanIndex("None", [], refused, ["table.tsv: ignored."]))
    assert "<li><b>sub-07</b>: no T1ce found. Add the scan.</li>" in page
    assert "table.tsv: ignored." in page


def test_every_region_has_a_column_and_what_is_not_known_a_dash(tmp_path):
    other = IndexRow("b", "b.html", {"core": 0.5}, None, (), [ExpectedDice("core", 0.8, 0.7, 0.9)])
    page = written(tmp_path, ScanIndex("Two", [row("a"), other]))
    heads = re.findall(r'<th scope="col" class="number">([^<]+)</th>', page)
    assert heads == ["whole (mL)", "core (mL)"]
    assert re.findall(r'<span class="strong">([^<]+)</span>', page) == ["12.3", "–", "–", "0.50"]
    assert "Dice 0.80" in page
    assert "0.70 to 0.90" in page


def test_hostile_names_are_text_and_links_lead_to_files(tmp_path):
    hostile = IndexRow(
        HOSTILE, f"javascript:alert(1)//a b#{HOSTILE}", {HOSTILE: 1.0}, PIXEL, [HOSTILE],
        [ExpectedDice(HOSTILE, 0.5, 0.4, 0.6)],
    )  # fmt: skip
    index = ScanIndex(
        HOSTILE, [hostile], {HOSTILE: HOSTILE}, [HOSTILE], HOSTILE, HOSTILE, {HOSTILE: HOSTILE}
    )
    page = written(tmp_path, index)
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)") >= 10
    links = re.findall(r'href="([^"#][^"]*)"', page)
    assert set(links) == {
        "javascript%3Aalert%281%29//a%20b%23%22%3E%3Cscript%3Ealert%281%29%3C/script%3E"
    }
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
