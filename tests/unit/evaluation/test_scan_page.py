import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from brainsegfounder.errors import LabelError
from brainsegfounder.evaluation import scan_page
from brainsegfounder.evaluation.mosaic_map import ScanMap
from brainsegfounder.evaluation.pages import Picture, millilitres
from brainsegfounder.evaluation.scan_page import (
    ExpectedDice,
    LesionLine,
    ScanPage,
    outlined_regions,
    render_scan_page,
    write_scan_page,
)
from brainsegfounder.runs import RESEARCH_ONLY
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.volume import Volume

HOSTILE = "\"></script><script>alert(1)</script><img src=x onerror='alert(2)'>&{{ 7*7 }}"
PIXEL = "data:image/png;base64,iVBORw0KGgo="


class Seen(HTMLParser):
    """What a browser would find: elements with attributes, visible text, and scripts."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.texts, self.scripts, self.inside = [], [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts.append(data)
        elif self.inside != "style":
            self.texts.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.fixture(scope="module")
def plain():
    """A block of grey with two labels in it, and nothing else to say."""
    image, labels = np.zeros((2, 24, 28, 20), np.float32)
    image[3:-3, 3:-3, 3:-3] = 70 + 20 * np.cos(np.arange(14))
    labels[8:14, 8:14, 6:12], labels[10:12, 10:12, 8:10] = 1, 2
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    return ScanPage(
        "sub-01", Volume(image[None], affine), Volume(labels[None].astype(np.int16), affine),
        {"core": 2, "oedema": 1}, {"whole": (1, 2), "core": (2,)}, {"whole": 1.728, "core": 0.064},
    )  # fmt: skip


@pytest.fixture(scope="module")
def full(plain):
    entropy = ScanMap(Volume(plain.labels.voxels / np.float32(4), plain.image.affine), "Entropy")
    return replace(
        plain,
        review=["The expected Dice of core is 0.41."],
        findings=[Finding("c", "t1.nii.gz", "No sform; the qform was used.", "repair")],
        lesions=[LesionLine("whole", 1, 1.728, (20.0, -20.0, 18.0), 14.2, "left thalamus")],
        expected_dice=[ExpectedDice("core", 0.41, 0.2, 0.6)],
        expected_dice_from="90 % intervals of 12 cases.",
        uncertainty=entropy,
        contrast="T1w",
        model="nano",
        model_sha256="ab" * 32,
        facts={"Ensemble": "5 folds"},
        preparation=[Picture(PIXEL, "Brain extraction.", "A brain")],
        provenance={"seed": 4},
        index="../all scans.html",
    )


@pytest.fixture
def undrawn(monkeypatch):
    """Pages whose pictures take no time to draw, where only words are looked at."""
    monkeypatch.setattr(scan_page, "case_mosaic", lambda *_, **__: PIXEL)


@pytest.fixture(scope="module")
def seen(full):
    return Seen(render_scan_page(full))


def test_a_page_says_its_findings_before_all_else(seen):
    ids = [attrs["id"] for tag, attrs in seen.elements if tag == "section"]
    assert ids == [
        "review", "findings", "lesions", "pictures", "look", "preparation", "provenance", "cite",
    ]  # fmt: skip
    for part in (
        "Needs review", "The expected Dice of core is 0.41.", "1.73", "0.41 0.20 to 0.60",
        "not available", "90 % intervals of 12 cases.", "No sform; the qform was used.",
        "left thalamus", "14.2", "Brain extraction.", "arXiv:2406.10395", "ab" * 32,
    ):  # fmt: skip
        assert part in seen.text, part
    assert seen.text.count(RESEARCH_ONLY) == 2


def test_without_calibration_or_reason_a_page_says_so_and_promises_nothing(plain, undrawn):
    text = Seen(render_scan_page(replace(plain, with_viewer=False))).text
    assert "Expected Dice is not available. The model was stored without a calibration." in text
    assert "No reason for review was found. That is no proof that the labels are right." in text
    assert "Needs review" not in text
    assert "Lesions" not in text


def test_a_task_with_lesions_and_none_found_says_so(plain, undrawn):
    text = Seen(render_scan_page(replace(plain, lesions=[], with_viewer=False))).text
    assert "No lesion was found." in text


def test_only_the_two_scripts_whose_hashes_are_named_may_run(seen):
    [policy] = [a["content"] for t, a in seen.elements if "Content-Security-Policy" in a.values()]
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    types = [attrs.get("type") for tag, attrs in seen.elements if tag == "script"]
    assert types == ["application/json", "application/octet-stream", None]
    _, niivue, ours = seen.scripts
    code = [ours.encode(), gzip.decompress(base64.b64decode(niivue))]
    assert allowed == [base64.b64encode(hashlib.sha256(one).digest()).decode() for one in code]
    assert policy.startswith("default-src 'none'; ")
    assert not re.search(r"unsafe-eval|http|\*|script-src[^;]*unsafe", policy)


def test_a_page_without_viewer_runs_nothing(plain, undrawn):
    page = render_scan_page(replace(plain, with_viewer=False))
    assert "<script" not in page
    assert "script-src" not in page


def test_no_address_leads_out_of_the_page_but_to_the_index(seen):
    addresses = [
        value for _, attrs in seen.elements for name, value in attrs.items()
        if name in ("src", "href", "action", "data", "srcset")
        and not value.startswith(("#", "data:image/png"))
    ]  # fmt: skip
    assert addresses == ["../all%20scans.html"]


def test_hostile_text_stands_in_the_page_and_does_nothing(full):
    lesion = replace(full.lesions[0], region=HOSTILE, location=HOSTILE)
    hostile = replace(
        full,
        case=HOSTILE,
        label_names={HOSTILE: 2, "oedema": 1},
        regions={HOSTILE: (1, 2)},
        volumes_ml={HOSTILE: 1.0},
        review=[HOSTILE],
        findings=[Finding("c", HOSTILE, HOSTILE, "warning")],
        lesions=[lesion],
        expected_dice=[ExpectedDice(HOSTILE, 0.5, 0.4, 0.6)],
        expected_dice_from=HOSTILE,
        uncertainty=replace(full.uncertainty, name=HOSTILE, meaning=HOSTILE),
        contrast=HOSTILE,
        model=HOSTILE,
        model_sha256=HOSTILE,
        facts={HOSTILE: HOSTILE},
        preparation=[Picture(PIXEL, HOSTILE, HOSTILE)],
        provenance={HOSTILE: [HOSTILE]},
        index=f"javascript:alert(1)//{HOSTILE}",
    )
    found = Seen(render_scan_page(hostile))
    assert len(found.scripts) == 3
    assert json.loads(found.scripts[0])["names"] == ["oedema", HOSTILE]
    assert not [a for _, attrs in found.elements for a in attrs if a.startswith("on")]
    assert all(a["src"].startswith("data:") for t, a in found.elements if t == "img")
    assert "{{ 7*7 }}" in found.text
    values = [a for _, attrs in found.elements for a in attrs.values() if a]
    assert not [a for a in values if a.startswith("javascript:")]


def test_a_lesions_button_knows_its_place_and_waits_for_the_viewer(seen):
    [button] = [attrs for tag, attrs in seen.elements if "data-mm" in attrs]
    assert button["data-mm"] == "20.0 -20.0 18.0"
    assert "hidden" in button
    assert button["aria-label"] == "Show lesion 1 of whole in the viewer"


def test_everything_that_is_drawn_has_words_for_those_who_do_not_see_it(seen):
    for tag, attrs in seen.elements:
        if tag == "img":
            assert attrs["alt"]
        if tag in ("canvas", "select") or attrs.get("type") == "range":
            assert attrs["aria-label"]


def test_many_regions_are_listed_all_and_the_largest_are_outlined(plain, undrawn):
    names = {f"structure {n} of a rather long name": n for n in range(1, 31)}
    many = replace(
        plain,
        label_names=names,
        regions={name: (n,) for name, n in names.items()},
        volumes_ml={name: float(n) for name, n in names.items()},
        with_viewer=False,
    )
    assert [v for (v,) in outlined_regions(many).values()] == [25, 26, 27, 28, 29, 30]
    text = Seen(render_scan_page(many)).text
    assert "the 6 largest of 30 regions" in text
    assert all(name in text for name in names)


def test_regions_whose_long_names_begin_alike_are_all_outlined(plain, monkeypatch):
    outlined = []
    monkeypatch.setattr(
        scan_page, "case_mosaic", lambda *given, **_: outlined.append(given[3]) or PIXEL
    )
    start = "a name that is far too long for any picture "
    alike = {start + "a": (1,), start + "b": (2,)}
    render_scan_page(replace(plain, regions=alike, with_viewer=False))
    assert list(outlined[0].values()) == [(1,), (2,)]
    assert all(len(name) <= 40 for name in outlined[0])


def test_a_scan_without_any_labelled_voxel_has_a_page(plain):
    empty = replace(plain, labels=Volume(plain.labels.voxels * 0, plain.labels.affine))
    assert "sub-01" in Seen(render_scan_page(empty)).text


def test_labels_on_another_grid_make_no_page(plain, tmp_path):
    moved = plain.labels.affine.copy()
    moved[0, 3] += 30
    page = replace(plain, labels=Volume(plain.labels.voxels, moved))
    with pytest.raises(LabelError):
        write_scan_page(tmp_path / "page.html", page)
    assert not list(tmp_path.iterdir())


def test_the_same_page_is_the_same_bytes(plain, undrawn, tmp_path):
    paths = [tmp_path / name for name in ("one.html", "two.html")]
    for path in paths:
        write_scan_page(path, plain)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    ("volume_ml", "text"),
    [(0.0, "0.00"), (0.001, "< 0.01"), (0.064, "0.06"), (9.994, "9.99"), (1234.56, "1,234.6")],
)
def test_volumes_have_the_decimals_a_reader_needs(volume_ml, text):
    assert millilitres(volume_ml) == text
