from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from brainsegfounder.cli import app
from brainsegfounder.data.loader import PatchDataset, PatchSampling
from brainsegfounder.data.manifest import Case
from brainsegfounder.data.store import StorePlan, open_store
from brainsegfounder.data.store_arrays import LARGEST_INT16, ScaledArray, to_int16
from brainsegfounder.data.store_writer import case_key, finish_store, write_case
from brainsegfounder.errors import OutputExistsError, StoreError
from brainsegfounder.recipes import load_recipe
from brainsegfounder.settings import PreparationSettings
from brainsegfounder.volumes.preparation import prepare
from brainsegfounder.workflows.prepare import run_prepare

SETTINGS = PreparationSettings(spacing_mm=None, margin_mm=2.0)
CONTRASTS = ("T1w", "FLAIR")
PLAN = StorePlan(CONTRASTS, SETTINGS, dtype="int16")
RECIPE = load_recipe("demo-target", ["preparation.spacing_mm=null"])
FLOATS = st.floats(-1e6, 1e6, width=32)


@given(arrays(np.float32, (2, 3, 2, 2), elements=FLOATS))
def test_a_value_is_off_by_half_a_step_and_none_becomes_background(voxels):
    integers, scales = to_int16(voxels)
    back = ScaledArray(integers, scales)[:]
    largest = np.abs(voxels).max(axis=(1, 2, 3))
    step = np.maximum(largest / LARGEST_INT16, np.finfo(np.float32).tiny)[:, None, None, None]
    rounding = np.abs(voxels) * 2.0**-22  # of float32 itself
    allowed = np.where(np.abs(voxels) < step / 2, step, step / 2) + rounding
    assert (np.abs(back.astype(np.float64) - voxels) <= allowed).all()
    np.testing.assert_array_equal(back == 0, voxels == 0)
    assert (np.sign(back) == np.sign(voxels)).all()


def test_the_error_is_at_most_the_range_over_65534():
    rng = np.random.default_rng(0)
    voxels = rng.normal(0, 1, (2, 20, 20, 20)).astype(np.float32)
    back = ScaledArray(*to_int16(voxels))[:]
    for channel, wanted in zip(back, voxels, strict=True):
        clear = np.abs(wanted) > np.abs(wanted).max() / LARGEST_INT16
        worst = np.abs(channel - wanted)[clear].max()
        assert worst <= (wanted.max() - wanted.min()) / 65534 + 1e-6
        assert worst < np.abs(wanted.astype(np.float16) - wanted).max()


@pytest.mark.parametrize(
    "key",
    [
        slice(None),
        1,
        (slice(None), slice(1, 3), slice(0, 2), slice(2, 5)),
        (slice(1, 2), slice(None), 0, slice(None)),
        (1, slice(None), slice(None), 2),
        [1, 0],
        Ellipsis,
    ],
)
def test_any_part_reads_as_it_does_of_the_whole(key):
    integers, scales = to_int16(
        np.random.default_rng(0).normal(0, [[[[1]]], [[[9]]]], (2, 4, 5, 6))
    )
    scaled = ScaledArray(integers, scales)
    np.testing.assert_array_equal(scaled[key], scaled[:][key])
    assert scaled[key].dtype == np.float32
    assert scaled.shape == (2, 4, 5, 6)


def made(folder, draw_brain, array_format="blosc2", dtype="int16"):
    image, labels = draw_brain(num_contrasts=2)
    prepared, case = prepare(image, SETTINGS, labels), Case("a", "a", {})
    write_case(folder, case, prepared, array_format=array_format, dtype=dtype)
    finish_store(folder, [case], replace(PLAN, array_format=array_format, dtype=dtype))
    return open_store(folder), prepared


@pytest.mark.parametrize("array_format", ["blosc2", "npy"])
def test_a_store_of_int16_reads_as_what_was_prepared(tmp_path, draw_brain, array_format):
    store, prepared = made(tmp_path, draw_brain, array_format)
    (case,) = store.cases
    assert len(case.scales) == 2
    assert store.plan.dtype == "int16"
    whole = store.prepared_image(case, CONTRASTS[::-1]).voxels
    np.testing.assert_allclose(whole, prepared.image.voxels[::-1], atol=max(case.scales))
    np.testing.assert_array_equal(whole == 0, prepared.image.voxels[::-1] == 0)
    assert store.damaged(case) == []


def test_patches_are_those_of_float16_but_for_rounding(tmp_path, draw_brain):
    stores = [made(tmp_path / dtype, draw_brain, dtype=dtype)[0] for dtype in ("float16", "int16")]
    sampling = PatchSampling(patch_size_vox=(40, 12, 12), with_labels=True, foreground_fraction=0.5)
    for number in range(4):
        one, other = (
            PatchDataset(store, store.cases, CONTRASTS, sampling, 0)[number] for store in stores
        )
        assert one.image.dtype == other.image.dtype == torch.float32
        torch.testing.assert_close(one.image, other.image, atol=2e-3, rtol=1e-3)
        assert torch.equal(one.image == 0, other.image == 0)
        assert torch.equal(one.labels, other.labels)


def test_the_key_of_a_case_says_how_it_is_stored_and_is_as_it_was_for_float16():
    usual = StorePlan(CONTRASTS, SETTINGS)
    assert case_key(PLAN, {}) != case_key(usual, {})
    assert "dtype" not in usual.record()
    assert PLAN.record()["dtype"] == "int16"


def test_a_store_that_names_an_unknown_dtype_is_damaged(tmp_path, draw_brain):
    made(tmp_path, draw_brain)
    marker = tmp_path / "store.json"
    marker.write_text(marker.read_text().replace("int16", "int99"))
    with pytest.raises(StoreError, match="dtype int99"):
        open_store(tmp_path)


def test_a_store_is_not_continued_with_another_dtype(brats_folder, tmp_path):
    out = tmp_path / "store"
    first = run_prepare([brats_folder], out, RECIPE, dtype="int16", page=False)
    again = run_prepare([brats_folder], out, RECIPE, dtype="int16", page=False)
    assert again.reused == first.cases
    with pytest.raises(OutputExistsError, match="with dtype = int16; expected float16"):
        run_prepare([brats_folder], out, RECIPE)
    run_prepare([brats_folder], tmp_path / "usual", RECIPE, page=False)
    with pytest.raises(OutputExistsError, match="with dtype = float16; expected int16"):
        run_prepare([brats_folder], tmp_path / "usual", RECIPE, dtype="int16")


def test_the_command_line_takes_two_dtypes(brats_folder, tmp_path):
    from typer.testing import CliRunner

    words = ["prepare", str(brats_folder), "--out", str(tmp_path / "store"), "--jobs", "0"]
    refused = CliRunner().invoke(app, [*words, "--dtype", "int8"])
    assert refused.exit_code == 2
    assert "expected float16 or int16" in refused.output
    assert CliRunner().invoke(app, [*words, "--dtype", "int16"]).exit_code == 0
    assert open_store(tmp_path / "store").plan.dtype == "int16"
