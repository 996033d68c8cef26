"""Watching a pretraining run: it shows what there is, and never changes or ends the run."""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from brainsegfounder.data.splits import split_subjects
from brainsegfounder.data.store import open_store
from brainsegfounder.errors import Interrupted, RunError, UsageError
from brainsegfounder.evaluation.participants import Participants
from brainsegfounder.recipes import load_recipe
from brainsegfounder.settings import KINDS, PretrainSettings
from brainsegfounder.training.checkpoint import TrainingState
from brainsegfounder.workflows import pretrain_watch
from brainsegfounder.workflows.pretrain import run_pretrain
from brainsegfounder.workflows.pretrain_page import by_kind, write_pretrain_page
from brainsegfounder.workflows.pretrain_pictures import pictured, take_pictures
from brainsegfounder.workflows.pretrain_probe import (
    Probed,
    choose_probed,
    middle_of,
    probe,
    probe_steps,
)
from brainsegfounder.workflows.pretrain_watch import Watcher
from brainsegfounder.workflows.stage import Stage, open_stage
from brainsegfounder.workflows.trackers import Tracker, tensorboard_tracker

QUICK = ("pretrain.batch_size=1", "pretrain.validate_every=1", "pretrain.checkpoint_every=1")


def never() -> bool:
    return False


def state_at(step: int) -> TrainingState:
    return TrainingState(step, None, None, "", 10.0)


def stage_of(
    store: Path, out: Path, kind: str = "mae", **sets: object
) -> tuple[Stage, PretrainSettings]:
    words = [f"{name.replace('__', '.')}={value}" for name, value in sets.items()]
    objective = f"pretrain.objective={{kind: {kind}}}"
    recipe = load_recipe("demo-target", [*QUICK, objective, *words])
    settings = recipe.pretrain
    assert settings is not None
    stage = open_stage(
        recipe, settings, "pretraining", data=store, out=out, start=None, fold=0, resume=False
    )
    return stage, settings


def last_record(step: int, **values: float) -> dict[str, float | int | str]:
    pace = {"step_s": 2.0, "data_wait_s": 0.5, "crops_per_s": 1.5, "lr": 1e-3, "gradient_norm": 3.0}
    return {"kind": "train", "step": step, "loss": 1.0, **pace, **values}


