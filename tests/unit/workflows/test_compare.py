"""`compare` from files to its folder: what it reads, what it refuses, what it writes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from brainsegfounder.errors import DataError, OutputExistsError, UsageError
from brainsegfounder.volumes.nifti import write_nifti
from brainsegfounder.workflows import compare_worst
from brainsegfounder.workflows.compare import CompareOptions, run_compare
from brainsegfounder.workflows.compare_inputs import gather, parse_source, score_files

WRITTEN = {
    "comparison.json", "comparisons.csv", "comparisons.md", "comparisons.tex", "differences.csv",
    "figures", "report.html", "subgroups.csv", "subgroups.md", "subgroups.tex", "unmatched.csv",
}  # fmt: skip


def scores(
    path: Path, gain: float = 0.0, num: int = 12, seed: int = 0, cases: int = 0, full: bool = False
) -> Path:
    """A table of a dozen cases; `cases` is the number of the first, `full` has all columns."""
    random = np.random.default_rng(seed)
    rows = []
    for n in range(cases, cases + num):
        for region in ("WT", "ET") if full else ("WT",):
            row = {"case": f"sub-{n:02d}", "region": region}
            row["dice"] = 0.5 + 0.02 * (n % 12) + gain + random.normal(0, 0.01)
            if full:
                row["hd95_mm"] = 20 * (1 - row["dice"])
                row |= {"volume_ml": n + random.normal(), "reference_volume_ml": n}
            rows.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def run_of(folder: Path, fold: int | None, seed: int, num_train: int = 10, **more) -> Path:
    """A fine-tuning run's folder as far as `compare` looks at it."""
    scores(folder / "test" / "metrics.csv", **more)
    facts = {
        "fold": fold,
        "seed": seed,
        "train_subjects": [f"t{n}" for n in range(num_train)],
        "validation_subjects": ["v"],
    }
    (folder / "provenance.json").write_text(json.dumps(facts))
    return folder


