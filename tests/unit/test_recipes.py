import pytest
import yaml

from brainsegfounder.errors import RecipeError
from brainsegfounder.recipes import (
    dump_recipe,
    explain_fields,
    fields,
    load_reading,
    load_recipe,
    parse_recipe,
    shipped_recipes,
)
from brainsegfounder.settings import Recipe, ThreeTaskSettings
from brainsegfounder.settings.objectives import KINDS

SHIPPED = shipped_recipes()
SMALL = """
name: small
data:
  contrasts: [T1w]
  labels: {lesion: 1}
  regions:
    lesion: {labels: [1], paint: 1}
finetune: {steps: 3}
"""


def saved(folder, text, name="r.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def small(**changes):
    return {**yaml.safe_load(SMALL), **changes}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_loads_by_name_and_is_complete(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description.endswith(".")
    assert recipe.pretrain is not None or recipe.finetune is not None
    if recipe.finetune is not None:
        assert recipe.target_names


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_is_one_screenful_that_begins_with_what_it_is(name):
    lines = SHIPPED[name].read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert len(lines) <= 80
    assert max(map(len, lines)) <= 110


@pytest.mark.parametrize("name", SHIPPED)
def test_the_resolved_recipe_feeds_back_identically(name, tmp_path):
    recipe = load_recipe(name, ["seed=7", "split.test_subjects=[sub-1, '12e5', no, '007']"])
    text = dump_recipe(recipe)
    again = load_recipe(saved(tmp_path, text))
    assert again == recipe
    assert dump_recipe(again) == text


def test_text_that_looks_like_a_number_survives_the_resolved_recipe(tmp_path):
    subjects = ["12e5", "1e-4", "no", "007", "1.5", "true", "2024-01-02", "null", "~", "a: b", "脑"]
    recipe = parse_recipe(small(split={"test_subjects": subjects}), "r.yaml")
    again = load_recipe(saved(tmp_path, dump_recipe(recipe)))
    assert again.split.test_subjects == tuple(subjects)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("2E3", 2000.0), ("1.5e-05", 1.5e-5), (".5", 0.5)]
)
def test_numbers_with_an_exponent_are_numbers(tmp_path, text, value):
    recipe = load_recipe(saved(tmp_path, SMALL), [f"finetune.optimizer.peak_lr={text}"])
    assert recipe.finetune.optimizer.peak_lr == value


@pytest.mark.parametrize("word", ["no", "off", "yes", "on", "y", "No"])
def test_words_that_old_yaml_takes_for_truth_are_text(tmp_path, word):
    recipe = load_recipe(saved(tmp_path, SMALL.replace("name: small", f"name: {word}")))
    assert recipe.name == word


def test_true_and_false_are_truth_values(tmp_path):
    assert load_recipe(saved(tmp_path, SMALL), ["model.checkpointing=true"]).model.checkpointing


def test_a_misspelt_field_names_file_field_and_the_nearest_field(tmp_path):
    path = saved(tmp_path, SMALL.replace("{steps: 3}", "{optimizer: {peek_lr: 1e-4}}"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value) == (
        "r.yaml: finetune.optimizer.peek_lr: no such field; "
        "did you mean 'finetune.optimizer.peak_lr'?"
    )
    assert caught.value.exit_code == 2


def test_a_field_in_the_wrong_section_is_led_to_the_right_one(tmp_path):
    with pytest.raises(
        RecipeError, match=r"peak_lr: no such field; did you mean '\w+\.optimizer\."
    ):
        load_recipe(saved(tmp_path, SMALL), ["peak_lr=1"])


def test_all_mistakes_are_told_at_once(tmp_path):
    with pytest.raises(
        RecipeError, match=r"seed: found 'x'.*; r\.yaml: model\.scale: found 'huge'"
    ):
        load_recipe(saved(tmp_path, SMALL), ["seed=x", "model.scale=huge"])


def test_a_missing_field_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"r\.yaml: name: missing"):
        load_recipe(saved(tmp_path, SMALL.replace("name: small", "seed: 1")))