@pytest.mark.parametrize(("steps", "every"), [(1, 1), (14, 7), (800, 100), (15000, 100), (7, 100)])
def test_features_are_looked_at_first_last_and_at_few_validations(steps: int, every: int) -> None:
    found = probe_steps(steps, every)
    assert found[0] == 0
    assert found[-1] == steps
    assert found == sorted(set(found))
    assert len(found) <= 21
    assert all(step % every == 0 for step in found[:-1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_page_shows_errors_rank_and_pictures_of_every_objective(
    kind: str, cohort: Path, tmp_path: Path
) -> None:
    stage, settings = stage_of(cohort, tmp_path / "run", kind, pretrain__steps=2)
    probed = choose_probed(stage, settings)
    before = torch.get_rng_state()
    weights = {name: value.clone() for name, value in stage.network.state_dict().items()}
    stage.network.train()
    take_pictures(stage.network, stage, settings, 0)
    found = probe(stage.network, stage, probed, settings, 1, never)
    assert found is not None
    stage.run.record(found)
    names = ("masked_error", "visible_error") if "three" in kind else ("masked", "visible")
    stage.run.record(last_record(1, **dict.fromkeys(names, 0.5)))
    page = write_pretrain_page(stage, settings, state_at(1), probed).read_text()

    assert page.count("data:image/png") == len(pictured(stage)) * (2 + 2)
    assert 'http-equiv="refresh" content="60"' in page
    assert "Running: step 1 of 2 (50%)" in page
    for words in (
        "Reconstruction error",
        "Effective rank",
        "at least 20 subjects",
        "Of all processes",
    ):
        assert words in page, words
    assert 0 < found["rank"] <= found["largest_rank"]
    assert torch.equal(before, torch.get_rng_state())
    assert stage.network.training
    assert all(torch.equal(weights[n], v) for n, v in stage.network.state_dict().items())


@pytest.mark.slow
def test_a_left_out_contrast_is_drawn_beside_one_that_is_seen(cohort: Path, tmp_path: Path) -> None:
    stage, settings = stage_of(cohort, tmp_path / "run", "cross-contrast")
    take_pictures(stage.network, stage, settings, 0)
    rows = pictured(stage)
    assert rows
    assert all(row.contrast != row.seen for row in rows)
    assert {row.case for row in rows} <= set(stage.split.validation)


@pytest.mark.slow
def test_held_out_subjects_are_never_looked_at(cohort: Path, tmp_path: Path) -> None:
    stage, settings = stage_of(cohort, tmp_path / "run")
    probed = choose_probed(stage, settings)
    assert set(probed.subjects) == {*stage.split.train, *stage.split.validation}
    assert not set(probed.subjects) & set(stage.split.test)
    known = {name.removeprefix("sub-"): {"age": "30", "sex": "f"} for name in stage.split.train}
    some = choose_probed(stage, settings, Participants(known, ("age", "sex")))
    assert set(some.subjects) == set(stage.split.train)
    assert some.age_years is not None
    assert some.age_years.tolist() == [30.0] * len(known)
    only_test = {name.removeprefix("sub-"): {"age": "30"} for name in stage.split.test}
    with pytest.raises(UsageError, match=r"names no subject of this run .* such as sub-"):
        choose_probed(stage, settings, Participants(only_test, ("age",)))


def test_the_middle_of_a_case_has_its_middle_in_the_middle(cohort: Path) -> None:
    store = open_store(cohort)
    case = store.cases[0]
    whole = store.prepared_image(case, store.contrasts).voxels
    crop = middle_of(store, case, [1, 0], (32, 32, 96)).numpy()
    first = [max(0, n - 32) // 2 for n in whole.shape[1:3]]
    above = (96 - whole.shape[3]) // 2
    assert whole.shape[3] < 96
    inside = crop[:, :, :, above : above + whole.shape[3]]
    box = whole[[1, 0], first[0] : first[0] + 32, first[1] : first[1] + 32]
    assert np.array_equal(inside, box)
    assert not crop[..., :above].any()


@pytest.mark.slow
def test_a_probe_gives_up_when_the_run_is_asked_to_stop(cohort: Path, tmp_path: Path) -> None:
    stage, settings = stage_of(cohort, tmp_path / "run")
    watcher = Watcher(stage, settings, choose_probed(stage, settings), stage.run.record)
    asked = iter([False, True, True, True])
    watcher(stage.network, state_at(0), lambda: next(asked))
    assert stage.run.records("probe") == []
    assert not (stage.run.folder / "report.html").exists()


@pytest.mark.slow
def test_a_failing_probe_picture_or_page_is_told_and_ends_nothing(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RunError("disk full")

    for name in ("take_pictures", "probe", "write_pretrain_page"):
        monkeypatch.setattr(pretrain_watch, name, fail)
    stage, settings = stage_of(cohort, tmp_path / "run")
    watcher = Watcher(stage, settings, Probed(()), stage.run.record)
    with caplog.at_level(logging.WARNING):
        watcher(stage.network, state_at(0), never)
    assert [record.message.count("training goes on") for record in caplog.records] == [1, 1, 1]


@pytest.mark.slow
def test_a_watched_run_makes_the_same_steps_as_one_that_is_not(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ["pretrain.steps=2", "pretrain.validate_every=2", "model.dropout=0.1"]
    recipe = load_recipe("demo-target", [*QUICK, *quick, "pretrain.objective={kind: simmim}"])
    run_pretrain(recipe, cohort, tmp_path / "watched", fold=0)
    monkeypatch.setattr(Watcher, "__call__", lambda *_: None)
    run_pretrain(recipe, cohort, tmp_path / "alone", fold=0)
    one, other = (
        (tmp_path / name / "checkpoints" / "step-00000002" / "model.safetensors").read_bytes()
        for name in ("watched", "alone")
    )
    assert one == other
    pages = [(tmp_path / name / "report.html").read_text() for name in ("watched", "alone")]
    assert all("Finished after 2 steps" in page for page in pages)
    assert not any('http-equiv="refresh"' in page for page in pages)
    assert "Nothing yet" in pages[1]


@pytest.mark.slow
def test_the_page_of_a_run_that_was_stopped_says_so(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(watcher: Watcher, _: object, state: TrainingState, *__: object) -> None:
        watcher.state = state
        raise Interrupted("stopped by SIGTERM after step 3; go on with --resume.", 15)

    monkeypatch.setattr(Watcher, "__call__", stop)
    recipe = load_recipe("demo-target", [*QUICK, "pretrain.steps=4"])
    with pytest.raises(Interrupted):
        run_pretrain(recipe, cohort, tmp_path / "run", fold=0)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Not finished: stopped by SIGTERM after step 3; go on with --resume." in page
    assert 'http-equiv="refresh"' not in page


@pytest.mark.slow
def test_collapse_waiting_and_lost_steps_are_warned_of(cohort: Path, tmp_path: Path) -> None:
    stage, settings = stage_of(cohort, tmp_path / "run", "simmim", pretrain__steps=9)
    for step in (1, 2, 3):
        stage.run.record(last_record(step, skipped=float(step == 2), masked=0.5, visible=0.4))
    probe_record = {"kind": "probe", "step": 3, "rank": 1.2, "largest_rank": 31, "num_images": 32}
    stage.run.record(probe_record)
    page = write_pretrain_page(stage, settings, state_at(3), Probed(()))
    text = page.read_text()
    assert "1 of 3 steps were left out" in text
    assert "25% was spent waiting for data" in text
    assert "effective rank of 1.2: they have collapsed" in text
    assert "no table of participants was given (--participants)" in text


def test_of_a_step_that_was_made_twice_the_last_record_counts() -> None:
    rows = [last_record(1, loss=1.0), last_record(2, loss=9.0), last_record(1, loss=3.0)]
    assert [row["loss"] for row in by_kind(rows)["train"]] == [3.0, 9.0]
    assert by_kind([])["probe"] == []


def test_a_tracker_that_fails_is_told_no_more_and_the_warning_comes_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[object] = []

    def tell(record: object) -> None:
        told.append(record)
        if len(told) == 2:
            raise OSError("the server is down")

    def close() -> None:
        raise OSError("still down")

    tracker = Tracker("TensorBoard", tell, close)
    with caplog.at_level(logging.WARNING):
        for step in range(5):
            tracker({"kind": "train", "step": step})
        tracker.close()
    assert len(told) == 2
    assert ["server is down" in r.message for r in caplog.records] == [True, False]


def test_tensorboard_that_is_not_installed_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"brainsegfounder\[track\]"):
        tensorboard_tracker(tmp_path / "tensorboard")


def test_tensorboard_is_told_every_number_under_its_kind(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `track` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = tensorboard_tracker(tmp_path)
    for step in (1, 2):
        tracker({"kind": "train", "step": step, "loss": 4.0 / step, "note": "text"})
    tracker({"kind": "probe", "step": 2, "rank": 7})
    tracker.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "probe/rank"}
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 4.0), (2, 2.0)]


def test_the_split_of_these_tests_has_all_three_parts(cohort: Path) -> None:
    recipe = load_recipe("demo-target")
    split = split_subjects([c.subject for c in open_store(cohort).cases], recipe.split, 0)
    assert split.train
    assert split.validation
    assert split.test
    assert json.loads((cohort / "store.json").read_text())["contrasts"]
