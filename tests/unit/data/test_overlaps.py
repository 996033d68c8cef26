"""Which pairs of cases show one brain: reasons, their order, and what is no overlap."""

import pytest

from brainsegfounder.data.identity import Aliases
from brainsegfounder.data.overlaps import Kind, Scan, find_overlaps
from brainsegfounder.volumes.likeness import look_at
from brainsegfounder.volumes.phantom import draw_subject

NOBODY = Aliases()


def scan(part, case, subject=None, *, contrast="T1w", marks=(), look=None):
    return Scan(part, case, subject or case, "", contrast, frozenset(marks), look)


def kinds(scans, aliases=NOBODY):
    return [(str(o.kind), o.one.case, o.other.case) for o in find_overlaps(scans, aliases)]


@pytest.fixture(scope="module")
def looks():
    return [
        look_at(
            draw_subject(n, seed=4, lesion="stroke", contrasts=["T1w"], spacing_mm=3.0).volumes[
                "T1w"
            ]
        )
        for n in range(3)
    ]


def test_L01_a_subject_in_two_parts_is_a_leak():
    [found] = find_overlaps([scan("train", "a"), scan("test", "a_again", "a")], NOBODY)
    assert (found.kind, found.is_leak) == (Kind.SAME_SUBJECT, True)


def test_L01_two_sessions_in_one_part_are_repeats_and_no_leak():
    [found] = find_overlaps([scan("train", "a_1", "a"), scan("train", "a_2", "a")], NOBODY)
    assert (found.kind, found.is_leak, found.is_hidden) == (Kind.REPEAT, False, False)


def test_L02_an_alias_in_another_part_is_a_leak():
    scans = [scan("train", "BraTS2021_00097"), scan("test", "UCSF-PDGM-0004")]
    assert kinds(scans) == []
    aliases = Aliases([["BraTS2021_00097", "UCSF-PDGM-0004"]])
    assert kinds(scans, aliases) == [("alias", "BraTS2021_00097", "UCSF-PDGM-0004")]


def test_L03_equal_voxels_are_found_under_any_name_contrast_and_part():
    scans = [
        scan("train", "a", marks="x"),
        scan("test", "b", contrast="T2w", marks="x"),
        scan("train", "c", marks="x"),
        scan("train", "d", marks="y"),
    ]
    found = find_overlaps(scans, NOBODY)
    assert [(o.one.case, o.other.case, o.is_leak, o.is_hidden) for o in found] == [
        ("b", "c", True, False),
        ("a", "b", True, False),
        ("a", "c", False, True),
    ]
    assert {o.kind for o in found} == {Kind.SAME_VOXELS}


def test_contrasts_of_one_case_with_equal_voxels_are_no_overlap():
    assert kinds([scan("p", "a", marks="x"), scan("p", "a", contrast="T2w", marks="x")]) == []


def test_L04_a_brain_is_known_by_its_looks(looks):
    scans = [
        scan("train", "a", look=looks[0]),
        scan("train", "b", look=looks[1]),
        scan("test", "c", look=looks[0]),
    ]
    [found] = find_overlaps(scans, NOBODY)
    assert (found.kind, found.one.case, found.other.case) == (Kind.SAME_BRAIN, "a", "c")
    assert found.likeness == pytest.approx(1.0, abs=0.01)


def test_other_contrasts_are_not_compared(looks):
    scans = [scan("train", "a", look=looks[0]), scan("test", "b", contrast="T2w", look=looks[0])]
    assert kinds(scans) == []


def test_namesakes_with_other_brains_are_no_leak(looks):
    scans = [scan("one", "sub-01", look=looks[0]), scan("two", "sub-01", look=looks[1])]
    [found] = find_overlaps(scans, NOBODY)
    assert (found.kind, found.is_leak) == (Kind.NAMESAKE, False)
    assert found.likeness is not None
    assert found.likeness < 0.75


def test_a_pair_is_told_once_for_its_strongest_reason(looks):
    scans = [
        scan("train", "a", marks="x", look=looks[0]),
        scan("test", "a", marks="x", look=looks[0]),
        scan("test", "a", contrast="T2w", marks="z"),
    ]
    assert kinds(scans) == [("same_voxels", "a", "a")]


def test_a_run_without_voxels_is_compared_by_marks_and_names():
    scans = [
        Scan("run", "(seen)", "", "", "", frozenset("xy")),
        Scan("run", "b", "b", "", ""),
        scan("test", "a", marks="x"),
        scan("test", "b"),
        scan("test", "c"),
    ]
    assert kinds(scans) == [("same_voxels", "(seen)", "a"), ("same_subject", "b", "b")]
