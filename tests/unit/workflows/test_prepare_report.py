import base64
import re
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from brainsegfounder.data.store import open_store
from brainsegfounder.errors import Problem
from brainsegfounder.runs import RESEARCH_ONLY
from brainsegfounder.volumes.findings import Finding
from brainsegfounder.volumes.nifti import write_nifti
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows import prepare_pictures
from brainsegfounder.workflows.prepare import run_prepare
from brainsegfounder.workflows.prepare_findings import findings_chapter, without_folders
from brainsegfounder.workflows.prepare_pictures import spread_evenly
from brainsegfounder.workflows.prepare_report import (
    find_participants,
    flow_stages,
    write_prepare_report,
)
from brainsegfounder.workflows.prepare_tables import grids_chapter, subjects_chapter

SECRET = "/data/jane doe/private"


@dataclass(frozen=True)
class Outcome:
    """What a preparation says, as `workflows.prepare` does."""

    found: int
    cases: list[str]
    excluded: list[str] = field(default_factory=list)
    refused: dict[str, Problem] = field(default_factory=dict)
    findings: dict[str, tuple[Finding, ...]] = field(default_factory=dict)
    noticed: list[Finding] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    seconds: float = 61.0


@pytest.fixture(scope="module")
def store(tmp_path_factory, draw_brain):
    """Three drawn cases with labels and two without."""
    folder = tmp_path_factory.mktemp("report")
    for seed in range(5):
        image, labels = draw_brain(num_contrasts=2, seed=seed)
        for channel, contrast in zip(image.voxels, ("T1w", "FLAIR"), strict=True):
            scan = Volume(channel[None], image.affine)
            write_nifti(folder / "scans" / f"sub-{seed:02d}_{contrast}.nii.gz", scan)
        if seed < 3:
            write_nifti(folder / "scans" / f"sub-{seed:02d}_seg.nii.gz", labels)
    run_prepare([folder / "scans"], folder / "store", layout="suffix")
    return open_store(folder / "store")


