from pathlib import Path

import pytest

from brainsegfounder.errors import UsageError
from brainsegfounder.recipes import change_recipe, load_recipe
from brainsegfounder.workflows.experiments.arms import Stage1, parse_arms

RECIPE = load_recipe("demo-target")
STORE = Path("store")


def test_arms_are_named_and_say_what_they_need(tmp_path):
    words = ["scratch", "stage1", "stage2", "stage1+2", f"weights:{tmp_path}", f"mae={tmp_path}"]
    arms = parse_arms(words, Stage1(tmp_path), RECIPE)
    found = [(arm.name, arm.has_stage1, arm.has_stage2, arm.weights) for arm in arms]
    assert found == [
        ("scratch", False, False, None),
        ("stage1", True, False, None),
        ("stage2", False, True, None),
        ("stage1+2", True, True, None),
        (tmp_path.name, False, False, tmp_path),
        ("mae", False, False, tmp_path),
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["stage1"], "needs stage 1; expected --stage1 FOLDER"),
        (["scratch", "scratch"], "scratch stands twice"),
        ([""], "no arm"),
        (["stage3"], "no such arm; expected scratch, stage1"),
        (["mae=nowhere"], "nowhere: no such folder"),
        (["weights:nowhere"], "nowhere: no such folder"),
    ],
)
def test_arms_that_cannot_be_are_refused(words, told):
    with pytest.raises(UsageError, match=told):
        parse_arms(words, Stage1(), RECIPE)


def test_a_stage_2_needs_a_section_for_it():
    without = change_recipe(RECIPE, {"pretrain": None})
    with pytest.raises(UsageError, match="demo-target has no `pretrain` section"):
        parse_arms(["stage2"], Stage1(), without)


def cells_of(arm, stage1=None, **options):
    (arm,) = parse_arms([arm], Stage1(Path()), RECIPE)
    return [
        (cell.name, cell.verb, cell.start, cell.fold, cell.tags)
        for cell in arm.cells("fold-1", RECIPE, STORE, stage1, fold=1, **options)
    ]


def test_an_arm_begins_where_it_says():
    tags = {"arm": "scratch", "fold": "1"}
    assert cells_of("scratch", tags={"fold": "1"}) == [
        ("scratch/fold-1", "finetune", None, 1, tags)
    ]
    assert cells_of("stage1", Path("runs/one")) == [
        ("stage1/fold-1", "finetune", Path("runs/one"), 1, {"arm": "stage1"})
    ]
    assert cells_of("stage1+2", "stage1", group="T1w/") == [
        ("T1w/stage1+2/stage2_fold-1", "pretrain", "stage1", 1, {}),
        ("T1w/stage1+2/fold-1", "finetune", "T1w/stage1+2/stage2_fold-1", 1, {"arm": "stage1+2"}),
    ]


def test_a_stage_1_of_the_grid_is_a_run_that_others_need():
    made = Stage1(None, load_recipe("demo-stage1"), STORE)
    start, (cell,) = made.begin("tiny/", {"model.scale": "tiny"})
    assert (start, cell.name, cell.verb, cell.needs) == ("tiny/stage1",) * 2 + ("pretrain", None)
    assert cell.recipe.model.scale == "tiny"
    assert Stage1(Path("given")).begin("", {}) == (Path("given"), [])


def test_a_folder_of_weights_names_its_arm_by_letters_that_mean_nothing_else(tmp_path):
    (tmp_path / "my weights@2=a,b").mkdir()
    (arm,) = parse_arms([f"weights:{tmp_path / 'my weights@2=a,b'}"], Stage1(), RECIPE)
    assert arm.name == "my-weights-2-a-b"
