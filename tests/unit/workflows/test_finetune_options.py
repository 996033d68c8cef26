"""Fine-tuning with all that can be asked of it at once, cut off and resumed, and what follows."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from brainsegfounder.data.layouts import read_cases
from brainsegfounder.data.store import open_store
from brainsegfounder.errors import ContrastError, OutputExistsError, UsageError
from brainsegfounder.inference.predictor import Opinion
from brainsegfounder.models.weights import load_state
from brainsegfounder.recipes import load_recipe
from brainsegfounder.settings import Recipe
from brainsegfounder.training.checkpoint import read_checkpoint
from brainsegfounder.volumes.nifti import read_labels
from brainsegfounder.volumes.volume import Volume
from brainsegfounder.workflows import fit_memory
from brainsegfounder.workflows.finetune import run_finetune
from brainsegfounder.workflows.model_folder import Model, load_model, seal
from brainsegfounder.workflows.predict import predict, run_predict
from brainsegfounder.workflows.predict_case import segment_case
from brainsegfounder.workflows.stored_scores import score_with_contrasts, without_others

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TESTED = "sub-003"


def _recipe(*sets: str) -> Recipe:
    settings = {
        "steps": 2,
        "batch_size": 2,
        "validate_every": 2,
        "checkpoint_every": 1,
        "contrast_dropout": 0.5,
        "freeze": "encoder-but-patch-embedding",
        "optimizer.layer_decay": 0.5,
        "optimizer.ema_decay": 0.5,
    }
    chosen = [f"finetune.{key}={value}" for key, value in settings.items()]
    split = [f"split.test_subjects=[{TESTED}]", "split.validation_fraction=0"]
    return load_recipe("demo-target", [*chosen, *split, "model.dropout=0.1", *sets])


@pytest.fixture(scope="module")
def finished(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, where a batch of two cases is said not to fit."""
    run = tmp_path_factory.mktemp("options") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_memory, "_fits_cpu", lambda _s, _l, one: one.batch_size == 1)
        run_finetune(_recipe(), cohort, run)
    return run


@pytest.fixture(scope="module")
def model(finished: Path) -> Model:
    return load_model(finished, "cpu")


