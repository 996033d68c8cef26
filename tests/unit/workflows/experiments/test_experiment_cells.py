"""Which runs each experiment is made of, and that no arm is favoured or has seen the test part."""

from dataclasses import replace
from pathlib import Path

import pytest

from brainsegfounder.data.store import open_store
from brainsegfounder.errors import UsageError
from brainsegfounder.recipes import change_recipe, load_recipe
from brainsegfounder.workflows.experiments import fewshot
from brainsegfounder.workflows.experiments.arms import Stage1, parse_arms
from brainsegfounder.workflows.experiments.contrasts import contrasts_cells, subsets_of
from brainsegfounder.workflows.experiments.crossval import crossval_cells
from brainsegfounder.workflows.experiments.fewshot import FewshotOptions, fewshot_cells
from brainsegfounder.workflows.experiments.scales import scales_cells
from brainsegfounder.workflows.stage import split_of

RECIPE = load_recipe("demo-target")
MADE = Stage1(None, load_recipe("demo-stage1"), Path("healthy"))


@pytest.fixture
def large(cohort: Path, monkeypatch: pytest.MonkeyPatch):
    """A store of thirty subjects with lesions of all sizes, two of them without labels."""
    opened = open_store(cohort)
    first = opened.cases[0]
    cases = tuple(
        replace(
            first,
            case=f"c{n:02d}",
            subject=f"s{n:02d}",
            label_voxels={"1": (n * 37) % 29 + 1} if n < 28 else None,
            has_labels=n < 28,
        )
        for n in range(30)
    )
    store = replace(opened, cases=cases)
    monkeypatch.setattr(fewshot, "open_store", lambda _: store)
    return store


def arms(words: str, stage1: Stage1 = MADE):
    return parse_arms(words.split(","), stage1, RECIPE)


def parts(store, cell):
    """Subjects that train and choose, and those that are tested."""
    split = split_of(store, cell.recipe, cell.fold)
    return {*split.train, *split.validation}, set(split.test)


def test_few_shot_subsets_are_nested_the_same_for_every_arm_and_never_tested(large):
    options = FewshotOptions((0.2, 0.5, 1.0), repeats=3)
    cells = fewshot_cells(RECIPE, Path("store"), arms("scratch,stage1,stage1+2"), MADE, options)
    tuned = [cell for cell in cells if cell.verb == "finetune"]
    assert len(tuned) == 3 * 3 * 3
    seen: dict[tuple[str, str], dict[str, set[str]]] = {}
    tests = set()
    for cell in tuned:
        train, test = parts(large, cell)
        tests.add(frozenset(test))
        assert len(train) == int(cell.tags["labels"])
        assert not train & test
        key = (cell.tags["seed"], cell.tags["labels"])
        seen.setdefault(key, {})[cell.tags["arm"]] = train
        assert cell.recipe.seed == RECIPE.seed + int(cell.tags["seed"])
    assert len(tests) == 1, "the test part is fixed"
    assert all(len(set(map(frozenset, of.values()))) == 1 for of in seen.values())
    for repeat in "012":
        sizes = sorted(int(labels) for seed, labels in seen if seed == repeat)
        subsets = [seen[repeat, str(size)]["scratch"] for size in sizes]
        assert subsets[0] < subsets[1] < subsets[2]
    assert seen["0", str(sizes[0])]["scratch"] != seen["1", str(sizes[0])]["scratch"]


def test_stage_2_sees_the_pool_but_never_the_test_part(large):
    options = FewshotOptions((0.2, 1.0), repeats=2)
    cells = fewshot_cells(RECIPE, Path("store"), arms("scratch,stage2"), Stage1(), options)
    (stage2,) = [cell for cell in cells if cell.verb == "pretrain"]
    train, test = parts(large, stage2)
    tuned = [cell for cell in cells if cell.tags.get("arm") == "stage2"]
    assert {cell.needs for cell in tuned} == {stage2.name}
    assert all(parts(large, cell)[1] == test for cell in tuned)
    assert train | test == {case.subject for case in large.cases}
    assert {"s28", "s29"} <= train | test, "images without labels are seen, too"


def test_stage_2_can_be_kept_to_the_labelled_fraction(large):
    options = FewshotOptions((0.2, 1.0), repeats=2, stage2_on="labelled")
    cells = fewshot_cells(RECIPE, Path("store"), arms("stage2"), Stage1(), options)
    by_name = {cell.name: cell for cell in cells}
    tuned = [cell for cell in cells if cell.verb == "finetune"]
    assert len(by_name) == 8
    for cell in tuned:
        assert parts(large, by_name[cell.needs]) == parts(large, cell)


def test_the_official_protocol_draws_a_new_test_part_each_repeat(large):
    options = FewshotOptions((0.5,), repeats=3, protocol="official")
    cells = fewshot_cells(RECIPE, Path("store"), arms("scratch,stage2"), Stage1(), options)
    tests = [parts(large, c)[1] for c in cells if c.tags.get("arm") == "scratch"]
    assert len(set(map(frozenset, tests))) == 3
    assert {len(test) for test in tests} == {round(0.2 * 28)}
    stage2 = [cell for cell in cells if cell.verb == "pretrain"]
    assert [parts(large, cell)[1] for cell in stage2] == tests


