"""Losses of the first twenty steps of every training workflow, at a fixed seed.

A change of the losses is a change of the method or a bug: a refactoring keeps them. After a wanted
change, write them anew with

    python -m pytest tests/golden --regenerate
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "losses.json"
# Kernels of other processors add up in another order; a change of the method is far larger.
TOLERANCE = 0.02
STEPS = 20


@pytest.fixture(scope="module")
def losses(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """Losses of every step of stage 1, stage 2 and fine-tuning."""
    folder = tmp_path_factory.mktemp("golden")
    return {
        "pretrain": _losses("pretrain", cohort, folder / "pretrain"),
        "finetune": _losses("finetune", cohort, folder / "finetune"),
    }


def _losses(verb: str, store: Path, out: Path) -> list[float]:
    """Train in a process of its own, on one thread, so that nothing before it matters."""
    settings = {"steps": STEPS, "batch_size": 1, "validate_every": STEPS, "checkpoint_every": STEPS}
    sets = [word for key, value in settings.items() for word in ("--set", f"{verb}.{key}={value}")]
    subprocess.run(
        [sys.executable, "-m", "brainsegfounder", verb, "demo-target", "--data", str(store)]
        + ["--out", str(out), "--fold", "0", "--set", "split.validation_fraction=0", *sets],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if record["kind"] == "train"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("workflow", ["pretrain", "finetune"])
def test_the_first_twenty_steps_are_as_they_were(
    workflow: str, losses: dict[str, list[float]], request: pytest.FixtureRequest
) -> None:
    if request.config.getoption("--regenerate"):
        GOLDEN.write_text(json.dumps(losses, indent=1) + "\n")
    expected = json.loads(GOLDEN.read_text())[workflow]
    assert losses[workflow] == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_same_recipe_seed_and_machine_give_the_same_losses(
    cohort: Path, losses: dict[str, list[float]], tmp_path: Path
) -> None:
    assert _losses("finetune", cohort, tmp_path / "again") == losses["finetune"]
