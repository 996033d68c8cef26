"""The page of a comparison in a real browser: everything is there, and nothing needs a network."""

import csv
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from brainsegfounder.workflows.compare import CompareOptions, run_compare

CHROMIUM = Path("/usr/bin/chromium")
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-dev-shm-usage",
    "--hide-scrollbars",
]  # fmt: skip
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]


def chromium(tmp_path, *arguments):
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *arguments]
    environment = {**os.environ, "HOME": str(tmp_path)}
    return subprocess.run(
        command, capture_output=True, timeout=120, check=True, env=environment
    ).stdout.decode()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two methods with a hostile name, two seeds, three numbers of labels, many cases."""
    folder = tmp_path_factory.mktemp("compare")
    random = np.random.default_rng(0)
    for place, name in enumerate(("base", "ours")):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(
                ["case", "region", "seed", "labels", "dice", "volume_ml", "reference_volume_ml"]
            )
            for labels in (5, 80):
                for seed in range(2):
                    for n in range(20):
                        dice = 0.3 + 0.1 * np.log10(labels) + 0.05 * place + random.normal(0, 0.03)
                        row = [
                            f"sub-{n:02d}",
                            "<b>WT</b>",
                            seed,
                            labels,
                            dice,
                            n + random.normal(),
                            n,
                        ]
                        writer.writerow(row)
    words = [str(folder / "base.csv"), f"<script>ours={folder / 'ours.csv'}"]
    run_compare(words, folder / "out", CompareOptions(margins=["0.02"]))
    return folder / "out" / "report.html"


def test_a_browser_shows_every_chapter_and_runs_nothing(tmp_path, page):
    dom = chromium(tmp_path, "--dump-dom", page.as_uri())
    sections = re.findall(r'<section id="([^"]+)"', dom)
    assert sections[:8] == [
        "conclusions", "differences", "pairs", "labels", "sources", "subgroups", "volumes", "worst",
    ]  # fmt: skip
    assert "<script" not in dom
    assert "&lt;b&gt;WT&lt;/b&gt;" in dom
    assert "The data show that &lt;script&gt;ours is better" in dom
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]', dom)


def test_no_picture_or_table_is_wider_than_the_page(tmp_path, page):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for width in (1100, 420):
        shot = tmp_path / f"{width}.png"
        chromium(tmp_path, f"--screenshot={shot}", f"--window-size={width},5000", page.as_uri())
        with image_module.open(shot) as opened:
            picture = opened.convert("RGB")
        assert picture.width == width
        colours = {colour for _, colour in picture.getcolors(maxcolors=1 << 24)}
        assert (213, 94, 0) in colours  # the forest's orange
        # The last columns of pixels belong to the page, not to something that sticks out.
        edge = picture.crop((width - 4, 600, width, 5000)).getcolors(maxcolors=1 << 24)
        assert len(edge) == 1


def test_each_picture_is_a_file_of_its_own_that_a_browser_draws(tmp_path, page):
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    figures = sorted((page.parent / "figures").glob("*.svg"))
    assert len(figures) >= 4
    shot = tmp_path / "shot.png"
    html = tmp_path / "all.html"
    html.write_text("".join(f'<img width="400" src="{one.as_uri()}">' for one in figures))
    chromium(tmp_path, f"--screenshot={shot}", "--window-size=820,1600", html.as_uri())
    with image_module.open(shot) as opened:
        assert len(opened.convert("RGB").getcolors(maxcolors=1 << 24)) > 50
