"""Losses of the first twenty steps of every training workflow, at a fixed seed.

A change of the losses is a change of the method or a bug: a refactoring keeps them. After a wanted
change, write them anew with

    python tests/golden/test_twenty_steps.py
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from brainsegfounder.recipes import load_recipe
from brainsegfounder.volumes.phantom import write_cohort
from brainsegfounder.workflows.prepare import run_prepare

GOLDEN = Path(__file__).parent / "losses.json"
# Kernels of other processors add up in another order; a change of the method is far larger.
TOLERANCE = 0.02
STEPS = 20


@pytest.fixture(scope="module")
def losses(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """Losses of every step of stage 1, stage 2 and fine-tuning."""
    return _all_losses(cohort, tmp_path_factory.mktemp("golden"))


def _all_losses(store: Path, folder: Path) -> dict[str, list[float]]:
    return {verb: _losses(verb, store, folder / verb) for verb in ("pretrain", "finetune")}


def _losses(verb: str, store: Path, out: Path) -> list[float]:
    """Train in a process of its own, on one thread, so that nothing before it matters."""
    settings = {"steps": STEPS, "batch_size": 1, "validate_every": STEPS, "checkpoint_every": STEPS}
    sets = [word for key, value in settings.items() for word in ("--set", f"{verb}.{key}={value}")]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "brainsegfounder",
            verb,
            "demo-target",
            "--data",
            str(store),
            "--out",
            str(out),
            "--fold",
            "0",
            "--set",
            "split.validation_fraction=0",
            *sets,
        ],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if record["kind"] == "train"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("workflow", ["pretrain", "finetune"])
def test_the_first_twenty_steps_are_as_they_were(
    workflow: str, losses: dict[str, list[float]]
) -> None:
    expected = json.loads(GOLDEN.read_text())[workflow]
    assert losses[workflow] == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_same_recipe_seed_and_machine_give_the_same_losses(
    cohort: Path, losses: dict[str, list[float]], tmp_path: Path
) -> None:
    assert _losses("finetune", cohort, tmp_path / "again") == losses["finetune"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        bids, store = Path(folder) / "bids", Path(folder) / "store"
        recipe = load_recipe("demo-target")
        write_cohort(
            bids,
            num_subjects=6,
            seed=0,
            lesion="tumour",
            contrasts=recipe.data.contrasts,
            spacing_mm=3.0,
        )
        run_prepare([bids], store, recipe)
        GOLDEN.write_text(json.dumps(_all_losses(store, Path(folder)), indent=1) + "\n")
