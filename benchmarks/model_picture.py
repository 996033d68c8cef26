"""Draws what `model.py` measured: the cost of a window against its size and the scale.

python benchmarks/model_picture.py          # writes docs/pictures/growth.svg
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "growth"

from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PICTURE = ROOT / "docs" / "pictures" / "growth.svg"
COLOURS = {"ours": "#1b6ca8", "monai": "#b5651d"}
NAMES = {"ours": "brainsegfounder", "monai": "MONAI 1.6.1"}
PARAMETERS = {"nano": "nano\n4 M", "tiny": "tiny\n62 M", "small": "small\n64 M", "big": "big\n69 M"}


def main() -> None:
    rows = json.loads((RESULTS / "model_growth.json").read_text())["rows"]
    sizes = [row for row in rows if "scale" not in row]
    steps = [row for row in rows if row["what"] == "training step"]
    # `tiny` is the table's own scale.
    table = json.loads((RESULTS / "model_cpu.json").read_text())["rows"]
    steps += [{**row, "scale": "tiny"} for row in table if row["what"] == "training step"]
    steps.sort(key=lambda row: list(PARAMETERS).index(row["scale"]))
    figure, axes = pyplot.subplots(1, 3, figsize=(10.5, 3.4), layout="constrained")
    draw_lines(axes[0], sizes, "median_s", "seconds")
    axes[0].set_title("forward, tiny")
    draw_lines(axes[1], sizes, "peak_gib", "peak memory (GiB)")
    axes[1].set_title("forward, tiny")
    draw_bars(axes[2], steps)
    axes[2].set_title("training step, 96³")
    axes[0].legend(frameon=False)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})
    print(f"drawn in {PICTURE.relative_to(ROOT)}")


def draw_lines(axes: Axes, rows: list[dict[str, Any]], key: str, label: str) -> None:
    """A line for each side over the millions of voxels of a window."""
    for side, colour in COLOURS.items():
        found = [(row["size"], row[side][key]) for row in rows if side in row]
        voxels = [size**3 / 1e6 for size, _ in found]
        axes.plot(voxels, [y for _, y in found], "o-", color=colour, label=NAMES[side])
    sizes = [row["size"] for row in rows]
    axes.set_xticks([size**3 / 1e6 for size in sizes], [f"{size}³" for size in sizes], fontsize=8)
    axes.set_xlabel("window (voxels)")
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)


def draw_bars(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Seconds of each scale, the two sides next to each other."""
    for number, (side, colour) in enumerate(COLOURS.items()):
        places = [place + 0.4 * number - 0.2 for place in range(len(rows))]
        bars = axes.bar(places, [row[side]["median_s"] for row in rows], 0.38, color=colour)
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.set_xticks(range(len(rows)), [PARAMETERS[row["scale"]] for row in rows])
    axes.set_ylabel("seconds")
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
