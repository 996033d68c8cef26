"""Where there is nothing to learn from, fine-tuning says what to do."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from brainsegfounder.workflows.finetune import _no_labels


@pytest.mark.parametrize(
    ("labelled", "told"),
    [
        ({"d"}, "but cases that validate or test have (1); expected masks to learn from. Take"),
        (set(), "has a mask; expected some. Prepare again with a recipe that names data.labels."),
    ],
)
def test_without_masks_to_learn_from_the_way_out_is_told(labelled, told):
    split = SimpleNamespace(train=("a", "b"), validation=("c",), test=("d",))
    stage = SimpleNamespace(split=split, cases=lambda subjects, **_: labelled & set(subjects))
    said = _no_labels(stage, Path("store"))
    assert said.startswith("store: none of 2 training subjects has a mask")
    assert told in said
