"""Kill a training run by SIGKILL, at random and at every named point of a save; count what is lost.

    scripts/kill_training --kills 1000

Every run is a child forked from this process, which has imported torch; its network is tiny, so
that thousands of deaths cost minutes. SIGKILL ends a process, not the machine: what a power cut
does to a disk that lies about its flushes is not seen here.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from brainsegfounder.errors import CheckpointError
from brainsegfounder.settings import StageSettings
from brainsegfounder.training import checkpoint
from brainsegfounder.training.checkpoint import TrainingState, committed, read_checkpoint
from brainsegfounder.training.loop import Job, Validation, train
from brainsegfounder.training.losses import Losses
from brainsegfounder.training.randomness import generators

CPU = torch.device("cpu")
STEPS, INTERVAL = 60, 5
LONGEST_LIFE_S = 0.3


@dataclass(frozen=True)
class ToyBatch:
    image: Tensor
    cases: tuple[str, ...]
    numbers: tuple[int, ...]

    def to(self, device: torch.device) -> ToyBatch:
        return replace(self, image=self.image.to(device))


def toy_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))


def toy_batches(first: int) -> Iterator[ToyBatch]:
    number = first // 2  # the settings say two samples a batch
    while True:
        image = torch.randn(6, 4, generator=torch.Generator().manual_seed(number))
        yield ToyBatch(image, (f"case-{number}",), (number,))
        number += 1


def toy_loss(model: nn.Module, batch: Any, seed: int) -> Losses:
    noise = torch.randn(6, 1, generator=generators(seed, batch.numbers)[0])
    wanted = batch.image.sum(1, keepdim=True) + noise
    return Losses({"error": (model(batch.image) - wanted).square().mean()})


def toy_validation() -> Validation:
    image = torch.randn(32, 4, generator=torch.Generator().manual_seed(99))

    def measure(model: nn.Module) -> dict[str, float]:
        with torch.inference_mode():
            return {"error": float((model(image) - image.sum(1, keepdim=True)).square().mean())}

    return Validation(measure, "error", "min")


def toy_job(folder: Path, settings: dict[str, Any] | None = None, **changes: Any) -> Job:
    """A job of 60 short steps with dropout, a moving average and a validation."""
    optimizer = {"peak_lr": 0.01, "warmup_steps": 2, "ema_decay": 0.9}
    every = {"steps": STEPS, "checkpoint_every": INTERVAL, "validate_every": 4}
    values: dict[str, Any] = {
        "settings": StageSettings.model_validate(
            {**every, "optimizer": optimizer, **(settings or {})}
        ),
        "seed": 7,
        "loss": toy_loss,
        "batches": toy_batches,
        "validation": toy_validation(),
        "checkpoints": folder / "checkpoints",
        "bad_batches": folder / "bad_batches.json",
        "resumed": lambda step: None,
        "identity": {"recipe": "r" * 64, "manifest": "m" * 64, "split": "s" * 64, "start": None},
        "record": lambda values: None,
        "keep_best": lambda model, step: None,
        "advance": lambda step, loss: None,
    }
    return Job(**{**values, **changes})


def in_child(work: Callable[[], object]) -> int:
    """Run something in a copy of this process, which is not waited for."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            logging.disable(logging.CRITICAL)
            torch.set_num_threads(1)
            work()
            code = 0
        finally:
            os._exit(code)
    return child


@dataclass
class Tally:
    """What many deaths have cost.

    Attributes:
        kills: How many there were, at random times and at named points of a save.
        starts: Children started; those not killed finished their run before they could be.
        lost_checkpoints: Committed, and later not there or not whole.
        most_steps_lost: Between a death and the checkpoint that the next start found.
        too_few: Deaths after which less than two good checkpoints were left of two or more.
        wrong_starts: Starts from another step than the newest good checkpoint.
        leftovers: Half-written folders that a start did not clean away.
        wrong_losses: Steps whose loss was not that of the uninterrupted run, bit for bit.
    """

    kills: int = 0
    kills_at_points: dict[str, int] = field(default_factory=dict)
    starts: int = 0
    runs_finished: int = 0
    lost_checkpoints: int = 0
    most_steps_lost: int = 0
    interval: int = INTERVAL
    too_few: int = 0
    wrong_starts: int = 0
    leftovers: int = 0
    wrong_losses: int = 0
    steps_told: int = 0


