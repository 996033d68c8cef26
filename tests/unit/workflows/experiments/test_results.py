"""Tables of experiments from runs made by hand."""

import csv
import json
from pathlib import Path

import pytest

from brainsegfounder.errors import DataError, UsageError
from brainsegfounder.recipes import change_recipe, load_recipe
from brainsegfounder.workflows.experiments import contrasts as contrasts_experiment
from brainsegfounder.workflows.experiments.arms import Stage1, parse_arms
from brainsegfounder.workflows.experiments.contrasts import (
    contrasts_cells,
    score_subsets,
    show_contrasts,
)
from brainsegfounder.workflows.experiments.crossval import fold_cells, show_crossval
from brainsegfounder.workflows.experiments.fewshot import labels_table
from brainsegfounder.workflows.experiments.paper import NOT_RUN, run_tables
from brainsegfounder.workflows.experiments.results import (
    fresh_folder,
    gather_scores,
    pivot,
    write_results,
)
from brainsegfounder.workflows.experiments.scales import scales_cells

RECIPE = load_recipe("demo-target")
NONE = Stage1()
STORE = Path("store")


@pytest.fixture
def folds(finish, tmp_path, monkeypatch):
    """Two arms on two folds; the second arm is better by 0.05."""
    arms = parse_arms([f"one={tmp_path}", f"two={tmp_path}"], NONE, RECIPE)
    cells = [
        cell for arm in arms for n in (0, 1) for cell in fold_cells(arm, RECIPE, STORE, None, n)
    ]
    monkeypatch.setattr(
        "brainsegfounder.workflows.experiments.crossval.save_ensemble",
        lambda folder, members, facts, expected_dice: (
            folder.mkdir() or (folder / "facts").write_text(str(facts))
        ),
    )
    monkeypatch.setattr("brainsegfounder.workflows.experiments.cells._start_sha256", lambda _: None)
    return finish(tmp_path / "cv", cells, "crossval", lambda c: 0.05 * (c.tags["arm"] == "two"))