def test_a_run_with_every_option_goes_on_bit_for_bit_where_it_was_cut_off(
    cohort: Path, finished: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(finished, cut)
    shutil.rmtree(cut / "checkpoints" / "step-00000002")
    # A whole batch fits here, but what the first start chose is kept.
    run_finetune(_recipe(), cohort, cut, resume=True)
    ends = [read_checkpoint(run / "checkpoints" / "step-00000002") for run in (finished, cut)]
    (state, tensors), (other_state, others) = ends
    assert state.step == other_state.step == 2
    assert state.samples == 4
    for file, named in tensors.items():
        assert named.keys() == others[file].keys()
        assert all(torch.equal(value, others[file][name]) for name, value in named.items()), file
    told = [json.loads((run / "provenance.json").read_text()) for run in (finished, cut)]
    chosen = {"batch_size": 1, "accumulation": 2, "checkpointing": False}
    assert [facts["memory"] for facts in told] == [chosen, chosen]


def test_frozen_weights_leave_training_as_they_came(finished: Path) -> None:
    states = [
        load_state(finished / "checkpoints" / step / "model.safetensors")
        for step in ("step-00000001", "step-00000002")
    ]
    frozen = {n for n in states[0] if n.startswith("swinViT.layers") and "index" not in n}
    changed = {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}
    assert frozen
    assert not frozen & changed
    assert "swinViT.patch_embed.proj.weight" in changed
    moments = load_state(finished / "checkpoints" / "step-00000002" / "optimizer.safetensors")
    assert not [name for name in moments if name.partition(":")[2] in frozen]


def test_a_model_trained_with_contrast_dropout_says_so(model: Model, finished: Path) -> None:
    assert model.config.may_miss_contrasts
    assert "Some of them may be absent." in (finished / "model" / "README.md").read_text()


def _without(folder: Path, bids_tree: Path, unwanted: Callable[[str], bool]) -> Path:
    """The scans of one subject in a folder of their own, without some."""
    anat = folder / TESTED / "anat"
    anat.mkdir(parents=True)
    for path in sorted((bids_tree / TESTED / "anat").iterdir()):
        if not unwanted(path.name):
            shutil.copy(path, anat / path.name)
    shutil.copy(bids_tree / "dataset_description.json", folder)
    return folder


def test_predict_takes_a_case_that_lacks_contrasts_and_says_so(
    finished: Path, bids_tree: Path, tmp_path: Path
) -> None:
    folder = _without(
        tmp_path / "in", bids_tree, lambda n: "FLAIR" in n or n.endswith("3_T1w.nii.gz")
    )
    done = run_predict([folder], finished, tmp_path / "out")
    assert done.refused == {}
    assert list(done.files) == [TESTED]
    [found] = [one for one in done.findings[TESTED] if one.code == "contrast_absent"]
    assert found.kind == "warning"
    assert "no T1w, FLAIR found; segmented from T1ce, T2w alone" in found.message
    assert any("no T1w, FLAIR found" in text for text in done.warnings)


def test_predict_refuses_a_case_without_any_contrast_of_the_model(
    model: Model, bids_tree: Path, tmp_path: Path
) -> None:
    scan = bids_tree / TESTED / "anat" / f"{TESTED}_T1w.nii.gz"
    with pytest.raises(ContrastError, match="no T1w, T1ce, T2w, FLAIR found"):
        predict({"PD": scan}, model)


def test_a_model_that_never_missed_a_contrast_refuses_as_ever(
    model: Model, bids_tree: Path
) -> None:
    strict = Model(
        model.network, model.config.model_copy(update={"may_miss_contrasts": False}), model.device
    )
    scan = bids_tree / TESTED / "anat" / f"{TESTED}_T1w.nii.gz"
    with pytest.raises(ContrastError, match="no T1ce, T2w, FLAIR found; the model was trained on"):
        predict({"T1w": scan}, strict)


def test_an_absent_contrast_is_0_everywhere_for_the_network(
    model: Model, bids_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Volume] = []

    opinion = Model.opinion

    def watched(self: Model, image: Volume, **asked: bool) -> Opinion:
        seen.append(image)
        return opinion(self, image, **asked)

    monkeypatch.setattr(Model, "opinion", watched)
    case = read_cases([bids_tree])[3]
    segment_case(case, model)
    del case.contrasts["T1ce"]  # type: ignore[attr-defined]
    segment_case(case, model)
    whole, some = (image.voxels for image in seen)
    assert whole.shape == some.shape
    assert not some[1].any()
    np.testing.assert_array_equal(some[[0, 2, 3]], whole[[0, 2, 3]])


def test_a_finished_run_is_scored_with_fewer_contrasts(
    finished: Path, model: Model, cohort: Path
) -> None:
    scores = score_with_contrasts(finished, cohort, ["FLAIR", "T1w"])
    out = finished / "test-T1w-FLAIR"
    assert {path.name for path in out.iterdir()} == {
        path.name for path in (finished / "test").iterdir()
    }
    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    assert [float(row["dice"]) for row in rows] == pytest.approx([s.dice for s in scores], abs=1e-4)
    facts = json.loads((out / "metrics.json").read_text())
    assert facts["contrasts"] == ["T1w", "FLAIR"]
    assert facts["regions_are"] == "lesions"

    store = open_store(cohort)
    [case] = [case for case in store.cases if case.subject == TESTED]
    image = without_others(
        store.prepared_image(case, model.contrasts), model.contrasts, ["T1w", "FLAIR"]
    )
    expected = model.segment(image, case.source_grid)
    written = read_labels(out / f"{case.case}_seg.nii.gz")
    np.testing.assert_array_equal(written.voxels, expected.voxels)

    openings = [
        json.loads(line) for line in (finished / "test_openings.jsonl").read_text().splitlines()
    ]
    assert [opening.get("contrasts") for opening in openings] == [None, "T1w, FLAIR"]
    with pytest.raises(OutputExistsError, match="test-T1w-FLAIR: there already"):
        score_with_contrasts(finished, cohort, ["T1w", "FLAIR"])


def test_contrasts_left_out_are_0_and_the_others_stay() -> None:
    voxels = np.random.default_rng(0).normal(size=(3, 2, 2, 2)).astype(np.float32)
    image = without_others(Volume(voxels, np.eye(4)), ("T1w", "T2w", "FLAIR"), ["FLAIR"])
    assert not image.voxels[:2].any()
    np.testing.assert_array_equal(image.voxels[2], voxels[2])
    assert image.voxels.dtype == np.float32


@pytest.mark.parametrize("kept", [[], ["T1w", "PD"]])
def test_scoring_without_a_contrast_of_the_model_is_refused(
    finished: Path, cohort: Path, kept: list[str]
) -> None:
    with pytest.raises(
        UsageError, match=r"contrasts to keep: found (none|PD); expected some of T1w"
    ):
        score_with_contrasts(finished, cohort, kept)


def test_scoring_a_model_with_less_than_it_ever_saw_is_refused_unless_asked_for(
    finished: Path, cohort: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run, ignore=shutil.ignore_patterns("checkpoints", "test-*"))
    config = json.loads((run / "model" / "config.json").read_text())
    (run / "model" / "config.json").write_text(json.dumps({**config, "may_miss_contrasts": False}))
    (run / "model" / "SHA256SUMS").unlink()
    seal(run / "model")
    with pytest.raises(
        UsageError, match=r"never trained without one of .*contrast_dropout above 0"
    ):
        score_with_contrasts(run, cohort, ["T1w"])
    assert score_with_contrasts(run, cohort, ["T1w"], even_untrained=True)


def test_scoring_on_another_store_is_refused(finished: Path, cohort: Path, tmp_path: Path) -> None:
    other = tmp_path / "store"
    shutil.copytree(cohort, other)
    with (other / "manifest.csv").open("a") as file:
        file.write("\n")
    with pytest.raises(UsageError, match=r"not the store that .* was trained on"):
        score_with_contrasts(finished, other, ["T2w"])
