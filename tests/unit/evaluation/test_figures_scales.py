import pytest

from brainsegfounder.errors import DataError
from brainsegfounder.evaluation.figures_scales import (
    HALVED,
    ScaleRun,
    read_published,
    scale_curves,
)

TABLE = "split,model,iteration,total_loss\n" + "".join(
    f"{split},{model},{step},{value}\n"
    for split, factor in (("train", 1.0), ("val", 0.5))
    for model in ("62M", "69M")
    for step, value in ((156, 4 * factor), (312, 3 * factor))
)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "curves.csv"
    path.write_text(TABLE)
    return path


def run(name):
    rows = [{"step": i, "loss": 3.0 / i} for i in range(1, 9)]
    return ScaleRun(name, rows, rows[::4])


def test_every_run_and_every_published_curve_has_its_place_and_the_halving_is_said(table):
    figure = scale_curves([run("depth 2"), run("depth 18")], table)
    names = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in figure.axes]
    assert [len(those) for those in names] == [2, 2, 2, 4]
    assert names[0][1].startswith("depth 18 (last: 0.375")
    assert HALVED in figure.axes[3].get_title()
    assert "half the true mean" in HALVED


def test_the_true_mean_of_the_published_validation_is_twice_what_was_printed(table):
    axes = scale_curves([run("a")], table).axes[3]
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert list(lines["62M, true mean (2 times)"]) == [4.0, 3.0]
    assert list(read_published(table)["val"]["62M"][1]) == [2.0, 1.5]


def test_a_run_without_records_is_named_as_such(table):
    axes = scale_curves([ScaleRun("empty", [], [])], table).axes[0]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["empty: nothing recorded"]


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", TABLE + "test,62M,1,2\n", TABLE + "val,62M,x,2\n"]
)
def test_a_table_of_other_content_is_refused(tmp_path, text):
    path = tmp_path / "curves.csv"
    path.write_text(text)
    if not text:
        path.unlink()
    with pytest.raises(DataError, match=r"curves.csv: .*split, model, iteration, total_loss"):
        read_published(path)