def test_set_lies_over_the_file_and_the_last_one_wins(tmp_path):
    path = saved(tmp_path, SMALL)
    assert load_recipe(path).finetune.steps == 3
    recipe = load_recipe(path, ["finetune.steps=4", "finetune.steps=5", "seed=9"])
    assert (recipe.finetune.steps, recipe.seed) == (5, 9)
    assert recipe.finetune.batch_size == 2, "the default where neither says otherwise"


def test_set_takes_lists_mappings_and_null(tmp_path):
    recipe = load_recipe(
        saved(tmp_path, SMALL),
        [
            "preparation.spacing_mm=null",
            "data.contrasts=[T1w, FLAIR]",
            "finetune.augment={flip: 0}",
            "finetune.patch_size_vox=[64, 96, 128]",
        ],
    )
    assert recipe.preparation.spacing_mm is None
    assert recipe.data.contrasts == ("T1w", "FLAIR")
    assert recipe.finetune.augment.flip == 0
    assert recipe.finetune.patch_size_vox == (64, 96, 128)


@pytest.mark.parametrize("text", ["finetune.steps", "=3", "a=[1"])
def test_a_malformed_set_is_refused(tmp_path, text):
    with pytest.raises(RecipeError, match="--set"):
        load_recipe(saved(tmp_path, SMALL), [text])


def test_an_unknown_name_lists_the_shipped_recipes_and_the_nearest():
    with pytest.raises(RecipeError, match=r"did you mean 'open-glioma'\?.*demo-stage1"):
        load_recipe("open-gliomas")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "not readable as YAML"), ("- 1", "found list"), ("", "found NoneType")],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(saved(tmp_path, text))


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"cannot be read|not readable"):
        load_recipe(tmp_path / "r.yaml")


def test_a_python_object_in_yaml_is_refused_and_not_made(tmp_path):
    with pytest.raises(RecipeError, match="not readable as YAML"):
        load_recipe(saved(tmp_path, "name: !!python/object/apply:os.getcwd []\n"))


def test_a_run_folder_stands_for_its_resolved_recipe(tmp_path):
    recipe = parse_recipe(small(), "r.yaml")
    saved(tmp_path, dump_recipe(recipe), "recipe.resolved.yaml")
    assert load_recipe(tmp_path) == recipe


def test_a_region_of_values_outside_the_labels_is_refused():
    data = {"contrasts": ["T1w"], "labels": {"lesion": 1}}
    region = {"labels": [1, 3], "paint": 2}
    with pytest.raises(RecipeError, match=r"data\.regions\.core: label values \[2, 3\] are not in"):
        parse_recipe(small(data={**data, "regions": {"core": region}}), "r.yaml")


def test_a_contrast_that_stands_twice_is_refused():
    with pytest.raises(RecipeError, match="a contrast stands twice"):
        parse_recipe(small(data={**small()["data"], "contrasts": ["T1w", "T1w"]}), "r.yaml")


def test_fine_tuning_without_a_region_is_refused():
    with pytest.raises(RecipeError, match=r"data\.regions: empty"):
        parse_recipe(small(data={"contrasts": ["T1w"]}), "r.yaml")


@pytest.mark.parametrize("size", [[64, 64, 65], [32, 64, 64], [0, 64, 64], [64, 64]])
def test_a_patch_that_does_not_fit_the_network_is_refused(size):
    with pytest.raises(RecipeError, match="patch_size_vox"):
        parse_recipe(small(finetune={"patch_size_vox": size}), "r.yaml")


def test_a_pretraining_patch_must_be_square_in_the_plane_that_is_turned():
    with pytest.raises(RecipeError, match="the last two sides must be equal"):
        parse_recipe(small(pretrain={"patch_size_vox": [96, 64, 96]}), "r.yaml")
    parse_recipe(small(pretrain={"patch_size_vox": [96, 64, 64]}), "r.yaml")


@pytest.mark.parametrize(
    "change",
    [
        {"seed": "x"},
        {"finetune": {"optimizer": {"peak_lr": -1}}},
        {"finetune": {"optimizer": {"peak_lr": float("nan")}}},
        {"preparation": {"spacing_mm": [1, 1, 0]}},
        {"predict": {"overlap": 1.0}},
        {"split": {"folds": 1}},
        {"name": "a/b"},
        {"model": {"merging": "other"}},
    ],
)
def test_impossible_values_are_refused(change):
    with pytest.raises(RecipeError, match=r"r\.yaml: \w+"):
        parse_recipe(small(**change), "r.yaml")


