import dataclasses
import pickle

import pytest

from brainsegfounder.errors import UsageError
from brainsegfounder.evaluation.conventions import CONVENTIONS, TUMOUR_TYPES, convention


@pytest.mark.parametrize("name", CONVENTIONS)
def test_every_convention_states_its_definitions_empty_rules_labels_and_source(name):
    rules = convention(name)
    assert {"convention", "dice", "hd95_mm", "lesions", "labels", "empty", "grid"} <= set(
        rules.rules
    )
    empty = ("Both masks empty", "reference without a voxel", "No lesion on either side")
    assert any(words in rules.rules["dice"] for words in empty)
    assert rules.source
    assert rules.version >= 1


def test_a_convention_cannot_be_changed_and_travels_to_other_processes():
    rules = convention("brats-2023", "metastasis")
    with pytest.raises(dataclasses.FrozenInstanceError):
        rules.dilation_vox = 5
    assert pickle.loads(pickle.dumps(rules)) == rules


@pytest.mark.parametrize("tumour_type", TUMOUR_TYPES)
def test_brats_2023_has_the_parameters_of_each_tumour_type_and_says_them(tumour_type):
    rules = convention("brats-2023", tumour_type)
    expected = {"meningioma": (1, 50.0), "metastasis": (1, 2.0)}.get(tumour_type, (3, 50.0))
    assert (rules.dilation_vox, rules.min_lesion_mm3) == expected
    assert f"{expected[1]:g} mm³" in rules.rules["lesions"]
    assert tumour_type in rules.rules["convention"]


def test_three_and_four_are_both_enhancing_tumour_in_brats():
    for name in ("brats-2021", "brats-2023"):
        rules = convention(name)
        assert rules.regions == {"WT": (1, 2, 3, 4), "TC": (1, 3, 4), "ET": (3, 4)}
        assert "both are read as ET" in rules.rules["labels"]


def test_only_the_second_hand_convention_is_provisional_and_says_so():
    assert [name for name in CONVENTIONS if convention(name).provisional] == ["isles-2026"]
    assert "PROVISIONAL" in convention("isles-2026").rules["convention"]
    assert "PROVISIONAL" in convention("isles-2026").source


def test_an_unknown_convention_or_tumour_is_named_with_the_nearest():
    with pytest.raises(UsageError, match=r"--convention brats-2032: unknown.*'brats-20"):
        convention("brats-2032")
    with pytest.raises(UsageError, match=r"--tumour-type metastases.*Did you mean 'metastasis'"):
        convention("brats-2023", "metastases")
    with pytest.raises(UsageError, match=r"plain has no parameters per tumour type"):
        convention("plain", "glioma")