def test_named_test_subjects_are_the_fixed_test_part(large):
    recipe = change_recipe(RECIPE, {"split.test_subjects": ["s03", "s04"]})
    cells = fewshot_cells(recipe, Path("s"), arms("scratch"), MADE, FewshotOptions((1.0,), 1))
    assert parts(large, cells[0])[1] == {"s03", "s04"}
    assert cells[0].tags["labels"] == "26"


def test_cross_validation_makes_stage_2_once_a_fold_and_stage_1_once(cohort):
    cells = crossval_cells(RECIPE, cohort, arms("scratch,stage1+2"), MADE)
    names = [cell.name for cell in cells]
    assert names == [
        "stage1",
        *(f"scratch/fold-{n}" for n in range(3)),
        *(f"stage1+2/{what}fold-{n}" for n in range(3) for what in ("stage2_", "")),
    ]
    tested = [set(parts(open_store(cohort), cell)[1]) for cell in cells[1:4]]
    assert set.union(*tested) == {case.subject for case in open_store(cohort).cases}
    assert sum(map(len, tested)) == len(set.union(*tested))
    assert {cell.needs for cell in cells if "stage2_" in cell.name} == {"stage1"}


def test_a_fold_that_is_none_is_refused(cohort):
    with pytest.raises(UsageError, match="--folds 7: expected some of 0, 1, 2"):
        crossval_cells(RECIPE, cohort, arms("scratch"), MADE, [0, 7])


def test_subsets_of_contrasts_begin_with_all():
    four = ("T1w", "T1ce", "T2w", "FLAIR")
    assert subsets_of(four, "single") == [four, ("T1w",), ("T1ce",), ("T2w",), ("FLAIR",)]
    every = subsets_of(four, "all")
    assert (len(every), len(set(every)), every[0]) == (15, 15, four)
    with pytest.raises(UsageError, match="T1w only; expected two or more"):
        subsets_of(["T1w"], "all")


def test_all_stages_of_a_subset_see_its_contrasts_only():
    subsets = [("T1w", "FLAIR"), ("T1w",)]
    cells = contrasts_cells(RECIPE, Path("s"), arms("scratch,stage1+2"), MADE, subsets, [0])
    assert [
        (cell.name, cell.recipe.data.contrasts) for cell in cells if cell.name[:4] == "T1w/"
    ] == [
        ("T1w/stage1", ("T1w",)),
        ("T1w/scratch/fold-0", ("T1w",)),
        ("T1w/stage1+2/stage2_fold-0", ("T1w",)),
        ("T1w/stage1+2/fold-0", ("T1w",)),
    ]
    both = [cell for cell in cells if cell.name.startswith("T1w+FLAIR/")]
    assert {cell.recipe.data.contrasts for cell in both} == {("T1w", "FLAIR")}
    assert {cell.needs for cell in both if "stage2_" in cell.name} == {"T1w+FLAIR/stage1"}


def test_a_single_contrast_may_fill_four_channels():
    subsets = [("T1w", "FLAIR"), ("FLAIR",)]
    cells = contrasts_cells(RECIPE, Path("s"), arms("scratch"), MADE, subsets, [None], copies=True)
    assert [(cell.name, cell.recipe.data.contrasts, cell.recipe.data.copies) for cell in cells] == [
        ("T1w+FLAIR/scratch/test", ("T1w", "FLAIR"), 1),
        ("FLAIR/scratch/test", ("FLAIR",), 4),
    ]


def test_each_scale_has_its_own_stage_1():
    cells = scales_cells(RECIPE, Path("s"), ["nano", "nano-big"], arms("scratch,stage1"), MADE, [0])
    assert [(c.name, c.recipe.model.scale, c.start) for c in cells] == [
        ("nano/stage1", "nano", None),
        ("nano/scratch/fold-0", "nano", None),
        ("nano/stage1/fold-0", "nano", "nano/stage1"),
        ("nano-big/stage1", "nano-big", None),
        ("nano-big/scratch/fold-0", "nano-big", None),
        ("nano-big/stage1/fold-0", "nano-big", "nano-big/stage1"),
    ]


def test_a_recipe_of_stage_1_is_pretrained_at_each_scale():
    recipe = load_recipe("demo-stage1")
    cells = scales_cells(recipe, Path("s"), ["nano", "nano-small"], arms("scratch"), MADE, [])
    assert [(cell.name, cell.verb, cell.recipe.model.scale) for cell in cells] == [
        ("nano/stage1", "pretrain", "nano"),
        ("nano-small/stage1", "pretrain", "nano-small"),
    ]


def test_weights_of_one_scale_are_refused_for_several(tmp_path):
    given = Stage1(tmp_path)
    with pytest.raises(UsageError, match="weights of one scale fit no other"):
        scales_cells(RECIPE, Path("s"), ["nano", "tiny"], arms("stage1", given), given, [0])
