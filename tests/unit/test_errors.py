import inspect
import re

import pytest

from brainsegfounder import errors
from brainsegfounder.errors import BrainSegFounderError

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, BrainSegFounderError)
}
DRAWN = [
    (len(indent) // 4, name, int(code))
    for indent, name, code in re.findall(
        r"^    ([│├└─ ]*)(\w+)\s+(\d+)  ", errors.__doc__, re.MULTILINE
    )
]


def drawn_parent(place):
    """The nearest name above that is drawn one level further left."""
    level = DRAWN[place][0]
    return next(name for depth, name, _ in reversed(DRAWN[:place]) if depth == level - 1)


def test_the_tree_in_the_docstring_names_every_class_once():
    assert sorted(name for _, name, _ in DRAWN) == sorted(CLASSES)


@pytest.mark.parametrize("place", range(1, len(DRAWN)), ids=[name for _, name, _ in DRAWN[1:]])
def test_a_class_has_the_parent_and_the_exit_code_that_are_drawn(place):
    _, name, code = DRAWN[place]
    assert CLASSES[name].__base__.__name__ == drawn_parent(place)
    assert CLASSES[name].exit_code == code


def test_bad_data_ends_with_3_wrong_use_with_2_and_a_failed_run_with_1():
    assert errors.VolumeError("x").exit_code == 3
    assert errors.RecipeError("x").exit_code == 2
    assert errors.TrainingError("x").exit_code == 1


def test_a_problem_is_a_sentence_and_stays_in_parts():
    problem = errors.Problem(
        code="bad_dims", file="a.nii", found="dim -24", expected="above 0", advice="Convert it.",
        field="dim",
    )  # fmt: skip
    error = errors.VolumeError(problem)
    assert str(error) == "a.nii: dim: dim -24; expected above 0. Convert it."
    assert error.problem is problem
    assert errors.VolumeError("a.nii: empty").problem is None
