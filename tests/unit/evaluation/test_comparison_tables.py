"""Tables of a comparison as CSV, Markdown and LaTeX, its subgroups, and counts of lesions."""

import csv
import io
import re

import numpy as np
import pytest

from brainsegfounder.errors import DataError
from brainsegfounder.evaluation.comparison import Settings, compare_methods
from brainsegfounder.evaluation.lesion_counts import calibration_of, detection_of
from brainsegfounder.evaluation.pairing import Method
from brainsegfounder.evaluation.participants import Participants
from brainsegfounder.evaluation.report import Table
from brainsegfounder.evaluation.score_rows import Row, ScoreFile
from brainsegfounder.evaluation.subgroups import subgroups_of
from brainsegfounder.evaluation.tables import (
    comparison_numbers,
    comparison_table,
    difference_numbers,
    sources_table,
    subgroup_numbers,
    subgroup_table,
    to_csv,
    to_latex,
    to_markdown,
)


@pytest.fixture(scope="module")
def one():
    """Thirty subjects, two seeds; the method gains on large lesions only."""
    random = np.random.default_rng(0)
    sides = [[], []]
    for n in range(30):
        volume = 0.0 if n < 3 else float(n)
        for seed in ("0", "1"):
            base = random.uniform(0.5, 0.9)
            gain = 0.1 if volume > 20 else 0.0
            for side, value in zip(
                sides, (base, base + gain + random.normal(0, 0.01)), strict=True
            ):
                values = {"dice": value, "reference_volume_ml": volume}
                side.append(Row(f"sub-{n:02d}", "W_T", f"sub-{n:02d}", None, seed, None, values))
    names = ("base & co", "ours_2")
    methods = [Method(name, rows) for name, rows in zip(names, sides, strict=True)]
    return compare_methods(methods, ["dice"], Settings(margins={"dice": 0.02})).comparisons[0]


def records(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_holds_every_number_in_full(one):
    (found,) = records(to_csv(comparison_numbers([one])))
    assert float(found["difference"]) == one.result.mean
    assert float(found["low"]) == one.result.interval.low
    assert float(found["p_holm"]) == one.p_holm
    assert float(found["trainings_high"]) == one.sources.interval.high
    assert found["shown"] == str(one.shown)
    assert found["labels"] == ""


def test_differences_have_a_row_for_each_subject(one):
    found = records(to_csv(difference_numbers([one])))
    assert [row["subject"] for row in found] == [f"sub-{n:02d}" for n in range(30)]
    mean = np.mean([float(row["difference"]) for row in found])
    assert mean == pytest.approx(one.result.mean)


def test_markdown_has_one_row_a_comparison_and_the_effect_with_its_interval(one):
    text = to_markdown(comparison_table([one]))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 3
    assert len({line.count("|") for line in rows}) == 1
    assert re.search(r"\| \+0\.0\d{3} \(0\.0\d{3} to 0\.0\d{3}\) \|", rows[2])
    assert "---:" in rows[1]


def test_markdown_keeps_a_bar_in_a_name_inside_its_cell():
    text = to_markdown(Table("t", ["a", "b"], [["x|y", 1], [None, True]]))
    assert "| x\\|y | 1 |" in text
    assert "| – | yes |" in text


def test_latex_escapes_what_latex_would_read(one):
    text = to_latex(comparison_table([one]), "main")
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    assert r"W\_T" in body
    assert r"ours\_2" in body
    assert r"base \& co" in text
    assert "−" not in text
    assert re.findall(r"(?<!\\)%", text[text.index("\n") :]) == []
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)[1]
    header = text[text.index(r"\toprule") : text.index(r"\midrule")]
    assert len(columns) == len(re.findall(r"(?<!\\)&", header)) + 1


def test_sources_are_a_table_only_where_there_were_several_trainings(one):
    table = sources_table([one])
    assert table.rows[0][4:7] == [1, 2, 30]
    from dataclasses import replace

    assert sources_table([replace(one, sources=None)]) is None


