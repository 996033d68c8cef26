"""The page of a pretraining run in a real browser: it fits, and it reads itself anew."""

import base64
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest

from brainsegfounder.evaluation.figures import loss_curves
from brainsegfounder.evaluation.mosaic_restored import RestoredCrop, restored_pictures
from brainsegfounder.evaluation.report import Chapter, Film, Picture, Report, render, write_report

# What scrolls on its own may be wider than the window; nothing else may reach beyond it.
MEASURE = """<!DOCTYPE html><iframe id="f" src="{page}" width="{width}" height="900"></iframe>
<script>
document.getElementById("f").onload = (event) => {{
  const page = event.target.contentDocument;
  const film = [...page.querySelectorAll(".film img")].map((i) => i.getBoundingClientRect());
  document.body.dataset.result = JSON.stringify({{
    scroll: page.documentElement.scrollWidth, status: page.querySelector(".status").textContent,
    pictures: [...page.images].filter((image) => image.naturalWidth > 0).length,
    narrowest: Math.min(...film.map((box) => box.width)),
    overlaps: film.filter((a, n) => film.some((b, m) => n < m && a.left < b.right - 1
      && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1)).length,
  }});
}};
</script>"""

pytestmark = pytest.mark.slow


def film():
    whole = np.random.default_rng(0).normal(size=(64, 64, 64)).astype(np.float32)
    drawn = restored_pictures(RestoredCrop(whole, whole, whole * 0, whole > 9))
    pictures = [Picture(uri(png), name, name) for name, png in drawn.items()]
    cells = [pictures[:2], *([pictures[2:]] * 6)]
    columns = ["what it is given", *(f"step {n:,}" for n in range(0, 12000, 2000))]
    return Film(columns, [(f"IXI{n:03d}-HH-1327 (T1w)", cells) for n in range(4)])


def uri(png):
    return "data:image/png;base64," + base64.b64encode(png).decode()


@pytest.mark.parametrize("width", [1280, 390])
def test_pictures_over_time_are_seen_apart_and_the_page_fits_the_window(tmp_path, width, measured):
    curve = Picture(loss_curves([{"step": 1, "loss": 1.0}]), "Loss.", "Loss")
    page = tmp_path / "report.html"
    write_report(
        page,
        Report(
            "Pretraining: x",
            status="Running: step 3 of 9.",
            reload_s=60,
            chapters=[
                Chapter("losses", "Losses", pictures=[curve] * 4),
                Chapter("pictures", "Pictures over time", film=film()),
            ],
        ),
    )
    result = measured(MEASURE, page, width)
    assert result["scroll"] <= width
    assert result["pictures"] == 4 + 4 * 14
    assert result["narrowest"] >= 100
    assert result["overlaps"] == 0
    assert result["status"] == "Running: step 3 of 9."


class Served(BaseHTTPRequestHandler):
    """The running page to the first who asks, the finished one to all others."""

    pages: ClassVar[list[str]] = []

    def do_GET(self):
        body = (self.pages.pop(0) if len(self.pages) > 1 else self.pages[0]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_browser_that_shows_a_running_page_comes_to_show_its_end(chromium):
    running = render(Report("t", status="Running: step 1.", reload_s=1))
    finished = render(Report("t", status="Finished after 2 steps."))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/report.html"
        Served.pages = [running, finished]
        seen = chromium("--virtual-time-budget=6000", "--dump-dom", address)
        Served.pages = [running.replace('http-equiv="refresh"', 'name="none"'), finished]
        without = chromium("--virtual-time-budget=6000", "--dump-dom", address)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert "Finished after 2 steps." in seen
    assert "Running: step 1." in without
