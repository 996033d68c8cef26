import json
import os
import stat
import sys
import time
from pathlib import Path

import pytest

from brainsegfounder.data.store import open_store
from brainsegfounder.errors import Interrupted, OutputExistsError, RunError, UsageError
from brainsegfounder.files import sha256
from brainsegfounder.recipes import change_recipe, dump_recipe, load_recipe
from brainsegfounder.workflows.experiments import running
from brainsegfounder.workflows.experiments.cells import Cell, Grid, open_grid
from brainsegfounder.workflows.experiments.running import run_grid
from brainsegfounder.workflows.order import Order

RECIPE = load_recipe("demo-target")


@pytest.fixture
def grid(cohort: Path, tmp_path: Path):
    """A grid of four runs, two of which need another."""

    def make(recipe=RECIPE):
        cells = [
            Cell("a/stage2", "pretrain", recipe, cohort, 0),
            Cell("a/fold-0", "finetune", recipe, cohort, 0, "a/stage2"),
            Cell("b/fold-0", "finetune", recipe, cohort, 0),
            Cell("a/fold-1", "finetune", recipe, cohort, 1, "a/stage2"),
        ]
        return open_grid(tmp_path / "grid", cells)

    return make


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """Replace the verbs by a script that fails where a file says so, and notes when it ran."""
    script = tmp_path / "verb.py"
    script.write_text(
        "import json, os, pathlib, signal, sys, time\n"
        "out = pathlib.Path(sys.argv[1]); log = pathlib.Path(sys.argv[2])\n"
        "name = f'{out.parent.name}/{out.name}'\n"
        "out.mkdir(parents=True, exist_ok=True)\n"
        "def note(what):\n"
        "    with log.open('a') as f: f.write(f'{what} {name}\\n')\n"
        "def stop(*_):\n"
        "    note('saved'); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "note('begun')\n"
        "if (log.parent / 'fail').exists() and name in (log.parent / 'fail').read_text():\n"
        "    print('some line\\nerror: the disk is full'); sys.exit(3)\n"
        "time.sleep(float(os.environ.get('PRETEND_S', '0')))\n"
        "until = time.monotonic() + 60\n"
        "while os.environ.get('MEET', name) not in log.read_text() and time.monotonic() < until:\n"
        "    time.sleep(0.02)\n"
        "note('ended')\n"
        "(out / 'finished.json').write_text('{}')\n"
    )
    log = tmp_path / "log.txt"

    def words(order: Order, recipe: Path, *, resume: bool) -> list[str]:
        assert recipe.read_text() == dump_recipe(order.recipe)
        assert resume
        return [str(script), str(order.out), str(log)]

    monkeypatch.setattr(Order, "words", words)
    return log


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines()


def test_runs_are_made_after_what_they_need_and_never_again(grid, pretend, monkeypatch):
    # No run ends before this one has begun, so the first one is in work beside it.
    monkeypatch.setenv("MEET", "begun b/fold-0")
    made = grid()
    outcome = run_grid(made, jobs=2)
    assert sorted(outcome.finished) == ["a/fold-0", "a/fold-1", "a/stage2", "b/fold-0"]
    assert (outcome.failed, outcome.waiting, made.unfinished) == ({}, [], [])
    said = lines(pretend)
    assert said.index("ended a/stage2") < said.index("begun a/fold-0")
    assert said.index("begun b/fold-0") < said.index("ended a/stage2"), "side by side"
    assert len(said) == 8
    assert len(run_grid(made, jobs=2).finished) == 4
    assert lines(pretend) == said


def test_one_failure_costs_only_those_that_need_it_and_is_tried_again(grid, pretend):
    (pretend.parent / "fail").write_text("a/stage2")
    outcome = run_grid(grid(), jobs=1)
    assert outcome.finished == ["b/fold-0"]
    assert outcome.failed["a/stage2"].startswith("exit code 3: the disk is full (all of it: ")
    assert outcome.waiting == ["a/fold-0", "a/fold-1"]
    (pretend.parent / "fail").unlink()
    assert len(run_grid(grid(), jobs=1).finished) == 4
    assert lines(pretend).count("begun b/fold-0") == 1


def test_a_signal_is_passed_on_and_waits_for_every_checkpoint(grid, pretend, monkeypatch):
    monkeypatch.setenv("PRETEND_S", "30")
    report = running.progress

    def soon(total, what, start=0):
        # The first look at how far it is comes once runs have begun.
        import contextlib
        import signal

        @contextlib.contextmanager
        def shown():
            def tell(*_):
                while not pretend.exists() or "begun a/stage2" not in pretend.read_text():
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGTERM)

            yield tell

        return shown()

    monkeypatch.setattr(running, "progress", soon)
    began = time.monotonic()
    with pytest.raises(Interrupted, match="0 of 4 runs finished; call again to go on") as stopped:
        run_grid(grid(), jobs=1)
    assert stopped.value.exit_code == 143
    assert time.monotonic() - began < 20
    assert lines(pretend) == ["begun a/stage2", "saved a/stage2"]
    monkeypatch.setattr(running, "progress", report)
    monkeypatch.setenv("PRETEND_S", "0")
    assert len(run_grid(grid(), jobs=2).finished) == 4


