"""Score files of several origins, read as one table."""

import json
import math

import pytest

from brainsegfounder.errors import DataError
from brainsegfounder.evaluation.metric_names import direction_of, is_signed, label_of, unit_of
from brainsegfounder.evaluation.metrics import RULES, RegionScore, write_metrics
from brainsegfounder.evaluation.score_rows import metrics_of, read_scores, subject_of


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_what_an_evaluation_writes_is_read_back(tmp_path):
    scores = [
        RegionScore("sub-01_ses-2", "WT", 0.87654321, 3.0, 10.0, 12.0, -2.0, "none"),
        RegionScore("sub-02", "WT", 0.5, 30.0, 1.0, 2.0, -1.0, "none"),
    ]
    write_metrics(tmp_path, scores, RULES, {"split_sha256": "abc"})
    exact, rounded = (read_scores(tmp_path / f"metrics.{kind}") for kind in ("json", "csv"))
    assert exact.rows[0].values["dice"] == 0.87654321
    assert rounded.rows[0].values["dice"] == 0.8765
    assert [row.subject for row in exact.rows] == ["sub-01", "sub-02"]
    assert exact.convention == "plain, version 1"
    assert exact.split_sha256 == "abc"
    assert rounded.convention is None
    assert "empty" not in exact.rows[0].values
    assert metrics_of(exact.rows) == metrics_of(rounded.rows)


def test_the_convention_says_whose_parameters_and_whether_it_is_provisional(tmp_path):
    content = {
        "convention": "brats-2023", "version": 2, "provisional": True,
        "parameters": {"tumour_type": "metastasis"},
        "cases": [{"case": "a", "region": "WT", "dice": 0.5}],
    }  # fmt: skip
    path = written(tmp_path / "metrics.json", json.dumps(content))
    assert read_scores(path).convention == "brats-2023, metastasis, version 2 (provisional)"


def test_columns_say_what_a_row_belongs_to_before_the_files_tags(tmp_path):
    text = "case,region,subject,fold,seed,labels,dice\nx1,WT,p7,2,,10 %,0.5\n"
    path = written(tmp_path / "scores.csv", text)
    row = read_scores(path, {"fold": "0", "seed": "3"}).rows[0]
    assert (row.subject, row.fold, row.seed, row.labels) == ("p7", "2", "3", "10 %")


def test_a_table_may_be_separated_by_tabs_or_semicolons(tmp_path):
    for sign, name in (("\t", "a.tsv"), (";", "a.csv")):
        text = sign.join(("case", "region", "dice")) + "\n" + sign.join(("a", "WT", "0.25")) + "\n"
        assert read_scores(written(tmp_path / name, text)).rows[0].values == {"dice": 0.25}


def test_an_empty_cell_is_no_number_and_a_word_no_metric(tmp_path):
    text = "case,region,dice,hd95_mm,empty\na,WT,,n/a,none\nb,WT,nan,4,both\n"
    rows = read_scores(written(tmp_path / "a.csv", text)).rows
    assert all(math.isnan(row.values["dice"]) for row in rows)
    assert math.isnan(rows[0].values["hd95_mm"])
    assert metrics_of(rows) == ["hd95_mm"]


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.csv", "name,dice\na,0.5\n", "columns name, dice"),
        ("a.csv", "case,region,dice\n", "no row"),
        ("a.csv", "", "columns none"),
        ("a.json", "{", "JSONDecodeError"),
        ("a.json", '{"scores": []}', "KeyError: 'cases'"),
        ("a.json", '{"cases": [3]}', "TypeError"),
    ],
)
def test_what_is_no_score_file_is_named_with_what_was_found(tmp_path, name, text, found):
    with pytest.raises(DataError, match=r"expected metrics\.json") as error:
        read_scores(written(tmp_path / name, text))
    assert name in str(error.value)
    assert found in str(error.value)


def test_a_missing_file_and_binary_content_are_named(tmp_path):
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x01case")
    for name in ("absent.csv", "b.csv"):
        with pytest.raises(DataError, match=name):
            read_scores(tmp_path / name)


def test_a_case_that_stands_twice_is_refused(tmp_path):
    text = "case,region,dice\na,WT,0.5\na,WT,0.6\n"
    with pytest.raises(DataError, match="case a, region WT stands twice"):
        read_scores(written(tmp_path / "a.csv", text))
    apart = "case,region,seed,dice\na,WT,0,0.5\na,WT,1,0.6\n"
    assert len(read_scores(written(tmp_path / "b.csv", apart)).rows) == 2


def test_a_subject_is_the_bids_entity_or_the_whole_name():
    assert subject_of("sub-01_ses-2") == "sub-01"
    assert subject_of("sub-01") == "sub-01"
    assert subject_of("Brats18_TCIA_01") == "Brats18_TCIA_01"
    assert subject_of("sub-01x.y") == "sub-01x.y"


@pytest.mark.parametrize(
    ("metric", "direction", "signed", "label", "unit"),
    [
        ("dice", "higher", False, "Dice", ""),
        ("hd95_mm", "lower", False, "HD95 (mm)", " mm"),
        ("whole_hd95_mm", "lower", False, "whole HD95 (mm)", " mm"),
        ("lesion_f1", "higher", False, "lesion F1", ""),
        ("nsd_1mm", "higher", False, "NSD 1mm", ""),
        ("average_precision", "higher", False, "average precision", ""),
        ("mean_surface_distance_mm", "lower", False, "mean surface distance (mm)", " mm"),
        ("volume_difference_ml", "lower", True, "absolute volume difference (mL)", " mL"),
        ("absolute_volume_error_ml", "lower", True, "absolute volume error (mL)", " mL"),
        ("lesion_count_difference", "lower", True, "absolute lesion count difference", ""),
        ("ece", "lower", False, "ECE", ""),
        ("num_missed", "lower", False, "num missed", ""),
        ("volume_ml", "none", False, "volume (mL)", " mL"),
        ("reference_volume_ml", "none", False, "reference volume (mL)", " mL"),
        ("lesions_0.1_to_1ml", "none", False, "lesions 0.1 to 1ml", ""),
    ],
)
def test_a_metrics_name_tells_its_words_unit_and_better_side(
    metric, direction, signed, label, unit
):
    assert direction_of(metric) == direction
    assert is_signed(metric) is signed
    assert label_of(metric) == label
    assert unit_of(metric) == unit
