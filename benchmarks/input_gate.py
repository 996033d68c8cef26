"""What the input gate notices on real scans: mixed-up, strange and mirrored contrasts.

    python benchmarks/input_gate.py --glioma STORE --anatomy STORE --other STORE --sessions FOLDER

`--glioma`: a store with T1w, T1ce, T2w and FLAIR. Each case is held against what is usual in the
others, as it is and with each two contrasts swapped. `--anatomy` and `--other`: stores with T1w of
two studies; what is usual is learnt from the first 100 cases of the first, the rest and the other
study must not be strange, and the gliomas' T2w and FLAIR given as T1w must. `--sessions`: folders
with a folder for each session of registered contrasts; each contrast is held against the first, as
it is and mirrored.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from brainsegfounder.data.layouts import read_cases
from brainsegfounder.data.store import open_store
from brainsegfounder.inference.familiarity import doubts, learn_usual
from brainsegfounder.volumes.appearance import appearance
from brainsegfounder.volumes.geometry import to_ras
from brainsegfounder.volumes.mirrored import mirrored
from brainsegfounder.volumes.nifti import read_nifti
from brainsegfounder.volumes.volume import Volume

CONTRASTS = ("T1w", "T1ce", "T2w", "FLAIR")
LEARNT_FROM = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--glioma", type=Path, required=True)
    parser.add_argument("--anatomy", type=Path, required=True)
    parser.add_argument("--other", type=Path, required=True)
    parser.add_argument("--sessions", type=Path, nargs="+", required=True)
    default = Path(__file__).parent / "results" / "input_gate.json"
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args()
    record = {
        "mixed_up": mixed_up(arguments.glioma),
        "strange": strange(arguments.anatomy, arguments.other, arguments.glioma),
        "mirrored": turned(arguments.sessions),
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def looks(folder: Path, contrasts: tuple[str, ...]) -> list[dict[str, dict[str, float]]]:
    store = open_store(folder)
    images = (store.prepared_image(case, contrasts) for case in store.cases)
    return [appearance(image, contrasts) for image in images]


def mixed_up(folder: Path) -> dict[str, Any]:
    """How often two swapped contrasts are named, and right ones wrongly."""
    seen = looks(folder, CONTRASTS)
    wrongly, named = 0, {"-".join(pair): 0 for pair in itertools.combinations(CONTRASTS, 2)}
    for number, one in enumerate(seen):
        usual = learn_usual(seen[:number] + seen[number + 1 :])
        assert usual is not None
        wrongly += _is_named(usual, one)
        for a, b in itertools.combinations(CONTRASTS, 2):
            named[f"{a}-{b}"] += _is_named(usual, {**one, a: one[b], b: one[a]})
    return {"cases": len(seen), "right_but_named": wrongly, "swapped_and_named": named}


def _is_named(usual: Any, seen: dict[str, dict[str, float]]) -> bool:
    return any(code == "contrast_unlike" for code, _ in doubts(usual, seen))


def strange(first: Path, second: Path, glioma: Path) -> dict[str, Any]:
    """How many scans are called unfamiliar by what one study taught."""
    of_first, of_second = looks(first, ("T1w",)), looks(second, ("T1w",))
    usual = learn_usual(of_first[:LEARNT_FROM])
    assert usual is not None

    def flagged(seen: list[dict[str, dict[str, float]]], part: str) -> str:
        told = [[text for _, text in doubts(usual, one)] for one in seen]
        number = sum(any(text.startswith(part) for text in texts) for texts in told)
        return f"{number} of {len(seen)}"

    found = {"same_study": flagged(of_first[LEARNT_FROM:], ""), "other": flagged(of_second, "")}
    for contrast in CONTRASTS:
        as_t1w = [{"T1w": one[contrast], "brain": one["brain"]} for one in looks(glioma, CONTRASTS)]
        found[f"glioma_{contrast}_as_T1w"] = flagged(as_t1w, "T1w is unlike")
    return {"learnt_from": LEARNT_FROM, "flagged": found}


def turned(folders: list[Path]) -> dict[str, Any]:
    """How many contrasts are called mirrored, as they are and when they are."""
    sessions = upright = swapped = pairs = 0
    for image, contrasts in _sessions(folders):
        brain = image.voxels[0] != 0
        upright += len(list(mirrored(image, brain, contrasts)))
        other = image.voxels.copy()
        other[1:] = other[1:, ::-1]
        swapped += len(list(mirrored(Volume(other, image.affine), brain, contrasts)))
        sessions, pairs = sessions + 1, pairs + len(contrasts) - 1
    return {
        "sessions": sessions,
        "pairs": pairs,
        "upright_named": upright,
        "swapped_named": swapped,
    }


def _sessions(folders: list[Path]) -> Iterator[tuple[Volume, list[str]]]:
    for folder in folders:
        for case in read_cases([folder]):
            scans = [to_ras(read_nifti(path)) for path in case.contrasts.values()]
            if len(scans) > 1:
                voxels = np.concatenate([scan.voxels for scan in scans])
                yield Volume(voxels, scans[0].affine, case.case), list(case.contrasts)


if __name__ == "__main__":
    main()
