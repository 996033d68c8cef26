"""Experiments as a user calls them: planned, run, killed, continued, and read."""

import csv
import json

import pytest

from brainsegfounder.workflows.model_folder import load_model

pytestmark = pytest.mark.slow

PRETRAIN = {"steps": 1, "batch_size": 2, "validate_every": 1, "optimizer.warmup_steps": 0}
FINETUNE = {"steps": 2, "validate_every": 2, "optimizer.warmup_steps": 0}


def sets(**sections):
    """`--set` for every field of some sections."""
    texts = [f"{name}.{key}={value}" for name, of in sections.items() for key, value in of.items()]
    return [word for text in texts for word in ("--set", text)]


SETS = [*sets(pretrain=PRETRAIN, finetune=FINETUNE), "--no-timing"]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def table(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_a_cross_validation_ends_with_tables_and_ensembles_and_is_not_repeated(
    call, cohort, tmp_path
):
    grid = tmp_path / "grid"
    words = ["crossval", "demo-target", "--data", cohort, "--out", grid, "--folds", "2", *SETS]
    words += ["--arms", "scratch,stage2", "--jobs", "2"]
    code, said, err = call(*words, "--dry-run")
    assert (code, grid.exists(), said) == (0, False, "")
    code, said, err = call(*words)
    assert (code, said) == (0, f"written: {grid / 'results' / 'report.html'}\n"), err
    rows = table(grid / "results" / "table.csv")
    assert rows[0] == ["fold", "scratch", "stage2"]
    assert [row[0] for row in rows[1:]] == ["0", "1", "mean of folds", "SD of folds", "all cases"]
    scores = table(grid / "results" / "scores.csv")
    tested = {row[scores[0].index("case")] for row in scores[1:]}
    assert len(scores) - 1 == len(tested) * 3 * 2, "each case once an arm, three regions"
    for name in ("table.md", "table.tex", "table-2.csv", "comparison/comparison.json"):
        assert (grid / "results" / name).is_file(), name
    ensemble = load_model(grid / "results" / "scratch-ensemble")
    assert (ensemble.config.members, len(ensemble.network.members)) == (2, 2)
    card = (grid / "results" / "scratch-ensemble" / "README.md").read_text()
    assert "mean of the probabilities of 2 segmentation networks" in card
    marks = {path: path.stat().st_mtime_ns for path in grid.glob("runs/*/*/finished.json")}
    assert len(marks) == 6
    assert call(*words)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in marks} == marks, "nothing was made again"


def test_few_shot_curves_have_the_table_and_the_curve(call, cohort, tmp_path):
    grid = tmp_path / "grid"
    words = ["fewshot", "demo-target", "--data", cohort, "--out", grid, "--repeats", "1", *SETS]
    words += ["--fractions", "0.5,1", "--arms", "scratch,stage2", "--jobs", "2", "--json"]
    code, said, err = call(*words)
    assert code == 0, err
    record = json.loads(said)
    assert record["plan"]["num_runs"] == 5
    rows = table(grid / "results" / "table.csv")
    assert rows[0] == ["labels", "arm", "mean", "SD", "repeat 0"]
    assert [row[1] for row in rows[1:]] == ["scratch", "stage2"] * 2
    assert float(rows[1][2]) == float(rows[1][4])
    assert list((grid / "results" / "comparison" / "figures").glob("labels*.svg"))


def test_scales_of_a_stage_1_have_sizes_and_curves(call, cohort, tmp_path):
    grid = tmp_path / "grid"
    words = [
        "scales",
        "demo-stage1",
        "--data",
        cohort,
        "--out",
        grid,
        "--scales",
        "nano,nano-small",
    ]
    code, _, err = call(*words, *sets(pretrain=PRETRAIN | {"steps": 2}), "--no-timing")
    assert code == 0, err
    rows = table(grid / "results" / "table.csv")
    assert [row[:3] for row in rows[1:]] == [
        ["nano", "12", "2-2-2-2"],
        ["nano-small", "12", "2-2-6-2"],
    ]
    assert int(rows[1][4]) < int(rows[2][4])
    assert (
        "Training and validation loss of nano, nano-small"
        in (grid / "results" / "report.html").read_text()
    )


def test_a_grid_whose_runs_all_fail_says_why(call, cohort, tmp_path, monkeypatch):
    grid = tmp_path / "grid"
    words = ["crossval", "demo-target", "--data", cohort, "--out", grid, "--only", "0", *SETS]
    (grid / "runs" / "scratch" / "fold-0").mkdir(parents=True)
    (grid / "runs" / "scratch" / "fold-0" / "thesis.txt").write_text("all of it")
    (grid / "grid.json").write_text("{}")
    code, said, err = call(*words)
    assert (code, said) == (1, "")
    assert "failed: scratch/fold-0: exit code 2: " in err
    assert not (grid / "results").exists()