@pytest.fixture(scope="module")
def outcome(store):
    def refused(case, file, offset=0):
        return Problem("gz_truncated", f"{SECRET}/{file}", f"an end at byte {offset} of "
                       f"{SECRET}/{file}", "a whole stream", "Copy it again.")  # fmt: skip

    names = [case.case for case in store.cases]
    return Outcome(
        found=12,
        cases=names,
        excluded=["sub-70", "sub-71"],
        refused={
            "sub-80": refused("sub-80", "sub-80_T1w.nii.gz", 5),
            "sub-81": refused("sub-81", "sub-81_T1w.nii.gz", 77),
            "sub-82": Problem("contrast_missing", "sub-82", "no FLAIR", "T1w, FLAIR", "Add it."),
            "sub-83": Problem("affine_singular", "<b>x</b>", "a singular matrix", "another", "Do."),
        },
        findings={
            names[0]: (Finding("offset_in_header", f"{SECRET}/{names[0]}_T1w.nii.gz",
                               f"348 in {SECRET}/{names[0]}_T1w.nii.gz; 352 was used.", "repair"),
                       Finding("left_right_in_doubt", names[0], "No sform.", "warning")),
            names[1]: (Finding("stripped", names[1], "Already extracted.", "note"),),
            names[2]: (Finding("stripped", names[2], "Already extracted.", "note"),),
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(store, outcome):
    return write_prepare_report(outcome, store).read_text(encoding="utf-8")


def test_the_page_lies_in_the_store_and_needs_nothing_else(store, page):
    assert (store.folder / "report.html").is_file()
    assert page.count(RESEARCH_ONLY) == 2
    assert not re.search(r"https?://|<script|@import|url\(", page)
    sources = re.findall(r'<img src="([^"]{12})', page)
    assert len(sources) == 2 + 5  # a histogram for each contrast, a strip for each case
    assert set(sources) == {"data:image/s", "data:image/p"}
    assert 'alt=""' not in page


def test_no_folder_and_no_markup_of_a_file_gets_into_the_page(page):
    for secret in ("jane", "private", "<b>x</b>"):
        assert secret not in page
    assert "sub-80_T1w.nii.gz" in page


def test_every_case_that_was_refused_excluded_or_odd_is_named(outcome, page):
    for case in (*outcome.excluded, *outcome.refused, *outcome.findings):
        assert case in page
    for word in ("gz truncated", "offset in header", "left right in doubt"):
        assert word in page


def test_equal_problems_form_one_group_with_the_advice_once(outcome):
    groups = findings_chapter(outcome.refused, outcome.findings, outcome.excluded).groups
    kinds = [(group.kind, group.name, group.num_cases) for group in groups]
    assert kinds == [
        ("refused", "gz truncated", 2),
        ("refused", "affine singular", 1),
        ("refused", "contrast missing", 1),
        ("look at", "left right in doubt", 1),
        ("repaired", "offset in header", 1),
        ("noted", "stripped", 2),
        ("excluded", "named in the recipe", 2),
    ]
    assert groups[0].advice == "Expected a whole stream. Copy it again."
    assert groups[0].items[1] == (
        ["sub-81"], "sub-81_T1w.nii.gz: an end at byte 77 of sub-81_T1w.nii.gz.",
    )  # fmt: skip
    assert groups[4].items == [(["sub-00 (T1w.nii.gz)"], "348 in sub-00_T1w.nii.gz; 352 was used.")]
    assert groups[5].items == [(["sub-01", "sub-02"], "Already extracted.")]


def test_what_was_noticed_about_the_input_is_not_counted_as_a_case(store, outcome):
    note = Finding("files_left_aside", "a.nii", "3 files left aside.", "note")
    of_case = {"sub-00": (Finding("files_left_aside", "sub-00", "1 file left aside.", "note"),)}
    for cases, expected in ((set(), "the input"), ({"sub-00"}, "the input, 1 case")):
        findings = {name: of_case[name] for name in cases}
        noticed = replace(outcome, refused={}, findings=findings, excluded=[], noticed=[note])
        page = write_prepare_report(noticed, store).read_text(encoding="utf-8")
        (line,) = [line for line in page.splitlines() if "files left aside</span>" in line]
        assert re.search(r'<span class="count">(.*?)</span>', line)[1] == expected


def test_advice_that_differs_within_a_group_is_given_where_it_differs(outcome):
    odd = replace(outcome.refused["sub-80"], advice="Ask the sender.")
    refused = {**outcome.refused, "sub-84": outcome.refused["sub-80"], "sub-85": odd}
    group = findings_chapter(refused, {}, []).groups[0]
    assert group.advice == "Expected a whole stream. Copy it again."
    assert [message.endswith("Ask the sender.") for _, message in group.items] == [False] * 3 + [
        True
    ]


def test_the_numbers_of_the_flow_add_up(store, outcome):
    stages = flow_stages(outcome, store, outcome.findings)
    kept = [stage.kept.num_cases for stage in stages]
    left = [stage.left.num_cases for stage in stages[:-1]]
    assert kept == [12, 9, 8, 5]
    assert left == [3, 1, 3]
    assert [a - b for a, b in zip(kept, left, strict=False)] == kept[1:]
    for stage in stages[:-1]:
        assert sum(number for _, number in stage.left.lines) == stage.left.num_cases
    assert ("left aside by the layout", 1) in stages[0].left.lines
    assert dict(stages[-1].kept.lines)["cases with labels"] == 3


def test_a_flow_without_any_loss_has_two_boxes(store):
    names = [case.case for case in store.cases]
    stages = flow_stages(Outcome(5, names), store, {})
    assert [(stage.kept.heading, stage.left) for stage in stages] == [
        ("Cases found", None),
        ("Prepared", None),
    ]


def test_a_flow_of_which_only_some_were_refused_begins_with_all_found(store, outcome):
    names = [case.case for case in store.cases]
    stages = flow_stages(Outcome(9, names, refused=outcome.refused), store, {})
    assert [(s.kept.heading, s.kept.num_cases) for s in stages] == [
        ("Cases found", 9),
        ("Cases with all contrasts", 8),
        ("Prepared", 5),
    ]


def test_participants_are_counted_and_no_age_is_listed(store, outcome, tmp_path):
    path = tmp_path / "participants.tsv"
    rows = [f"sub-{n:02d}\t{33.37 + n}\tF" for n in range(9)]
    path.write_text("participant_id\tage\tsex\n" + "\n".join(rows), encoding="utf-8")
    page = write_prepare_report(outcome, store, participants=path).read_text(encoding="utf-8")
    assert "5 of the 5 subjects in the store stand in participants.tsv, which has 9." in page
    assert "all ages" in page
    assert "33.37" not in page
    assert "% of the whole file" in page


def test_a_bad_table_of_participants_does_not_cost_the_report(store, outcome, tmp_path):
    path = tmp_path / "participants.csv"
    path.write_text("age,sex\n3,M\n", encoding="utf-8")
    page = write_prepare_report(outcome, store, participants=path).read_text(encoding="utf-8")
    assert "Demographics are left out: participants.csv: columns age, sex; expected" in page
    assert str(tmp_path) not in page


def test_of_many_cases_only_a_stated_number_is_read(store, outcome, monkeypatch):
    monkeypatch.setattr(prepare_pictures, "MAX_HISTOGRAMS", 3)
    monkeypatch.setattr(prepare_pictures, "MAX_MOSAICS", 2)
    monkeypatch.setattr(prepare_pictures, "MAX_DOUBTFUL", 0)
    read = []
    original = type(store).prepared_image
    monkeypatch.setattr(
        type(store), "prepared_image",
        lambda self, case, names: read.append(case.case) or original(self, case, names),
    )  # fmt: skip
    page = write_prepare_report(outcome, store).read_text(encoding="utf-8")
    assert len(read) == 3 + 2
    assert "3 of 5 cases, evenly chosen" in page
    assert "2 of 5 cases: 2 chosen evenly" in page


def test_cases_are_chosen_evenly_from_the_first_to_the_last():
    assert spread_evenly(list(range(101)), 5) == [0, 25, 50, 75, 100]
    assert spread_evenly([1, 2], 5) == [1, 2]
    chosen = spread_evenly(list(range(1000)), 24)
    assert len(set(chosen)) == 24
    assert set(np.diff(chosen)) <= {43, 44}


def test_labels_are_outlined_in_the_strips(store, outcome, monkeypatch):
    page = write_prepare_report(outcome, store).read_text(encoding="utf-8")
    assert "with outlines of label 1, label 2, label 4" in page
    drawn = re.findall(r"data:image/png;base64,([^\"]+)", page)
    plain = replace(store, cases=tuple(replace(c, has_labels=False) for c in store.cases))
    page = write_prepare_report(outcome, plain).read_text(encoding="utf-8")
    without = re.findall(r"data:image/png;base64,([^\"]+)", page)
    changed = [one != other for one, other in zip(drawn, without, strict=True)]
    assert changed[:3] == [True] * 3
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in drawn)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("no T1w in /data/x/sub-1", "no T1w in sub-1"),
        ("('/a b/c.nii', 3 mm/s)", "('c.nii', 3 mm/s)"),
        ("differs from /home/x/a.nii.gz; expected", "differs from a.nii.gz; expected"),
        ("1/2 of and/or", "1/2 of and/or"),
    ],
)
def test_folders_are_taken_out_of_messages(text, clean):
    assert without_folders(text) == clean


