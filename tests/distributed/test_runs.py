"""Runs of two processes: one run in all that counts, whatever happens to one of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

# 50 steps of two passes, two samples in each process.
NUM_SAMPLES = 50 * 2 * 2 * 2


@pytest.fixture(scope="module")
def child():
    spec = importlib.util.spec_from_file_location("child", Path(__file__).with_name("child.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_shards_are_disjoint_and_complete(loop):
    whole, _ = loop["resume"]["seen"]
    assert sorted(whole) == list(range(NUM_SAMPLES))


def test_a_signal_to_one_process_stops_both_after_the_same_step(loop):
    assert len(loop["resume"]["told"]) == 2
    assert all("by SIGTERM after step 23;" in told for told in loop["resume"]["told"])


def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(loop):
    whole, resumed = loop["resume"]["weights"]
    assert resumed == whole
    assert loop["resume"]["states"] == [[50, NUM_SAMPLES, 2]] * 2


def test_a_resumed_run_sees_each_sample_once(loop):
    _, parts = loop["resume"]["seen"]
    assert sorted(parts) == list(range(NUM_SAMPLES))


def test_a_sharded_run_goes_on_unsharded(loop):
    whole, resumed = loop["sharded"]["weights"]
    assert resumed.keys() == whole.keys()
    for name, values in whole.items():
        assert resumed[name] == pytest.approx(values, abs=1e-6)


def test_checkpoints_of_a_sharded_run_are_like_all_others(loop):
    assert set(loop["sharded"]["files"]) == {
        "SHA256SUMS",
        "ema.safetensors",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    }


def test_F13_a_loss_that_is_no_number_in_one_process_changes_nothing_in_either(loop):
    assert loop["skip"]["unchanged, then changed"] == [[True, False]] * 2
    assert loop["skip"]["skipped"] == [4]
    assert loop["skip"]["step"] == 50


def test_F13_after_ten_in_a_row_both_end_and_name_the_cases_of_both(loop):
    ended = loop["skip"]["ended"]
    assert len(ended) == 2
    assert ended[0] == ended[1]
    assert "step 12: loss or gradient was not finite 10 times in a row" in ended[0]
    # Steps 3 to 12 saw samples 16 to 95.
    numbers = [number for batch in loop["skip"]["bad batches"] for number in batch["numbers"]]
    assert sorted(numbers) == list(range(16, 96))


def test_F24_uneven_shares_are_measured_without_counting_a_case_twice(loop):
    assert [record["step"] for record in loop["validate"]["records"]] == [20, 40, 50]
    assert {record["cases"] for record in loop["validate"]["records"]} == {3.0}
    assert {record["different"] for record in loop["validate"]["records"]} == {3.0}
    assert sorted(loop["validate"]["measured"]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_F25_whoever_validates_is_alone_so_no_other_is_waited_for(loop):
    # `measure` asserts so itself; that both came to the end shows that neither waited.
    assert loop["validate"]["best"] == 20


def test_weights_of_one_process_that_are_not_finite_are_so_for_all(loop):
    assert loop["finite"]["before"] == [True, True]
    assert loop["finite"]["after"] == [False, False]


def test_F10_a_run_of_two_processes_goes_on_with_one(child, run_task, tmp_path, caplog):
    ended = run_task("begin", tmp_path)
    assert [code for code, _ in ended] == [143, 143]
    state, _, rest = child.tiny_run(tmp_path / "work")
    assert "was made by 2 processes, the next one is by 1" in caplog.text
    # 10 steps of 8 samples, then 40 of 4.
    assert rest[: 40 * 4] == list(range(80, 240))
    assert (state.step, state.samples, state.num_processes) == (50, 240, 1)