def test_a_recipe_cannot_be_changed_after_it_was_made():
    recipe = parse_recipe(small(), "r.yaml")
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3


def test_the_target_names_are_regions_or_background_and_labels():
    assert parse_recipe(small(), "r.yaml").target_names == ("lesion",)
    classes = parse_recipe(small(finetune={"target": "classes"}), "r.yaml")
    assert classes.target_names == ("background", "lesion")


def test_every_field_has_a_description():
    assert not [name for name, text in fields() if not text]
    folds = Recipe.model_fields["split"].annotation.model_fields["folds"]
    assert ("split.folds", folds.description) in fields()


def test_a_field_a_section_or_everything_is_explained():
    assert [name for name, _ in explain_fields("split.folds")] == ["split.folds"]
    section = [name for name, _ in explain_fields("split")]
    assert section[0] == "split"
    assert "split.test_subjects" in section
    assert explain_fields() == list(fields())
    with pytest.raises(RecipeError, match=r"splitt: no such field; did you mean 'split'\?"):
        explain_fields("splitt")


def test_reading_settings_need_no_recipe():
    reading = load_reading(["reading.volume=1", "reading.label_map={3: 4}"])
    assert (reading.volume, reading.label_map, reading.strict) == (1, {3: 4}, False)
    assert load_reading([]).model_dump() == small_recipe_reading()


def small_recipe_reading():
    return parse_recipe(small(), "r.yaml").reading.model_dump()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "reading.volum=1",
            r"--set: reading\.volum: no such field; did you mean 'reading\.volume'",
        ),
        ("reading.volume=-1", r"--set: reading\.volume: found -1"),
        ("model.scale=tiny", r"--set model: without a recipe only reading\.FIELD"),
    ],
)
def test_anything_else_without_a_recipe_is_refused(override, message):
    with pytest.raises(RecipeError, match=message):
        load_reading([override])


def test_dropping_contrasts_needs_two_of_them():
    with pytest.raises(RecipeError, match=r"contrast_dropout 0\.2: never drops all contrasts"):
        parse_recipe(small(finetune={"contrast_dropout": 0.2}), "r.yaml")
    both = {**small()["data"], "contrasts": ["T1w", "FLAIR"]}
    recipe = parse_recipe(small(data=both, finetune={"contrast_dropout": 0.2}), "r.yaml")
    assert recipe.finetune.contrast_dropout == 0.2


def test_resizing_the_whole_scan_is_refused_beside_a_spacing(tmp_path):
    path = saved(tmp_path, SMALL)
    with pytest.raises(RecipeError, match=r"preparation: resize_vox .*spacing_mm must be null"):
        load_recipe(path, ["preparation.resize_vox=[96, 96, 96]"])
    sets = ["preparation.resize_vox=[96, 96, 96]", "preparation.spacing_mm=null"]
    assert load_recipe(path, sets).preparation.resize_vox == (96, 96, 96)


# --- objectives of pretraining


def asked(tmp_path, *overrides, contrasts="[T1w, FLAIR]"):
    text = SMALL.replace("[T1w]", contrasts) + "pretrain: {steps: 3}\n"
    return load_recipe(saved(tmp_path, text), list(overrides)).pretrain


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_objective_is_one_word_away_and_feeds_back(tmp_path, kind):
    objective = asked(tmp_path, f"pretrain.objective.kind={kind}").objective
    assert objective.kind == kind
    recipe = load_recipe(tmp_path / "r.yaml", [f"pretrain.objective.kind={kind}"])
    assert load_recipe(saved(tmp_path, dump_recipe(recipe), "again.yaml")) == recipe


def test_without_a_word_the_objective_is_the_papers(tmp_path):
    assert asked(tmp_path).objective == ThreeTaskSettings()
    assert asked(tmp_path, "pretrain.objective={rotation: {weight: 2}}").objective.kind == (
        "three-task"
    )


