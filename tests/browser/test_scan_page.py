"""The page of a predicted scan in a real browser: the viewer runs, and nothing asks a network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from brainsegfounder import evaluation
from brainsegfounder.evaluation.mosaic_map import ScanMap
from brainsegfounder.evaluation.pages import Picture
from brainsegfounder.evaluation.scan_index import IndexRow, ScanIndex, write_scan_index
from brainsegfounder.evaluation.scan_page import LesionLine, ScanPage, write_scan_page
from brainsegfounder.evaluation.thumbnail import thumbnail
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.volume import Volume

CHROMIUM = Path("/usr/bin/chromium")
# A software renderer stands in for a graphics card, so that WebGL 2 is there.
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
HOSTILE = '"></script><script>document.title=\'taken\'</script><img src=x onerror="alert(1)">'
PIXEL = (  # one grey pixel
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8A"
    "AAAASUVORK5CYII="
)
READY = "#viewer[data-state=ready]"
# Generous: the software renderer shares two cores with whatever else runs.
WAIT_MS = 120_000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]


def scan_page(**more):
    """A block with two labels on the patient's left, its axes towards left, posterior, superior."""
    image, labels, entropy = np.zeros((3, 40, 48, 36), np.float32)
    image[4:-4, 4:-4, 4:-4] = 70 + 20 * np.cos(np.arange(28))
    labels[24:32, 10:20, 12:20], labels[27:30, 13:17, 15:18] = 1, 2
    entropy[20:36, 8:22, 10:14] = 0.75
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    affine[:3, 3] = (40.0, 50.0, -30.0)
    return ScanPage(
        "sub-01",
        Volume(image[None], affine),
        Volume(labels[None].astype(np.int16), affine),
        {"oedema": 1, "core": 2},
        {"whole": (1, 2), "core": (2,)},
        {"whole": 5.12, "core": 0.288},
        review=["The expected Dice is low."],
        lesions=[LesionLine("core", 1, 0.288, (-16.0, 22.0, 2.0), 9.0, "left thalamus")],
        uncertainty=ScanMap(Volume(entropy[None], affine), "Entropy", largest=1.0),
        **more,
    )


@pytest.fixture(scope="module")
def browser():
    reason = "playwright is not installed; pip install 'brainsegfounder[test]'"
    api = pytest.importorskip("playwright.sync_api", reason=reason)
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield started
        started.close()


class Opened:
    """A page in the browser, and everything it asked for and complained of."""

    def __init__(self, browser, path, width=1200, **context):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.complaints, self.requests = [], []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def where(self):
        return self.page.inner_text("#viewer-where")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_scan_page(path, scan_page())
    return path


@pytest.fixture(scope="module")
def opened(browser, file):
    opened = Opened(browser, file)
    opened.page.wait_for_selector(READY)
    yield opened
    opened.context.close()


@pytest.fixture
def started(opened):
    """The open page, its crosshair and its choices as they were in the beginning."""
    opened.page.check("[value=filled]")
    opened.page.select_option("#viewer-sides", "radiological")
    opened.page.click("#viewer-start")
    return opened


def picture(opened):
    """The canvas as it is on the screen."""
    return opened.page.locator("#viewer-canvas").screenshot()


def test_a_page_opens_from_disk_asks_for_nothing_else_and_complains_of_nothing(opened, file):
    asked = [url for url in opened.requests if not url.startswith(("data:", "blob:"))]
    assert asked == [file.as_uri()]
    assert opened.complaints == []
    assert opened.page.is_hidden("#viewer-fallback")


def test_the_place_and_the_label_under_the_crosshair_are_those_of_the_scan(started):
    started.page.click("[data-mm]")
    assert started.where() == "16.0 mm L, 22.0 mm A, 2.0 mm S: core; entropy 0.00"
    assert started.page.evaluate("document.activeElement.id") == "viewer-canvas"
    for _ in range(3):
        started.page.keyboard.press("PageDown")
    assert started.where() == "16.0 mm L, 22.0 mm A, 4.0 mm I: oedema; entropy 0.75"
    started.page.keyboard.press("Shift+PageUp")
    assert started.where() == "16.0 mm L, 22.0 mm A, 16.0 mm S: no label; entropy 0.00"


def test_arrow_keys_follow_the_side_that_is_shown(started):
    started.page.click("[data-mm]")
    started.page.keyboard.press("ArrowRight")
    assert started.where().startswith("18.0 mm L, 22.0 mm A, ")
    started.page.select_option("#viewer-sides", "neurological")
    started.page.focus("#viewer-canvas")
    started.page.keyboard.press("ArrowRight")
    started.page.keyboard.press("ArrowUp")
    assert started.where().startswith("16.0 mm L, 24.0 mm A, ")