def read(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_a_cross_validation_is_summed_up_by_fold_and_over_all_cases(folds):
    found = gather_scores(folds)
    partial = fresh_folder(folds)
    page = write_results(folds, found, show_crossval(folds, found, partial), partial)
    rows = read(page.parent / "table.csv")
    assert rows[0] == ["fold", "one", "two"]
    one = [float(row[1]) for row in rows[1:]]
    assert one[2] == pytest.approx((one[0] + one[1]) / 2, abs=1e-4)
    assert one[3] == pytest.approx(abs(one[0] - one[1]) / 2**0.5, abs=2e-4)
    assert one[4] == pytest.approx((one[0] + one[1]) / 2, abs=1e-4), "folds of equal size"
    gains = [float(row[2]) - float(row[1]) for row in rows[1:3]]
    assert gains == pytest.approx([0.05, 0.05], abs=0.02)
    record = json.loads((page.parent / "comparison" / "comparison.json").read_text())
    first = record["comparisons"][0]
    assert (first["region"], first["method"], first["metric"]) == ("mean of regions", "two", "dice")
    assert "'num_cases': 6" in (page.parent / "one-ensemble" / "facts").read_text()
    assert "are not finished" not in page.read_text()


def test_what_is_not_finished_is_said_on_the_page(folds):
    (folds.run(folds.cells[3]) / "finished.json").unlink()
    found = gather_scores(folds)
    assert len(found) == 3
    partial = fresh_folder(folds)
    page = write_results(folds, found, show_crossval(folds, found, partial), partial)
    assert "1 of 4 runs are not finished; the tables lack them" in page.read_text()
    assert read(page.parent / "table.csv")[2][2] == ""


def test_subsets_are_compared_and_arms_within_each(finish, tmp_path):
    arms = parse_arms(["scratch", "stage2"], NONE, RECIPE)
    subsets = [("T1w", "FLAIR"), ("T1w",)]
    cells = contrasts_cells(RECIPE, STORE, arms, NONE, subsets, [None])
    grid = finish(tmp_path / "c", cells, "contrasts", lambda c: -0.1 * ("+" not in c.name))
    found = gather_scores(grid)
    results = show_contrasts(grid, found, tmp_path)
    assert [row[0] for row in results.tables[0].rows] == ["T1w+FLAIR", "T1w"]
    assert results.tables[0].columns == ["contrasts", "scratch", "stage2"]
    assert {"comparison", "comparison-T1w", "comparison-T1w+FLAIR"} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_a_model_with_dropout_is_tested_with_each_subset_once(finish, tmp_path, monkeypatch):
    (arm,) = parse_arms(["scratch"], NONE, RECIPE)
    both = change_recipe(RECIPE, {"data.contrasts": ["T1w", "FLAIR"]})
    cells = contrasts_cells(both, STORE, [arm], NONE, [("T1w", "FLAIR")], [None])
    grid = finish(tmp_path / "c", cells, "contrasts")
    asked = []

    def score(run, data, kept):
        asked.append((run.name, data, kept))
        target = run / f"test-{'-'.join(kept)}"
        assert not target.exists(), "what a kill has left is removed"
        target.mkdir()
        (target / "metrics.json").write_text((run / "test" / "metrics.json").read_text())

    monkeypatch.setattr(contrasts_experiment, "score_with_contrasts", score)
    (grid.run(cells[0]) / "test-T1w").mkdir()
    subsets = [("T1w", "FLAIR"), ("T1w",), ("FLAIR",)]
    found = score_subsets(gather_scores(grid), STORE, subsets)
    assert asked == [("test", STORE, ("T1w",)), ("test", STORE, ("FLAIR",))]
    assert [one.tags["contrasts"] for one in found] == ["T1w+FLAIR", "T1w", "FLAIR"]
    score_subsets(gather_scores(grid), STORE, subsets)
    assert len(asked) == 2


def test_a_table_leaves_out_what_was_not_run(folds):
    found = [one for one in gather_scores(folds) if one.name != "two/fold-1"]
    table = pivot(found, "fold", "Dice", "WT", summed_up=False)
    assert [row[2] is None for row in table.rows] == [False, True]


def test_the_papers_tables_have_our_columns_beside_the_published(folds, finish, tmp_path, cohort):
    arms = parse_arms(["scratch"], NONE, RECIPE)
    sizes = scales_cells(RECIPE, STORE, ["nano", "nano-small"], arms, NONE, [0, 1])
    finish(tmp_path / "sizes", sizes, "scales")
    found = gather_scores(folds)
    partial = fresh_folder(folds)
    write_results(folds, found, show_crossval(folds, found, partial), partial)
    page = run_tables([tmp_path], tmp_path / "paper", stores=[cohort])
    four = read(tmp_path / "paper" / "table-4.csv")
    assert four[0][:4] == ["", "cv: one", "cv: two", "published: BSF-S 64M"]
    assert [row[0] for row in four[1:]] == ["1", "2", "3", "4", "5", "average"]
    assert [row[1] == "" for row in four[1:]] == [False, False, True, True, True, False]
    assert four[1][3] == "0.9032"
    assert four[6][3] == "0.9115"
    eight = read(tmp_path / "paper" / "table-8.csv")
    assert eight[0][1:3] == ["sizes: nano scratch", "sizes: nano-small scratch"]
    three = read(tmp_path / "paper" / "table-3.csv")
    assert three[1][0] == "demo-target"
    assert float(three[1][-1]) == 0.1
    text = page.read_text()
    assert "Misprints: fold 2 of BSF-1-S is 0.9186 in Table 8" in text
    assert "cv (crossval): recipe demo-target on 6 subjects (paper: 1,251" in text
    assert text.count(NOT_RUN) >= 4, "few-shot, contrasts, lesions and subjects were not run"


def test_a_missing_fold_leaves_its_row_and_the_average_empty(folds, tmp_path):
    (folds.run(folds.cells[2]) / "finished.json").unlink()
    run_tables([tmp_path], tmp_path / "paper")
    rows = read(tmp_path / "paper" / "table-4.csv")
    assert rows[0][:3] == ["", "cv: one", "cv: two"]
    assert [row[2] == "" for row in rows[1:]] == [True, False, True, True, True, True]
    assert rows[6][1] == "", "not all of the grid is finished"


def test_fewer_labels_have_a_mean_where_no_repeat_is_missing(finish, tmp_path):
    (arm,) = parse_arms(["scratch"], NONE, RECIPE)
    cells = []
    for number, (labels, seed) in enumerate([(2, 0), (2, 1), (4, 0)]):
        tags = {"labels": str(labels), "seed": str(seed)}
        recipe = change_recipe(RECIPE, {"seed": number})
        cells += arm.cells(f"labels-{labels}_repeat-{seed}", recipe, STORE, None, tags=tags)
    grid = finish(tmp_path / "few", cells, "fewshot")
    table = labels_table(gather_scores(grid), "few")
    assert table.caption.startswith("few: Dice of the mean over regions")
    assert [(row[0], row[2] is None) for row in table.rows] == [(2, False), (4, True)]
    assert table.rows[1][4] is not None
    assert table.rows[1][5] is None


def test_tables_without_a_grid_or_a_store_for_its_people_are_refused(tmp_path):
    with pytest.raises(DataError, match="expected a grid of runs"):
        run_tables([tmp_path], tmp_path / "paper")
    with pytest.raises(UsageError, match="expected --store, too"):
        run_tables([tmp_path], tmp_path / "paper", participants=tmp_path / "p.tsv")
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "grid.json").write_text('{"kind": "crossval"}')
    with pytest.raises(DataError, match=r"grid\.json: KeyError: 'cells'"):
        run_tables([tmp_path / "g"], tmp_path / "paper")