@pytest.mark.parametrize("name", [n for n in SHIPPED if load_recipe(n).pretrain is not None])
@pytest.mark.parametrize("kind", ["three-task-fixed", "mae", "simmim"])
def test_another_kind_starts_afresh_over_a_shipped_recipe(name, kind):
    recipe = load_recipe(name, [f"pretrain.objective.kind={kind}"])
    assert recipe.pretrain.objective == type(recipe.pretrain.objective)()


def test_a_setting_given_after_the_kind_is_kept(tmp_path):
    settings = asked(tmp_path, "pretrain.objective.kind=mae", "pretrain.objective.block_vox=32")
    assert (settings.objective.kind, settings.objective.block_vox) == ("mae", 32)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["kind=mea"], r"pretrain\.objective\.kind: no such kind 'mea'; did you mean 'mae'\?"),
        (
            ["kind=x"],
            r"no such kind 'x'; expected one of three-task, three-task-fixed, mae, simmim",
        ),
        (
            ["masked_only=true"],
            r"masked_only: no field of kind three-task; it belongs to three-task",
        ),
        (["kind=mae", "rotation={}"], r"objective\.rotation: no field of kind mae; it belongs to"),
        (
            ["kind=mae", "block_vx=8"],
            r"no such field; did you mean 'pretrain\.objective\.block_vox'",
        ),
        (["kind=mae", "block_vox=18"], r"objective\.block_vox: found 18"),
        (["kind=mae", "block_vox=64"], "every side must be a multiple of objective.block_vox"),
        (["kind=mae", "max_ratio=1.0"], r"objective\.max_ratio: found 1\.0"),
        (["kind=simmim", "min_ratio=0.9"], r"min_ratio 0\.9 is above max_ratio 0\.75"),
        (["kind=three-task-fixed", "min_brain=2"], r"objective\.min_brain: found 2"),
        (["contrastive={temperature: 0}"], r"objective\.contrastive\.temperature: found 0"),
    ],
)
def test_impossible_objectives_are_refused(tmp_path, overrides, message):
    with pytest.raises(RecipeError, match=message):
        asked(tmp_path, *(f"pretrain.objective.{text}" for text in overrides))


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        ("three-task", [64, 64, 96], "the last two sides must be equal"),
        ("three-task-fixed", [96, 64, 64], "all sides must be equal"),
        ("mae", [64, 64, 96], ""),
        ("simmim", [64, 96, 128], ""),
        ("cross-contrast", [64, 64, 96], ""),
        ("three-task", [96, 64, 64], ""),
    ],
)
def test_each_kind_says_which_crops_it_can_use(tmp_path, kind, size, message):
    overrides = [f"pretrain.patch_size_vox={size}", f"pretrain.objective={{kind: {kind}}}"]
    if message:
        with pytest.raises(RecipeError, match=message):
            asked(tmp_path, *overrides)
    else:
        assert asked(tmp_path, *overrides).patch_size_vox == tuple(size)


def test_turns_about_one_axis_need_equal_sides_in_its_plane_only(tmp_path):
    objective = "pretrain.objective={kind: three-task-fixed, all_axes: false}"
    assert asked(tmp_path, "pretrain.patch_size_vox=[96, 64, 64]", objective)
    with pytest.raises(RecipeError, match="the last two sides must be equal"):
        asked(tmp_path, "pretrain.patch_size_vox=[64, 64, 96]", objective)


def test_a_crop_of_too_few_blocks_is_refused(tmp_path):
    blocks = "pretrain.objective={kind: mae, block_vox: 64}"
    with pytest.raises(RecipeError, match="leaves fewer than 8 blocks"):
        asked(tmp_path, "pretrain.patch_size_vox=[64, 64, 128]", blocks)
    assert asked(tmp_path, "pretrain.patch_size_vox=[128, 128, 128]", blocks)


def test_cross_contrast_needs_two_contrasts(tmp_path):
    with pytest.raises(RecipeError, match="cross-contrast restores contrasts from others"):
        asked(tmp_path, "pretrain.objective.kind=cross-contrast", contrasts="[T1w]")


def test_a_field_of_several_kinds_says_whose_it_is():
    known = dict(fields())
    assert known["pretrain.objective.block_vox"].startswith("mae, simmim: ")
    assert known["pretrain.objective.masked_only"].startswith("three-task-fixed: ")
    assert explain_fields("pretrain.objective")[0][0] == "pretrain.objective"
