import json
import logging

import pytest

from brainsegfounder import runs
from brainsegfounder.errors import OutputExistsError, RecipeError
from brainsegfounder.recipes import load_recipe
from brainsegfounder.runs import open_run, package_version, progress, write_provenance


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("demo-stage1")


def test_a_new_run_keeps_its_complete_recipe(tmp_path, recipe):
    run = open_run(tmp_path / "a" / "run", recipe, resume=False)
    assert load_recipe(run.folder) == recipe
    assert (run.checkpoints, run.model) == (run.folder / "checkpoints", run.folder / "model")


def test_a_second_run_in_the_same_folder_is_refused_and_told_of_resume(tmp_path, recipe):
    open_run(tmp_path / "run", recipe, resume=False)
    with pytest.raises(OutputExistsError, match="Add --resume"):
        open_run(tmp_path / "run", recipe, resume=False)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_other_things_is_never_run_in(tmp_path, recipe, resume):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(OutputExistsError, match="exists already"):
        open_run(tmp_path, recipe, resume=resume)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_resume_reopens_a_run_of_the_same_recipe_and_starts_one_where_none_is(tmp_path, recipe):
    first = open_run(tmp_path / "run", recipe, resume=True)
    first.record({"kind": "train", "step": 1})
    assert open_run(tmp_path / "run", recipe, resume=True).records() == first.records()


def test_resume_with_another_recipe_names_each_field_that_changed(tmp_path, recipe):
    open_run(tmp_path / "run", recipe, resume=False)
    other = load_recipe("demo-stage1", ["seed=5", "pretrain.optimizer.peak_lr=0.5"])
    with pytest.raises(RecipeError) as caught:
        open_run(tmp_path / "run", other, resume=True)
    message = str(caught.value)
    assert "seed was 0, now 5" in message
    assert "pretrain.optimizer.peak_lr was 0.001, now 0.5" in message
    assert "steps" not in message


def test_F07_a_field_that_is_allowed_to_change_may_and_no_other(tmp_path, recipe, caplog):
    first = open_run(tmp_path / "run", recipe, resume=False)
    other = load_recipe("demo-stage1", ["pretrain.num_workers=2", "pretrain.steps=7"])
    allowed = ["pretrain.steps", "pretrain.num_workers"]
    again = open_run(tmp_path / "run", other, resume=True, may_change=allowed)
    assert [told.partition(" was")[0] for told in again.changes] == sorted(allowed)
    assert "goes on with another recipe: pretrain.num_workers was 0, now 2" in caplog.text
    with pytest.raises(RecipeError, match=r"pretrain\.num_workers was 0, now 2\).*--allow-config"):
        open_run(tmp_path / "run", other, resume=True, may_change=["pretrain.steps"])
    # What the run was started with stays, and identifies it to its checkpoints.
    assert load_recipe(again.folder) == recipe
    assert again.recipe_sha256 == first.recipe_sha256


def test_F07_a_field_that_no_recipe_has_cannot_be_allowed(tmp_path, recipe):
    with pytest.raises(RecipeError, match=r"did you mean 'pretrain\.num_workers'"):
        open_run(tmp_path / "run", recipe, resume=True, may_change=["pretrain.num_worker"])
    assert not (tmp_path / "run").exists()


def test_resume_names_a_section_that_came_or_went(tmp_path, recipe):
    open_run(tmp_path / "run", recipe, resume=False)
    other = load_recipe("demo-target")
    with pytest.raises(RecipeError, match="started with another recipe"):
        open_run(tmp_path / "run", other, resume=True)


def test_records_come_back_in_order_and_by_kind(tmp_path, recipe):
    run = open_run(tmp_path / "run", recipe, resume=False)
    assert run.records() == []
    for step in (1, 2):
        run.record({"kind": "train", "step": step, "loss": 0.5})
    run.record({"kind": "validation", "step": 2, "dice": 0.7})
    assert [r["step"] for r in run.records("train")] == [1, 2]
    assert run.records("validation") == [{"kind": "validation", "step": 2, "dice": 0.7}]
    assert len(run.records()) == 3


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path, recipe):
    run = open_run(tmp_path / "run", recipe, resume=False)
    run.record({"kind": "train", "step": 1})
    whole = json.dumps({"kind": "train", "step": 2, "loss": 0.25})
    for length in range(1, len(whole)):
        (run.folder / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n' + whole[:length])
        assert run.records() == [{"kind": "train", "step": 1}]


def test_F29_a_record_after_one_that_was_cut_off_is_a_line_of_its_own(tmp_path, recipe):
    run = open_run(tmp_path / "run", recipe, resume=False)
    run.record({"kind": "train", "step": 1})
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    run.record({"kind": "train", "step": 3})
    run.record({"kind": "train", "step": 4})
    assert [record["step"] for record in run.records()] == [1, 3, 4]


def test_rewinding_a_run_that_has_no_record_yet_makes_none(tmp_path, recipe):
    run = open_run(tmp_path / "run", recipe, resume=False)
    run.rewind(0)
    assert not (run.folder / "metrics.jsonl").exists()


def test_rewinding_drops_later_records_and_a_cut_off_line(tmp_path, recipe):
    run = open_run(tmp_path / "run", recipe, resume=False)
    for step in range(1, 6):
        run.record({"kind": "train", "step": step})
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tr')
    run.rewind(3)
    run.record({"kind": "train", "step": 4})
    assert [r["step"] for r in run.records()] == [1, 2, 3, 4]


def test_provenance_says_versions_command_and_facts_and_that_it_is_for_research(tmp_path, recipe):
    run = open_run(tmp_path / "run", recipe, resume=False)
    written = write_provenance(run, {"seed": 3, "weights": None})
    saved = json.loads((run.folder / "provenance.json").read_text())
    assert saved == written
    assert saved["notice"] == "Research use only. Not a medical device."
    assert (saved["seed"], saved["weights"]) == (3, None)
    assert saved["versions"]["numpy"]
    assert not saved["command"][0].startswith("/"), "no folder of this machine"


def test_a_package_that_is_not_installed_has_no_version():
    assert package_version("no-such-package-anywhere") is None


def test_progress_without_a_terminal_is_a_line_a_minute_and_one_at_the_end(caplog, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(runs.time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO), progress(200, "training") as report:
        for done in range(1, 201):
            now[0] += 1.0
            report(done, "loss 0.5")
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(",")[0] for line in lines] == [
        "training 60/200", "training 120/200", "training 180/200", "training 200/200",
    ]  # fmt: skip
    assert lines[0] == "training 60/200, 1.00/s, 2 min to go loss 0.5"