def test_a_table_of_participants_is_found_beside_the_scans(tmp_path):
    scans = tmp_path / "bids"
    scans.mkdir()
    scan = scans / "a_T1w.nii.gz"
    scan.touch()
    assert find_participants([scans, scan]) is None
    (scans / "participants.csv").touch()
    (scans / "participants.tsv").touch()
    assert find_participants([tmp_path, scans]) == scans / "participants.tsv"
    assert find_participants([scan]) == scans / "participants.tsv"


def test_steps_sites_and_licences_are_counted(store):
    @dataclass(frozen=True)
    class Richer:
        """A stored case as later stores describe it."""

        case: object
        steps: dict
        site: str
        licence: str = ""

        def __getattr__(self, name):
            return getattr(self.case, name)

    cases = [
        Richer(
            case,
            {
                "brain": {"method": "deepbet" if n else "given mask", "volume_ml": 1200.5 + n},
                "registered": n > 2,
                "file": f"{SECRET}/{n}",
                "name": f"unlike any other {n}" * (n + 1),
            },
            "Guy's" if n else "",
        )
        for n, case in enumerate(store.cases * 3)
    ]
    richer = replace(store, cases=tuple(cases))
    *_, steps = grids_chapter(richer).tables
    assert steps.rows == [
        ["brain: method", "deepbet", 14],
        ["registered", "yes", 12],
        ["registered", "no", 3],
        ["brain: method", "given mask", 1],
    ]
    [sites] = subjects_chapter(richer, None).tables
    assert sites.rows == [["Guy's", 14], ["not stated", 1]]


@pytest.mark.parametrize(("num_known", "median"), [(30, "14"), (19, "–")])
def test_days_since_the_stroke_are_told_in_quartiles_of_many(store, num_known, median):
    cases = [
        replace(store.cases[0], chronicity="acute", days=float(n) if n < num_known else None)
        for n in range(32)
    ]
    stages, days = subjects_chapter(replace(store, cases=tuple(cases)), None).tables
    assert stages.rows == [["acute", 32]]
    assert days.rows[0][:2] == [num_known, 32]
    assert days.rows[0][3] == median