def test_keys_of_the_viewer_underneath_do_nothing(started):
    started.page.click("[data-mm]")
    started.page.keyboard.press("Shift")  # from now on the focus is seen
    before, text = picture(started), started.where()
    for key in ("v", "c", "h", "?", "m"):
        started.page.keyboard.press(key)
    assert (picture(started), started.where()) == (before, text)
    assert started.complaints == []


def test_every_control_is_reached_by_the_tab_key_in_the_order_of_the_page(started):
    started.page.focus("[data-mm]")
    reached = []
    for _ in range(12):
        started.page.keyboard.press("Tab")
        reached.append(started.page.evaluate("document.activeElement.id"))
    wanted = ["viewer-opacity", "viewer-map", "viewer-sides", "viewer-start", "viewer-canvas"]
    assert [name for name in reached if name.startswith("viewer-")] == wanted


def test_labels_can_be_hidden_outlined_and_made_opaque(started):
    pictures = []
    for choice, opacity in (("filled", 45), ("filled", 100), ("outlines", 100), ("hidden", 100)):
        started.page.check(f"[value={choice}]")
        started.page.fill("#viewer-opacity", str(opacity))
        pictures.append(picture(started))
    assert len(set(pictures)) == 4
    started.page.check("#viewer-map")
    assert picture(started) != pictures[-1]
    started.page.uncheck("#viewer-map")
    assert picture(started) == pictures[-1]


def test_on_paper_the_pictures_stand_for_the_viewer(started):
    started.page.emulate_media(media="print")
    shown = [started.page.is_visible(name) for name in ("#look", "#pictures img", "#findings")]
    started.page.emulate_media(media="screen")
    assert shown == [False, True, True]


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_window(browser, file, tmp_path, width):
    one = scan_page()
    small = Picture(thumbnail(one.image, one.labels, one.regions), "", "A slice")
    row = IndexRow("sub-01", file.name, one.volumes_ml, small, one.review)
    index = tmp_path / "index.html"
    write_scan_index(index, ScanIndex("Scans", [row], {"sub-02": "No T1w scan."}))
    for path in (file, index):
        shown = Opened(browser, path, width, java_script_enabled=path != file)
        assert shown.page.locator("html").evaluate("e => e.scrollWidth") <= width
        shown.context.close()


def test_without_webgl_a_reader_is_told_and_sees_the_pictures(browser, file):
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page.goto(file.as_uri())
    page.wait_for_function("document.getElementById('viewer-state').innerText.includes('cannot')")
    assert "The viewer cannot run here (no WebGL 2)." in page.inner_text("#viewer-state")
    assert page.is_visible("#pictures img")
    assert page.is_hidden("#viewer-canvas")
    assert page.is_hidden("[data-mm]")
    context.close()


def test_without_scripts_a_reader_is_told_and_sees_the_pictures(browser, file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert "It needs a browser with WebGL 2" in page.inner_text("#viewer-fallback")
    assert page.is_visible("#pictures img")
    assert page.is_hidden("#viewer-canvas")
    context.close()


def test_hostile_text_is_shown_and_does_nothing(browser, tmp_path, monkeypatch):
    for name in ("case_mosaic", "map_mosaic"):  # drawn elsewhere, and slow
        monkeypatch.setattr(evaluation.scan_page, name, lambda *_, **__: PIXEL)
    page = replace(
        scan_page(model=HOSTILE, provenance={HOSTILE: HOSTILE}),
        index=f"javascript:alert('{HOSTILE}')",
        case=HOSTILE,
        label_names={HOSTILE: 1, "core": 2},
        findings=[Finding("c", HOSTILE, HOSTILE, "warning")],
    )
    path = tmp_path / "hostile.html"
    write_scan_page(path, page)
    shown = Opened(browser, path)
    shown.page.wait_for_selector(READY)
    shown.page.click("[data-mm]")
    for _ in range(3):
        shown.page.keyboard.press("PageDown")
    assert shown.where().endswith(f"4.0 mm I: {HOSTILE}; entropy 0.75")
    assert shown.page.inner_text("h1") == HOSTILE
    assert shown.page.title() == f"{HOSTILE}: predicted labels"
    assert shown.complaints == []
    assert [url for url in shown.requests if not url.startswith("data:")] == [path.as_uri()]
    shown.context.close()
