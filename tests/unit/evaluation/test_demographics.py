import base64
import json
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from brainsegfounder.errors import DataError
from brainsegfounder.evaluation.demographics import (
    SMALLEST,
    age_bins,
    age_cuts,
    count_characteristics,
    demographics_figure,
    hidden_counts,
)
from brainsegfounder.evaluation.participants import read_participants


def write(folder, text, name="participants.tsv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def table(folder, rows, header="participant_id\tage\tsex"):
    lines = [header, *("\t".join(map(str, row)) for row in rows)]
    return write(folder, "\n".join(lines) + "\n")


def counts_of(one):
    return {level.name: level.count for level in one.levels}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("participants.tsv", "participant_id\tage\tsex\nsub-01\t38.78\tM\n"),
        ("participants.csv", "MRID,Age,Sex\n01,38.78,male\n"),
        ("people.csv", "\ufeffSubject ID;Age (years);Gender;Hair\r\nSUB-01;38,78;m;red\r\n"),
    ],
)
def test_usual_columns_are_found_by_their_names(tmp_path, name, text):
    participants = read_participants(write(tmp_path, text, name))
    assert participants.rows == {"01": {"age": "38.78", "sex": "male"}}


def test_values_that_are_missing_or_no_age_are_absent(tmp_path):
    rows = [("sub-1", "n/a", ""), ("sub-2", "-9", "F"), ("sub-3", "200", "?"), ("sub-4", "nan")]
    participants = read_participants(table(tmp_path, rows))
    assert participants.rows == {"1": {}, "2": {"sex": "female"}, "3": {}, "4": {}}


@pytest.mark.parametrize(("text", "years"), [("89+", 89), ("045Y", 45), (">=90", 90), ("7", 7)])
def test_ages_are_read_as_bids_and_dicom_write_them(tmp_path, text, years):
    participants = read_participants(table(tmp_path, [("sub-1", text, "F")]))
    assert float(participants.rows["1"]["age"]) == years


def test_codes_of_sex_mean_what_the_sidecar_says_and_are_not_guessed(tmp_path):
    path = table(tmp_path, [("sub-1", 30, 1), ("sub-2", 30, 2)])
    assert read_participants(path).rows["1"]["sex"] == "code 1"
    levels = {"sex": {"Levels": {"1": "female", "2": {"Description": "Male"}}}}
    write(tmp_path, json.dumps(levels), "participants.json")
    assert [row["sex"] for row in read_participants(path).rows.values()] == ["female", "male"]


def test_the_first_row_of_a_subject_counts_and_the_others_are_told(tmp_path):
    participants = read_participants(table(tmp_path, [("sub-1", 30, "F"), ("sub-1", 31, "F")]))
    assert participants.num_repeated == 1
    assert participants.rows["1"]["age"] == "30.0"


@pytest.mark.parametrize(
    "content", [b"", b"age,sex\n3,M\n", b"participant_id\tage\nsub-\xff\t3\n", None]
)
def test_a_file_that_is_no_table_of_participants_is_refused_by_name(tmp_path, content):
    path = tmp_path / "participants.tsv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"^participants\.tsv: .*participant_id") as caught:
        read_participants(path)
    assert str(tmp_path) not in str(caught.value)


def test_only_the_subjects_of_the_store_are_counted_and_missing_values_too(tmp_path):
    rows = [(f"sub-{n:02d}", 20 + n, "F" if n % 2 else "M") for n in range(40)]
    rows[3] = ("sub-03", "n/a", "n/a")
    participants = read_participants(table(tmp_path, rows))
    age, sex = count_characteristics(participants, [f"SUB-{n:02d}" for n in range(20)] + ["x"])
    assert (age.num_missing, sex.num_missing) == (1, 1)
    assert counts_of(sex) == {"male": "10", "female": "9"}
    assert counts_of(age) == {"under 30": "9", "30 and over": "10"}


def test_fewer_than_five_subjects_are_not_shown(tmp_path):
    participants = read_participants(table(tmp_path, [(f"sub-{n}", 30, "F") for n in range(9)]))
    assert count_characteristics(participants, [f"sub-{n}" for n in range(SMALLEST - 1)]) == ()


@pytest.mark.parametrize(
    "ages",
    [
        [],
        [30.5],
        [20, 21, 22, 23, 90, 91, 92, 93, 94],
        [25] * 4 + [35] * 5 + [65] * 4,
        list(range(18, 95)) * 4,
        [119.0] * 6 + [3] * 6,
    ],
)
def test_every_bin_of_ages_holds_five_or_all_of_them(ages):
    cuts = age_cuts(ages)
    edges = [0, *cuts, 200]
    sizes = [sum(low <= age < high for age in ages) for low, high in pairwise(edges)]
    assert sum(sizes) == len(ages)
    assert len(sizes) == len(age_bins(cuts))
    assert len(sizes) == 1 or min(sizes) >= SMALLEST


def test_bins_are_named_open_at_both_ends():
    assert age_bins([45, 50, 65]) == ["under 45", "45–49", "50–64", "65 and over"]


def test_small_levels_are_pooled_or_hidden():
    assert hidden_counts({"a": 20, "b": 4, "c": 3}) == {"a": "20", "other (2 levels)": "7"}
    assert hidden_counts({"a": 20, "b": 30}) == {"a": "20", "b": "30"}
    assert hidden_counts({"a": 3, "b": 0}) == {"a": "<5"}


@pytest.mark.parametrize("rare", [1, 2, 3, 4])
def test_a_hidden_count_cannot_be_had_by_subtraction(rare):
    total = 1000
    shown = hidden_counts({"common": total - rare - 300, "usual": 300, "rare": rare})
    assert shown["rare"] == "<5"
    assert shown["common"] == "696–699"  # whatever the rare count is
    assert shown["usual"] == "300"


def test_no_share_of_the_file_gives_away_who_is_not_in_the_store(tmp_path):
    rows = [(f"sub-{n}", 30, "F" if n < 50 else "M") for n in range(100)]
    participants = read_participants(table(tmp_path, rows))
    [_, sex] = count_characteristics(participants, [f"sub-{n}" for n in range(2, 60)])
    shares = {level.name: level.percent_of_file for level in sex.levels}
    assert shares == {"female": None, "male": 50.0}  # two women of the file are not in the store


def test_the_figure_shows_no_count_that_the_table_hides(tmp_path):
    rows = [(f"sub-{n}", 30 + n % 40, "F" if n else "M", "Site $1$") for n in range(90)]
    path = table(tmp_path, rows, "participant_id\tage\tsex\tsite")
    counted = count_characteristics(read_participants(path), [row[0] for row in rows])
    [sex] = [one for one in counted if one.name == "sex"]
    assert counts_of(sex) == {"female": "86–89", "male": "<5"}
    assert {level.bar for level in sex.levels} == {87.5, 4}
    kind, content = demographics_figure(counted).split(",", 1)
    assert kind == "data:image/svg+xml;base64"
    assert ET.fromstring(base64.b64decode(content)).tag.endswith("svg")


def test_a_column_without_any_value_is_counted_as_missing(tmp_path):
    rows = [(f"sub-{n}", "n/a", "n/a") for n in range(8)]
    counted = count_characteristics(read_participants(table(tmp_path, rows)), [r[0] for r in rows])
    assert [(one.levels, one.num_missing) for one in counted] == [((), 8), ((), 8)]