def test_a_grid_may_grow_but_its_runs_may_not_change(grid, cohort, tmp_path):
    made = grid()
    run = made.run(made.cells[0])
    run.mkdir(parents=True)
    (run / "recipe.resolved.yaml").write_text(dump_recipe(RECIPE))
    manifest = json.loads((made.folder / "grid.json").read_text())
    facts = {"sha256": {"manifest": "other"}, "fold": 0}
    (run / "provenance.json").write_text(json.dumps(facts))
    with pytest.raises(OutputExistsError, match=r"a/stage2: was made with another store"):
        grid()
    with pytest.raises(OutputExistsError, match=r"a/stage2: was made with another recipe"):
        grid(change_recipe(RECIPE, {"seed": 5}))
    assert [cell["name"] for cell in manifest["cells"]][:2] == ["a/stage2", "a/fold-0"]


def test_a_run_from_other_weights_is_not_taken_for_this_one(cohort, tmp_path):
    starts = [tmp_path / name for name in ("one", "two")]
    for start in starts:
        start.mkdir()
        (start / "model.safetensors").write_text(start.name)
    cells = [[Cell("a", "finetune", RECIPE, cohort, 0, start)] for start in (*starts, None)]
    grid = open_grid(tmp_path / "grid", cells[0])
    run = grid.run(grid.cells[0])
    run.mkdir(parents=True)
    (run / "recipe.resolved.yaml").write_text(dump_recipe(RECIPE))
    prints = {
        "manifest": open_store(cohort).manifest_sha256,
        "start": sha256(starts[0] / "model.safetensors"),
    }
    (run / "provenance.json").write_text(json.dumps({"sha256": prints, "fold": 0}))
    assert open_grid(tmp_path / "grid", cells[0]).cells == grid.cells
    for other in cells[1:]:
        with pytest.raises(OutputExistsError, match="a: was made with another start"):
            open_grid(tmp_path / "grid", other)


def test_a_folder_of_something_else_is_left_alone(cohort, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(OutputExistsError, match="has content that is no grid's"):
        open_grid(tmp_path / "mine", [Cell("a", "finetune", RECIPE, cohort)])


def test_names_stand_once_and_after_what_they_need(cohort, tmp_path):
    cell = Cell("a", "finetune", RECIPE, cohort)
    with pytest.raises(UsageError, match="a: stands twice"):
        open_grid(tmp_path / "g", [cell, cell])
    with pytest.raises(RunError, match="a: needs b, which does not come before it"):
        open_grid(tmp_path / "g", [Cell("a", "finetune", RECIPE, cohort, start="b")])
    with pytest.raises(UsageError, match="no weights found"):
        open_grid(tmp_path / "g", [Cell("a", "finetune", RECIPE, cohort, start=tmp_path)])


def test_steps_that_are_recorded_count_as_done(grid):
    made = grid()
    cell = made.cells[2]
    run = made.run(cell)
    run.mkdir(parents=True)
    records = [{"kind": "train", "step": n} for n in (1, 2, 3)]
    text = "".join(json.dumps(record) + "\n" for record in records) + '{"kind": "train", "st'
    (run / "metrics.jsonl").write_text(text)
    assert made.steps_done(cell) == 3
    (run / "finished.json").write_text("{}")
    assert made.steps_done(cell) == cell.steps == 90


def test_jobs_of_slurm_wait_for_each_other(grid, tmp_path, monkeypatch):
    fake = tmp_path / "bin" / "sbatch"
    fake.parent.mkdir()
    fake.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\n"
        f"log = pathlib.Path({str(tmp_path / 'jobs')!r})\n"
        "text = log.read_text() if log.exists() else ''\n"
        "script = pathlib.Path(sys.argv[-1]).read_text()\n"
        "after = [line for line in script.splitlines() if 'dependency' in line]\n"
        "log.write_text(text + f'{pathlib.Path(sys.argv[-1]).parent.name} {after}\\n')\n"
        "print(100 + text.count('\\n'))\n"
    )
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    from brainsegfounder.workflows.experiments.running import submit_grid
    from brainsegfounder.workflows.order import Resources

    jobs = submit_grid(grid(), Resources())
    assert jobs == {"a/stage2": "100", "a/fold-0": "101", "b/fold-0": "102", "a/fold-1": "103"}
    assert (tmp_path / "jobs").read_text().splitlines() == [
        "stage2.launch []",
        "fold-0.launch ['#SBATCH --dependency=afterok:100']",
        "fold-0.launch []",
        "fold-1.launch ['#SBATCH --dependency=afterok:100']",
    ]


def test_jobs_that_are_still_there_are_waited_for(grid, tmp_path, monkeypatch):
    fake = tmp_path / "bin" / "squeue"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ncat {tmp_path}/queue\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    made = grid()
    running.check_no_job(made)
    (made.folder / "jobs.json").write_text('{"a/stage2": "100", "a/fold-0": "101"}')
    (tmp_path / "queue").write_text("101\n")
    with pytest.raises(RunError, match=r"1 of 2 jobs of Slurm are still there \(101\)"):
        running.check_no_job(made)
    (tmp_path / "queue").write_text("")
    running.check_no_job(made)
    assert made.unfinished == list(made.cells)


def test_a_grid_that_another_process_works_on_is_left_to_it(grid):
    from brainsegfounder.files import held
    from brainsegfounder.workflows.experiments.experiment import How, run_experiment

    made = grid()
    with held(made.folder, alone=True), pytest.raises(RunError, match="another process makes"):
        run_experiment("crossval", made.folder, made.cells, lambda *_: None, How(timed=False))


def test_unfinished_is_what_has_no_mark(grid):
    made: Grid = grid()
    (made.run(made.cells[0])).mkdir(parents=True)
    (made.run(made.cells[0]) / "finished.json").write_text("{}")
    assert [cell.name for cell in made.unfinished] == ["a/fold-0", "b/fold-0", "a/fold-1"]
