import csv
import stat
from itertools import count
from pathlib import Path

import pytest

from brainsegfounder.data.cases import Case
from brainsegfounder.data.pseudonyms import COLUMNS, Pseudonyms, open_pseudonyms
from brainsegfounder.errors import DataError


def counted():
    numbers = count(1)
    return lambda: f"{next(numbers):08x}"


def case(name, subject, session="", site=""):
    return Case(name, subject, {"T1w": Path("a.nii")}, session=session, site=site)


def lines(path):
    return list(csv.reader(path.read_text(encoding="utf-8").splitlines()))


def table(path, *rows):
    path.write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    path.chmod(0o600)
    return path


def test_a_subject_keeps_its_pseudonym_when_others_are_added(tmp_path):
    path = tmp_path / "who.csv"
    with open_pseudonyms(path) as names:
        first = names.subject("Anna")
    with open_pseudonyms(path) as names:
        others = [names.subject(name) for name in ("Aaron", "Zoe")]
        assert names.subject("Anna") == first
    assert len({first, *others}) == 3
    assert [name for _, name, _ in lines(path)] == ["name", "Anna", "Aaron", "Zoe"]


def test_pseudonyms_of_subjects_do_not_follow_from_their_names_or_order(tmp_path):
    drawn = []
    for name in "ab":
        with open_pseudonyms(tmp_path / f"{name}.csv") as names:
            drawn.append(names.subject("Anna"))
    assert drawn[0] != drawn[1]


def test_a_table_is_private_from_the_start_and_when_it_is_extended(tmp_path):
    path = tmp_path / "who.csv"
    for name in ("Anna", "Bert"):
        with open_pseudonyms(path) as names:
            names.subject(name)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o644)


def test_a_table_in_which_nothing_is_new_is_not_written(tmp_path):
    path = table(tmp_path / "who.csv", "subject,Anna,P1")
    before = path.stat()
    with open_pseudonyms(path) as names:
        assert names.subject("Anna") == "P1"
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino


def test_nothing_is_written_where_the_work_in_between_fails(tmp_path):
    def fail(names):
        names.subject("Anna")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), open_pseudonyms(tmp_path / "who.csv") as names:
        fail(names)
    assert list(tmp_path.iterdir()) == []


def test_visits_repeats_and_sites_are_counted():
    names = Pseudonyms(draw=counted())
    named = [
        names.case(one)
        for one in (
            case("Anna-2019", "Anna", "2019", "Guys"),
            case("Anna-2020", "Anna", "2020", "HH"),
            case("Anna-2020-again", "Anna", "2020", "HH"),
            case("Bert", "Bert"),
        )
    ]
    assert [(c.case, c.subject, c.session, c.site) for c in named] == [
        ("sub-00000001_ses-1", "sub-00000001", "1", "site-1"),
        ("sub-00000001_ses-2", "sub-00000001", "2", "site-2"),
        ("sub-00000001_ses-2_2", "sub-00000001", "2", "site-2"),
        ("sub-00000002", "sub-00000002", "", ""),
    ]
    assert names.case(case("Anna-2020-again", "Anna", "2020", "HH")) == named[2]


def test_names_that_are_hard_to_write_come_back(tmp_path):
    path = tmp_path / "who.csv"
    odd = ["a,b", 'say "x"', "two\nlines", "carriage\rreturn", "Zoë", "b\udce9", " blank "]
    with open_pseudonyms(path) as names:
        given = [names.subject(name) for name in odd]
    with open_pseudonyms(path) as names:
        assert [names.rows["subject", name] for name in odd] == given


def test_forty_thousand_subjects_take_no_time_that_grows_with_their_square():
    names = Pseudonyms()
    named = {names.case(case(f"c{n}", f"s{n}", "1")).case for n in range(40_000)}
    assert len(named) == 40_000


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["subject,Anna,P1", "subject,Bert,P1"], "row 3 that stands before"),
        (["subject,Anna,P1", "subject,Anna,P2"], "row 3 that stands before"),
        (["subject,Anna,../x"], "no name for files in row 2"),
        (["subject,Anna,"], "no name for files in row 2"),
        (["subject,Anna"], "2 cells in row 2"),
        (["person,Anna,P1"], "another kind than"),
        (['subject,"Anna,P1'], "no table"),
    ],
)
def test_a_table_with_a_bad_line_is_refused_without_saying_a_name(tmp_path, rows, told):
    path = table(tmp_path / "who.csv", *rows)
    with pytest.raises(DataError, match=told) as caught, open_pseudonyms(path):
        pass
    assert "Anna" not in str(caught.value)
    assert path.read_text().endswith(f"{rows[-1]}\n")


def test_another_table_is_not_overwritten(tmp_path):
    path = tmp_path / "who.csv"
    path.write_text("participant_id,age\nsub-1,40\n")
    with pytest.raises(DataError, match="columns participant_id, age"), open_pseudonyms(path):
        pass
    assert path.read_text().startswith("participant_id")


def test_a_table_that_others_may_read_is_warned_of_without_its_content(tmp_path, caplog):
    path = table(tmp_path / "who.csv", "subject,Anna,P1")
    path.chmod(0o644)
    with open_pseudonyms(path):
        pass
    assert "chmod 600" in caplog.text
    assert "Anna" not in caplog.text
