"""A report opened from disk in a real browser, without a network."""

import pytest

from brainsegfounder.evaluation.figures import dice_strip, loss_curves
from brainsegfounder.evaluation.metrics import RULES, RegionScore
from brainsegfounder.evaluation.report import (
    GalleryCase,
    Picture,
    Report,
    score_tables,
    write_report,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def page(tmp_path):
    scores = [
        RegionScore(f"case-{i}", region, 0.1 * i, 2.0, 3.0, 4.0, -1.0, "none")
        for i in range(10)
        for region in ("WT", "<script>document.title='taken over'</script>")
    ]
    curve = loss_curves([{"step": i, "loss": 1.0 / (i + 1)} for i in range(50)])
    report = Report(
        title="Evaluation of ten cases",
        run={"recipe": "atlas.yaml"},
        curves=[Picture(curve, "Loss.", "A falling curve")],
        tables=score_tables(scores),
        gallery=[
            GalleryCase("best", "case-9", Picture(dice_strip(scores), "Dots.", "Dots of Dice"))
        ],
        rules=RULES,
        provenance={"versions": {"numpy": "2"}},
    )
    path = tmp_path / "report.html"
    write_report(path, report)
    return path


def test_a_browser_shows_title_and_tables_and_runs_nothing(page, chromium):
    dom = chromium("--dump-dom", page.as_uri())
    assert "<title>Evaluation of ten cases</title>" in dom
    assert dom.count("<table") == 2
    assert dom.count("<tr>") == 2 + 2 + 20
    assert "case-9" in dom
    assert "<script" not in dom


def test_a_browser_draws_the_page_and_its_pictures(tmp_path, page, chromium):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    shot = tmp_path / "shot.png"
    chromium(f"--screenshot={shot}", "--window-size=1000,1600", page.as_uri())
    with image_module.open(shot) as opened:
        picture = opened.convert("RGB")
    colours = {colour for _, colour in picture.getcolors(maxcolors=1 << 24)}
    assert (0, 114, 178) in colours  # the curve's blue: the embedded picture was allowed
