"""The BIDS App: which subjects it takes, what it refuses, and how it ends."""

import json
from pathlib import Path

import numpy as np
import pytest

from brainsegfounder.cli import bids_app
from brainsegfounder.data.cases import Case
from brainsegfounder.data.layouts import read_cases
from brainsegfounder.settings import Region
from brainsegfounder.volumes.phantom import write_cohort
from brainsegfounder.workflows.derivative import CaseOutput, write_case
from brainsegfounder.workflows.derivative_tables import open_derivative
from brainsegfounder.workflows.predict import Predicted


@pytest.fixture
def bids(tmp_path):
    """Three drawn subjects."""
    folder = tmp_path / "bids"
    write_cohort(folder, num_subjects=3, seed=1, lesion="none", contrasts=["T1w"], spacing_mm=6.0)
    return folder


@pytest.fixture
def seen(monkeypatch):
    """Which cases reach `predict`; the third is refused."""
    found = []

    def predict(view, model, out):
        cases = read_cases([view], "bids")
        found.extend(case.case for case in cases)
        files = {case.case: out / case.case for case in cases if case.case != "sub-002"}
        refused = {case.case: "no FLAIR" for case in cases if case.case == "sub-002"}
        return Predicted(out, files, refused)

    monkeypatch.setattr(bids_app, "predict", predict)
    return found


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as end:
        bids_app.main([str(one) for one in arguments])
    return end.value.code


def test_only_the_subjects_asked_for_are_segmented(bids, tmp_path, seen, capsys):
    skip = "--skip-bids-validation"
    out = tmp_path / "out"
    command = (bids, out, "participant", "--model", "m", skip, "--participant-label")
    assert run(*command, "000", "sub-001") == 0
    assert seen == ["sub-000", "sub-001"]
    assert "cases: 2 segmented, 0 refused. Research use only." in capsys.readouterr().out


def test_a_refused_case_is_listed_and_the_exit_code_says_so(bids, tmp_path, seen, capsys):
    arguments = (bids, tmp_path / "out", "participant", "--model", "m", "--skip-bids-validation")
    assert run(*arguments, "--json") == 3
    told = capsys.readouterr()
    assert json.loads(told.out)["refused"] == {"sub-002": "no FLAIR"}
    assert "refused sub-002: no FLAIR" in told.err
    assert seen == ["sub-000", "sub-001", "sub-002"]


def test_sessions_are_chosen_and_results_of_before_are_no_input(tmp_path, seen):
    bids = tmp_path / "bids"
    for name in (
        "dataset_description.json",
        "sub-1/ses-a/anat/sub-1_ses-a_T1w.nii.gz",
        "sub-1/ses-b/anat/sub-1_ses-b_T1w.nii.gz",
        "derivatives/x/sub-9/anat/sub-9_T1w.nii.gz",
    ):
        (bids / name).parent.mkdir(parents=True, exist_ok=True)
        (bids / name).write_bytes(b"{}")
    out = bids / "derivatives" / "brainsegfounder"
    common = ("participant", "--model", "m", "--skip-bids-validation", "-w", tmp_path / "work")
    assert run(bids, out, *common, "--session-label", "b") == 0
    assert seen == ["sub-1_ses-b"]
    assert run(bids, out, *common) == 0
    assert seen[1:] == ["sub-1_ses-a", "sub-1_ses-b"]
    assert not any((tmp_path / "work").iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("out", "participant"), 2, "no --model"),
        (("bids/inside", "participant", "--model", "m"), 2, "lies among the scans"),
        (("out", "participant", "--model", "m", "--participant-label", "9"), 3, "no sub-9"),
        (("out", "participant", "--model", "m", "--participant-label", "../x"), 3, "no sub-../x"),
        (("out", "participant", "--model", "m", "--session-label", "9"), 3, "no session"),
        (("out", "group"), 3, "no finished case"),
        (("out", "both"), 2, "invalid choice"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(bids, seen, capsys, arguments, code, words):
    first, *rest = arguments
    level = rest[0] == "participant"
    options = ["--skip-bids-validation"] if level else []
    assert run(bids, bids.parent / first, *rest, *options) == code
    assert words in capsys.readouterr().err
    assert not seen


def test_a_data_set_that_is_not_valid_is_refused_unless_asked_not_to_look(bids, seen, capsys):
    pytest.importorskip("bids_validator_deno", reason="bids-validator-deno is not installed")
    (bids / "sub-000/anat/sub-000_nonsense.nii.gz").write_bytes(b"x")
    out = bids.parent / "out"
    assert run(bids, out, "participant", "--model", "m") == 3
    assert "--skip-bids-validation" in capsys.readouterr().err
    assert not seen


def test_group_writes_tables_and_an_index_over_what_is_there(bids, tmp_path, draw_brain, capsys):
    _, labels = draw_brain()
    cases = [Case(name, name, {"T1w": Path("x.nii")}) for name in ("a", "b")]
    out = tmp_path / "out"
    tree = open_derivative(out, cases, "m")
    regions = {"WT": Region(labels=(1, 2, 4), paint=2)}
    for case in cases:
        write_case(tree, CaseOutput(case, labels, {"x": 1}, regions, ("T1w",)), "k")
    assert run(bids, out, "group") == 0
    assert "2 cases" in capsys.readouterr().out
    rows = (out / "volumes.csv").read_text().splitlines()[1:]
    expected = np.count_nonzero(labels.voxels) * labels.grid.voxel_volume_ml
    assert [row.split(",")[0] for row in rows] == ["a", "b"]
    assert float(rows[0].split(",")[4]) == pytest.approx(expected, abs=1e-3)
    assert "Not a medical device" in (out / "report.html").read_text()
