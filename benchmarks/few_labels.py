"""Does pretraining help where labels are few? Fine-tuning from several starts, same subsets.

    python benchmarks/few_labels.py STORE RUNS --recipe open-stroke --fraction 0.25 --seeds 3 \\
        --arm scratch --arm mae=stage1_mae --arm mae-decoder=stage1_mae:encoder+decoder

One fold is tested. Of the other subjects, each seed draws the same share for every arm; the rest
are left out (`data.exclude_subjects`). A seed also fixes weights, patches and augmentation.
Finished runs are not repeated, and a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from brainsegfounder.data.splits import split_cases
from brainsegfounder.data.store import open_store
from brainsegfounder.recipes import load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("runs", type=Path, help="folder of all runs")
    parser.add_argument("--recipe", default="open-stroke")
    parser.add_argument("--fraction", type=float, default=0.25)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arm", action="append", required=True, help="NAME or NAME=RUN[:transfer]")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--out", type=Path, default=Path("few_labels.json"))
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.seeds):
        left_out, kept = subset(arguments, seed)
        for arm in arguments.arm:
            dice = run(arguments, arm, seed, left_out)
            rows.append(
                {"seed": seed, "arm": arm.partition("=")[0], "subjects": kept, "dice": dice}
            )
            arguments.out.write_text(json.dumps(summary(arguments, rows), indent=1) + "\n")
            print(json.dumps(rows[-1]), flush=True)


def subset(arguments: argparse.Namespace, seed: int) -> tuple[list[str], int]:
    """Subjects left out, and how many are trained on or choose the model."""
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    split = split_cases(open_store(arguments.store).cases, recipe.split, arguments.fold)
    pool = sorted({*split.train, *split.validation})
    order = np.random.default_rng([20406, seed]).permutation(len(pool))
    num_kept = max(2, round(arguments.fraction * len(pool)))
    return [pool[n] for n in order[num_kept:]], num_kept


def run(
    arguments: argparse.Namespace, arm: str, seed: int, left_out: list[str]
) -> dict[str, float]:
    """Dice of every test case and region."""
    name, _, start = arm.partition("=")
    start, _, transfer = start.partition(":")
    out = arguments.runs / f"{name}_{seed}"
    summary_file = out / "test" / "metrics.json"
    if not summary_file.is_file():
        sets = [
            *arguments.overrides,
            f"seed={seed}",
            f"data.exclude_subjects=[{', '.join(left_out)}]",
            f"finetune.transfer={transfer or 'encoder'}",
        ]
        command = [sys.executable, "-m", "brainsegfounder", "finetune", arguments.recipe]
        command += ["--data", str(arguments.store), "--out", str(out)]
        # Those tested are named: folds would be drawn from fewer subjects than there are.
        command += [word for text in [*sets, tested(arguments)] for word in ("--set", text)]
        command += ["--from", start] if start else []
        command += ["--resume"] if (out / "recipe.resolved.yaml").is_file() else []
        subprocess.run(command, check=True)
    rows = json.loads(summary_file.read_text())["cases"]
    return {f"{row['case']} {row['region']}": row["dice"] for row in rows}


def tested(arguments: argparse.Namespace) -> str:
    """The test subjects of the fold, by name."""
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    split = split_cases(open_store(arguments.store).cases, recipe.split, arguments.fold)
    return f"split.test_subjects=[{', '.join(split.test)}]"


def summary(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean Dice of each arm with its spread over seeds, and differences to the first arm."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    means = {
        arm: [statistics.fmean(r["dice"].values()) for r in rows if r["arm"] == arm] for arm in arms
    }
    first = means[arms[0]]
    return {
        "recipe": arguments.recipe,
        "overrides": arguments.overrides,
        "fraction": arguments.fraction,
        "fold": arguments.fold,
        "mean_dice_by_seed": means,
        "mean_dice": {arm: statistics.fmean(values) for arm, values in means.items()},
        "spread": {a: statistics.stdev(v) if len(v) > 1 else None for a, v in means.items()},
        "difference_to_first_by_seed": {
            arm: [v - f for v, f in zip(values, first, strict=False)]
            for arm, values in means.items()
        },
        "rows": rows,
    }


if __name__ == "__main__":
    main()