def test_lesion_sizes_are_groups_and_no_lesion_is_one(one):
    groups = subgroups_of(one)
    assert [group.group for group in groups] == [
        "no lesion",
        "below 11.7 mL",
        "11.7 to below 20.3 mL",
        "20.3 mL or more",
    ]
    assert [group.num for group in groups] == [3, 9, 9, 9]
    assert groups[-1].difference == pytest.approx(0.1, abs=0.01)
    assert groups[1].interval.low < 0 < groups[1].interval.high
    assert groups[-1].interval.low > 0.08
    total = sum(group.num * group.difference for group in groups) / 30
    assert total == pytest.approx(one.result.mean)


def test_participants_give_groups_of_age_sex_and_site(one):
    people = Participants(
        {
            f"{n:02d}": {"sex": "female" if n % 2 else "male", "age": str(20 + 2 * n)}
            | ({"site": "London"} if n < 10 else {"site": "Oslo"} if n < 29 else {})
            for n in range(30)
        },
        ("sex", "age", "site"),
    )
    groups = [g for g in subgroups_of(one, people) if g.by != "reference volume"]
    assert [(g.by, g.group, g.num) for g in groups] == [
        ("age", "below 39.3 years", 10),
        ("age", "39.3 to below 58.7 years", 10),
        ("age", "58.7 years or more", 10),
        ("sex", "female", 15),
        ("sex", "male", 15),
        ("site", "London", 10),
        ("site", "Oslo", 19),
        ("site", "not known", 1),
    ]
    assert groups[-1].interval is None
    text = to_markdown(subgroup_table(groups))
    assert "(one only)" in text
    assert " p " not in text.replace("| p |", " p ")
    assert len(records(to_csv(subgroup_numbers(groups)))) == 8


def test_a_property_that_nobody_has_makes_no_groups(one):
    people = Participants({"00": {"sex": "male"}}, ("sex",))
    assert {group.by for group in subgroups_of(one, people)} == {"reference volume"}


def score_file(tmp_path, values, extra=None):
    rows = [
        Row(f"c{n}", "WT", f"c{n}", None, None, None, {"dice": 0.5, **one})
        for n, one in enumerate(values)
    ]
    return ScoreFile(tmp_path / "m.json", rows, extra=extra or {})


def test_lesions_by_size_are_added_up_over_cases(tmp_path):
    file = score_file(
        tmp_path,
        [
            {"lesions_under_0.1ml": 3.0, "found_under_0.1ml": 1.0, "lesions_from_10ml": 1.0},
            {"lesions_under_0.1ml": 2.0, "found_under_0.1ml": 2.0, "found_from_10ml": 1.0},
            {"lesions_0.1_to_1ml": 4.0, "found_0.1_to_1ml": 4.0},
        ],
    )
    found = detection_of([file], "WT")
    assert [(one.name, one.num_lesions, one.num_found) for one in found] == [
        ("under 0.1 mL", 5, 3),
        ("0.1 to 1 mL", 4, 4),
    ]
    assert detection_of([file], "ET") == []


def test_bins_of_probability_are_added_up_over_files(tmp_path):
    def bins(num, probability, positive):
        one = {"num_voxels": num, "sum_probability": probability, "num_positive": positive}
        none = {"num_voxels": 0, "sum_probability": 0.0, "num_positive": 0}
        return {"reliability": {"WT": {"ece": 0.1, "bins": [none, one]}}}

    files = [
        score_file(tmp_path, [{}], bins(10, 8.0, 5)),
        score_file(tmp_path, [{}], bins(30, 24.0, 27)),
    ]
    (found,) = calibration_of(files, "WT")
    assert (found.mean_probability, found.share_positive, found.num_voxels) == (0.8, 0.8, 40)
    assert calibration_of([score_file(tmp_path, [{}])], "WT") == []
    damaged = score_file(tmp_path, [{}], {"reliability": {"WT": {"bins": [{"num_voxels": 1}]}}})
    with pytest.raises(DataError, match=r"m\.json: reliability"):
        calibration_of([damaged], "WT")
