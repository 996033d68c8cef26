"""The page of `prepare`, opened from disk in a real browser at two widths and printed."""

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from brainsegfounder.data.store import open_store
from brainsegfounder.errors import Problem
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.workflows.prepare_report import write_prepare_report

# Measures the page from outside, since the page itself runs nothing. What scrolls on its own
# (tables, lists) may be wider; nothing else may reach beyond the window.
MEASURE = """<!DOCTYPE html><iframe id="f" src="{page}" width="{width}" height="900"></iframe>
<script>
document.getElementById("f").onload = (event) => {{
  const page = event.target.contentDocument;
  const shown = (element) => element.getClientRects().length > 0;
  const boxes = [...page.querySelectorAll(".drawing svg")].filter(shown);
  const texts = boxes.flatMap((svg) => [...svg.querySelectorAll("text")]);
  const frames = boxes.flatMap((svg) => [...svg.querySelectorAll("rect")])
    .map((frame) => frame.getBoundingClientRect());
  const spills = texts.filter((text) => {{
    const at = text.getBoundingClientRect();
    return !frames.some((f) => f.left <= at.left && at.right <= f.right
      && f.top <= at.top && at.bottom <= f.bottom);
  }});
  document.title = "measured";
  document.body.dataset.result = JSON.stringify({{
    scroll: page.documentElement.scrollWidth, drawings: boxes.length, texts: texts.length,
    spills: spills.map((text) => text.textContent),
    smallest: Math.min(...texts.map((text) => text.getBoundingClientRect().height)),
    pictures: [...page.images].filter((image) => image.naturalWidth > 0).length,
  }});
}};
</script>"""

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Outcome:
    """What a preparation says, as `workflows.prepare` does."""

    found: int
    cases: list[str]
    excluded: list[str] = field(default_factory=lambda: ["sub-900"])
    refused: dict[str, Problem] = field(default_factory=dict)
    findings: dict[str, tuple[Finding, ...]] = field(default_factory=dict)
    noticed: list[Finding] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    seconds: float = 5.0


@pytest.fixture(scope="module")
def page(cohort, tmp_path_factory):
    """The report of the drawn cohort, kept apart from the store that other tests share."""
    folder = tmp_path_factory.mktemp("page") / "store"
    shutil.copytree(cohort, folder)
    store = open_store(folder)
    names = [case.case for case in store.cases]
    refused = {
        f"sub-{n}": Problem(
            "a_rather_long_name_of_what_is_wrong_with_it" if n % 2 else "gz_truncated",
            f"sub-{n}_T1w.nii.gz", "an end", "a stream", "Copy it again.",
        )
        for n in range(800, 815)
    }  # fmt: skip
    findings = {names[0]: (Finding("orientation_in_doubt", names[0], "No sform.", "warning"),)}
    people = folder / "people.tsv"
    rows = [f"{case.subject}\t{30 + n}\tF" for n, case in enumerate(store.cases)]
    people.write_text("participant_id\tage\tsex\n" + "\n".join(rows), encoding="utf-8")
    outcome = Outcome(len(names) + 17, names, refused=refused, findings=findings)
    return write_prepare_report(outcome, store, participants=people)


@pytest.mark.parametrize("width", [1280, 390])
def test_the_flow_is_legible_and_nothing_reaches_beyond_the_window(page, width, measured):
    result = measured(MEASURE, page, width)
    assert result["scroll"] <= width
    assert result["drawings"] == 1  # one of the two widths is shown
    assert result["texts"] > 10
    assert result["spills"] == []
    assert result["smallest"] > 12
    assert result["pictures"] == 1 + 4 + 6  # demographics, histograms, cases


def test_a_printed_page_lists_the_cases_that_are_folded_on_screen(tmp_path, page, chromium):
    pdf = tmp_path / "page.pdf"
    chromium(f"--print-to-pdf={pdf}", page.as_uri())
    reader = Path("/usr/bin/pdftotext")
    if not reader.exists():
        pytest.skip(f"{reader} is not installed")
    text = subprocess.run(
        [str(reader), str(pdf), "-"], capture_output=True, check=True, timeout=60
    ).stdout.decode()
    for name in ("sub-800", "sub-814", "Cases found (n", "Research use only"):
        assert name in text, name
