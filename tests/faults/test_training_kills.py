"""F01, F02: SIGKILL at any moment loses no checkpoint and at most one interval of steps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from brainsegfounder.training.checkpoint import committed

POINTS = [
    "before it is begun",
    "begun",
    "written model.safetensors",
    "written optimizer.safetensors",
    "written ema.safetensors",
    "written state.json",
    "written SHA256SUMS",
    "flushed",
    "renamed",
    "committed",
    "verified",
    "before one is dropped",
    "being dropped",
    "one dropped",
]


@pytest.fixture(scope="module")
def whole(harness, tmp_path_factory):
    """Losses of the uninterrupted run, and the named points of its saves."""
    return harness.uninterrupted(tmp_path_factory.mktemp("whole"))


def test_F02_these_are_all_the_named_points_of_a_save(whole):
    assert whole[1] == POINTS


@pytest.mark.parametrize("point", POINTS)
def test_F02_killed_at_a_named_point_of_the_third_save_nothing_is_lost(
    harness, whole, tmp_path, point
):
    tally = harness.Tally()
    victim = harness.Victim(tmp_path, whole[0], tally)
    # Something is dropped from the third save on.
    first_turn = 1 if "drop" in point else 3
    assert not victim.live(point=point, turn=first_turn)
    assert tally.kills_at_points == {point: 1}
    assert len(harness.good_steps(tmp_path / "checkpoints")) >= 2
    assert victim.live()
    assert (tally.lost_checkpoints, tally.too_few, tally.leftovers) == (0, 0, 0)
    assert (tally.wrong_starts, tally.wrong_losses) == (0, 0)
    assert tally.most_steps_lost <= harness.INTERVAL
    assert harness.good_steps(tmp_path / "checkpoints") == [55, 60]


def test_F01_killed_thirty_times_nothing_is_lost_and_no_loss_is_another(harness, tmp_path):
    tally = harness.kill_many(tmp_path, num_kills=30, limit_s=100, seed=1)
    assert tally.kills == 30
    assert len(tally.kills_at_points) > 5
    assert tally.steps_told > 100
    assert (tally.lost_checkpoints, tally.too_few, tally.leftovers) == (0, 0, 0)
    assert (tally.wrong_starts, tally.wrong_losses) == (0, 0)
    assert tally.most_steps_lost <= harness.INTERVAL


def test_F30_killed_between_commit_and_prune_both_older_ones_are_there(harness, whole, tmp_path):
    victim = harness.Victim(tmp_path, whole[0], harness.Tally())
    victim.live(point="before one is dropped")
    assert harness.good_steps(tmp_path / "checkpoints") == [5, 10, 15]
    victim.live(point="verified")
    assert harness.good_steps(tmp_path / "checkpoints") == [5, 10, 15, 20]
    victim.live(point="verified", turn=2)
    assert harness.good_steps(tmp_path / "checkpoints") == [20, 25, 30]


def test_F02_the_harness_sees_a_checkpoint_that_is_lost(harness, whole, tmp_path):
    tally = harness.Tally()
    victim = harness.Victim(tmp_path, whole[0], tally)
    victim.live(point="verified", turn=2)
    assert tally.lost_checkpoints == 0
    newest = committed(tmp_path / "checkpoints")[-1]
    (newest / "model.safetensors").write_bytes(b"")
    victim.live(point="begun")
    assert tally.lost_checkpoints == 1


def test_the_script_stops_at_its_time_and_says_how_many_it_killed(tmp_path):
    words = [sys.executable, str(Path(__file__).with_name("kill_training.py"))]
    out = tmp_path / "kills.json"
    done = subprocess.run(
        [*words, "--kills", "1000", "--seconds", "1", "--out", str(out)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["asked"] == 1000
    assert f"only {result['kills']} of 1000 kills in 1 s" in done.stdout
