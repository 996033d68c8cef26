"""Every convention against numbers of other people's tools on the same made masks.

`reference_numbers.json` was written by `reference_numbers.py` in an environment of its own, where
surface-distance and panoptica live, whose pins conflict with ours. BraTS 2023's lesion-wise part of
it is a second implementation of ours, straightforward and slow, as no tool on PyPI has it.
"""

import importlib.util
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from brainsegfounder.evaluation.calibration import score_probabilities
from brainsegfounder.evaluation.surface_areas import areas_mm2
from brainsegfounder.evaluation.surfaces import surface_elements, surface_pair

HERE = Path(__file__).parent
TABLE = json.loads((HERE / "reference_numbers.json").read_text(encoding="utf-8"))
SPACINGS_MM = [(1.0, 1.0, 1.0), (0.9375, 0.9375, 1.2), (3.0, 1.0, 0.8), (0.5, 0.5, 5.0)]


@pytest.fixture(scope="module")
def agreement():
    """The script that compares; its folder is no package."""
    spec = importlib.util.spec_from_file_location("agreement", HERE / "agreement.py")
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.fixture(scope="module")
def monai_metrics():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("monai.metrics", reason="MONAI is not installed")


def blobs(seed, shape=(24, 20, 22)):
    from scipy import ndimage

    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    return field / np.abs(field).max()


@pytest.mark.parametrize("first", range(0, len(TABLE["pairs"]), 10))
def test_every_number_is_that_of_the_other_tool(agreement, first):
    over = []
    for theirs in TABLE["pairs"][first : first + 10]:
        assert agreement.same_masks(theirs), "another version of numpy draws other masks"
        for name, ours, expected in agreement.comparisons(theirs):
            if not agreement.apart(ours, expected) <= agreement.LIMIT:
                over.append((theirs["pair"], name, ours, expected))
    assert over == []


def test_the_stored_pairs_have_what_metrics_go_wrong_on():
    found = [pair["brats-2023"]["metastasis"] for pair in TABLE["pairs"]]
    assert sum(pair["surfaces"] is None for pair in TABLE["pairs"]) >= 5  # an empty mask
    assert any(one["tp"] + one["fn"] == 1000 for one in found)
    assert any(0 < one["fp"] < 5 and one["tp"] for one in found)
    assert len({tuple(map(tuple, pair["voxels"])) for pair in TABLE["pairs"]}) > 90


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
def test_areas_of_all_256_cells_are_those_of_monai(monai_metrics, spacing_mm):
    from monai.metrics.utils import get_code_to_measure_table

    theirs = get_code_to_measure_table(spacing_mm)[0].numpy()
    assert np.allclose(areas_mm2(spacing_mm), theirs, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
@pytest.mark.parametrize("seed", range(3))
def test_surface_dice_is_the_one_monai_gives_of_surface_elements(monai_metrics, seed, spacing_mm):
    torch = pytest.importorskip("torch")
    masks = [np.pad(blobs(2 * seed + n) > 0.3, 2) for n in (0, 1)]
    pair = surface_pair(*(surface_elements(mask, spacing_mm) for mask in masks))
    theirs = monai_metrics.compute_surface_dice(
        *(torch.from_numpy(mask[None, None]) for mask in masks),
        class_thresholds=[1.0],
        include_background=True,
        spacing=spacing_mm,
        use_subvoxels=True,
    )
    assert pair.dice(1.0) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_soft_dice_is_what_monai_gives_without_a_threshold(agreement, monai_metrics):
    """By its loss: its metric, which the published code used, has come to make masks first."""
    pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    over = [
        (number, name, ours, theirs)
        for number in range(60)
        for name, ours, theirs in agreement.comparisons_of_probabilities(number)
        if not agreement.apart(ours, theirs) <= agreement.LIMIT
    ]
    assert over == []


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("steps", [0, 7])
def test_average_precision_and_brier_score_are_those_of_scikit_learn(seed, steps):
    theirs = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    p = np.clip(blobs(seed) + 0.1 * (seed - 2), 0, 1).astype(np.float32)
    p = np.round(p * steps) / steps if steps else p
    r = blobs(seed + 50) > 0.3
    ours = score_probabilities(p, r)
    flat = (r.ravel(), p.ravel().astype(np.float64))
    assert ours.average_precision == pytest.approx(theirs.average_precision_score(*flat), abs=1e-9)
    assert ours.brier == pytest.approx(theirs.brier_score_loss(*flat), abs=1e-9)
