"""`compare` on the command line: sentences, JSON, exit codes."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

Call = Callable[..., tuple[int, str, str]]


def _table(path: Path, values: list[float], prefix: str = "case") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "region", "dice"])
        writer.writerows([f"{prefix}-{n}", "WT", value] for n, value in enumerate(values))
    return path


def test_compare_prints_what_the_data_show_and_where_the_page_is(
    call: Call, tmp_path: Path
) -> None:
    a = _table(tmp_path / "a.csv", [0.5, 0.6, 0.7, 0.8, 0.9])
    b = _table(tmp_path / "b.csv", [0.6, 0.6, 0.6, 0.8, 0.9])
    code, out, err = call("compare", f"old={a}", f"new={b}", "--out", tmp_path / "out")
    assert code == 0
    assert "The one comparison of Dice does not show a difference." in out
    assert "The data do not show that new and old differ" in out
    assert f"written: {tmp_path / 'out' / 'report.html'}" in out
    assert "note: With 5 pairs no permutation test can go below p = 0.0625." in err


def test_json_is_the_file_that_is_written(call: Call, tmp_path: Path) -> None:
    a = _table(tmp_path / "a.csv", [0.5, 0.6, 0.7])
    b = _table(tmp_path / "b.csv", [0.6, 0.6, 0.9])
    code, out, _ = call("compare", a, b, "--out", tmp_path / "out", "--json", "--unit", "fold")
    assert code == 0
    record = json.loads(out)
    assert record == json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert record["comparisons"][0]["unit"] == "fold"


def test_nothing_in_common_ends_with_names_of_both_sides(call: Call, tmp_path: Path) -> None:
    a, b = _table(tmp_path / "a.csv", [0.5, 0.6]), _table(tmp_path / "b.csv", [0.5, 0.6], "sub")
    code, _, err = call("compare", a, b, "--out", tmp_path / "out")
    assert code == 3
    assert "no subject in common" in err
    assert "a has cases case-0, case-1" in err
    assert "b has cases sub-0, sub-1" in err
    assert not (tmp_path / "out").exists()


def test_one_case_only_says_how_many_are_needed(call: Call, tmp_path: Path) -> None:
    a, b = _table(tmp_path / "a.csv", [0.5]), _table(tmp_path / "b.csv", [0.6])
    code, _, err = call("compare", a, b, "--out", tmp_path / "out")
    assert code == 3
    assert "one subject in common" in err
    assert "expected at least two" in err


def test_scores_that_are_no_numbers_are_refused_with_the_reason(call: Call, tmp_path: Path) -> None:
    a = _table(tmp_path / "a.csv", [0.5, 0.6, 0.7])
    b = _table(tmp_path / "b.csv", [float("nan")] * 3)
    code, _, err = call("compare", a, b, "--metric", "dice", "--out", tmp_path / "out")
    assert code == 2
    assert "--metric dice: b has no such numbers" in err


def test_some_scores_that_are_no_numbers_are_left_out(call: Call, tmp_path: Path) -> None:
    a = _table(tmp_path / "a.csv", [0.5, 0.6, 0.7])
    b = _table(tmp_path / "b.csv", [0.6, float("nan"), 0.9])
    code, out, err = call("compare", a, b, "--out", tmp_path / "out")
    assert code == 0
    assert "over 2 subjects" in out
    assert "1 cases of b or the baseline were left out" in err


def test_one_run_alone_is_wrong_use(call: Call, tmp_path: Path) -> None:
    a = _table(tmp_path / "a.csv", [0.5, 0.6])
    code, _, err = call("compare", a, "--out", tmp_path / "out")
    assert code == 2
    assert "expected two or more" in err


def test_help_needs_neither_scipy_nor_matplotlib(call: Call) -> None:
    before = set(sys.modules)
    code, out, _ = call("compare", "--help")
    assert code == 0
    assert "NAME=PATH" in out
    heavy = {"matplotlib", "statsmodels", "pandas", "torch"}
    assert not {name.split(".")[0] for name in set(sys.modules) - before} & heavy