def good_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints that are whole, by reading them."""
    steps = []
    for path in committed(folder):
        try:
            steps.append(read_checkpoint(path)[0].step)
        except CheckpointError:
            continue
    return steps


class Victim:
    """One run that is killed and resumed until it is through."""

    def __init__(self, folder: Path, expected: dict[int, float], tally: Tally) -> None:
        self.folder = folder
        self.expected = expected
        self.tally = tally
        self.num_committed = 0
        self.last_committed = 0
        self.newest = 0

    def live(self, *, point: str | None = None, turn: int = 1, life_s: float | None = None) -> bool:
        """Start or resume the run and kill it; whether it was through before that.

        Args:
            point: Where in a save it dies, or None.
            turn: At which of the times it comes there.
            life_s: How long it lives where it does not die by itself.
        """
        reader, writer = os.pipe()
        child = in_child(lambda: _train(self.folder, writer, point, turn))
        os.close(writer)
        if life_s is not None:
            time.sleep(life_s)
            os.kill(child, signal.SIGKILL)
        with os.fdopen(reader) as pipe:
            told = [json.loads(line) for line in pipe if line.endswith("\n")]
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        self._judge(told)
        self.tally.starts += 1
        if code == -signal.SIGKILL:
            self.tally.kills += 1
            name = point or "at random"
            self.tally.kills_at_points[name] = self.tally.kills_at_points.get(name, 0) + 1
        elif code != 0:
            raise RuntimeError(f"a run ended with {code}, neither killed nor through")
        return code == 0

    def _judge(self, told: list[dict[str, Any]]) -> None:
        """Compare what the dead told with what is on the disk."""
        tally, before = self.tally, self.last_committed
        starts = [line for line in told if "started" in line]
        tally.wrong_starts += sum(line["started"] != self.newest for line in starts)
        tally.leftovers += sum(line["leftovers"] for line in starts)
        commits = [line["committed"] for line in told if "committed" in line]
        self.num_committed += len(commits)
        self.last_committed = max([before, *commits])
        steps = [line for line in told if "step" in line]
        tally.steps_told += len(steps)
        tally.wrong_losses += sum(line["loss"] != self.expected[line["step"]] for line in steps)
        good = good_steps(self.folder / "checkpoints")
        self.newest = max(good, default=0)
        tally.lost_checkpoints += self.newest < self.last_committed
        tally.too_few += self.num_committed >= 2 and len(good) < 2
        if steps:
            tally.most_steps_lost = max(tally.most_steps_lost, steps[-1]["step"] - self.newest)


def _train(folder: Path, writer: int, point: str | None, turn: int) -> None:
    """What a child does: train, tell every step and commit, and die where it is told to."""
    step, turns = 0, 0

    def tell(**line: Any) -> None:
        os.write(writer, (json.dumps(line) + "\n").encode())

    def resumed(at: int) -> None:
        hidden = list((folder / "checkpoints").glob(".*"))
        tell(started=at, leftovers=len(hidden))

    def advance(at: int, loss: float) -> None:
        nonlocal step
        step = at
        tell(step=at, loss=loss)

    def reached(name: str) -> None:
        nonlocal turns
        if name == "committed":
            tell(committed=step)
        turns += name == point
        if name == point and turns == turn:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.reached = reached
    train(toy_network(), toy_job(folder, resumed=resumed, advance=advance), CPU)


def uninterrupted(folder: Path) -> tuple[dict[int, float], list[str]]:
    """Losses of the run that nothing happens to, and the named points its saves come by."""
    losses: dict[int, float] = {}
    points: dict[str, None] = {}
    before, checkpoint.reached = checkpoint.reached, points.setdefault
    try:
        train(toy_network(), toy_job(folder, advance=losses.__setitem__), CPU)
    finally:
        checkpoint.reached = before
    return losses, list(points)


def kill_many(folder: Path, num_kills: int, limit_s: float, seed: int = 0) -> Tally:
    """Kill runs, half of them at random times, half at named points, until enough have died."""
    rng, tally, ends_s = random.Random(seed), Tally(), time.monotonic() + limit_s
    expected, points = uninterrupted(folder / "whole")
    victim = Victim(folder / "run-0", expected, tally)
    while tally.kills < num_kills and time.monotonic() < ends_s:
        if rng.random() < 0.5:
            through = victim.live(life_s=rng.uniform(0, LONGEST_LIFE_S))
        else:
            through = victim.live(point=rng.choice(points), turn=rng.choice([1, 1, 1, 2, 3]))
        if through:
            tally.runs_finished += 1
            victim = Victim(folder / f"run-{tally.runs_finished}", expected, tally)
    return tally


def final_state(folder: Path) -> TrainingState:
    """What the newest checkpoint of a folder says."""
    return read_checkpoint(committed(folder)[-1])[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=1800.0, help="stop then at the latest")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = kill_many(Path(folder), options.kills, options.seconds, options.seed)
    result = {
        "asked": options.kills,
        **asdict(tally),
        "seconds": round(time.monotonic() - began_s, 1),
        "seed": options.seed,
        "torch": torch.__version__,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    if tally.kills < options.kills:
        print(f"only {tally.kills} of {options.kills} kills in {options.seconds:.0f} s")
    faults = tally.lost_checkpoints + tally.too_few + tally.wrong_starts + tally.leftovers
    too_many = tally.most_steps_lost > tally.interval
    return int(faults + tally.wrong_losses > 0 or too_many)


if __name__ == "__main__":
    sys.exit(main())
