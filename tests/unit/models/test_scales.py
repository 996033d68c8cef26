import pytest

from brainsegfounder.errors import RecipeError, UsageError
from brainsegfounder.models.scales import SCALES, get_scale


def test_each_head_has_as_many_channels_as_any_other_of_its_stage():
    for scale in SCALES.values():
        for stage, num_heads in enumerate(scale.num_heads):
            assert scale.feature_size * 2**stage % num_heads == 0


def test_the_deepest_map_of_tiny_has_768_channels():
    assert get_scale("tiny").bottleneck_channels == 768


@pytest.mark.parametrize(("wrong", "meant"), [("tny", "tiny"), ("Small", "small"), ("bigg", "big")])
def test_a_misspelt_scale_is_refused_with_the_one_meant(wrong, meant):
    with pytest.raises(RecipeError, match=f"scale '{wrong}'.*did you mean '{meant}'"):
        get_scale(wrong)


def test_an_unknown_scale_lists_those_there_are():
    with pytest.raises(UsageError, match=r"nano, nano-small, nano-big, tiny, small, big$"):
        get_scale("xxxxxxxx")
