"""Checkpoints on the disk: what is in them, which one counts, which are kept, what is refused."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from brainsegfounder.errors import CheckpointError, OtherRunError, SaveError
from brainsegfounder.settings import OptimizerSettings
from brainsegfounder.training import checkpoint
from brainsegfounder.training.checkpoint import (
    TrainingState,
    check_checkpoint,
    check_identity,
    check_room,
    clean,
    collect,
    committed,
    fill,
    read_checkpoint,
    write_checkpoint,
)
from brainsegfounder.training.optim import Learner, make_learner
from brainsegfounder.training.resume import resume

FILES = ["SHA256SUMS", "ema.safetensors", "model.safetensors", "optimizer.safetensors",
         "state.json"]  # fmt: skip
IDENTITY = {"recipe": "a" * 64, "manifest": "b" * 64, "split": "c" * 64, "start": None}


def learner_at(seed: int) -> Learner:
    """A small learner that has made a step."""
    torch.manual_seed(seed)
    learner = make_learner(nn.Linear(3, 2), OptimizerSettings(ema_decay=0.5))
    learner.model(torch.ones(1, 3)).sum().backward()
    learner.step(0.1)
    return learner


def save(folder: Path, step: int, seed: int | None = None) -> Path:
    learner = learner_at(step if seed is None else seed)
    return write_checkpoint(folder, collect(learner), TrainingState(step=step, identity=IDENTITY))


def spoil(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def names(folder: Path) -> list[str]:
    return [path.name for path in committed(folder)]


def test_a_checkpoint_holds_weights_moments_average_and_state_and_its_sums(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    assert sorted(file.name for file in path.iterdir()) == FILES
    said = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=path, capture_output=True)
    assert said.returncode == 0, said.stderr
    assert said.stdout.count(b"OK") == 4
    assert json.loads((path / "state.json").read_text())["identity"] == IDENTITY


def test_what_was_collected_is_filled_in_again_bit_for_bit(tmp_path: Path) -> None:
    one, other = learner_at(1), learner_at(2)
    path = write_checkpoint(tmp_path, collect(one), TrainingState(step=3, best_value=0.1))
    state, tensors = read_checkpoint(path)
    fill(other, tensors, path)
    assert state == TrainingState(step=3, best_value=0.1)
    for file, named in collect(one).items():
        for name, value in named.items():
            assert torch.equal(value, collect(other)[file][name]), (file, name)


def test_moments_lie_in_memory_as_their_weights_do(tmp_path: Path) -> None:
    model = nn.Conv3d(4, 4, 3).to(memory_format=torch.channels_last_3d)
    learner = make_learner(model, OptimizerSettings())
    model(torch.ones(1, 4, 3, 3, 3)).sum().backward()
    learner.step(0.1)
    path = write_checkpoint(tmp_path, collect(learner), TrainingState(step=1))
    fill(learner, read_checkpoint(path)[1], path)
    moment = learner.optimizer.state[model.weight]["exp_avg"]
    assert moment.stride() == model.weight.stride()


def test_every_file_is_flushed_before_the_rename_and_the_folder_above_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    flush = checkpoint._flush
    monkeypatch.setattr(checkpoint, "_flush", lambda p: (events.append(p.name), flush(p)))
    monkeypatch.setattr(checkpoint, "reached", events.append)
    save(tmp_path / "checkpoints", 1)
    before, after = events[: events.index("renamed")], events[events.index("renamed") :]
    assert set(FILES) <= set(before)
    assert before.index("written SHA256SUMS") > before.index("written state.json")
    assert before.index(".step-00000001.partial") > before.index("SHA256SUMS")
    assert after[1] == "checkpoints"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0, -1])
def test_F05_one_changed_byte_of_any_file_is_refused_by_name_and_the_one_before_is_taken(
    tmp_path: Path, name: str, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1)
    spoil(save(tmp_path, 2) / name, place)
    with pytest.raises(CheckpointError, match="step-00000002"):
        read_checkpoint(tmp_path / "step-00000002")
    learner = learner_at(9)
    start = resume(tmp_path, learner, IDENTITY)
    assert start.state.step == 1
    assert "step-00000002" in start.passed_over[0]
    assert "Trying the one before" in caplog.text
    assert torch.equal(learner.model.weight, learner_at(1).model.weight)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_F20_a_file_cut_off_anywhere_is_refused(tmp_path: Path, name: str, share: float) -> None:
    file = save(tmp_path, 2) / name
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="step-00000002"):
        read_checkpoint(file.parent)


@pytest.mark.parametrize("name", FILES)
def test_F20_a_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    file = save(tmp_path, 2) / name
    file.unlink()
    with pytest.raises(CheckpointError, match=name):
        check_checkpoint(file.parent)


def test_F05_where_no_checkpoint_is_whole_nothing_begins_anew_by_itself(tmp_path: Path) -> None:
    for step in (1, 2):
        spoil(save(tmp_path, step) / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"none of 2 checkpoints is whole .*begin anew"):
        resume(tmp_path, learner_at(0), IDENTITY)


@pytest.mark.parametrize("pointer", ["nowhere", "step-00000001", ".step-00000009.partial"])
def test_F06_a_pointer_that_dangles_or_points_elsewhere_plays_no_part(
    tmp_path: Path, pointer: str
) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    (tmp_path / "latest").symlink_to(pointer)
    assert resume(tmp_path, learner_at(0), IDENTITY).state.step == 2


def test_F06_F27_the_newest_is_the_highest_step_whatever_the_dates_of_the_files_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for now_s, step in ((2e9, 99_999_999), (1e9, 100_000_000)):
        monkeypatch.setattr(time, "time", lambda now_s=now_s: now_s)
        path = save(tmp_path, step)
        for file in (*path.iterdir(), path):
            os.utime(file, (now_s, now_s))
    assert names(tmp_path) == ["step-99999999", "step-100000000"]
    assert resume(tmp_path, learner_at(0), IDENTITY).state.step == 100_000_000


def test_F06_folders_and_files_of_other_names_are_no_checkpoints(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for name in ("step-2", "step-00000003.old", "Step-00000004", "step-0000000x"):
        shutil.copytree(tmp_path / "step-00000001", tmp_path / name)
    assert names(tmp_path) == ["step-00000001"]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("recipe", "f" * 64, "the recipe was aaaaaaaaaaaa, now ffffffffffff"),
        ("manifest", "f" * 64, "the data set (its manifest) was bbbbbbbbbbbb, now ffffffffffff"),
        ("split", "f" * 64, "the split was cccccccccccc, now ffffffffffff"),
        ("start", "f" * 64, "the start weights was none, now ffffffffffff"),
    ],
)
def test_F07_a_checkpoint_of_another_run_is_refused_and_each_difference_named(
    tmp_path: Path, key: str, value: str, told: str
) -> None:
    path = save(tmp_path, 1)
    learner, before = learner_at(5), learner_at(5)
    with pytest.raises(OtherRunError) as refused:
        resume(tmp_path, learner, {**IDENTITY, key: value})
    assert f"({told})" in str(refused.value)
    assert str(path) in str(refused.value)
    assert torch.equal(learner.model.weight, before.model.weight)
    check_identity(path, IDENTITY, dict(IDENTITY))


def test_F07_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    wider = make_learner(nn.Linear(4, 2), OptimizerSettings(ema_decay=0.5))
    with pytest.raises(CheckpointError, match="not of this network"):
        resume(tmp_path, wider, IDENTITY)


def test_F07_a_run_that_gained_a_moving_average_is_refused_and_not_half_filled(
    tmp_path: Path,
) -> None:
    plain = make_learner(nn.Linear(3, 2), OptimizerSettings())
    write_checkpoint(tmp_path, collect(plain), TrainingState(step=1, identity=IDENTITY))
    with pytest.raises(CheckpointError, match=r"ema\.safetensors"):
        resume(tmp_path, learner_at(1), IDENTITY)


def test_F30_the_newest_two_that_are_whole_are_kept(tmp_path: Path) -> None:
    for step in range(1, 6):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-00000004", "step-00000005"]


def test_F30_a_damaged_one_is_not_counted_and_goes_when_it_is_old(tmp_path: Path) -> None:
    save(tmp_path, 1)
    spoil(save(tmp_path, 2) / "model.safetensors")
    save(tmp_path, 3)
    assert names(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]
    save(tmp_path, 4)
    assert names(tmp_path) == ["step-00000003", "step-00000004"]


def test_F30_nothing_is_dropped_before_the_new_one_is_committed_and_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    seen: dict[str, list[str]] = {}
    monkeypatch.setattr(checkpoint, "reached", lambda p: seen.setdefault(p, names(tmp_path)))
    save(tmp_path, 3)
    three = ["step-00000001", "step-00000002", "step-00000003"]
    assert seen["flushed"] == three[:2]
    assert seen["verified"] == seen["before one is dropped"] == three
    assert list(seen).index("verified") > list(seen).index("committed")
    assert seen["being dropped"] == three[1:]


def test_F30_a_save_whose_bytes_did_not_arrive_is_refused_and_drops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save(tmp_path, step)

    def rot(point: str) -> None:
        if point == "committed":
            spoil(tmp_path / "step-00000003" / "model.safetensors")

    monkeypatch.setattr(checkpoint, "reached", rot)
    with pytest.raises(CheckpointError, match="changed since it was written"):
        save(tmp_path, 3)
    assert resume(tmp_path, learner_at(0), IDENTITY).state.step == 2
    monkeypatch.undo()
    save(tmp_path, 3)
    assert names(tmp_path) == ["step-00000002", "step-00000003"]


def test_F30_half_written_folders_never_count_and_are_cleaned_away(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for name in (".step-00000002.partial", ".step-00000000.dropped.partial"):
        shutil.copytree(tmp_path / "step-00000001", tmp_path / name)
    assert names(tmp_path) == ["step-00000001"]
    clean(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_step_that_is_there_already_is_written_anew(tmp_path: Path) -> None:
    save(tmp_path, 1, seed=1)
    path = save(tmp_path, 1, seed=2)
    weights = read_checkpoint(path)[1]["model.safetensors"]["weight"]
    assert torch.equal(weights, learner_at(2).model.weight)


def test_F04_a_start_without_room_for_three_checkpoints_is_refused_with_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learner_at(1)  # 8 parameters of 4 bytes: weights, two moments, an average; thrice
    monkeypatch.setattr(checkpoint, "_free_bytes", lambda _: 383)
    with pytest.raises(SaveError, match="about 384 bytes needed for checkpoints, 383 bytes free"):
        check_room(tmp_path / "not" / "there", learner)
    monkeypatch.setattr(checkpoint, "_free_bytes", lambda _: 384)
    check_room(tmp_path / "not" / "there", learner)


def test_F04_checkpoints_that_are_there_already_need_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    monkeypatch.setattr(checkpoint, "_free_bytes", lambda _: 0)
    check_room(tmp_path, learner_at(1))
