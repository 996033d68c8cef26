"""Draw the paper's Figure 4 with runs of one's own beside the published curves.

python benchmarks/figure4.py RUN... --published figure4_curves.csv --out figure4.svg

A run's name in the legend is its folder's, or NAME=FOLDER.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl

from brainsegfounder.evaluation.figures_scales import ScaleRun, scale_curves
from brainsegfounder.runs import Run


def read_run(argument: str) -> ScaleRun:
    name, _, folder = argument.rpartition("=")
    run = Run(Path(folder))
    return ScaleRun(
        name=name or run.folder.name,
        train=run.records("train"),
        validation=run.records("validation"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="folders of pretraining runs, or NAME=FOLDER")
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help=".svg or .png")
    given = parser.parse_args()
    figure = scale_curves([read_run(run) for run in given.runs], given.published)
    metadata = {"Date": None} if given.out.suffix == ".svg" else None
    with mpl.rc_context({"svg.hashsalt": "brainsegfounder"}):
        figure.savefig(given.out, dpi=130, metadata=metadata)
    print(given.out)


if __name__ == "__main__":
    main()
