"""What a report says about the course of a run: resumes, damaged checkpoints, cases left out."""

from types import SimpleNamespace

from brainsegfounder.data.quarantine import QUARANTINE_NAME, Quarantine
from brainsegfounder.runs import Run
from brainsegfounder.workflows.reports import case_warnings, course_notes


def test_a_report_says_where_a_run_went_on_and_what_was_passed_over(tmp_path):
    run = Run(tmp_path)
    run.record({"kind": "resume", "step": 10})
    run.record({"kind": "resume", "step": 20, "passed_over": "step-30: damaged."})
    assert course_notes(SimpleNamespace(run=run)) == [
        "The run went on from step 10.",
        "The run went on from step 20. Passed over: step-30: damaged.",
    ]


def test_a_report_warns_of_every_case_that_was_left_out(tmp_path):
    stage = SimpleNamespace(run=Run(tmp_path))
    assert case_warnings(stage) == []
    quarantine = Quarantine(300, tmp_path / QUARANTINE_NAME)
    quarantine.add([("case7", "cannot be unpacked")])
    other = Quarantine(300, tmp_path / f"process-1.{QUARANTINE_NAME}")
    other.add([("case9", "not finite")])
    assert sorted(case_warnings(stage)) == [
        "case7 was left out: cannot be unpacked",
        "case9 was left out: not finite",
    ]