def records(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def compared(words, out: Path, **options):
    done = run_compare([str(word) for word in words], out, CompareOptions(**options))
    return done, json.loads((out / "comparison.json").read_text())


@pytest.mark.parametrize(
    ("facts", "metrics"),
    [
        ({"regions_are": "structures"}, ["dice", "hd95_mm"]),
        ({"regions_are": "lesions"}, ["dice", "hd95_mm", "lesion_f1"]),
        ({}, ["dice", "hd95_mm", "lesion_f1"]),
    ],
)
def test_of_structures_no_lesions_are_compared_unless_asked_for(facts, metrics, tmp_path):
    words = []
    for name, gain in (("theirs", 0.0), ("ours", 0.05)):
        rows = records(scores(tmp_path / f"{name}.csv", gain, full=True))
        for row in rows:
            row |= {key: float(row[key]) for key in ("dice", "hd95_mm")} | {"lesion_f1": 1.0}
        words.append(tmp_path / f"{name}.json")
        words[-1].write_text(json.dumps({"cases": rows, **facts}))
    assert compared(words, tmp_path / "out")[1]["metrics"] == metrics
    _, asked = compared(words, tmp_path / "asked", metrics=["lesion_f1"])
    assert asked["metrics"] == ["lesion_f1"]


def test_two_tables_give_everything_that_is_promised(tmp_path):
    one = scores(tmp_path / "theirs.csv", full=True)
    other = scores(tmp_path / "ours.csv", 0.05, seed=1, full=True)
    done, record = compared([one, other], tmp_path / "out", margins=["0.01", "hd95_mm=1"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == WRITTEN
    assert record["baseline"] == "theirs"
    assert record["metrics"] == ["dice", "hd95_mm"]
    assert [one["region"] for one in record["comparisons"]] == ["WT", "ET", "WT", "ET"]
    first = record["comparisons"][0]
    assert first["shown"] is True
    assert first["mean"] == pytest.approx(0.05, abs=0.01)
    assert first["interval"]["low"] < first["mean"] < first["interval"]["high"]
    assert first["non_inferiority"]["shown"] is True
    assert first["sentence"] in done.sentences
    assert len(record["files"]["ours"][0]["sha256"]) == 64
    rows = records(tmp_path / "out" / "differences.csv")
    assert len(rows) == 4 * 12
    pictures = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert {"differences-dice.svg", "pairs-hd95-mm-ours.svg", "volumes-wt.svg"} <= pictures
    page = (tmp_path / "out" / "report.html").read_text()
    assert "ours against theirs" in page
    assert "The data show that ours is better" in page
    assert "trained more than once" in page


def test_the_same_input_and_seed_give_the_same_bytes(tmp_path):
    words = [scores(tmp_path / "a.csv", num=25), scores(tmp_path / "b.csv", 0.01, num=25, seed=1)]
    for name in ("x", "y"):
        compared(words, tmp_path / name, metrics=["dice"])
    for name in ("comparison.json", "report.html", "comparisons.tex"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()


def test_runs_bring_their_folds_and_seeds(tmp_path):
    for method, gain in (("scratch", 0.0), ("ours", 0.03)):
        for fold in range(3):
            for seed in range(2):
                folder = tmp_path / method / f"fold{fold}-seed{seed}"
                run_of(folder, fold, seed, gain=gain, cases=12 * fold, num=12)
    words = [tmp_path / "scratch", tmp_path / "ours"]
    _, record = compared(words, tmp_path / "out", metrics=["dice"])
    sources = record["comparisons"][0]["sources"]
    assert (sources["num_folds"], sources["num_seeds"], sources["num_subjects"]) == (3, 2, 36)
    assert record["methods"] == ["scratch", "ours"]
    assert "trained more than once" not in " ".join(record["warnings"])
    assert "If the methods were trained anew" in record["comparisons"][0]["sentence"]


def test_tags_tell_files_apart_that_say_nothing_themselves(tmp_path):
    paths = [scores(tmp_path / f"{n}.csv", seed=n) for n in range(4)]
    words = [f"a@seed=0={paths[0]}", f"a@seed=1={paths[1]}", f"b@seed=0={paths[2]}"]
    words.append(f"b@seed=1={paths[3]}")
    _, record = compared(words, tmp_path / "out", metrics=["dice"])
    assert record["comparisons"][0]["sources"]["num_seeds"] == 2
    with pytest.raises(DataError, match=r"a@seed=0=PATH a@seed=1=PATH"):
        compared([f"a={paths[0]}", f"a={paths[1]}", f"b={paths[2]}"], tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_numbers_of_labels_come_from_tags_or_from_runs(tmp_path):
    for method, gain in (("a", 0.0), ("b", 0.02)):
        for num, better in ((4, 0.0), (19, 0.1)):
            for seed in range(2):
                folder = tmp_path / method / f"{num}-{seed}"
                run_of(folder, None, seed, num_train=num, gain=gain + better, num=8)
    words = [tmp_path / "a", tmp_path / "b"]
    _, record = compared(words, tmp_path / "out", metrics=["dice"], by_labels=True)
    assert [one["labels"] for one in record["comparisons"]] == ["5", "20"]
    assert (tmp_path / "out" / "figures" / "labels-dice-wt.svg").is_file()
    tagged = [
        f"{name}@labels={labels}={scores(tmp_path / f'{name}{labels}.csv', seed=labels)}"
        for name in ("x", "y")
        for labels in (5, 50)
    ]
    _, record = compared(tagged, tmp_path / "out2", metrics=["dice"])
    assert {one["labels"] for one in record["comparisons"]} == {"5", "50"}


def test_methods_of_different_numbers_of_labels_are_compared_with_a_warning(tmp_path):
    words = [
        f"{name}@labels={n}={scores(tmp_path / name, seed=n)}" for name, n in (("a", 5), ("b", 9))
    ]
    _, record = compared(words, tmp_path / "out", metrics=["dice"])
    assert "different numbers of labels (a 5, b 9)" in record["warnings"][0]
    assert record["comparisons"][0]["labels"] is None


def test_two_conventions_are_not_compared(tmp_path):
    rows = [{"case": f"c{n}", "region": "WT", "dice": 0.5 + 0.01 * n} for n in range(5)]
    for name in ("plain", "brats-2023"):
        content = {"convention": name, "version": 1, "cases": rows}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    words = [tmp_path / "plain.json", tmp_path / "brats-2023.json"]
    with pytest.raises(UsageError, match="expected one convention"):
        compared(words, tmp_path / "out")


def test_other_splits_are_told(tmp_path):
    for name in ("a", "b"):
        rows = [{"case": f"c{n}", "region": "WT", "dice": 0.5 + 0.01 * n} for n in range(5)]
        content = {"convention": "plain", "split_sha256": name, "cases": rows}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    _, record = compared([tmp_path / "a.json", tmp_path / "b.json"], tmp_path / "out")
    assert "b and a were trained on different splits" in record["warnings"][0]
    assert "All differences are zero for b" in " ".join(record["warnings"])


def test_a_region_that_nobody_finds_is_not_the_same_predictions_twice(tmp_path):
    first, second = (
        scores(tmp_path / f"{name}.csv", gain=gain, full=True)
        for name, gain in (("a", 0.0), ("b", 0.05))
    )
    for path in (first, second):
        rows = records(path)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(
                [row | {"dice": 0.0} if row["region"] == "ET" else row for row in rows]
            )
    done, record = compared([f"a={first}", f"b={second}"], tmp_path / "out", metrics=("dice",))
    equal = {one.region: one.result.num_equal for one in done.compared.comparisons}
    assert equal == {"WT": 0, "ET": 12}
    assert "All differences are zero" not in " ".join(record["warnings"])


def test_cases_without_a_partner_are_listed_and_counted(tmp_path):
    one = scores(tmp_path / "a.csv", num=12)
    other = scores(tmp_path / "b.csv", num=12, cases=2, seed=1)
    _, record = compared([one, other], tmp_path / "out", metrics=["dice"])
    assert record["comparisons"][0]["num"] == 10
    assert "4 cases of b or the baseline were left out" in " ".join(record["warnings"])
    rows = records(tmp_path / "out" / "unmatched.csv")
    assert {row["case"] for row in rows} == {"sub-00", "sub-01", "sub-12", "sub-13"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "not scored by b" in page


def test_the_baseline_is_the_first_or_the_named_one(tmp_path):
    words = [scores(tmp_path / f"{name}.csv", seed=n) for n, name in enumerate("abc")]
    _, record = compared(words, tmp_path / "out", metrics=["dice"], baseline="c")
    assert record["baseline"] == "c"
    assert {one["method"] for one in record["comparisons"]} == {"a", "b"}
    with pytest.raises(UsageError, match="--baseline d: no such method; expected a, b, c"):
        compared(words, tmp_path / "no", baseline="d")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["nsd"]}, "--metric nsd: a has no such numbers; expected one of dice, hd95"),
        ({"margins": ["-1"]}, "--margin -1: expected a loss above zero"),
        ({"margins": ["much"]}, "--margin much: expected a loss above zero"),
        ({"margins": ["nsd=1"]}, "--margin nsd=1: nsd is not compared"),
        ({"metrics": ["volume_ml"], "margins": ["1"]}, "no better and worse"),
        ({"level": 95.0}, "--level 95.0: expected 0.5 to below 1"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(tmp_path, options, message):
    words = [scores(tmp_path / f"{name}.csv", full=True) for name in "ab"]
    with pytest.raises(UsageError, match=message):
        compared(words, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_metric_without_a_better_side_is_compared_without_judging(tmp_path):
    words = [scores(tmp_path / f"{name}.csv", seed=n, full=True) for n, name in enumerate("ab")]
    _, record = compared(words, tmp_path / "out", metrics=["volume_ml"])
    assert record["comparisons"][0]["direction"] == "none"
    assert "better" not in record["comparisons"][0]["sentence"]


def test_an_output_that_exists_is_left_alone(tmp_path):
    words = [scores(tmp_path / "in" / "a.csv"), scores(tmp_path / "in" / "b.csv")]
    with pytest.raises(OutputExistsError):
        compared(words, tmp_path / "in")
    assert {path.name for path in (tmp_path / "in").iterdir()} == {"a.csv", "b.csv"}


def test_sources_are_named_by_hand_or_after_their_run(tmp_path):
    run = run_of(tmp_path / "run-7", 0, 0)
    assert parse_source(f"ours@fold=1,seed=2={run}").name == "ours"
    assert parse_source(f"ours@fold=1,seed=2={run}").tags == {"fold": "1", "seed": "2"}
    assert parse_source(str(run)).name == "run-7"
    assert parse_source(str(run / "test")).name == "run-7"
    assert parse_source(str(run / "test" / "metrics.csv")).name == "run-7"
    assert parse_source(str(tmp_path / "table.csv")).name == "table.csv"
    odd = scores(tmp_path / "a=b.csv")
    assert parse_source(str(odd)).name == "a=b"
    assert parse_source(f"x={odd}").path == odd
    with pytest.raises(UsageError, match="no such tag as 'fald'; expected fold, seed, labels"):
        parse_source("ours@fald=1=x.csv")


def test_a_folders_scores_are_its_own_or_those_of_the_runs_in_it(tmp_path):
    run = run_of(tmp_path / "runs" / "a", 0, 0)
    run_of(tmp_path / "runs" / "b", 1, 0)
    (run / "test" / "metrics.json").write_text("{}")
    assert score_files(run) == [run / "test" / "metrics.json"]
    assert [path.parent.parent.name for path in score_files(tmp_path / "runs")] == ["a", "b"]
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "absent"):
        with pytest.raises(DataError, match=f"{folder}: no "):
            score_files(tmp_path / folder)


def test_a_damaged_provenance_is_named(tmp_path):
    run = run_of(tmp_path / "a", 0, 0)
    (run / "provenance.json").write_text("[]")
    with pytest.raises(DataError, match=r"provenance\.json"):
        gather([str(run), str(scores(tmp_path / "b.csv"))])


def test_the_worst_cases_are_shown_where_scans_are_known(tmp_path, draw_brain, monkeypatch):
    monkeypatch.setattr(compare_worst, "NUM_SHOWN", 1)
    for method, gain in (("a", 0.0), ("b", 0.1)):
        run_of(tmp_path / method, None, 0, gain=gain, num=2)
    for n in range(2):
        image, labels = draw_brain(seed=n)
        write_nifti(tmp_path / "scans" / f"sub-{n:02d}_FLAIR.nii.gz", image)
        write_nifti(tmp_path / "references" / f"sub-{n:02d}_seg.nii.gz", labels)
        for method in ("a", "b"):
            write_nifti(tmp_path / method / "test" / f"sub-{n:02d}_seg.nii.gz", labels)
    words = [tmp_path / "a", tmp_path / "b"]
    folders = {"scans": tmp_path / "scans", "references": tmp_path / "references"}
    compared(words, tmp_path / "out", metrics=["dice"], **folders)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64") == 2
    assert "sub-00 by a. Solid: prediction; dashed: reference." in page
    compared(words, tmp_path / "out2", metrics=["dice"], scans=tmp_path / "a" / "test" / "none")
    assert "No picture" in (tmp_path / "out2" / "report.html").read_text()
