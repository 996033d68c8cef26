"""Names of one person: what they show by themselves, and what a table says."""

import pytest

from brainsegfounder.data.identity import Aliases, person, read_aliases, spelling
from brainsegfounder.errors import DataError


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Brats18_TCIA03_265_1", "BraTS19_TCIA03_265_1"),
        ("BraTS2021_00097", "BraTS-GLI-00097-001"),
        ("UCSF-PDGM-0004_FU003d", "ucsf-pdgm-0004"),
        ("UPENN-GBM-00012_11", "UPENN-GBM-00012_21"),
        ("TCGA-06-0119", "TCGA_06_0119_T1"),
        ("sub-17", "17"),
    ],
)
def test_names_of_one_person_have_one_spelling(one, other):
    assert spelling(one) == spelling(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Brats18_TCIA03_265_1", "Brats18_TCIA03_266_1"),
        ("BraTS2021_00097", "BraTS2021_00098"),
        ("BraTS-GLI-00097-000", "BraTS-MEN-00097-000"),
        ("sub-17", "sub-18"),
    ],
)
def test_names_of_two_people_have_two(one, other):
    assert spelling(one) != spelling(other)


def test_L02_a_table_joins_names_across_its_rows(tmp_path):
    table = tmp_path / "aliases.csv"
    table.write_text(
        "brats21,pdgm,own\nBraTS2021_00097,UCSF-PDGM-0004,\n,UCSF-PDGM-0004,patient9\n"
    )
    aliases = read_aliases(table)
    names = ("BraTS-GLI-00097-000", "UCSF-PDGM-0004_FU1", "Patient9")
    assert len({person(name, aliases) for name in names}) == 1
    assert person("patient8", aliases) == "patient8"


def test_groups_that_meet_later_become_one():
    aliases = Aliases([["a", "b"], ["c", "d"], ["b", "c"]])
    assert {person(name, aliases) for name in "abcd"} == {"a"}


@pytest.mark.parametrize("text", ["", "one,two\n", "one,two\nalone,\n"])
def test_a_table_that_joins_nobody_is_refused(tmp_path, text):
    table = tmp_path / "aliases.csv"
    table.write_text(text)
    with pytest.raises(DataError, match=r"aliases\.csv: no row with two names; expected a header"):
        read_aliases(table)
